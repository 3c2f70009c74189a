"""How an ONNX file wants to be fed and what it gives: one frozen value, read from the file and from the recipe.

All of madx sees an engine as images float32 [B, C, H, W] in [0, 1] -> logits float32 [B, K]. A file may want other
tensors and give others. The value here turns one into the other where the engine is called; the file itself is never
rewritten, so that its SHA-256 stays the one that is deployed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from madx.closeness import LEAST
from madx.errors import EngineError

INPUT, OUTPUT = "input", "logits"
"""Names in madx's own exports."""
Form = Literal["logits", "probabilities"]
Tensor = NDArray[Any]


@dataclass(frozen=True)
class Interface:
    """From images [B, C, H, W] in [0, 1] to the file's input tensor, and from its output tensor to logits [B, K]."""

    shape: tuple[int, int, int]
    """(C, H, W) of one image, as the data has it."""
    classes: int
    """K."""
    image: tuple[int, ...]
    """One image in the file's own shape: [C, H, W], [H, W, C], [H, W] of one channel, or all in a row."""
    input: str = INPUT
    output: str = OUTPUT
    dtype: str = "float32"
    """numpy's name of the type that the file takes."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    batch: int | None = None
    """Images a call, where the file takes no other number of them."""
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    """With `std`, of each channel in the file's order: it is fed (scale * x - mean) / std. Empty: 0 and 1."""
    std: tuple[float, ...] = ()
    bgr: bool = False
    """Whether the file has its channels in the opposite order of the data's."""
    form: Form = "logits"
    """What its output is; the logarithm of probabilities is logits but for a constant on all classes."""

    @classmethod
    def canonical(cls, shape: tuple[int, int, int], classes: int) -> Self:
        """Of madx's own exports."""
        return cls(shape=shape, classes=classes, image=shape)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        tuples = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
        return cls(**{one.name: (dict(content) | tuples)[one.name] for one in fields(cls)})

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def whole_numbers(self) -> bool:
        """Whether the file takes integers, so that images are rounded before it."""
        return np.issubdtype(np.dtype(self.dtype), np.integer)

    @property
    def plain(self) -> bool:
        """Whether images go in, and logits come out, as they are, at any batch."""
        own = Interface.canonical(self.shape, self.classes)
        return self == Interface(**{**asdict(own), "input": self.input, "output": self.output})

    def facts(self) -> dict[str, str]:
        """`describe`, where anything is done that a reader of timings should know; else nothing."""
        return {} if self.plain else self.describe()

    def fed(self, images: NDArray[np.float32]) -> Tensor:
        """The file's input tensor [B, *image] of images [B, C, H, W]; the same array where nothing is to be done."""
        found: Tensor = images[:, ::-1] if self.bgr else images
        if self.scale != 1:
            found = found * np.float32(self.scale)
        if self.mean:
            found = found - np.array(self.mean, np.float32).reshape(-1, 1, 1)
        if self.std:
            found = found / np.array(self.std, np.float32).reshape(-1, 1, 1)
        if self.whole_numbers:
            limits = np.iinfo(self.dtype)
            found = np.rint(np.clip(found.astype(np.float64), limits.min, limits.max))
        if self.layout == "NHWC":
            found = found.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(found.reshape(len(images), *self.image), dtype=np.dtype(self.dtype))

    def logits(self, output: Tensor, images: int) -> NDArray[np.float32]:
        """Logits [B, K] of the file's output tensor for so many images.

        Raises:
            EngineError: it is no row of K numbers for each of them.
        """
        dims = list(np.shape(output))
        if images == 1 and dims == [self.classes] and self.classes > 1:
            dims = [1, *dims]  # a Squeeze without axes takes the batch along where it is 1
        if dims[:1] != [images] or [side for side in dims[1:] if side != 1] != [self.classes]:
            raise EngineError(
                f"the output {self.output!r} is {dims} for {images} images; expected [{images}, {self.classes}], one "
                "row for each image with a score for each class of the data: export it so"
            )
        found = output if output.ndim == 2 else output.reshape(images, self.classes)
        if self.form == "probabilities":
            found = np.log(np.maximum(found.astype(np.float64), LEAST))
        return found if found.dtype == np.float32 else found.astype(np.float32)

    def answers(self, images: NDArray[np.float32], run: Callable[[Tensor], Tensor]) -> NDArray[np.float32]:
        """Logits [B, K] of images [B, C, H, W]; a file of one batch size is fed pieces, the last one filled up.

        Args:
            images: float32 in [0, 1].
            run: one call of the file: its input tensor to its output tensor.
        """
        tensor = self.fed(images)
        if self.batch is None:
            return self.logits(run(tensor), len(images))
        rows = np.resize(np.arange(len(images)), -(-len(images) // self.batch) * self.batch)
        pieces = rows.reshape(-1, self.batch)
        found = [self.logits(run(np.ascontiguousarray(tensor[piece])), self.batch) for piece in pieces]
        return np.concatenate(found)[: len(images)]

    def check_timed(self, images: int, name: str) -> None:
        """EngineError for a number of images that the file does not take in one call."""
        if self.batch not in (None, images):
            raise EngineError(
                f"{name} cannot be timed at batch {images}: the file takes {self.batch} images a call and no other "
                f"number; set verify.latency.batch: {self.batch}, or export it with a dynamic batch"
            )

    def describe(self) -> dict[str, str]:
        """In words, for the record of the engine."""
        batch = "any" if self.batch is None else str(self.batch)
        return {"fed": f"{self.input}: {self.dtype} [{batch}, {', '.join(map(str, self.image))}], {self._steps()}"} | {
            "gives": f"{self.output}: {self.form} of {self.classes} classes"
            + ("; their logarithm is judged" if self.form == "probabilities" else "")
        }

    def _steps(self) -> str:
        """What is done to images in [0, 1] before they go in."""
        channels = "channels reversed" if self.bgr else ""
        numbers = "" if self.scale == 1 else f"times {self.scale:g}"
        mean = f"minus {', '.join(f'{value:g}' for value in self.mean)}" if self.mean else ""
        std = f"divided by {', '.join(f'{value:g}' for value in self.std)}" if self.std else ""
        whole = "rounded to whole numbers" if self.whole_numbers else ""
        layout = "channels last" if self.layout == "NHWC" and self.shape[0] > 1 else ""
        return ", ".join(part for part in (channels, numbers, mean, std, whole, layout) if part) or "images in [0, 1]"
