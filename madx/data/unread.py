"""What people bring that is not read: what it is, and what to do with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from madx.data.places import shown
from madx.errors import DataError

_OWN = "let a factory of yours read it (data.name: factory), or save its arrays with np.savez"
_CONVERT = "convert it to PNG or JPEG, as the network's training images were"
_STACK = (
    "of arrays, one file holds all images of a part: stack them (np.savez('set.npz', x_train=np.stack(...), ...)), or "
    "let a factory of yours read them (data.name: factory)"
)
_REMEDIES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        **dict.fromkeys((".h5", ".hdf5", ".hdf", ".he5", ".keras"), ("HDF5", f"open it with h5py and {_OWN}")),
        **dict.fromkeys(
            (".zip", ".7z", ".rar", ".tgz", ".gz", ".bz2", ".xz", ".zst"), ("packed", "unpack it and give its folder")
        ),
        **dict.fromkeys((".tfrecord", ".tfrecords", ".riegeli"), ("TensorFlow's records", _OWN)),
        **dict.fromkeys(
            (".lmdb", ".mdb", ".beton", ".rec", ".joblib", ".msgpack", ".db"), ("a store of its own", _OWN)
        ),
        ".bin": ("binary", f"CIFAR's are read by data.name: cifar10 or cifar100; of anything else {_OWN}"),
        **dict.fromkeys((".feather", ".ipc"), ("an Arrow file", "call it .arrow (data.name: arrow)")),
        ".safetensors": ("tensors", "save them with torch.save as .pt, or with np.savez"),
        **dict.fromkeys((".csv", ".tsv", ".xls", ".xlsx"), ("a table", f"if it holds pixels, {_OWN}")),
        **dict.fromkeys(
            (".heic", ".heif", ".avif", ".jxl", ".svg", ".psd", ".ico", ".exr", ".hdr", ".dng", ".cr2", ".nef", ".arw"),
            ("a picture in a format that is not read", _CONVERT),
        ),
        **dict.fromkeys((".dcm", ".dicom", ".nii", ".mha", ".nrrd"), ("a medical picture", f"{_CONVERT}, or {_OWN}")),
        **dict.fromkeys((".mp4", ".avi", ".mov", ".mkv", ".webm"), ("a film", "save the pictures that are meant")),
        **dict.fromkeys((".npy", ".npz", ".pt", ".pth", ".mat", ".pkl"), ("an array", _STACK)),
        "": ("without an ending", "if it is an image, give it its ending (.jpg, .png)"),
    }
)
"""By the ending in small letters: what it is, and what to do."""
HEAD = 64
"""Bytes that tell a content."""
_POINTER = b"version https://git-lfs"
_CONTENTS = MappingProxyType(
    {
        _POINTER: "a pointer of Git LFS to a file that is not here; `git lfs pull` gets it",
        b"<!doctype html": "a web page that was saved in its place; download it again",
        b"<html": "a web page that was saved in its place; download it again",
    }
)


def remedy_for(name: str) -> str:
    """What a file of this name is and what to do with it; empty if that is not known."""
    suffix = Path(re.sub(r"-[0-9]+-of-[0-9]+$", "", name)).suffix.lower()
    what, advice = _REMEDIES.get(suffix, ("", ""))
    return f"{what}: {advice}" if what else ""


def told_of(paths: Iterable[Path]) -> str:
    """For the end of a message that nothing was found: what is there of what is known, one of each kind."""
    found: dict[str, str] = {}
    for path in sorted(paths):
        remedy = remedy_for(path.name) if path.is_file() and path.suffix and not path.name.startswith(".") else ""
        if remedy and remedy not in found:
            found[remedy] = shown(path.name)
    return "".join(f"; {name} is {remedy}" for remedy, name in list(found.items())[:3])


def content_told(head: bytes) -> str:
    """What a file that begins so is, if it is known; else empty."""
    start = head.lstrip().lower()
    if head[4:8] == b"ftyp":
        return "a picture or film in a format that is not read (HEIC or AVIF?); " + _CONVERT
    return next((told for begin, told in _CONTENTS.items() if start.startswith(begin)), "")


def require_content(path: Path) -> None:
    """Raise a DataError if a pointer or a web page lies in the place of a file."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return  # whoever reads it tells
    if not head:
        raise DataError(f"{shown(path)} is empty; replace it")
    if told := content_told(head):
        raise DataError(f"{shown(path)} is {told}")
