"""Verifications in pieces: shards and their merge come to what one process comes to, and nothing else is merged."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from hypothesis import given
from hypothesis import strategies as st

from madx.cli import main
from madx.errors import RecipeError
from madx.pipeline.shards import Shard

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

MEASURED = "measurements/ort-cpu-fp32.npz"
SMALL = ("--set", "verify.images=60", "--set", "verify.chunk=20", "--force")
"""Three chunks."""
CLEAN = "verify.gates=[{metric: clean_drop, at_most: 0.9}]"


@given(of=st.integers(1, 9), total=st.integers(0, 40))
def test_every_chunk_is_in_one_shard(of: int, total: int) -> None:
    shards = [Shard.parse(f"{number}/{of}").chunks(total) for number in range(1, of + 1)]
    assert sorted(number for shard in shards for number in shard) == list(range(total))
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    "text", ["", "2", "2/", "/4", "a/b", "1.5/4", "-1/4", "2/4/6", "0/4", "5/4", "0/0", "1/0", "²/4"]
)
def test_no_other_shard_is_understood(text: str) -> None:
    with pytest.raises(RecipeError, match=re.escape("--shard")):
        Shard.parse(text)


@pytest.fixture(scope="module")
def shards(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `run` that has no verdict, and two copies, `first` and `second`, that each measured a shard."""
    folder = Path(shutil.copytree(released, tmp_path_factory.mktemp("shards") / "shards"))
    for number, name in enumerate(("first", "second"), start=1):
        shutil.copytree(folder / "run", folder / name)
        with pytest.MonkeyPatch.context() as patch:
            where = (str(folder / "tiny.yaml"), "--run-dir", str(folder / name))
            patch.setattr(sys, "argv", ["madx", "verify", *where, "--shard", f"{number}/2", *SMALL])
            with pytest.raises(SystemExit) as ended:
                main()
        assert ended.value.code == 3
    return folder


@pytest.fixture
def workspace(shards: Path, tmp_path: Path) -> Path:
    """A private copy of it."""
    return Path(shutil.copytree(shards, tmp_path / "copy"))


def chunks(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob(".madx/checkpoints/*/*.npz"))


def chunk(run: Path, number: int) -> Path:
    [path] = run.glob(f".madx/checkpoints/*/ort-cpu-fp32-{number:05d}.npz")
    return path


def verify(cli: Cli, folder: Path, run: str, *options: object, settings: tuple[str, ...] = SMALL):
    return cli("verify", folder / "tiny.yaml", "--run-dir", folder / run, *settings, *options)


def merged(cli: Cli, folder: Path, *options: object):
    return verify(cli, folder, "run", "--merge", folder / "first", "--merge", folder / "second", *options)


def images(run: Path) -> dict[str, object]:
    """Everything that was measured and is not a time."""
    with np.load(run / MEASURED) as content:
        return {name: content[name].tolist() for name in content.files if not name.startswith("latency")}


def gates(run: Path) -> list[dict]:
    return [gate for gate in json.loads((run / "verdict.json").read_text())["gates"] if gate["metric"] != "speedup"]


def change(path: Path, **arrays: object) -> None:
    with np.load(path) as content:
        np.savez(path, **{name: content[name] for name in content.files} | arrays)


def test_a_shard_measures_its_chunks_and_judges_nothing(shards: Path) -> None:
    assert chunks(shards / "first") == ["ort-cpu-fp32-00000.npz", "ort-cpu-fp32-00002.npz"]
    assert chunks(shards / "second") == ["ort-cpu-fp32-00001.npz"]
    for name in ("first", "second"):
        assert not (shards / name / "verdict.json").exists()
        assert not (shards / name / MEASURED).exists()
        assert "verify" not in json.loads((shards / name / "manifest.json").read_text())["stages"]


def test_a_shard_that_is_asked_for_twice_is_measured_once(workspace: Path, cli: Cli) -> None:
    chunk(workspace / "first", 2).unlink()
    kept = chunk(workspace / "first", 0).stat().st_mtime_ns
    answer = verify(cli, workspace, "first", "--shard", "1/2")
    assert answer.code == 3
    assert "no verdict: this is shard 1 of 2" in answer.out
    assert "ort-cpu-fp32: 2 of 3 chunks (40 images)" in answer.out
    assert "1 of 2 chunks of images are measured already" in answer.err
    assert chunk(workspace / "first", 0).stat().st_mtime_ns == kept
    assert chunk(workspace / "first", 2).is_file()


def test_a_shard_tells_machines_that_there_is_no_verdict(workspace: Path, cli: Cli) -> None:
    told = json.loads(verify(cli, workspace, "second", "--shard", "2/2", "--json").out)
    assert told["outcome"] is None
    expected = {"number": 2, "of": 2, "chunks": [1], "in_all": 3, "images": 20, "engines": ["ort-cpu-fp32"]}
    assert told["shard"] == expected | {"missing": {}, "run_dir": str(workspace / "second")}


def test_a_shard_without_a_chunk_is_merged_too(workspace: Path, cli: Cli) -> None:
    shutil.copytree(workspace / "run", workspace / "fourth")
    assert verify(cli, workspace, "fourth", "--shard", "4/4").code == 3
    refused = verify(cli, workspace, "run", "--merge", workspace / "fourth", "--merge", workspace / "nowhere")
    assert "nowhere is no run directory" in " ".join(refused.err.split())


@pytest.mark.parametrize("sequential", [False, True])
def test_shards_and_their_merge_are_what_one_process_measures(
    released: Path, tmp_path: Path, cli: Cli, sequential: bool
) -> None:
    folder = Path(shutil.copytree(released, tmp_path / "copy"))
    early = "verify.gates=[{metric: speedup, at_least: 1.5}, {metric: robust_drop, at_most: 0.6}]"
    settings = (*SMALL, "--set", "verify.chunk=10")
    settings += ("--set", "verify.sequential=true", "--set", early) if sequential else ()
    for name in ("one", "first", "third"):
        shutil.copytree(folder / "run", folder / name)
    alone = verify(cli, folder, "one", settings=settings)
    for number, name in ((1, "first"), (3, "third")):
        assert verify(cli, folder, name, "--shard", f"{number}/3", settings=settings).code == 3
    options = ("--merge", folder / "first", "--merge", folder / "third")
    answer = verify(cli, folder, "run", *options, settings=settings)
    assert answer.code == alone.code, answer.err
    assert "no shard has the 2 chunks 1, 4; they are measured here" in answer.err
    assert images(folder / "run") == images(folder / "one")
    assert gates(folder / "run") == gates(folder / "one")
    attacked = json.loads((folder / "run/verdict.json").read_text())["provenance"]["gate_images"]["images"]
    assert (attacked < 60) is sequential, "the case does not show what it should"
    assert not (folder / "run/.madx/checkpoints").exists()


def test_the_verdict_says_which_chunks_were_merged(workspace: Path, cli: Cli) -> None:
    answer = merged(cli, workspace)
    assert answer.code in (0, 1, 3), answer.err
    assert "merged 2 chunks of images" in answer.err
    assert "no shard has" not in answer.err
    provenance = json.loads((workspace / "run/verdict.json").read_text())["provenance"]
    assert provenance["merged"] == [f"ort-cpu-fp32-{number:05d}.npz" for number in range(3)]
    other = verify(cli, Path(shutil.copytree(workspace, workspace / "beside")), "run", "--set", CLEAN)
    assert "only gates changed" in other.err
    now = json.loads((workspace / "beside/run/verdict.json").read_text())["provenance"]
    assert now["merged"] == provenance["merged"], "judged again is measured by the same"
    again = merged(cli, workspace)
    assert (again.code, "nothing to do" in again.out) == (answer.code, True)
    assert "nothing is merged" in again.err
    assert not (workspace / "run/.madx/checkpoints").exists()
    finished = verify(cli, workspace, "run", "--shard", "1/2")
    assert (finished.code, "has its verdict for this recipe already" in finished.err) == (2, True)
    refused = verify(cli, workspace, "first", "--merge", workspace / "run")
    assert (refused.code, "has a verdict of its own" in refused.err) == (2, True)


@pytest.mark.parametrize(("byte", "bits"), [(6, 0xFF), (8, 0x01), (10, 0x2D)], ids=["version", "secret", "method"])
def test_a_chunk_of_another_kind_of_zip_is_damaged_too(workspace: Path, cli: Cli, byte: int, bits: int) -> None:
    """Of a newer version, encrypted, compressed otherwise: zipfile has an error of its own for each."""
    path = chunk(workspace / "first", 0)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + byte] ^= bits
    path.write_bytes(content)
    answer = verify(cli, workspace, "first", "--shard", "1/2")
    assert answer.code == 3, answer.err
    assert f"{path} are damaged and measured again" in answer.err.replace("\n", "")


def test_damaged_chunks_are_said_and_measured_again(workspace: Path, cli: Cli) -> None:
    undisturbed = verify(cli, Path(shutil.copytree(workspace, workspace / "beside")), "run")
    cut, other = chunk(workspace / "first", 0), chunk(workspace / "second", 1)
    cut.write_bytes(cut.read_bytes()[:300])
    shutil.copy(chunk(workspace / "first", 2), other)  # a sound file, of other images
    answer = merged(cli, workspace)
    assert answer.code == undisturbed.code, answer.err
    for path in (cut, other):
        assert f"{path} are damaged; no other directory has them whole" in answer.err.replace("\n", "")
    assert "no shard has the 2 chunks 0, 1; they are measured here" in answer.err
    assert images(workspace / "run") == images(workspace / "beside/run")


def test_a_damaged_chunk_that_another_directory_has_whole_is_not_measured_again(workspace: Path, cli: Cli) -> None:
    """In a shard, and in the run itself, which a killed merge may have left."""
    spare = Path(shutil.copytree(workspace / "first", workspace / "spare"))
    assert verify(cli, workspace, "run", "--shard", "3/3").code == 3
    for run, number in (("first", 0), ("run", 2)):
        chunk(workspace / run, number).write_bytes(b"damaged")
    paths = chunk(workspace / "first", 0), chunk(workspace / "run", 2)
    whole = spare, workspace / "first"
    answer = merged(cli, workspace, "--merge", spare)
    told = answer.err.replace("\n", "")
    for path, root in zip(paths, whole, strict=True):
        assert f"the stored images {path} are damaged; those of {root} are used" in told
    assert "measured again" not in told
    assert "no shard has" not in told
    provenance = json.loads((workspace / "run/verdict.json").read_text())["provenance"]
    assert provenance["merged"] == [f"ort-cpu-fp32-{number:05d}.npz" for number in range(3)]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(cli: Cli, folder: Path, *options: object, words: tuple[str, ...]) -> None:
    """One message with all words, exit code 2, and no file changed."""
    before = snapshot(folder)
    answer = verify(cli, folder, "run", *options)
    message = " ".join(answer.err.split())
    assert answer.code == 2, answer
    assert message.count("madx:") == 1
    for word in words:
        assert word in message
    now = snapshot(folder)
    assert now.pop("run/.madx/lock", b"") is not None
    before.pop("run/.madx/lock", None)
    assert now == before


@pytest.mark.parametrize("shard", ["two", "3/2", "0/2"])
def test_a_shard_that_is_none_is_refused(workspace: Path, cli: Cli, shard: str) -> None:
    refused(cli, workspace, "--shard", shard, words=(f"{shard}", "--shard"))


def test_measuring_a_part_and_judging_the_whole_are_two_commands(workspace: Path, cli: Cli) -> None:
    refused(cli, workspace, "--shard", "1/2", "--merge", workspace / "first", words=("give one of them",))


def test_chunks_of_another_verification_are_refused_with_what_differs(workspace: Path, cli: Cli) -> None:
    other = ("--set", "verify.images=50", "--set", "seed=0")
    words = ("measured something else", "they differ in verify.images.", "same recipe (and --set)")
    refused(cli, workspace, "--merge", workspace / "first", *other, words=words)
    shutil.copytree(workspace / "run", workspace / "older")
    assert (
        verify(cli, workspace, "older", "--shard", "1/2", settings=("--set", "verify.images=20", "--force")).code == 3
    )
    words = ("they differ in verify.chunk, verify.images.",)
    refused(cli, workspace, "--merge", workspace / "first", "--merge", workspace / "older", words=words)


def test_a_machine_with_other_tools_is_named(workspace: Path, cli: Cli) -> None:
    [record] = (workspace / "first").glob(".madx/checkpoints/*/verification.json")
    content = json.loads(record.read_text())
    content["made_of"]["depends"]["tools"]["onnxruntime"] = "1.0"
    content["made_of"]["inputs"]["engines/ort-cpu-fp32/pruned.onnx"] = "other bytes"
    record.write_text(json.dumps(content | {"key": "0" * 64}))
    words = ("they differ in tools.onnxruntime, engines/ort-cpu-fp32/pruned.onnx.",)
    refused(cli, workspace, "--merge", workspace / "first", words=words)
    record.write_text("[]")
    refused(cli, workspace, "--merge", workspace / "first", words=("delete it and measure that shard again",))


def test_a_shard_that_forgot_what_it_belongs_to_keeps_its_images(workspace: Path, cli: Cli) -> None:
    [record] = (workspace / "first").glob(".madx/checkpoints/*/verification.json")
    before, content = chunk(workspace / "first", 0).stat().st_mtime_ns, record.read_text()
    record.write_text("[]")
    again = verify(cli, workspace, "first", "--shard", "1/2")
    assert (again.code, "delete it and measure that shard again" in again.err) == (2, True)
    record.unlink()
    assert verify(cli, workspace, "first", "--shard", "1/2").code == 3
    assert record.read_text() == content
    assert chunk(workspace / "first", 0).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda _: None, ("other is no run directory", "manifest.json")),
        (lambda folder: folder.mkdir(), ("other is no run directory",)),
        (lambda folder: folder.write_text("a file"), ("other is no run directory",)),
        (lambda folder: shutil.copytree(folder.parent / "run", folder), ("no measured images", "--shard I/N")),
    ],
    ids=["nothing", "empty", "a file", "no shard"],
)
def test_what_is_no_shard_is_refused(workspace: Path, cli: Cli, prepare, words: tuple[str, ...]) -> None:
    prepare(workspace / "other")
    refused(cli, workspace, "--merge", workspace / "first", "--merge", workspace / "other", words=words)


def test_two_measurements_of_the_same_images_must_agree(workspace: Path, cli: Cli) -> None:
    shutil.copytree(workspace / "first", workspace / "again")
    twice = ("--merge", workspace / "first", "--merge", workspace / "again")
    change(chunk(workspace / "again", 0))  # other bytes on disk, the same measurement
    assert chunk(workspace / "again", 0).read_bytes() != chunk(workspace / "first", 0).read_bytes()
    refused(cli, workspace, *twice, "--merge", workspace / "nowhere", words=("nowhere is no run directory",))
    with np.load(chunk(workspace / "again", 0)) as content:
        passes = content["passes"] + 1
    change(chunk(workspace / "again", 0), passes=passes)
    words = ("both measured ort-cpu-fp32-00000.npz and disagree (passes)", "Nothing was merged")
    refused(cli, workspace, *twice, words=words)


def test_an_engine_from_outside_is_verified_in_pieces(workspace: Path, cli: Cli) -> None:
    engine = ("--engine", workspace / "run/engines/ort-cpu-fp32/pruned.onnx")
    given = (*engine, "--twin", workspace / "run/pruned/model.safetensors")
    assert verify(cli, workspace, "piece", *given, "--shard", "1/2").code == 3
    answer = verify(cli, workspace, "whole", *given, "--merge", workspace / "piece")
    assert answer.code in (0, 1, 3), answer.err
    assert "merged 2 chunks" in answer.err
    alone = verify(cli, workspace, "alone", *given)
    assert answer.code == alone.code
    assert images(workspace / "whole") == images(workspace / "alone")


def test_a_baseline_is_part_of_what_shards_share(workspace: Path, cli: Cli) -> None:
    baseline = ("--baseline", workspace / "first")
    shutil.copytree(workspace / "run", workspace / "piece")
    assert verify(cli, workspace, "piece", *baseline, "--shard", "1/1").code == 3
    words = ("differ in", "taken/")
    answer = verify(cli, workspace, "run", "--merge", workspace / "piece")
    assert answer.code == 2
    assert all(word in answer.err for word in words)
    answer = verify(cli, workspace, "run", *baseline, "--merge", workspace / "piece")
    assert answer.code in (0, 1, 3), answer.err
    assert "merged 3 chunks" in answer.err
    attempts = []
    verdict = (workspace / "run/verdict.json").read_bytes()
    for options in (("--shard", "1/2"), ("--merge", workspace / "piece")):
        answer = verify(cli, workspace, "run", *options)
        assert (answer.code, "give them again" in answer.err) == (2, True)
    assert (workspace / "run/verdict.json").read_bytes() == verdict
    assert (workspace / "run/taken").is_dir()
    for options in ((), baseline):  # toggled, and back: the second look at the same engines
        assert verify(cli, workspace, "run", *options).code in (0, 1, 3)
        attempts.append(json.loads((workspace / "run/verdict.json").read_text())["provenance"]["attempt"])
    assert attempts == [1, 2]
