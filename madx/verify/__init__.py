"""Measurements on deployed engines, and the gates that judge them.

An engine is a callable (images float32 [B, C, H, W] in [0, 1] -> logits [B, K]), a timer a callable that returns
seconds; neither torch nor an engine is loaded by importing this package. `robustness`, `parity` and `latency` measure,
`measurements` holds what they measured, `gates` judges it, `sequential` says when enough was seen and `verdict` holds
the judgement.
"""

from madx.verify.contract import Images, Logits, check_contract
from madx.verify.gates import judge
from madx.verify.latency import Timer, measure_latency
from madx.verify.measurements import Accuracy, EngineParity, Latency, Measurements, Parity, Sizes
from madx.verify.parity import measure_parity
from madx.verify.projection import Projected, perturbation_size, project
from madx.verify.robustness import Adversary, Chunk, measure_accuracy, measure_chunk
from madx.verify.sequential import decided
from madx.verify.verdict import GateResult, Outcome, Verdict

__all__ = [
    "Accuracy",
    "Adversary",
    "Chunk",
    "EngineParity",
    "GateResult",
    "Images",
    "Latency",
    "Logits",
    "Measurements",
    "Outcome",
    "Parity",
    "Projected",
    "Sizes",
    "Timer",
    "Verdict",
    "check_contract",
    "decided",
    "judge",
    "measure_accuracy",
    "measure_chunk",
    "measure_latency",
    "measure_parity",
    "perturbation_size",
    "project",
]
