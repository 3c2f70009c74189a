"""What an attacker may do, and the attack that training, pruning and evaluation make of it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from madx.recipe.section import Section
from madx.recipe.values import Count, Number


class ThreatConfig(Section):
    """What an attacker may do to an image: the perturbation is inside the ball and the image stays in [0, 1]."""

    norm: Literal["linf", "l2"] = "linf"
    """Norm of the perturbation."""
    eps: Annotated[Number, Field(gt=0)] = 8 / 255
    """Radius of the ball, in the unit of the [0, 1] images; fractions such as 8/255 are accepted."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.norm == "linf" and self.eps > 1:
            raise ValueError(
                f"threat.eps is {self.eps:g} in L-inf, but images live in [0, 1]; did you mean {self.eps:g}/255?"
            )
        return self


class AttackConfig(Section):
    """Projected gradient descent on the cross-entropy (Madry et al. 2018)."""

    steps: Count = 10
    """Gradient steps."""
    relative_step: Annotated[Number, Field(gt=0)] = 2.3
    """Step size times steps, in units of eps: the step size is relative_step * eps / steps."""
    restarts: Count = 1
    """Independent random starts; an image counts as robust only if every one fails."""
