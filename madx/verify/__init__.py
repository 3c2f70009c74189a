"""Measurements on deployed engines, and the gates that judge them.

An engine is a callable (images float32 [B, C, H, W] in [0, 1] -> logits [B, K]), a timer a callable that returns
seconds; neither torch nor an engine is loaded by importing this package. `robustness`, `parity` and `latency` measure,
`measurements` holds what they measured, `gates` judges it, `sequential` says when enough was seen and `verdict` holds
the judgement.
"""

from madx.verify.contract import Classifier, Images, check_contract, check_form
from madx.verify.curve import Curve
from madx.verify.gallery import Gallery
from madx.verify.gates import judge
from madx.verify.ladder import Ladder, measure_ladder
from madx.verify.latency import measure_latency
from madx.verify.measurements import Accuracy, Kind, Measurements, Sizes, Subject
from madx.verify.parity import EngineParity, Parity, contract_alone, measure_parity
from madx.verify.projection import Projected, perturbation_size, project
from madx.verify.remedies import Remedy
from madx.verify.robustness import Adversary, Chunk, Examples, measure_chunk
from madx.verify.sampling import Timer
from madx.verify.sequential import decided
from madx.verify.soundness import SideSoundness, Soundness
from madx.verify.timings import Latency
from madx.verify.verdict import GateResult, Outcome, Verdict

__all__ = [
    "Accuracy",
    "Adversary",
    "Chunk",
    "Classifier",
    "Curve",
    "EngineParity",
    "Examples",
    "Gallery",
    "GateResult",
    "Images",
    "Kind",
    "Ladder",
    "Latency",
    "Measurements",
    "Outcome",
    "Parity",
    "Projected",
    "Remedy",
    "SideSoundness",
    "Sizes",
    "Soundness",
    "Subject",
    "Timer",
    "Verdict",
    "check_contract",
    "check_form",
    "contract_alone",
    "decided",
    "judge",
    "measure_chunk",
    "measure_ladder",
    "measure_latency",
    "measure_parity",
    "perturbation_size",
    "project",
]
