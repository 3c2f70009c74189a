"""What a weights file holds: tensors and plain containers, by whatever ending, and never by running code in it.

A file is known by its first bytes: a zip archive or a pickle is torch's, a length and a brace are a .safetensors file.
torch's reader builds tensors and plain containers alone (`weights_only`). Training scripts also keep things that are
no weights and only data (`_DATA_ONLY`): an inert stand-in takes their place, so that not even their own classes run.
Everything else that a pickle asks for is refused.
"""

from __future__ import annotations

import json
import pickle
import re
import shlex
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from madx.artifacts import KIND_BYTES, kind_of
from madx.errors import ModelError

SAVE_AGAIN = (
    "Save the weights alone, with torch.save(model.state_dict(), path) or"
    " safetensors.torch.save_file(model.state_dict(), path)"
)
_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    pickle.UnpicklingError,
)
"""What torch's reader raises on bytes that are no checkpoint, depending on where they go wrong."""
_TORCHS = torch.serialization.MAGIC_NUMBER.to_bytes(10, "little")
_TORCHS_LONGEST = 32
"""What torch's files before 1.6 begin with, and in how many bytes that stands; other pickles are Python's own."""
_LENGTH = 8
"""Bytes of a .safetensors file before its header, which say how long that is."""


class NotRead:
    """Stands where a file has an object that is data and no weight; what belongs to that object is dropped."""

    def __new__(cls, *_: Any) -> NotRead:
        """Whatever the object was made from."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class NumpyArray(NotRead):
    """Stands where a file has an array of numpy, which is data and not in the form of a tensor."""


class _InertDict:
    """Stands where a file has a dictionary of a class of its own; its entries are kept, as they may be a state."""

    def __new__(cls, *_: Any) -> dict[Any, Any]:  # type: ignore[misc]  # one that torch's reader can fill
        """An empty dictionary, which takes attributes too."""
        return OrderedDict()


class _InertList:
    """Stands where a file has a list of a class of its own."""

    def __new__(cls, *_: Any) -> list[Any]:  # type: ignore[misc]  # the same
        """An empty list."""
        return []


_NUMPY = ("numpy", "numpy.core", "numpy._core")
_DATA_ONLY: tuple[str, ...] = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"datetime.{kind}" for kind in ("date", "datetime", "time", "timedelta", "timezone")),
    *("decimal.Decimal", "fractions.Fraction", "uuid.UUID"),
    *(f"builtins.{kind}" for kind in ("frozenset", "range", "slice")),
    *(
        f"{room}.callbacks.{kind}"
        for room in ("pytorch_lightning", "lightning.pytorch")
        for kind in (
            "early_stopping.EarlyStopping",
            "lr_monitor.LearningRateMonitor",
            "model_checkpoint.ModelCheckpoint",
        )
    ),
    "torch.torch_version.TorchVersion",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"{room}.multiarray.scalar" for room in _NUMPY),
    *(f"{room}.{kind}" for room in ("pathlib", "pathlib._local") for kind in ("Path", "PosixPath", "PurePosixPath")),
    *(f"{room}.{kind}" for room in ("pathlib", "pathlib._local") for kind in ("WindowsPath", "PureWindowsPath")),
)
"""Classes that checkpoints often hold beside the weights: settings, measured values, paths, dates."""
_ARRAYS = tuple(f"{room}.multiarray._reconstruct" for room in _NUMPY)
"""What a pickle makes arrays of numpy by."""
_LISTS = ("collections.deque",)
_DICTIONARIES = (
    "addict.addict.Dict",
    "collections.defaultdict",
    "easydict.EasyDict",
    "fvcore.common.config.CfgNode",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "munch.Munch",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "yacs.config.CfgNode",
)
_NAMES_INSIDE = tuple(f"builtins.{name}" for name in ("int", "float", "str", "list", "dict", "tuple", "bool"))
"""Types that a default of a dictionary is made by, never called here."""


def read_content(path: Path) -> object:
    """What a weights file holds, on the CPU: tensors in plain containers.

    Raises:
        ModelError: There is no such file, it is damaged, or it holds what could run code; nothing in it has been
            executed then.
    """
    if path.is_dir():
        raise ModelError(
            f"{path}: this is a folder, not a weights file; name the file in it (.safetensors, .pt, .pth, .bin, .ckpt)."
        )
    if not path.is_file():
        raise ModelError(f"{path}: there is no such weights file; expected a .safetensors, .pt, .pth, .bin or .ckpt.")
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(_LENGTH + 1)
    if _is_safetensors(head, size) or (path.suffix == ".safetensors" and not _is_pickle(head)):
        return _read_safetensors(path)
    return _read_pickle(path, is_zip=head.startswith(b"PK"))


def _is_pickle(head: bytes) -> bool:
    """Whether a file begins as a zip archive or a pickle does."""
    return head.startswith((b"PK\x03\x04", *(bytes([0x80, protocol]) for protocol in range(6))))


def _is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file begins with the length of a header that it has room for, and with that header's brace.

    To be asked before `_is_pickle`: a length of 640 begins as a pickle does, and no pickle has the brace there.
    """
    if len(head) <= _LENGTH or head[_LENGTH:] != b"{":
        return False
    return int.from_bytes(head[:_LENGTH], "little") <= size - _LENGTH


def _read_safetensors(path: Path) -> object:
    """The tensors of a .safetensors file."""
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: this is no whole .safetensors file ({_first_sentence(error)}); it may be cut off or"
            " have the wrong ending. Copy or save it again."
        ) from error


def _read_pickle(path: Path, *, is_zip: bool) -> object:
    """What torch has written, through its reader that builds tensors and plain containers only."""
    if is_zip:
        _check_archive(path)
    inert: list[tuple[type, str]] = [(NotRead, name) for name in (*_DATA_ONLY, *_NAMES_INSIDE)]
    inert += [(_InertDict, name) for name in _DICTIONARIES] + [(_InertList, name) for name in _LISTS]
    inert += [(NumpyArray, name) for name in _ARRAYS]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(inert):  # type: ignore[arg-type]
            warnings.simplefilter("ignore", UserWarning)  # about the file's age and kind; the error says what matters
            with path.open("rb") as stream:  # of a path, torch would look at the ending too
                return torch.load(stream, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        raise _refusal(path, error) from error


def _check_archive(path: Path) -> None:
    """Refuse an archive that claims to unpack to more than the file has, which torch never writes.

    Raises:
        ModelError: it is one, it is no whole archive, or it is TorchScript.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(path, error) from error
    names = [entry.filename for entry in entries]
    if not any(name.endswith("/data.pkl") for name in names):
        raise _other_archive(path, names)
    if any(name.endswith("/constants.pkl") for name in names):
        line = _python("torch.save(torch.jit.load({path}).state_dict(), {target})", path)
        raise ModelError(
            f"{path}: this file is TorchScript, which is code, so it was not loaded and nothing was executed. Where you"
            f" trust it, this line makes a file of its weights: {line}"
        )
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ModelError(
            f"{path}: this archive claims to unpack to more than the file holds, and torch.save packs nothing, so it"
            f" was not unpacked. {SAVE_AGAIN}."
        )
    _check_sums(path)


def _check_sums(path: Path) -> None:
    """Refuse an archive with a byte that is not what was written: torch itself does not look.

    Raises:
        ModelError: a part of it is not what its checksum says.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not entry.CRC:  # torch.serialization.set_crc32_options(False) writes zeros
                continue
            try:
                archive.read(entry)
            except (*_DAMAGE, zipfile.BadZipFile, NotImplementedError) as error:
                raise _damaged(path, error) from error


def _other_archive(path: Path, names: Sequence[str]) -> ModelError:
    """What to say of an archive that torch.save did not write."""
    if names and all(name.endswith(".npy") for name in names):
        made = "{{n: torch.from_numpy(a) for n, a in numpy.load({path}).items()}}"
        line = _python(f"import numpy; torch.save({made}, {{target}})", path)
        return ModelError(f"{path}: this file holds arrays of numpy; this line makes a file of tensors of it: {line}")
    if any(name.rpartition("/")[2] in ("archive_format", "archive_version") for name in names):
        line = _python("torch.save(dict(torch.export.load({path}).state_dict), {target})", path)
        return ModelError(
            f"{path}: this file is a program that torch.export made, so it was not loaded and nothing was executed."
            f" Where you trust it, this line makes a file of its weights: {line}"
        )
    held = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return ModelError(
        f"{path}: this archive is none that torch.save wrote; it holds {held or 'nothing'}. Unpack it, and give the"
        " weights file that is in it, if there is one."
    )


def _refusal(path: Path, error: BaseException) -> ModelError:
    """What to say where torch's reader gave up: the file is of another kind, asks for code, or is damaged."""
    with path.open("rb") as stream:
        kind = kind_of(stream.read(KIND_BYTES))
    if kind and not kind.startswith(("a zip archive", "a pickle")):
        return ModelError(f"{path}: this is no weights file of torch but {kind}.")
    found = re.search(r"GLOBAL (\S+)", str(error))
    with path.open("rb") as stream:
        head = stream.read(_TORCHS_LONGEST)
    ancient = "legacy .tar" in str(error)  # what torch wrote before 2017 is read by pickle alone
    if not (ancient or (isinstance(error, pickle.UnpicklingError) and (found or _is_pickle(head)))):
        return _damaged(path, error)
    what = f" ({found[1]})" if found else ", or it is damaged"
    torchs = ancient or head.startswith(b"PK") or _TORCHS in head
    load = 'torch.load({path}, map_location="cpu", weights_only=False)' if torchs else 'pickle.load(open({path}, "rb"))'
    return ModelError(
        f"{path}: this file holds pickled objects other than tensors{what}. Such objects could run code when they are"
        f" read, so the file was not loaded and nothing was executed. {SAVE_AGAIN}. Where you trust the file, and have"
        f" the code that made it, this line makes a file of its weights: {_python(f'saved = {load}; {_CONVERT}', path)}"
    )


_CONVERT = (
    'saved = saved if isinstance(saved, dict) else {{"model": saved}};'
    ' parts = {{k: v.state_dict() if hasattr(v, "state_dict") else v for k, v in saved.items()}};'
    " torch.save({{k: v for k, v in parts.items() if torch.is_tensor(v)"
    " or isinstance(v, dict) and all(map(torch.is_tensor, v.values()))}}, {target})"
)
"""Networks become their states; what holds anything but tensors is left behind."""


def _python(program: str, path: Path) -> str:
    """A command for the shell that runs `program` on the file."""
    target = path.with_name(f"{path.name.split('.')[0]}-weights.pt")
    filled = program.format(path=json.dumps(str(path)), target=json.dumps(str(target)))
    return f"python -c {shlex.quote(f'import pickle, torch; {filled}')}"


def _damaged(path: Path, error: BaseException) -> ModelError:
    return ModelError(
        f"{path}: this is no whole torch checkpoint ({_first_sentence(error)}); it may be cut off or of"
        f" another kind. Copy it again. {SAVE_AGAIN}."
    )


def _first_sentence(error: BaseException) -> str:
    """The first sentence of a library's message, on one line; the whole stays as the cause."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".") or type(error).__name__
