"""Attacks. They see a network only as callables that return logits, and the gradient of a loss at its input.

Images are float32 [B, C, H, W] in [0, 1], eps in the same unit. The norm owns start, direction and projection.
"""

from madx.attacks.apgd import apgd_examples
from madx.attacks.gradients import Gradient, input_gradient
from madx.attacks.losses import DLR, CrossEntropy, Loss, TargetedDLR, TargetedMargin, targeted_loss
from madx.attacks.norms import Norm, norm_named
from madx.attacks.pgd import Pgd, last_iterate, strongest_examples
from madx.attacks.suite import QUICK, STANDARD, Apgd, Attack, Closest, Outcome, Record, TargetedApgd, run_suite
from madx.attacks.victim import Passes, Victim
from madx.attacks.worst import Worst, wrong_margin

__all__ = [
    "DLR",
    "QUICK",
    "STANDARD",
    "Apgd",
    "Attack",
    "Closest",
    "CrossEntropy",
    "Gradient",
    "Loss",
    "Norm",
    "Outcome",
    "Passes",
    "Pgd",
    "Record",
    "TargetedApgd",
    "TargetedDLR",
    "TargetedMargin",
    "Victim",
    "Worst",
    "apgd_examples",
    "input_gradient",
    "last_iterate",
    "norm_named",
    "run_suite",
    "strongest_examples",
    "targeted_loss",
    "wrong_margin",
]
