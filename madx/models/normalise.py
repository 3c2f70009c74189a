"""Normalisation inside the network, so that attacks, engines and users all see images in [0, 1].

Images are [B, C, H, W]; mean and std are held as [C, 1, 1] buffers named norm.mean and norm.std in a state
dict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from madx.errors import ModelError
from madx.models.arguments import RESERVED, tell
from madx.recipe.values import Number


class Normalise(nn.Module):
    """(x - mean) / std per channel.

    A module of its own: a buffer called `mean` directly in a network breaks torch's ONNX exporter.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to images of about zero mean and unit variance; the shape stays."""
        return (x - self.mean) / self.std


class Normalised(nn.Module):
    """A user's network behind a normalisation; its state-dict keys begin with `net.`."""

    def __init__(self, norm: Normalise, net: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1] to logits [B, K]."""
        logits: Tensor = self.net(self.norm(x))
        return logits


class _Given(BaseModel):
    """What model.args.normalise may hold; fractions such as 125/255 are numbers too."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    mean: tuple[Number, ...]
    std: tuple[Annotated[Number, Field(gt=0)], ...]


def read_normalise(value: Any, *, channels: int) -> Normalise | None:
    """The normalisation a recipe asks for.

    Args:
        value: model.args.normalise, {mean: [...], std: [...]} with a number per channel in the unit of [0, 1]
            images, or None.
        channels: Channels of the images.

    Returns:
        The module, or None where no normalisation is asked for.

    Raises:
        ModelError: Another form, a number of channels that is not the images', a std of 0 or less.
    """
    if value is None:
        return None
    expected = f"expected {{mean: [...], std: [...]}} with {channels} number(s) each, std above 0"
    if not isinstance(value, Mapping):
        raise ModelError(f"model.args.{RESERVED} is {value!r}; {expected}.")
    try:
        given = _Given.model_validate(value)
    except ValidationError as error:
        raise ModelError(f"model.args.{RESERVED} is {value!r}; {expected}. {tell(error)}.") from error
    if not len(given.mean) == len(given.std) == channels:
        raise ModelError(
            f"model.args.{RESERVED} has {len(given.mean)} mean(s) and {len(given.std)} std(s), but the images"
            f" have {channels} channel(s); {expected}."
        )
    return Normalise(given.mean, given.std)
