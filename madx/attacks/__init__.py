"""Attacks. They see a network only as callables that return logits, and the gradient of a loss at its input.

Images are float32 [B, C, H, W] in [0, 1], eps in the same unit. The norm owns start, direction and projection.
"""

from madx.attacks.gradients import Gradient, input_gradient, through_twin
from madx.attacks.losses import DLR, CrossEntropy, Loss, TargetedDLR, TargetedMargin, targeted_loss
from madx.attacks.norms import Norm, norm_named
from madx.attacks.pgd import Pgd, last_iterate, strongest_examples
from madx.attacks.pixels import rounded
from madx.attacks.presets import PARANOID, QUICK, STANDARD, SUITES, Suite, suite_of
from madx.attacks.square import Square
from madx.attacks.suite import Apgd, Attack, Closest, Record, SuiteResult, TargetedApgd, run_suite
from madx.attacks.undefended import linear_classifier
from madx.attacks.victim import Passes, Victim
from madx.attacks.worst import Worst, wrong_margin

__all__ = [
    "DLR",
    "PARANOID",
    "QUICK",
    "STANDARD",
    "SUITES",
    "Apgd",
    "Attack",
    "Closest",
    "CrossEntropy",
    "Gradient",
    "Loss",
    "Norm",
    "Passes",
    "Pgd",
    "Record",
    "Square",
    "Suite",
    "SuiteResult",
    "TargetedApgd",
    "TargetedDLR",
    "TargetedMargin",
    "Victim",
    "Worst",
    "input_gradient",
    "last_iterate",
    "linear_classifier",
    "norm_named",
    "rounded",
    "run_suite",
    "strongest_examples",
    "suite_of",
    "targeted_loss",
    "through_twin",
    "wrong_margin",
]
