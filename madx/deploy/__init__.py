"""From a torch network to a loaded engine: ONNX export, its independent check, and the runtimes.

Images are float32 NCHW in [0, 1] under the name `input`, logits float32 [B, K] under the name `logits`; the batch
is dynamic. Nothing here knows about pruning: any `nn.Module` can be exported. Importing this package loads
neither torch nor an engine.
"""
