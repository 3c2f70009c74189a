from pathlib import Path

import pytest

from madx.deploy.tensorrt_log import SparseLayers, built_layers, excerpt, problems, sparse_layers

LOGS = Path(__file__).parent / "logs"

SPARSITY = {
    "8.x wording": (
        "[I] [TRT] (Sparsity) Layers eligible for sparse math: conv1 + relu1, conv2\n"
        "[I] [TRT] (Sparsity) TRT inference plan picked sparse implementation for layers: conv2\n",
        SparseLayers(2, 1, ("conv1 + relu1", "conv2"), ("conv2",)),
    ),
    "8.x wording, none picked": (
        "[I] [TRT] (Sparsity) Layers eligible for sparse math: conv2\n"
        "[I] [TRT] (Sparsity) TRT inference plan picked sparse implementation for layers: \n",
        SparseLayers(1, 0, ("conv2",), ()),
    ),
    "10.x wording, counts": (
        "[I] (Sparsity) Found 196 layer(s) eligible to use sparse tactics\n"
        "[I] (Sparsity) Chose 140 layer(s) using sparse tactics\n",
        SparseLayers(196, 140),
    ),
    "10.x wording, counts and then names": (
        "[I] (Sparsity) Found 2 layer(s) eligible to use sparse tactics. To see them, enable VERBOSE log\n"
        "[X] (Sparsity) Found 2 layer(s) eligible to use sparse tactics: node_Conv_3, node_Conv_5\n"
        "[I] (Sparsity) Chose 0 layer(s) using sparse tactics\n",
        SparseLayers(2, 0, ("node_Conv_3", "node_Conv_5"), ()),
    ),
    "10.x wording, names and then counts": (
        "[X] (Sparsity) Found 1 layer(s) eligible to use sparse tactics: a\n"
        "[I] (Sparsity) Found 1 layer(s) eligible to use sparse tactics\n"
        "[X] (Sparsity) Chose 1 layer(s) using sparse tactics: a\n",
        SparseLayers(1, 1, ("a",), ("a",)),
    ),
    "silence is not zero": ("[I] Finished engine building in 0.171 seconds\n", SparseLayers(None, None)),
    "empty": ("", SparseLayers()),
}


@pytest.mark.parametrize("case", SPARSITY)
def test_both_wordings_of_the_sparsity_lines(case):
    log, expected = SPARSITY[case]
    assert sparse_layers(log) == expected


def test_layers_of_a_recorded_build():
    """A recorded log of TensorRT-RTX 1.7: a residual network in fp16, with an fp32 border."""
    layers = built_layers((LOGS / "rtx_1.7_residual_fp16.txt").read_text())
    assert [layer.kind for layer in layers] == [
        *("shape_call", "kgen", "correlation", "correlation", "kgen", "kgen", "runtime_fusion")
    ]
    first, second = layers[2:4]
    assert (first.name, first.tactic) == ("node_Conv_35_myl0_2", "__myelin_CASK_STUB")
    assert (set(first.inputs), set(first.outputs)) == ({"Half"}, {"Half"})
    assert set(second.inputs) == {"Half"}
    assert "node_Conv_37" in second.onnx_nodes
    assert layers[1].inputs == ("Float",)
    assert layers[-1].outputs == ("Float",)


def test_both_spellings_of_a_data_type():
    line = (
        "Name: c, LayerType: CaskConvolution, Inputs: [ { Name: x, Dimensions: [1,3], Format/Datatype: FP16 CHW }], "
        "Outputs: [ { Name: y, Dimensions: [1,3], DataType: Half }], ParameterType: Convolution, "
        "TacticName: sm80_xmma_fprop_sparse_conv, StreamId: 0, Metadata: [ONNX Layer: a][ONNX Layer: b]"
    )
    (layer,) = built_layers(line)
    assert (layer.inputs, layer.outputs) == (("FP16 CHW",), ("Half",))
    assert (layer.tactic, layer.onnx_nodes) == ("sm80_xmma_fprop_sparse_conv", ("a", "b"))


LOG = """\
[V] [E] is not a severity here
[E] IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error
[E] [checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (cudaError 35: CUDA driver)
[E] IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error
[W] ModelImporter.cpp: int64 weights
[I] (Sparsity) Found 0 layer(s) eligible to use sparse tactics
"""


def test_the_noise_of_a_machine_without_gpu_is_no_problem():
    assert problems(LOG) == ["[E] IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error"]
    assert [line[:3] for line in excerpt(LOG)] == ["[E]", "[E]", "[W]", "[I]"]
    assert excerpt(LOG, lines=1) == [LOG.splitlines()[-1]]
    assert not any("cudaError 35" in line for line in excerpt(LOG))
