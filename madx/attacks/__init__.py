"""Attacks. They see a network only as a callable that returns logits and the gradient at its input.

Images are float32 [B, C, H, W] in [0, 1], eps in the same unit. The norm owns start, direction and projection.
"""

from madx.attacks.gradients import Gradient, input_gradient
from madx.attacks.norms import Norm, norm_named
from madx.attacks.pgd import last_iterate, strongest_examples

__all__ = ["Gradient", "Norm", "input_gradient", "last_iterate", "norm_named", "strongest_examples"]
