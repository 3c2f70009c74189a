"""Folders of image files, one folder per class, or one folder and a table of file names and classes.

Layouts: path/train/<class>/* with path/test/<class>/* or path/val/<class>/* (ImageNet; other usual names of the parts,
in any case, too), a test part alone, or path/<class>/*, which is divided by seed. Below a class folder there may be
folders, whose images belong to the class. Classes are numbered as the recipe lists them, or in the order of their
sorted names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from madx.data.classes import class_names
from madx.data.decoding import Decoding, decoding_of
from madx.data.files import FileSource, file_source
from madx.data.listing import NOTES, Listing, Scans, has_images
from madx.data.naming import parts_of
from madx.data.places import few, shown
from madx.data.sources import Reading
from madx.data.stored import ImageFile
from madx.data.tables import labelled
from madx.data.unread import told_of
from madx.errors import DataError
from madx.recipe import DataConfig

TRAIN = ("train", "training")
TEST = ("test", "testing", "tests")
VALIDATION = ("val", "valid", "validation", "dev", "eval")
"""What the parts of a set are called, in any case; a test part with labels goes before one for validation."""
_FEW_LETTERS = 2
_GLUED = re.compile(
    r"(train|training|test|testing|val|valid|validation)[-_ ]?(?:set|data|images?|imgs?)", re.IGNORECASE
)
"""Names of parts with a word behind them ("trainset")."""
_HOLDERS = ("images", "image", "imgs", "img", "jpegimages", "pictures", "photos")
"""What folders are called that hold a set, in small letters, and hardly ever a class of it."""
_ANNOTATIONS = "_annotations.txt"
"""How the table of Tiny-ImageNet's val ends."""


@dataclass(frozen=True)
class Part:
    """A folder of images to read."""

    root: Path
    names: tuple[str, ...]
    """Of the classes, as far as they are known."""
    table: Path | None = None
    """File names and classes, if the recipe gives them."""


def read_folders(config: DataConfig) -> Reading:
    """The folders of data.path, in one of the layouts above; test/ before val/ if both have labels.

    Raises:
        DataError: if the layout is another, a class is empty, a file is no image, or a folder's class is not known.
    """
    root = config.path
    if root is None or not root.is_dir():
        told = told_of([root]) if root is not None else ""
        raise DataError(f"data.path {root} is not a folder; imagefolder needs one{told}")
    how, names, scans = decoding_of(config), class_names(config), Scans()
    train_root = _named(root, config.train, scans) if config.train else _usual(root, TRAIN, scans, names)
    if config.split == "test" or (train_root is None and not config.train_labels):
        test_root = _test_alone(root, config, scans)
        if test_root is None:
            return read_folder(Part(root, names, config.labels), how, scans), None
        return None, read_folder(Part(test_root, names, config.labels), how, scans)
    training = read_folder(Part(train_root or root, names, config.train_labels), how, scans)
    test_root, remarks = _test_root(root, training.names, config, scans)
    test = read_folder(Part(test_root, training.names, config.labels), training.how, scans)
    unread = _unread(root, (train_root, test_root), scans)
    return training, replace(test, remarks=(*test.remarks, *remarks, *unread), classes=training.classes)


def _named(root: Path, name: str, scans: Scans) -> Path:
    if not (root / name).is_dir():
        there = sorted(Listing(scans).folders(root))
        raise DataError(f"{root} has no folder {name}; there are {few(there)}")
    return root / name


def _usual(root: Path, names: Sequence[str], scans: Scans, classes: Sequence[str] = ()) -> Path | None:
    """The folder of the part that has one of these names, in any case; none of several that are classes of the recipe.

    One alone is a part all the same: published sets have a class called train.
    """
    folders = Listing(scans).folders(root)
    listed = [text for text in folders if text in classes]
    if len(listed) > 1:
        folders = {text: real for text, real in folders.items() if text not in listed}
    found = [real for text, real in folders.items() if text.lower() in names]
    found = found or _by_words(folders, names[0])
    if len(found) > 1:
        raise DataError(
            f"{root} has {' and '.join(found)}; say which one is meant: data.{'train' if names == TRAIN else 'test'}"
        )
    return _inner(root / found[0], scans) if found else None


def _by_words(folders: Mapping[str, str], part: str) -> list[str]:
    """Those whose names say this part in one of their words (training_set, seg_train, val_256).

    A class may be called so too (train station, test tube): only where training images and others are there, each in
    one folder, are these the parts.
    """
    said: dict[str, list[str]] = {}
    for text, real in folders.items():
        for one in _parts_said(text):
            said.setdefault(one, []).append(real)
    both = "train" in said and len(said) > 1 and all(len(found) == 1 for found in said.values())
    return said.get(part, []) if both else []


def _parts_said(name: str) -> frozenset[str]:
    """The parts that the name of a folder says: one, or none. Two letters are as well a language: te, tr."""
    if len(name) <= _FEW_LETTERS:
        return frozenset()
    glued = _GLUED.fullmatch(name)
    found = parts_of(glued[1] if glued else name)
    return found if len(found) == 1 else frozenset()


def _inner(part: Path, scans: Scans) -> Path:
    """The folder itself, or the only one in it if that is called by the same part, as archives are packed."""
    folders = Listing(scans).folders(part)
    if len(folders) != 1 or has_images(part, scans):
        return part
    text, real = next(iter(folders.items()))
    same = text == part.name or (_parts_said(text) and _parts_said(text) == _parts_said(part.name))
    return _inner(part / real, scans) if same else part


def _unread(root: Path, parts: Sequence[Path | None], scans: Scans) -> tuple[str, ...]:
    """Folders beside the parts, whose images nobody reads; those for validation are told of elsewhere."""
    read = {part for part in parts if part is not None}
    if root in read:
        return ()
    other = [
        text
        for text, real in Listing(scans).folders(root).items()
        if not any(part.is_relative_to(root / real) for part in read) and text.lower() not in (*TEST, *VALIDATION)
    ]
    return (f"beside the parts, {few(other)} of {shown(root.name)} were not read",) if other else ()


def _test_alone(root: Path, config: DataConfig, scans: Scans) -> Path | None:
    """Where the images of a finished network lie, all of which are the gate; None for a set that is to be divided."""
    if config.test:
        return _named(root, config.test, scans)
    folders = {text.lower() for text in Listing(scans).folders(root)}
    has_parts = _usual(root, TRAIN, scans, class_names(config)) is not None
    if has_parts or (folders and folders <= {*TEST, *VALIDATION}):
        return _usual(root, TEST, scans) or _usual(root, VALIDATION, scans)
    return root if config.split == "test" else None


def _test_root(root: Path, names: tuple[str, ...], config: DataConfig, scans: Scans) -> tuple[Path, tuple[str, ...]]:
    """The folder of the test images, and what to say of others."""
    if config.test:
        return _named(root, config.test, scans), ()
    test, validation = _usual(root, TEST, scans), _usual(root, VALIDATION, scans)
    if config.labels is not None and (test is None or validation is None):
        return test or validation or root, ()
    if test is not None and _has_labels(test, names, scans):
        return test, (f"{validation.name}/ is not read: {test.name}/ is the gate",) if validation else ()
    if validation is not None and (test is None or _has_labels(validation, names, scans)):
        remarks = (f"{test.name}/ has no folder of any class, so {validation.name}/ is the gate",) if test else ()
        return validation, remarks
    if test is not None and (Listing(scans).folders(test) or not validation):
        return test, ()
    raise DataError(
        f"{root} has train/ but neither test/ nor val/ with one folder per class beside it; where are the test images? "
        "Say so with data.test, and with data.labels (a table of file names and classes) if they are in one folder. If "
        f"there are none, and some of these are to be set aside, say data.path: {shown(root / 'train')}"
    )


def _has_labels(root: Path, names: tuple[str, ...], scans: Scans) -> bool:
    """Whether one of its folders is a class, or a table of Tiny-ImageNet's kind lies there."""
    return bool(set(Listing(scans).folders(root)) & set(names)) or _annotations(root, scans) is not None


def _annotations(root: Path, scans: Scans) -> Path | None:
    return next((root / entry.name for entry in scans[str(root)] if entry.name.endswith(_ANNOTATIONS)), None)


def read_folder(part: Part, how: Decoding, scans: Scans) -> FileSource:
    """All images of a part, class by class, or in the order of its table."""
    root, listing = part.root, Listing(scans)
    folders = listing.folders(root)
    table = part.table or (None if set(folders) & set(part.names) else _annotations(root, scans))
    if table is not None:
        return _from_table(part, table, listing, how)
    if not folders:
        listing.check()
        raise _no_classes(root, scans)
    if not set(folders) & set(part.names):
        _check_lone(root, folders, scans)
    names = part.names or tuple(sorted(folders))
    if unknown := sorted(set(folders) - set(names)):
        raise DataError(
            f"{root} has folders of other classes than the {len(names)} there are ({few(list(names))}): "
            f"{few(unknown)}; remove them, add them to the training images, or list all classes of the network in "
            "data.classes or data.class_map, in the order of its outputs"
        )
    labels: list[int] = []
    files: list[ImageFile] = []
    for label, name in enumerate(names):
        if name in folders:
            found = listing.images(str(root / folders[name]))
            if not found:
                listing.problems.append(f"the class folder {shown(root / name)} is empty; remove it or fill it")
            files += found
            labels += [label] * len(found)
    listing.check()
    below = _below(root, [name for name in names if name in folders], listing.inner)
    remarks = (*listing.remarks(root), *_beside(root, scans), *below, *(() if part.names else _order(names)))
    return file_source(files, np.array(labels, np.int64), names, how, remarks=remarks)


def _check_lone(root: Path, folders: Mapping[str, str], scans: Scans) -> None:
    """That no folder is what the set was unpacked into, rather than a class.

    Raises:
        DataError: one is called so, or is alone and holds folders, which are the classes or parts then.
    """
    if holders := [text for text in folders if text.lower() in _HOLDERS]:
        inside, beside = root / folders[holders[0]], [text for text in folders if text not in holders]
        more = f", beside {few(beside)}" if beside else ""
        raise DataError(
            f"{shown(root)} has a folder {holders[0]}, which is hardly a class{more}; if the set "
            f"lies in it, say data.path: {shown(inside)} (and data.labels, a table of file names and classes, if its "
            "images lie in one folder); if it is a class, list all classes in data.classes"
        )
    place = root / next(iter(folders.values()))
    if len(folders) == 1 and (inner := Listing(scans).folders(place)):
        raise DataError(
            f"{shown(root)} has one folder, {shown(place.name)}, in which there are {few(list(inner))}; a classifier "
            f"needs two classes at least: if the set lies in that folder, say data.path: {shown(place)}"
        )


def _below(root: Path, classes: Sequence[str], inner: Mapping[str, int]) -> tuple[str, ...]:
    """What folders in the class folders may mean, if several classes have the same ones.

    Raises:
        DataError: they are parts, so that training images would be in the gate.
    """
    shared = sorted(name for name, count in inner.items() if count > 1)
    if parts := [name for name in shared if name.lower() in (*TRAIN, *TEST, *VALIDATION)]:
        raise DataError(
            f"{shown(root)}: the folders {few(list(classes))} hold folders called {few(parts)}, so what are the "
            "classes? Where these are parts of the set, move them to the top (train/CLASS, test/CLASS); where the set "
            "lies in one of those folders, give that one as data.path"
        )
    if len(shared) < 2:
        return ()
    return (
        f"{few(list(classes))} are the classes, and their folders {few(list(map(shown, shared)))} are not told apart; "
        "if those are the classes, give one of the folders above them as data.path",
    )


def _from_table(part: Part, table: Path, listing: Listing, how: Decoding) -> FileSource:
    files = listing.images(str(part.root))
    listing.check()
    if not files:
        raise DataError(f"{part.root} holds no images, so {table} has none to name")
    found = labelled(table, files, part.root, part.names)
    remarks = (*listing.remarks(part.root), *found.remarks)
    return file_source(found.files, found.labels, found.names, how, classes=found.classes, remarks=remarks)


def _no_classes(root: Path, scans: Scans) -> DataError:
    """Of a folder without folders; the tables that lie about are named, for one of them may be the labels."""
    if not has_images(root, scans):
        return DataError(f"{root} has no folders; expected one per class{told_of(root.iterdir())}")
    tables = [*root.iterdir(), *root.parent.iterdir()]
    near = sorted(shown(path.name) for path in tables if path.suffix.lower() in NOTES and path.is_file())
    hint = f" (beside them: {few(near)})" if near else ""
    return DataError(
        f"{root} has no folders; expected one per class. Its images lie in one folder, so say of which class each is: "
        f"data.labels, a .csv, .tsv or .txt file of file names and classes{hint}{_if_a_class(root)}"
    )


def _if_a_class(root: Path) -> str:
    """For a folder that is called by a part and may be a class (bus, car, train)."""
    if root.name.lower() not in (*TRAIN, *TEST, *VALIDATION):
        return ""
    return f". If {shown(root.name)} is a class and no part of the set, list all classes in data.classes"


def _beside(root: Path, scans: Scans) -> tuple[str, ...]:
    """Images that lie beside the class folders."""
    if not has_images(root, scans):
        return ()
    return (f"image files in {shown(root.name)} itself, beside its class folders, are of no class and were not read",)


def _order(names: tuple[str, ...]) -> tuple[str, ...]:
    """Where text and numbers sort differently, who trained may have had the other order."""

    def natural(name: str) -> list[tuple[int, str]]:
        return [(int(digits), "") if digits else (-1, text) for digits, text in re.findall(r"(\d+)|(\D+)", name)]

    if sorted(names, key=natural) == list(names):
        return ()
    return (
        "the folders are numbered in the order of text (10 before 2), as torchvision and Keras do; if the network was "
        "trained in another order, list it in data.classes",
    )
