"""The data section of a recipe: where images come from, how they are read and how they are split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from madx.recipe.section import Section
from madx.recipe.values import ClassName, Count, FactoryName, ImageCount, Integer, Number

ARRAYS = ("arrays", "npz", "npy", "pt", "idx", "mat", "pickles")
"""Names of what holds pixels; `arrays` is whichever of the others is found."""
ENCODED = ("imagefolder", "parquet", "arrow", "webdataset")
"""Names of what holds image files, which are decoded as the recipe says."""
OWN = (*ENCODED, *ARRAYS, "factory")
"""Names of data that have no classes and no order of channels of their own."""
DATA_FILES = ("path", "class_map", "labels", "train_labels")
"""Where files are on this machine; what they hold is known by what was read from them."""
COLOURS: dict[Any, tuple[int, int, int]] = {"black": (0, 0, 0), "white": (255, 255, 255), "grey": (128, 128, 128)}
"""Backgrounds by name; "drop" shows the colours that are hidden under transparency."""


def _size(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """One message instead of one for each kind of value that would do."""
    try:
        return handler(value)
    except ValidationError:
        raise ValueError(f"{repr(value)[:60]} is neither a number of pixels nor [height, width]") from None


def _background(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        raise ValueError(
            f"{repr(value)[:60]} is no background; expected {', '.join(COLOURS)}, drop, or [red, green, blue] in 0..255"
        ) from None


Size = Annotated[Count | tuple[Count, Count], WrapValidator(_size)]
"""A number of pixels, or [height, width]."""
Level = Annotated[Integer, Field(ge=0, le=255)]
Background = Annotated[
    Literal["black", "white", "grey", "drop"] | tuple[Level, Level, Level], WrapValidator(_background)
]


class Normalised(Section):
    """How stored arrays were made from images in [0, 1]: (image - mean) / std, a number for each channel."""

    mean: tuple[Number, ...]
    """In the unit of [0, 1]."""
    std: tuple[Annotated[Number, Field(gt=0)], ...]
    """In the same unit."""

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(
                f"mean has {len(self.mean)} numbers and std {len(self.std)}; expected one for each channel"
            )
        return self


class DataConfig(Section):
    """Where images come from and how they are split."""

    name: Literal[
        "fashion-mnist",
        "digits",
        "cifar10",
        "cifar100",
        "svhn",
        "imagefolder",
        "parquet",
        "arrow",
        "webdataset",
        "arrays",
        "npz",
        "npy",
        "pt",
        "idx",
        "mat",
        "pickles",
        "factory",
    ] = "fashion-mnist"
    """Which reader; docs/data.md has a table of them."""
    path: Path | None = None
    """Folder or file of the data; without it $MADX_DATA/<name>, ./datasets/<name>, or the system's."""
    factory: FactoryName | None = None
    """For name: factory, a 'module:callable' that returns {'train': part, 'test': part}; a part is (images, labels), a
    torch Dataset or a DataLoader."""
    split: Literal["test"] | None = None
    """test: all of the data are test images of a finished network, and all of them are the gate (madx verify --engine).
    Without it, a set that has no test part is divided."""
    train: str | None = None
    """For imagefolder: the folder in path that holds the training images; null: the usual names are looked for."""
    test: str | None = None
    """For imagefolder: the folder in path that holds the test images; null: the usual names are looked for."""
    labels: Path | None = None
    """For imagefolder: a table (.csv, .tsv, .txt) of file names and classes, for test images that are not in folders
    of their classes; where there is one folder of images only, for all of them."""
    train_labels: Path | None = None
    """The same for the training images."""
    keys: dict[Literal["x_train", "y_train", "x_test", "y_test"], str] | None = None
    """For arrays, parquet and arrow: what images and labels are called there; null: the usual names are looked for."""
    image_size: Size | None = None
    """For image files: what the network is given. Images are resized (shorter side) and centre-cropped to this many
    pixels, or to [height, width]. null: as they are, all of one size."""
    resize: Size | None = None
    """For image files: the shorter side is resized to this many pixels before the centre of image_size is cut out (256
    before 224, say); [height, width] resizes both sides."""
    crop_pct: Annotated[Number, Field(gt=0, le=1)] | None = None
    """For image files: the same as a share, as timm has it: resize = image_size / crop_pct."""
    crop_mode: Literal["center", "squash"] | None = None
    """For image files: squash resizes height and width each, and nothing is cut off; null: center."""
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"
    """For image files: Pillow's filter of the resizing."""
    exif: bool | None = None
    """For image files: whether a rotation that EXIF tells is applied (as OpenCV does) or not (as Pillow and torchvision
    do). null: such images are asked about."""
    background: Background | None = None
    """For image files: what transparent images are put on: black, white, grey or [red, green, blue]; drop shows the
    colours hidden there, as Pillow and torchvision do. null: such images are asked about."""
    channels: Literal[1, 3] = 3
    """For image files: 3 (red, green, blue) or 1 (grey)."""
    skip_damaged: bool = False
    """For image files: damaged ones are left out and counted, instead of refused."""
    layout: Literal["nchw", "nhwc"] | None = None
    """For arrays and factory: the order of the axes; null: the axis of 1 to 4 entries is the channels."""
    range: tuple[Number, Number] | None = None
    """For arrays and factory: the stored values that are 0 and 1 for the network, such as [0, 65535] or [-1, 1]. For
    image files: the same, of images of more than 8 bits a channel."""
    normalised: Normalised | None = None
    """For arrays and factory: the data are (image - mean) / std; that is undone, because images are in [0, 1] here."""
    first_label: Annotated[Integer, Field(ge=0)] = 0
    """For arrays and factory: the label of the first class."""
    classes: list[ClassName] | None = None
    """Names of the classes in the order of the network's outputs; for imagefolder the names of their folders, which are
    sorted without it. Classes without images are allowed."""
    class_map: Path | None = None
    """The same names in a file, one a line."""
    num_classes: Annotated[Integer, Field(ge=2)] | None = None
    """For arrays and factory: how many classes there are; null: the largest training label plus one."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """For data of your own. bgr: the first and the last of three channels are exchanged before the network
    sees them, because OpenCV saved the arrays, or because the network was trained on what OpenCV reads."""
    selection: Count | None = None
    """Images of the training set that choose and calibrate, not to train on; null: a tenth of it, at most 2000."""
    gate: ImageCount | None = None
    """How many images of the test set the gate measures on, in a seeded random order; without it, all."""

    @model_validator(mode="after")
    def _needs(self) -> Self:
        if (self.name == "factory") != (self.factory is not None):
            raise ValueError("data.factory belongs to data.name: factory, and each needs the other")
        if self.name in (*ENCODED, *ARRAYS) and self.path is None:
            raise ValueError(f"data.name: {self.name} needs data.path")
        if self.name in ("digits", "factory") and self.path is not None:
            raise ValueError(f"data.name: {self.name} reads no files, so data.path has no place here")
        for names, fields in _BELONGS:
            for field in fields:
                if self.name not in names and getattr(self, field) != type(self).model_fields[field].default:
                    raise ValueError(f"data.{field} belongs to data.name: {_listed(names)}; this is {self.name}")
        self._check_classes()
        self._check_size()
        if self.channel_order != "rgb" and self.name not in OWN:
            raise ValueError(
                f"data.name: {self.name} has channels in an order of its own; leave out data.channel_order"
            )
        if self.channel_order != "rgb" and self.name in ENCODED and self.channels == 1:
            raise ValueError("data.channel_order: bgr is for images of 3 channels; data.channels is 1")
        if self.range is not None and self.normalised is not None:
            raise ValueError("data.range and data.normalised both say how values become [0, 1]; give one of them")
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError(f"data.range is [{self.range[0]:g}, {self.range[1]:g}]; expected [lowest, highest]")
        if self.split == "test" and (self.train or self.train_labels):
            raise ValueError("data.split: test means that there are no training images; leave out data.train")
        return self

    def _check_size(self) -> None:
        if self.resize is not None and self.crop_pct is not None:
            raise ValueError("data.resize and data.crop_pct say the same; give one of them")
        given = [key for key in ("resize", "crop_pct", "crop_mode") if getattr(self, key) is not None]
        if given and self.image_size is None:
            raise ValueError(f"data.{given[0]} needs data.image_size, what the network is given")
        if self.crop_pct is not None and not isinstance(self.image_size, int):
            raise ValueError(
                "data.crop_pct is for square images; give data.resize beside an image_size of [height, width]"
            )

    def _check_classes(self) -> None:
        given = [key for key in ("classes", "class_map", "num_classes") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"data.{given[0]} and data.{given[1]} say the same; give one of them")
        if given and self.name not in OWN:
            raise ValueError(f"data.name: {self.name} has classes of its own, so data.{given[0]} has no place here")
        if self.num_classes is not None and self.name == "imagefolder":
            raise ValueError("data.name: imagefolder takes data.classes, the folders' names, for data.num_classes")
        if self.classes is not None and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise ValueError("data.classes lists at least two names, each once, in the order of the network's outputs")


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


_BELONGS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("imagefolder",), ("train", "test", "labels", "train_labels")),
    ((*ARRAYS, "parquet", "arrow"), ("keys",)),
    (
        ENCODED,
        ("image_size", "resize", "crop_pct", "crop_mode", "interpolation", "exif", "background", "channels"),
    ),
    (ENCODED, ("skip_damaged",)),
    ((*ARRAYS, "factory"), ("layout", "normalised")),
    ((*ARRAYS, "factory", "parquet", "arrow", "webdataset"), ("first_label",)),
    (OWN, ("range",)),
)
"""Names, and what only they can say."""
