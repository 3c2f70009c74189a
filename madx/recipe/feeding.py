"""What a recipe says of an ONNX file that madx did not make: how it wants its images, and which output is meant."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from madx.recipe.section import Section
from madx.recipe.values import Count, Number


def _listed(value: Any) -> Any:
    """One number stands for all channels."""
    return value if isinstance(value, list | tuple) else (value,)


def _not_zero(value: float) -> float:
    if value == 0:
        raise ValueError("0 would make all images the same; give another number")
    return value


Channels = Annotated[tuple[Number, ...], BeforeValidator(_listed), Field(min_length=1)]
"""A number for each channel, or one for all."""


class InputConfig(Section):
    """An ONNX file is fed (scale * x - mean) / std, where x are images in [0, 1]; what is not given is read from it."""

    name: str | None = None
    """Of the input, where a file has several."""
    layout: Literal["NCHW", "NHWC"] | None = None
    """Order of the file's dimensions; needed only where its shape does not say."""
    dtype: Literal["float32", "float16", "float64", "uint8", "int8", "uint16", "int16", "int32", "int64"] | None = None
    """Type of its numbers; the file says it, and a recipe that says another is refused."""
    batch: Count | None = None
    """Images a call, for a file that can, or should, be fed no other number of them."""
    scale: Number | None = None
    """255 for a file that wants 0 to 255. Without it 1; 255 for integers."""
    mean: Channels | None = None
    """Subtracted after scaling; in the order of the file's channels."""
    std: Channels | None = None
    """Divided by after that."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """bgr: the file wants its channels in the opposite order of the data's (which is red, green, blue)."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for value in (self.scale, *(self.std or ())):
            if value is not None:
                _not_zero(value)
        return self


class OutputConfig(Section):
    """Which of a file's outputs are the scores of the classes, and what they are."""

    name: str | None = None
    """Of the output, where several could be meant."""
    form: Literal["logits", "probabilities"] | None = None
    """probabilities: after a softmax, so that logits are their logarithm. Without it, what they look like."""
