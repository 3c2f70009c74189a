from __future__ import annotations

import argparse
import datetime
import io
import os
import pickle
import shlex
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
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
    assert "this is no whole" in message or "other than tensors" in message


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


BESIDE: dict[str, Callable[[], Any]] = {
    "settings": lambda: argparse.Namespace(lr=0.1, nested=argparse.Namespace(eps=8 / 255)),
    "numpy's numbers": lambda: [np.float64(61.2), np.int64(3), np.float32(0.5), np.bool_(True), np.array([1.0, 2.0])],
    "paths": lambda: {"dirpath": Path("/tmp/x"), "pure": PurePosixPath("y")},
    "dates": lambda: datetime.datetime(2026, 1, 1),
    "a dictionary with a default": lambda: defaultdict(int, {"a": 1}),
    "nested defaults": lambda: defaultdict(list, {"a": [1]}),
    "sets and complex numbers": lambda: ({1, 2}, 1j, b"bytes", None),
    "torch's version": lambda: torch.__version__,
}


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
