from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from model_cases import network, refused
from torch import nn


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


def test_a_wrong_ending_is_told(tmp_path: Path) -> None:
    whole = files()
    (tmp_path / "a.safetensors").write_bytes(whole["new.pt"])
    assert "wrong ending" in refused(network(), tmp_path / "a.safetensors")
    (tmp_path / "a.bin").write_bytes(whole["new.pt"])
    assert "not '.bin'" in refused(network(), tmp_path / "a.bin")
    assert "no such weights file" in refused(network(), tmp_path / "missing.pt")
    (tmp_path / "folder.pt").mkdir()
    assert "no such weights file" in refused(network(), tmp_path / "folder.pt")


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
