"""What a suite of attacks knows of a network: its logits, and the gradient of any loss; both count what they are asked.

Images are float32 [B, ...] in [0, 1], logits float32 [B, K].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from madx.attacks.gradients import Gradient, input_gradient, through_twin
from madx.attacks.losses import Loss
from madx.errors import MadxError


@dataclass(frozen=True)
class Victim:
    """A network under attack.

    Nothing says that both callables are the same network: `forward` may be an engine and `gradient` its torch twin.
    The logits that a gradient returns decide where the attack goes on and which point is the worst.
    """

    forward: Callable[[Tensor], Tensor]
    """Images -> logits, no gradient asked for."""
    gradient: Callable[[Loss], Gradient]
    """Loss -> its gradient at images."""

    @classmethod
    def of(cls, module: nn.Module, *, precision: Literal["fp32", "bf16"] = "fp32") -> Victim:
        """A torch network, in the mode (eval, surely) and the memory format that it is in; see `input_gradient`.

        In bf16, gradients and the logits that come with them are rounded: score the points again in float32.
        """
        return cls(_answering(module), lambda loss: input_gradient(module, loss=loss, precision=precision))

    @classmethod
    def in_the_loop(cls, forward: Callable[[Tensor], Tensor], twin: nn.Module) -> Victim:
        """An engine: its logits give loss, best point and step sizes; only the slope is the twin's (`through_twin`)."""
        answer = _answering(forward)
        return cls(answer, lambda loss: through_twin(answer, twin, loss=loss))

    @classmethod
    def query_only(cls, forward: Callable[[Tensor], Tensor]) -> Victim:
        """An engine without a twin: an attack that asks it for a gradient is refused.

        Raises:
            MadxError: when the gradient is asked for.
        """

        def gradient(loss: Loss) -> Gradient:
            raise MadxError(
                f"an attack asked for the gradient of the {loss.name} loss, and this network answers queries only; "
                "use attacks that need none, such as Square, or give the engine's torch twin"
            )

        return cls(_answering(forward), gradient)


@dataclass
class Passes:
    """How many images went through a network, or how often one image may."""

    forward: int = 0
    """Forward only."""
    gradient: int = 0
    """Forward and backward."""

    def __add__(self, other: Passes) -> Passes:
        """Both together."""
        return Passes(self.forward + other.forward, self.gradient + other.gradient)

    def __rmul__(self, times: int) -> Passes:
        """The same `times` over."""
        return Passes(times * self.forward, times * self.gradient)

    def counting(self, victim: Victim) -> Victim:
        """The same network; what it is asked is added up here."""

        def forward(images: Tensor) -> Tensor:
            self.forward += len(images)
            return victim.forward(images)

        def gradient(loss: Loss) -> Gradient:
            slope_of = victim.gradient(loss)

            def counted(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
                self.gradient += len(images)
                return slope_of(images, targets)

            return counted

        return Victim(forward, gradient)


def _answering(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A network's logits as the attacks want them: float32, where the images are, without a graph."""

    def answer(images: Tensor) -> Tensor:
        with torch.no_grad():
            return forward(images).float().to(images.device)

    return answer
