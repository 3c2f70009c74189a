"""Input one would hate to get: one clear message, the right exit code, no traceback, and nothing on disk harmed."""

import errno
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Cli
from safetensors.torch import save_file

from madx.models import build_model
from madx.recipe import ModelConfig


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(cli: Cli, recipe: Path, *words: str, command: str = "run", options: tuple[str, ...] = ()) -> None:
    """The command must end with code 2 and one message with all `words`, leaving the folder as it was."""
    folder = recipe.parent
    before = snapshot(folder)
    answer = cli(command, recipe, "--run-dir", folder / "run", *options)
    message = " ".join(answer.err.split())
    assert answer.code == 2, answer
    assert "Traceback" not in answer.err
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"
    assert answer.err.count("madx:") == 1, "more than one message"
    assert snapshot(folder) == before, "something on disk was changed"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("prune.sparsitty=0.5", ("prune.sparsitty", "did you mean 'sparsity'")),
        ("threat.eps=8/0", ("threat.eps", "8/0", "divides by zero")),
        ("threat.eps=8", ("threat.eps", "8/255")),
        ("prune.sparsity=1.2", ("prune.sparsity", "less than 1", "1.2")),
        ("version=7", ("version 7", "update madx")),
        ("export.engines=[]", ("export.engines", "at least one engine")),
        ("model.name=resnet9", ("model.name", "resnet9")),
        ("data={name: cifar10, path: nowhere}", ("nowhere",)),
        ("model.args={widths: [16, 16]}", ("widths",)),
        ("nonsense", ("section.key=value",)),
    ],
)
def test_recipe_mistakes(cli: Cli, tiny_recipe: Path, override: str, words: tuple[str, ...]) -> None:
    refused(cli, tiny_recipe, *words, options=("--set", override))


def test_a_recipe_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    refused(cli, tmp_path / "none.yaml", "there is no recipe", "madx init")


class Bomb:
    """Unpickling it runs a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def with_weights(recipe: Path, weights: Path) -> Path:
    """The tiny recipe, starting from `weights` without training."""
    content = TINY.replace("{widths: [16, 16, 16], stem_stride: 1}}", f"{{widths: [16, 16, 16]}}, weights: {weights}}}")
    start, end = content.index("train: {"), content.index("prune:")
    recipe.write_text(content[:start] + content[end:])
    return recipe


def tiny_state(**widths: list[int]) -> dict[str, torch.Tensor]:
    config = ModelConfig(args=widths or {"widths": [16, 16, 16]})
    return build_model(config, shape=(1, 8, 8), classes=10, seed=0).state_dict()


def test_a_checkpoint_that_would_run_code(cli: Cli, tiny_recipe: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    weights = tmp_path / "weights.pt"
    with weights.open("wb") as file:
        pickle.dump({"state_dict": Bomb(marker)}, file)
    refused(cli, with_weights(tiny_recipe, weights), "weights.pt")
    bombed = tmp_path / "zipped.pt"
    torch.save({"conv1.weight": Bomb(marker)}, bombed)
    refused(cli, with_weights(tiny_recipe, bombed), "zipped.pt")
    assert not marker.exists(), "code inside the checkpoint was run"


def test_weights_of_another_architecture(cli: Cli, tiny_recipe: Path, tmp_path: Path) -> None:
    save_file(tiny_state(widths=[16, 32, 16]), tmp_path / "other.safetensors")
    refused(cli, with_weights(tiny_recipe, tmp_path / "other.safetensors"), "other.safetensors", "[32, 16, 3, 3]")


def test_a_truncated_weights_file(cli: Cli, tiny_recipe: Path, tmp_path: Path) -> None:
    weights = tmp_path / "cut.safetensors"
    save_file(tiny_state(), weights)
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused(cli, with_weights(tiny_recipe, weights), "cut.safetensors")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data["y_train"].__setitem__(3, -1), ("label", "-1")),
        (lambda data: data["y_test"].__setitem__(3, 11), ("label", "11")),
        (lambda data: data["x_train"].__setitem__((0, 0, 0, 0), 1.5), ("[0, 1]", "1.5")),
        (lambda data: data["x_test"].__setitem__((0, 0, 0, 0), np.nan), ("finite",)),
    ],
    ids=["negative label", "unknown label", "image above 1", "NaN pixel"],
)
def test_bad_images_and_labels(cli: Cli, tiny_recipe: Path, tmp_path: Path, spoil, words: tuple[str, ...]) -> None:
    generator = np.random.default_rng(0)
    data = {
        "x_train": generator.random((400, 1, 8, 8)).astype(np.float32),
        "y_train": np.arange(400) % 10,
        "x_test": generator.random((100, 1, 8, 8)).astype(np.float32),
        "y_test": np.arange(100) % 10,
    }
    spoil(data)
    np.savez(tmp_path / "data.npz", **data)
    text = TINY.replace("{name: digits, selection: 100}", "{name: npz, path: data.npz, selection: 100}")
    tiny_recipe.write_text(text)
    refused(cli, tiny_recipe, *words)


def test_a_full_disk(cli: Cli, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused(cli, tiny_recipe, "the disk is full", "continues where it stopped", command="train")


def test_a_read_only_run_directory(cli: Cli, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    refused(cli, tiny_recipe, "read-only", "--run-dir")


def test_a_run_directory_that_is_a_file(cli: Cli, tiny_recipe: Path) -> None:
    (tiny_recipe.parent / "run").write_text("not a folder")
    refused(cli, tiny_recipe, "run", "cannot be written")


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        (("data", "fetch", "fashion-mnist", "--to", "file"), "choose another folder with --to"),
        (("data", "fetch", "fashion-mnist", "--to", "file/below"), "choose another folder with --to"),
        (("init", "file/recipe.yaml"), "give another path"),
        (("train", "tiny.yaml", "--run-dir", "file/run"), "choose another --run-dir"),
        (("verify", "tiny.yaml", "--engine", "file", "--out", "file"), "choose another --run-dir"),
    ],
    ids=["to", "below it", "init", "run-dir", "out"],
)
def test_a_file_where_a_folder_is_needed(
    cli: Cli, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], remedy: str
) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    Path("file").write_text("in the way")
    answer = cli(*command)
    assert answer.code == 2
    assert f"cannot be written: a file stands where a folder is needed; {remedy}" in " ".join(answer.err.split())
    assert answer.err.count("madx:") == 1
    assert Path("file").read_text() == "in the way"


def test_two_runs_on_one_directory(cli: Cli, tiny_recipe: Path) -> None:
    run_dir = tiny_recipe.parent / "run"
    code = (
        "import time; from pathlib import Path; from madx.rundir import RunDirectory\n"
        f"with RunDirectory(Path({str(run_dir)!r})).locked(): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            refused(cli, tiny_recipe, "in use by another madx", str(other.pid))
        finally:
            other.kill()
    deadline = time.monotonic() + 100
    while cli("train", tiny_recipe, "--run-dir", run_dir).code != 0:
        assert time.monotonic() < deadline, "the lock outlived its process"


def test_init_does_not_overwrite(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    assert cli("init", recipe).code == 0
    text = recipe.read_text()
    recipe.write_text(text + "# mine\n")
    answer = cli("init", recipe)
    assert answer.code == 2
    assert "already exists" in answer.err
    assert recipe.read_text() == text + "# mine\n"
    assert cli("recipe", "check", recipe).code == 0


def test_inspect_of_another_folder(cli: Cli, tmp_path: Path) -> None:
    answer = cli("inspect", tmp_path)
    assert answer.code == 2
    assert "not a madx run directory" in answer.err


def test_a_manifest_that_is_not_one(cli: Cli, tiny_recipe: Path) -> None:
    (tiny_recipe.parent / "run").mkdir()
    (tiny_recipe.parent / "run/manifest.json").write_text("{")
    (tiny_recipe.parent / "run/.madx").mkdir()
    before = (tiny_recipe.parent / "run/manifest.json").read_text()
    answer = cli("run", tiny_recipe, "--run-dir", tiny_recipe.parent / "run")
    assert answer.code == 2
    assert "manifest.json" in answer.err
    assert (tiny_recipe.parent / "run/manifest.json").read_text() == before


@pytest.mark.parametrize("command", [("inspect",), ("run", "--baseline"), ("run",)])
def test_a_path_that_no_system_takes_is_refused_in_one_line(command: tuple[str, ...], tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    name, *option = command
    recipe = [tmp_path / "tiny.yaml"] if option else []
    answer = cli(name, *recipe, *option, "x" * 300)
    assert answer.code == 2
    assert "x" * 20 in answer.err.replace("\n", "")
    assert "Traceback" not in answer.err
