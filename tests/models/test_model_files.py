from __future__ import annotations

import argparse
import datetime
import gzip
import io
import os
import pickle
import re
import shlex
import subprocess
import sys
import tarfile
import uuid
import zipfile
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from model_cases import network, refused
from torch import nn

from madx.models import load_weights, state_digest


def files() -> dict[str, bytes]:
    """Whole files to damage: a checkpoint in both formats of torch, and safetensors."""
    state = network().state_dict()
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(state, new)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    return {"new.pt": new.getvalue(), "old.pt": old.getvalue(), "a.safetensors": safetensors.torch.save(state)}


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "one byte": lambda content: content[:1],
    "header": lambda content: content[:40],
    "half": lambda content: content[: len(content) // 2],
    "nearly whole": lambda content: content[:-4],
    "text": lambda _: b"hello world, this is a text",
    "page": lambda _: b"<html><body>404 Not Found</body></html>",
    "zeros": lambda content: bytes(len(content)),
    "header overwritten": lambda content: content[:8] + b"\xff" * 200 + content[208:],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["new.pt", "old.pt", "a.safetensors"])
def test_damaged_files_are_one_clear_error(name: str, damage: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(DAMAGES[damage](files()[name]))
    message = refused(network(), tmp_path / name)
    assert re.search("this is no (whole|weights file)|other than tensors", message)


@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin", ".ckpt", ".pth.tar", ".safetensors", ".weights", ""])
@pytest.mark.parametrize("name", ["new.pt", "old.pt", "a.safetensors"])
def test_a_file_is_known_by_what_it_holds_not_by_its_ending(name: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{ending}"
    path.write_bytes(files()[name])
    target = network(seed=2)
    load_weights(target, path)
    assert state_digest(target) == state_digest(network())


def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(tmp_path: Path) -> None:
    """640 is written as 0x80 0x02, and so does a pickle begin."""
    name = "w" * 577
    content = safetensors.torch.save({name: torch.ones(2, 2)})
    assert content[:2] == b"\x80\x02"
    (tmp_path / "weights.bin").write_bytes(content)
    assert f"unexpected: {name}" in refused(network(), tmp_path / "weights.bin")


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    assert "no such weights file" in refused(network(), tmp_path / "missing.pt")
    (tmp_path / "folder.pt").mkdir()
    assert "this is a folder" in refused(network(), tmp_path / "folder.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    assert "no such weights file" in refused(network(), tmp_path / "pipe.pt")


class Evil:
    """Makes a marker file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


def write_evil(form: str, path: Path, marker: Path) -> None:
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(Evil(marker)))
    else:
        content = {"conv1.weight": torch.zeros(1), "payload": Evil(marker)}
        torch.save(content, path, _use_new_zipfile_serialization=form == "new format")


@pytest.mark.parametrize("form", ["new format", "old format", "bare pickle"])
@pytest.mark.parametrize("name", ["weights.pt", "weights.pth"])
def test_code_in_a_checkpoint_is_not_run(form: str, name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    write_evil(form, tmp_path / name, marker)
    message = refused(network(), tmp_path / name)
    assert not marker.exists()
    assert "pickled objects other than tensors" in message
    assert "was not loaded and nothing was executed" in message
    assert "model.state_dict()" in message
    assert "safetensors" in message
    assert form == "bare pickle" or f"({os.system.__module__}.system)" in message


def test_the_payload_of_that_test_does_run_where_pickle_is_trusted(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    write_evil("bare pickle", tmp_path / "evil.pt", marker)
    pickle.loads((tmp_path / "evil.pt").read_bytes())
    assert marker.exists()


def test_a_whole_pickled_module_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    assert "torch.nn.modules.linear.Linear" in refused(network(), tmp_path / "module.pt")


# -- data beside the weights, and what claims to be ------------------------------------------------------------


class Settings(argparse.Namespace):
    """A class of a training script's own."""


def settings_of(module: str, name: str) -> Any:
    """A dictionary with attributes, of a class that a pickle finds under that name."""
    kind = type(name, (dict,), {"__module__": module})
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:count]), ModuleType(parts[count - 1]))
    setattr(sys.modules[module], name, kind)
    found = kind(lr=0.1, keys=3)
    found.__dict__.update(found)
    return found


@pytest.fixture
def own_modules() -> Iterator[None]:
    """What `settings_of` adds goes again."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not getattr(sys.modules[name], "__file__", None):
            del sys.modules[name]


BESIDE: dict[str, Callable[[], Any]] = {
    "settings": lambda: argparse.Namespace(lr=0.1, nested=argparse.Namespace(eps=8 / 255)),
    "numpy's numbers": lambda: [np.float64(61.2), np.int64(3), np.float32(0.5), np.bool_(True), np.array([1.0, 2.0])],
    "paths": lambda: {"dirpath": Path("/tmp/x"), "pure": PurePosixPath("y")},
    "dates": lambda: datetime.datetime(2026, 1, 1),
    "a dictionary with a default": lambda: defaultdict(int, {"a": 1}),
    "nested defaults": lambda: defaultdict(list, {"a": [1]}),
    "sets and complex numbers": lambda: ({1, 2}, 1j, b"bytes", None),
    "torch's version": lambda: torch.__version__,
    "days, zones, fractions": lambda: [
        datetime.date(2026, 1, 1),
        datetime.UTC,
        Fraction(1, 3),
        Decimal("0.1"),
    ],
    "ranges, sets, queues": lambda: [range(3), slice(1, 2), frozenset([1]), deque([1], maxlen=3), uuid.UUID(int=1)],
    "settings of other packages": lambda: settings_of("easydict", "EasyDict"),
    "settings that are frozen": lambda: settings_of("yacs.config", "CfgNode"),
    "what Lightning called callbacks by": lambda: {
        type(settings_of("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")): {"best": 0.5}
    },
}


@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("new", [True, False])
def test_data_beside_the_weights_is_left_alone(name: str, new: bool, tmp_path: Path) -> None:
    content = {"args": BESIDE[name](), "state_dict": network(seed=1).state_dict()}
    torch.save(content, tmp_path / "weights.pt", _use_new_zipfile_serialization=new)
    before = set(torch.serialization.get_safe_globals())
    target = network(seed=2)
    load_weights(target, tmp_path / "weights.pt")
    assert state_digest(target) == state_digest(network(seed=1))
    assert set(torch.serialization.get_safe_globals()) == before, "what torch lets pass is as it was"


def test_a_state_in_a_dictionary_with_a_default_loads(tmp_path: Path) -> None:
    torch.save({"models": defaultdict(dict, {"net": network(seed=1).state_dict()})}, tmp_path / "weights.pt")
    target = network(seed=2)
    assert "'models.net'" in load_weights(target, tmp_path / "weights.pt").describe()
    assert state_digest(target) == state_digest(network(seed=1))


def test_a_class_of_ones_own_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"args": Settings(lr=0.1), "state_dict": network().state_dict()}, tmp_path / "weights.pt")
    assert "Settings)" in refused(network(), tmp_path / "weights.pt")


def converted(message: str, folder: Path) -> None:
    """Run the line that a refusal ends with."""
    line = message[message.index("python -c ") :]
    line = line.replace("python", shlex.quote(sys.executable), 1)
    subprocess.run(line, shell=True, check=True, cwd=folder, timeout=120)


@pytest.mark.parametrize("torchs", [True, False], ids=["torch's", "Python's own pickle"])
def test_the_line_that_converts_a_pickled_network_does(torchs: bool, tmp_path: Path) -> None:
    """In a folder with a blank, a quote and a dollar sign."""
    folder = tmp_path / "it's a $HOME"
    folder.mkdir()
    optimiser = torch.optim.Adam(network().parameters())
    content = {"model": network(seed=1), "optimizer": optimiser, "args": argparse.Namespace(lr=0.1), "epoch": 3}
    if torchs:
        torch.save(content, folder / "whole.ckpt")
    else:
        (folder / "whole.ckpt").write_bytes(pickle.dumps(content))
    converted(refused(network(seed=2), folder / "whole.ckpt"), folder)
    target = network(seed=2)
    assert "the state 'model'" in load_weights(target, folder / "whole-weights.pt").describe()
    assert state_digest(target) == state_digest(network(seed=1))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torch_script_is_refused_with_the_line_that_converts_it(tmp_path: Path) -> None:
    torch.jit.trace(network(seed=1), torch.rand(2, 1, 8, 8)).save(str(tmp_path / "script.pt"))
    message = refused(network(seed=2), tmp_path / "script.pt")
    assert "TorchScript" in message
    converted(message, tmp_path)
    target = network(seed=2)
    load_weights(target, tmp_path / "script-weights.pt")
    assert state_digest(target) == state_digest(network(seed=1))


def rewritten(path: Path, change: Callable[[str, bytes], bytes], *, packed: bool = False) -> Path:
    """A checkpoint of torch with its entries changed."""
    entries = io.BytesIO()
    torch.save(network().state_dict(), entries)
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(entries) as old, zipfile.ZipFile(path, "w", kind) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
    return path


def test_an_archive_that_unpacks_to_far_more_is_not_unpacked(tmp_path: Path) -> None:
    def bomb(name: str, content: bytes) -> bytes:
        return bytes(200_000_000) if name.endswith("data/0") else content

    path = rewritten(tmp_path / "bomb.pt", bomb, packed=True)
    assert path.stat().st_size < 1_000_000
    assert "claims to unpack to more than the file holds" in refused(network(), path)


def test_a_tensor_that_claims_more_than_its_file_is_refused(tmp_path: Path) -> None:
    def claim(name: str, content: bytes) -> bytes:
        return content.replace(b"K$tq", b"J\x00\x00\x00\x40tq", 1) if name.endswith("data.pkl") else content

    path = rewritten(tmp_path / "claims.pt", claim)
    assert "this is no whole torch checkpoint" in refused(network(), path)


def test_a_tensor_that_repeats_one_number_a_billion_times_takes_no_memory(tmp_path: Path) -> None:
    content = {**network().state_dict(), "wide": torch.zeros(1).expand(2**40), "mean": torch.zeros(1).expand(2**40)}
    torch.save(content, tmp_path / "wide.pt")
    assert f"wide [{2**40}]" in refused(network(), tmp_path / "wide.pt")


def doubled(times: int) -> list[Any]:
    """A list that stands in itself ever more often: small on disk, without end to whoever walks through all of it."""
    found: list[Any] = [{"a": torch.zeros(1)}]
    for _ in range(times):
        found = [found] * 10
    return found


def round_in_circles() -> dict[str, Any]:
    found: dict[str, Any] = {"a": torch.zeros(1)}
    found["itself"] = found
    return found


@pytest.mark.parametrize("content", [doubled(11), round_in_circles()], ids=["doubled", "circle"])
def test_containers_without_end_are_walked_through_once(content: Any, tmp_path: Path) -> None:
    torch.save({"content": content, "state": network(seed=1).state_dict()}, tmp_path / "weights.pt")
    target = network(seed=2)
    load_weights(target, tmp_path / "weights.pt")
    assert state_digest(target) == state_digest(network(seed=1))


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"a": {}}, [], 7, None, "text"], ids=repr)
def test_files_without_a_tensor_are_told(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    assert "a state dict" in refused(network(), tmp_path / "weights.pt")


def test_names_that_are_long_or_odd_do_no_harm(tmp_path: Path) -> None:
    odd = {name: torch.zeros(1) for name in ("", ".", "..", "a" * 100_000, "." * 100_000, "é\x00", "linear.bias.")}
    torch.save({**network(seed=1).state_dict(), **odd}, tmp_path / "weights.pt")
    assert "beside it stands" in refused(network(), tmp_path / "weights.pt")


# -- files of other kinds, and bytes that are not what was written -----------------------------------------------


def write_other(kind: str, path: Path) -> None:
    """A file that is often given for weights."""
    values = network(seed=1).state_dict()
    inside = io.BytesIO()
    torch.save(values, inside)
    if kind == "npz":
        np.savez(path, **{name: value.numpy() for name, value in values.items()})
    elif kind == "arrays":
        torch.save({"model": {name: value.numpy() for name, value in values.items()}}, path)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("best.pth", inside.getvalue())
    elif kind == "tar":
        with tarfile.open(path, "w") as archive:
            info = tarfile.TarInfo("best.pth")
            info.size = len(inside.getvalue())
            archive.addfile(info, io.BytesIO(inside.getvalue()))
    elif kind == "torch.export":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/archive_format", "pt2")
    else:
        head = {
            "gzip": gzip.compress(inside.getvalue()),
            "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "web page": b"\n<!DOCTYPE html><title>Sign in</title>",
            "JSON": b'{"weight_map": {}}',
            "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(99),
        }
        path.write_bytes(head[kind])


OTHERS = {
    "npz": "torch.from_numpy(a)",
    "arrays": "holds arrays of numpy where a state dict has tensors",
    "zip": "it holds best.pth. Unpack it",
    "tar": "a tar archive: unpack it",
    "torch.export": "torch.export.load",
    "gzip": "packed by gzip: unpack it",
    "Git LFS": "run git lfs pull",
    "web page": "download the file itself",
    "JSON": "give the file that it speaks of",
    "HDF5": "HDF5, as Keras saves",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_of_another_kind_is_called_what_it_is(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("weights.npz" if kind == "npz" else "weights.bin")
    write_other(kind, path)
    assert OTHERS[kind] in refused(network(), path)


@pytest.mark.slow  # one more process that imports torch
def test_the_line_that_converts_arrays_of_numpy_does(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    write_other("npz", path)
    converted(refused(network(seed=2), path), tmp_path)
    target = network(seed=2)
    load_weights(target, tmp_path / "weights-weights.pt")
    assert state_digest(target) == state_digest(network(seed=1))


@pytest.mark.parametrize("sums", [True, False])
def test_a_weight_that_is_not_what_was_written_is_refused(sums: bool, tmp_path: Path) -> None:
    """One bit of one number: torch's own reader does not look at the archive's checksums."""
    path, source = tmp_path / "weights.pt", network(seed=1)
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(sums)
    torch.save(source.state_dict(), path)
    torch.serialization.set_crc32_options(before)
    target = network(seed=2)
    load_weights(target, path)  # also one that was written without any
    assert state_digest(target) == state_digest(source)
    if sums:
        payload = bytearray(path.read_bytes())
        payload[payload.find(source.state_dict()["conv1.weight"].numpy().tobytes()) + 3] ^= 1
        path.write_bytes(payload)
        assert "no whole torch checkpoint" in refused(target, path)
