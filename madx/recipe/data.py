"""The data section of a recipe: where images come from and how they are split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from madx.recipe.section import Section
from madx.recipe.values import ClassName, Count, FactoryName, ImageCount, Integer


class DataConfig(Section):
    """Where images come from and how they are split."""

    name: Literal["fashion-mnist", "digits", "cifar10", "cifar100", "svhn", "imagefolder", "npz", "factory"] = (
        "fashion-mnist"
    )
    """Which reader."""
    path: Path | None = None
    """Folder (npz: file) of the data; without it $MADX_DATA/<name>, ./datasets/<name>, or the system's."""
    factory: FactoryName | None = None
    """For name: factory, a 'module:callable' that returns {'train': (images, labels), 'test': (images, labels)}."""
    image_size: Count | None = None
    """For imagefolder: images are resized (shorter side) and centre-cropped to this many pixels."""
    classes: list[ClassName] | None = None
    """Names of the classes in the order of the network's outputs; for imagefolder the names of their folders, which are
    sorted without it. Classes without images are allowed."""
    class_map: Path | None = None
    """The same names in a file, one a line."""
    num_classes: Annotated[Integer, Field(ge=2)] | None = None
    """For npz and factory: how many classes there are; null: the largest training label plus one."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """For imagefolder, npz and factory. bgr: the first and the last of three channels are exchanged before the network
    sees them, because OpenCV saved the arrays, or because the network was trained on what OpenCV reads."""
    selection: Count | None = None
    """Images of the training set that choose and calibrate, not to train on; null: a tenth of it, at most 2000."""
    gate: ImageCount | None = None
    """How many images of the test set the gate measures on, in a seeded random order; without it, all."""

    @model_validator(mode="after")
    def _needs(self) -> Self:
        if (self.name == "factory") != (self.factory is not None):
            raise ValueError("data.factory belongs to data.name: factory, and each needs the other")
        if self.name == "imagefolder" and self.image_size is None:
            raise ValueError("data.name: imagefolder needs data.image_size")
        if self.name != "imagefolder" and self.image_size is not None:
            raise ValueError("data.image_size belongs to data.name: imagefolder")
        if self.name in ("imagefolder", "npz") and self.path is None:
            raise ValueError(f"data.name: {self.name} needs data.path")
        if self.name in ("digits", "factory") and self.path is not None:
            raise ValueError(f"data.name: {self.name} reads no files, so data.path has no place here")
        self._check_classes()
        if self.channel_order != "rgb" and self.name not in ("imagefolder", "npz", "factory"):
            raise ValueError(
                f"data.name: {self.name} has channels in an order of its own; leave out data.channel_order"
            )
        return self

    def _check_classes(self) -> None:
        given = [key for key in ("classes", "class_map", "num_classes") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"data.{given[0]} and data.{given[1]} say the same; give one of them")
        if given and self.name not in ("imagefolder", "npz", "factory"):
            raise ValueError(f"data.name: {self.name} has classes of its own, so data.{given[0]} has no place here")
        if self.num_classes is not None and self.name == "imagefolder":
            raise ValueError("data.name: imagefolder takes data.classes, the folders' names, for data.num_classes")
        if self.classes is not None and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise ValueError("data.classes lists at least two names, each once, in the order of the network's outputs")
