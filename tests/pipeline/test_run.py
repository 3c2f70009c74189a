"""The whole chain on a tiny network: what it writes, when it does nothing, and what makes it work again."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, Cli
from quick_runs import quick_runs
from safetensors.torch import load_file

from madx.artifacts import sha256_file
from madx.cli import main
from madx.recipe import load_recipe
from madx.rundir import RunDirectory

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

STAGES = ["train", "prune", "export", "verify", "report"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny recipe and its finished run; tests copy it before they change anything."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TINY)
    with quick_runs(seed=1, whole_curve=True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["madx", "run", str(folder / "tiny.yaml"), "--run-dir", str(folder / "run")])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code in (0, 1, 3), "the run ended with an error instead of a verdict"
    return folder


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    """A private copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def run(cli: Cli, folder: Path, command: str = "run", *options: str):
    return cli(command, folder / "tiny.yaml", "--run-dir", folder / "run", *options)


def done_stages(folder: Path, before: dict[str, str]) -> list[str]:
    """Stages whose record is another than `before`."""
    now = finish_times(folder)
    return [name for name in STAGES if now.get(name) != before.get(name)]


def finish_times(folder: Path) -> dict[str, str]:
    manifest = json.loads((folder / "run/manifest.json").read_text())
    return {name: json.dumps(record, sort_keys=True) for name, record in manifest["stages"].items()}


def test_the_manifest_vouches_for_every_file(finished: Path) -> None:
    run_dir = finished / "run"
    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert list(manifest["stages"]) == STAGES
    vouched = {
        name: entry["sha256"] for record in manifest["stages"].values() for name, entry in record["outputs"].items()
    }
    present = {path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*") if path.is_file()}
    assert present - {"manifest.json", ".madx/lock"} == set(vouched), "files that no stage vouches for, or missing ones"
    for name, digest in vouched.items():
        assert sha256_file(run_dir / name) == digest, name


def test_the_verdict_speaks_of_the_engines_on_disk(finished: Path) -> None:
    verdict = json.loads((finished / "run/verdict.json").read_text())
    engines = verdict["provenance"]["engines"]["ort-cpu-fp32"]
    for role in ("dense", "pruned"):
        assert engines[role] == sha256_file(finished / f"run/engines/ort-cpu-fp32/{role}.onnx")
    assert {gate["metric"] for gate in verdict["gates"]} == {"speedup", "robust_drop"}
    assert verdict["provenance"]["gate_images"]["images"] == 120


def test_the_speed_up_is_that_of_the_two_engines_timers(finished: Path) -> None:
    """On the tests' own clock an inference takes what its engine's bytes say, give or take a percent."""
    dense, pruned = (finished / f"run/engines/ort-cpu-fp32/{role}.onnx" for role in ("dense", "pruned"))
    ratio = dense.stat().st_size / pruned.stat().st_size
    assert ratio > 1.5
    verdict = json.loads((finished / "run/verdict.json").read_text())
    speedup = next(gate for gate in verdict["gates"] if gate["metric"] == "speedup")
    assert speedup["outcome"] == "PASS", speedup
    assert speedup["estimate"] == pytest.approx(ratio, rel=0.01)


def test_raw_samples_are_kept_per_image_and_per_block(finished: Path) -> None:
    with np.load(finished / "run/measurements/ort-cpu-fp32.npz") as content:
        assert content["accuracy.index"].shape == (120,)
        assert len(set(content["accuracy.index"].tolist())) == 120
        assert content["accuracy.standing_reference"].shape == (2, 120)
        assert len(content["latency.reference"]) >= 30


def test_the_security_curve_falls_from_the_clean_images(finished: Path) -> None:
    with np.load(finished / "run/measurements/ort-cpu-fp32.npz") as content:
        eps, candidate = content["curve.eps"], content["curve.candidate"]
        np.testing.assert_array_equal(candidate[0], content["accuracy.clean_candidate"])
    assert 0.1 in eps
    assert candidate[-1].sum() < candidate[0].sum()


def test_masks_are_in_dense_shapes_and_agree_with_the_coverage(finished: Path) -> None:
    dense = load_file(finished / "run/dense/model.safetensors")
    masks = load_file(finished / "run/masks.safetensors")
    pruned = load_file(finished / "run/pruned/model.safetensors")
    coverage = {layer["name"]: layer for layer in json.loads((finished / "run/coverage.json").read_text())["layers"]}
    for name, mask in masks.items():
        assert mask.shape == dense[name].shape
        assert int(mask.sum()) == pruned[name].numel()
    assert coverage["layer1.conv1"]["shape_after"] == [8, 8, 3, 3]
    assert coverage["linear"]["reason"]
    assert sum(layer["kept"] for layer in coverage.values()) == sum(int(mask.sum()) for mask in masks.values())


def test_a_second_run_does_nothing_and_says_so(workspace: Path, cli: Cli) -> None:
    before = finish_times(workspace)
    first = json.loads((workspace / "run/verdict.json").read_text())
    answer = run(cli, workspace)
    assert "nothing to do" in answer.out
    assert done_stages(workspace, before) == []
    assert answer.code == {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}[first["outcome"]]


@pytest.mark.parametrize(
    ("override", "redone"),
    [
        # 40 % of 16 channels in multiples of 8 is what 50 % is: the same network, so nothing later is done again
        ("prune.sparsity=0.4", ["prune"]),
        ("verify.gates=[{metric: clean_drop, at_most: 0.5}]", ["verify", "report"]),
        ("verify.images=110", ["verify", "report"]),
        ("name=renamed", []),  # the verdict was reached under the name that it has
    ],
)
def test_only_what_a_change_touches_is_done_again(workspace: Path, cli: Cli, override: str, redone: list[str]) -> None:
    before = finish_times(workspace)
    answer = run(cli, workspace, "run", "--set", override)
    assert answer.code in (0, 1, 3), answer.err
    assert done_stages(workspace, before) == redone


def test_a_swapped_engine_is_noticed_and_nothing_is_judged(workspace: Path, cli: Cli) -> None:
    engine = workspace / "run/engines/ort-cpu-fp32/pruned.onnx"
    shutil.copy(workspace / "run/engines/ort-cpu-fp32/dense.onnx", engine)
    answer = run(cli, workspace, "verify")
    assert answer.code == 2
    assert "engines/ort-cpu-fp32/pruned.onnx changed since the stage wrote it" in " ".join(answer.err.split())


def test_a_lost_file_is_made_again(workspace: Path, cli: Cli) -> None:
    (workspace / "run/coverage.json").unlink()
    before = finish_times(workspace)
    masks = sha256_file(workspace / "run/masks.safetensors")
    assert run(cli, workspace).code in (0, 1, 3)
    assert "prune" in done_stages(workspace, before)
    assert sha256_file(workspace / "run/masks.safetensors") == masks, "the same recipe gave other masks"


def test_a_stage_asks_for_the_stages_before_it(tiny_recipe: Path, tmp_path: Path, cli: Cli) -> None:
    answer = cli("prune", tiny_recipe, "--run-dir", tmp_path / "new")
    assert answer.code == 2
    assert "madx train" in answer.err
    assert not (tmp_path / "new").exists(), "a run that did nothing left a folder behind"


def test_an_engine_that_cannot_be_had_is_missing_and_the_others_are_measured(workspace: Path, cli: Cli) -> None:
    engines = "export.engines=[{kind: ort-cpu}, {kind: ort-cuda}]"
    answer = run(cli, workspace, "run", "--set", engines, "--set", "verify.gates=[{metric: clean_drop, at_most: 0.9}]")
    verdict = json.loads((workspace / "run/verdict.json").read_text())
    outcomes = {gate["engine"]: gate["outcome"] for gate in verdict["gates"]}
    assert outcomes == {"ort-cpu-fp32": "PASS", "ort-cuda-fp32": "INCONCLUSIVE"}
    assert answer.code == 3
    record = json.loads((workspace / "run/engines/ort-cuda-fp32/build.json").read_text())
    assert record["built"] is False or record["can_run"] is False


def test_reports_are_rendered_again_without_measuring(workspace: Path, cli: Cli) -> None:
    page = workspace / "run/report.html"
    text = page.read_text()
    page.unlink()
    before = finish_times(workspace)
    answer = cli("report", workspace / "tiny.yaml", "--run-dir", workspace / "run")
    assert (answer.code, str(page) in answer.out) == (0, True)
    assert page.read_text() == text
    assert done_stages(workspace, before) == ["report"]


def test_a_report_shows_the_recipe_that_was_judged(workspace: Path, cli: Cli) -> None:
    """Whatever the command line of `madx report` says, and with the engines that were measured."""
    recipe = json.loads((workspace / "run/verdict.json").read_text())["provenance"]["recipe"]
    assert recipe == load_recipe(workspace / "tiny.yaml").model_dump(mode="json")
    assert recipe["verify"]["gates"], "defaults belong to it"
    pages = [(workspace / "run" / name).read_text() for name in ("report.html", "report.md", "junit.xml")]
    other = ("--set", "verify.images=7", "--set", "export.engines=[{kind: openvino-cpu}]", "--set", "name=other")
    assert run(cli, workspace, "report", *other).code == 0
    assert [(workspace / "run" / name).read_text() for name in ("report.html", "report.md", "junit.xml")] == pages
    assert "Recipe of this verdict, defaults included" in pages[0]
    assert "ort-cpu-fp32" in pages[1]


@pytest.mark.parametrize(
    "provenance", [{}, {"recipe": None}, {"recipe": {"export": {"engines": [{"kind": "of tomorrow"}]}}}]
)
def test_a_verdict_whose_recipe_cannot_be_read_is_refused(workspace: Path, cli: Cli, provenance: dict) -> None:
    verdict, manifest = workspace / "run/verdict.json", workspace / "run/manifest.json"
    content, before = json.loads(verdict.read_text()), sha256_file(verdict)
    verdict.write_text(json.dumps(content | {"provenance": provenance}))
    manifest.write_text(manifest.read_text().replace(before, sha256_file(verdict)))
    answer = run(cli, workspace, "report")
    assert (answer.code, "cannot be read by this madx" in answer.err) == (2, True)


def test_json_answers_are_json(workspace: Path, cli: Cli) -> None:
    verdict = json.loads(run(cli, workspace, "run", "--json").out)
    assert verdict["schema"] == 3
    assert verdict["outcome"] in ("PASS", "FAIL", "INCONCLUSIVE")
    assert json.loads(cli("inspect", workspace / "run", "--json").out)["stages"].keys() == set(STAGES)
    assert json.loads(run(cli, workspace, "prune", "--json").out)["stages"] == [
        {"name": "prune", "done": False, "seconds": 0.0}
    ]


def test_inspect_shows_the_classes_as_they_were_measured(workspace: Path, cli: Cli) -> None:
    found = json.loads(cli("inspect", workspace / "run", "--json").out)["classes"]["ort-cpu-fp32"]
    with np.load(workspace / "run/measurements/ort-cpu-fp32.npz") as arrays:
        labels, answers = arrays["accuracy.labels"], arrays["accuracy.answers_candidate.classes"]
    assert [(row["name"], row["images"]) for row in found] == [
        (str(label), int((labels == label).sum())) for label in np.unique(labels)
    ]
    for label, row in enumerate(found):
        told = {int(other): int(count) for other, count in re.findall(r"(\d+): (\d+)", row["taken_for"])}
        wrong = answers[(labels == label) & (answers != label)]
        assert all((wrong == other).sum() == count for other, count in told.items())
        assert bool(told) is bool(len(wrong))
    lines = cli("inspect", workspace / "run").out
    assert "ort-cpu-fp32 by class" in lines
    assert f"0: {found[0]['images']} images, clean {found[0]['candidate'][0]}" in lines


def test_inspect_shows_changed_files(workspace: Path, cli: Cli) -> None:
    (workspace / "run/masks.safetensors").write_bytes(b"other")
    answer = cli("inspect", workspace / "run")
    assert answer.code == 2
    assert "CHANGED" in answer.out
    assert RunDirectory(workspace / "run").changed_outputs("prune") == ["masks.safetensors"]


def test_a_newer_network_leaves_no_verdict_of_the_old_one(workspace: Path, cli: Cli) -> None:
    assert run(cli, workspace, "train", "--set", "train.lr=0.05").code == 0
    for name in ("verdict.json", "report.html", "junit.xml", "engines/ort-cpu-fp32/pruned.onnx"):
        assert not (workspace / "run" / name).exists(), name
    assert list(finish_times(workspace)) == ["train"]


def test_measuring_again_is_possible_and_visible(workspace: Path, cli: Cli) -> None:
    before = json.loads((workspace / "run/verdict.json").read_text())
    assert run(cli, workspace, "verify", "--again").code in (0, 1, 3)
    after = json.loads((workspace / "run/verdict.json").read_text())
    assert (before["provenance"]["attempt"], after["provenance"]["attempt"]) == (1, 2)
    (workspace / "run/verdict.json").unlink()
    assert run(cli, workspace, "verify").code in (0, 1, 3)
    lost = json.loads((workspace / "run/verdict.json").read_text())
    assert lost["provenance"]["attempt"] == 3
    assert any("were measured 3 times, and this is the last" in warning for warning in lost["warnings"])


def test_nothing_that_was_measured_can_be_read_before_it_is_counted(
    workspace: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever stops a verification whose times do not please measures again, and nobody knows."""
    before = (workspace / "run/measurements/ort-cpu-fp32.npz").stat().st_mtime_ns
    keep = RunDirectory.keep_attempts

    def stop(*given: Any) -> None:
        keep(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunDirectory, "keep_attempts", stop)
    assert run(cli, workspace, "verify", "--again").code == 130
    assert (workspace / "run/measurements/ort-cpu-fp32.npz").stat().st_mtime_ns == before
    monkeypatch.undo()
    [kept] = json.loads((workspace / "run/manifest.json").read_text())["attempts"].values()
    assert kept["attempt"] == 2


def gates_of(metric: str, bound: str) -> tuple[str, str]:
    return "--set", f"verify.gates=[{{metric: {metric}, {bound}}}]"


def judged(workspace: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((workspace / "run/verdict.json").read_text())
    return content


def counts(workspace: Path) -> tuple[int, int]:
    provenance = judged(workspace)["provenance"]
    return provenance["attempt"], provenance["gates_changed"]


def test_other_gates_are_judged_on_the_same_measurements_and_that_is_said(workspace: Path, cli: Cli) -> None:
    path = workspace / "run/measurements/ort-cpu-fp32.npz"
    before, finished = path.stat(), finish_times(workspace)
    for bound, code, changed in (("at_most: 0.9", 0, 1), ("at_most: 0.0001", 1, 2)):
        answer = run(cli, workspace, "verify", *gates_of("size_ratio", bound))
        assert (answer.code, counts(workspace)) == (code, (1, changed)), answer.err
        assert "only gates changed" in answer.err
        assert "attacking" not in answer.err
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert {"verify", "report"} == set(done_stages(workspace, finished))
    assert any("the gates were changed 2 times" in warning for warning in judged(workspace)["warnings"])
    assert judged(workspace)["gates"][0]["bound"] == 0.0001
    assert cli("inspect", workspace / "run").code == 0


@pytest.mark.parametrize("why", ["asked for again", "sequential", "damaged"])
def test_measurements_that_do_not_suffice_are_made_again(workspace: Path, cli: Cli, why: str) -> None:
    options: tuple[str, ...] = ()
    if why == "asked for again":
        options = ("--again",)
    elif why == "sequential":
        options = ("--set", "verify.sequential=true")
    else:
        (workspace / "run/measurements/ort-cpu-fp32.npz").write_bytes(b"other")
    answer = run(cli, workspace, "verify", *gates_of("clean_drop", "at_most: 0.9"), *options)
    assert answer.code in (0, 3), answer.err
    assert "only gates changed" not in answer.err
    assert counts(workspace) == (2, 1)


@pytest.mark.parametrize("measured", [pytest.param("true", marks=pytest.mark.slow), "false"])
def test_every_engine_of_the_recipe_is_promised(workspace: Path, cli: Cli, measured: str) -> None:
    options = (
        "--set",
        f"export.engines=[{{kind: ort-cpu}}, {{kind: tensorrt, verify: {measured}}}]",
        "--set",
        "verify.gates=[{metric: clean_drop, at_most: 0.9}]",
    )
    exported = run(cli, workspace, "export", *options)
    assert (exported.code, "tensorrt-fp32 was not built" in exported.err) == (3, True)
    judged = run(cli, workspace, "run", *options)
    assert judged.code == 3
    assert "INCONCLUSIVE" in judged.out


def test_an_engine_that_is_not_measured_is_not_counted(workspace: Path, cli: Cli) -> None:
    engines = ("--set", "export.engines=[{kind: ort-cpu}, {kind: ort-cpu, precision: fp16, verify: false}]")
    for changed, bound in enumerate(("at_most: 0.9", "at_most: 0.8", "at_most: 0.7")):
        assert run(cli, workspace, "run", *engines, *gates_of("size_ratio", bound)).code == 0
        assert counts(workspace) == (2, 1 + changed), "measured once for the fixture, and once for the new engine"


OWN = """
import numpy as np
from torch import nn

print("importing the user's code")

def data():
    print("reading the user's data")
    random = np.random.default_rng(0)
    images, labels = random.random((600, 1, 8, 8), dtype=np.float32), np.arange(600) % 3
    return {"train": (images[200:], labels[200:]), "test": (images[:200], labels[:200])}

def net(classes=3):
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))
"""


def test_the_users_own_code_is_followed_and_kept_off_stdout(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_code_of_a_user.py").write_text(OWN)
    text = TINY
    for ours, theirs in (
        ("{name: digits,", "{name: factory, factory: 'own_code_of_a_user:data',"),
        (
            "{name: resnet8, args: {widths: [16, 16, 16], stem_stride: 1}}",
            "{name: factory, factory: 'own_code_of_a_user:net'}",
        ),
    ):
        assert ours in text
        text = text.replace(ours, theirs)
    (tmp_path / "tiny.yaml").write_text(text)
    answer = run(cli, tmp_path, "run", "--json")
    assert answer.code in (0, 1, 3), answer.err
    assert json.loads(answer.out)["schema"] == 3
    assert "reading the user's data" in answer.err
    before = finish_times(tmp_path)
    assert "nothing to do" in run(cli, tmp_path).out
    (tmp_path / "own_code_of_a_user.py").write_text(OWN + "\n# the user has changed it\n")
    assert run(cli, tmp_path).code in (0, 1, 3)
    assert "train" in done_stages(tmp_path, before)


def test_a_damaged_chunk_of_a_killed_verification_is_measured_again(
    workspace: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from madx.pipeline import attacking

    keep = attacking.store_chunk

    def dies(context, config, number, value):
        keep(context, config, number, value)
        if number == 1:
            raise KeyboardInterrupt

    expected = np.load(workspace / "run/measurements/ort-cpu-fp32.npz")["accuracy.standing_candidate"]
    monkeypatch.setattr(attacking, "store_chunk", dies)
    stopped = run(cli, workspace, "verify", "--again")
    assert (stopped.code, "run the same command again to continue" in stopped.err) == (130, True)
    monkeypatch.undo()
    first, second = sorted((workspace / "run/.madx/checkpoints").glob("*/*.npz"))
    first.write_bytes(first.read_bytes()[:200])
    monkeypatch.setattr(sys, "argv", sys.argv)
    answer = run(cli, workspace, "verify", "--again")
    assert answer.code in (0, 1, 3), answer.err
    assert "damaged and measured again" in answer.err
    found = np.load(workspace / "run/measurements/ort-cpu-fp32.npz")["accuracy.standing_candidate"]
    np.testing.assert_array_equal(found, expected)
    assert not second.exists()


def test_what_rounding_made_of_the_sparsity_is_said(workspace: Path, cli: Cli) -> None:
    answer = run(cli, workspace, "prune", "--set", "prune.sparsity=0.9")
    assert "asked to remove 90% of the channels, removed 50%" in " ".join(answer.err.split())


def test_layers_that_are_emptied_are_named(workspace: Path, cli: Cli) -> None:
    settings = ("prune.structure=unstructured", "prune.criterion=magnitude", "prune.sparsity=0.9999")
    answer = run(cli, workspace, "prune", *(word for setting in settings for word in ("--set", setting)))
    masks = load_file(workspace / "run/masks.safetensors")
    emptied = [name for name, mask in masks.items() if mask.dim() > 1 and not mask.any()]
    said = " ".join(answer.err.split()).split("nothing is left of ")[1].split(":")[0].split(", ")
    assert sorted(said) == sorted(emptied)
    assert "layer3.conv1.weight" in emptied
    assert "linear.weight" not in emptied


def test_a_kill_between_new_files_and_tidying_leaves_no_old_verdict_for_good(
    workspace: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from madx.pipeline import stages

    forget, calls = stages._forget_outdated, []

    def dies(context):
        calls.append(1)
        if len(calls) == 2:  # after the stage was recorded
            raise KeyboardInterrupt
        forget(context)

    monkeypatch.setattr(stages, "_forget_outdated", dies)
    assert run(cli, workspace, "train", "--set", "train.lr=0.05").code == 130
    assert (workspace / "run/verdict.json").exists(), "the kill came too late to show anything"
    monkeypatch.setattr(stages, "_forget_outdated", forget)
    assert run(cli, workspace, "train", "--set", "train.lr=0.05").code == 0
    assert not (workspace / "run/verdict.json").exists()


@pytest.mark.parametrize(
    ("before", "now", "names"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ["a.b"]),
        ({"depends": {"a": 1}}, {"depends": {"a": 1, "c": 2}}, ["c"]),
        ({"a": 1}, {"a": 1}, []),
    ],
)
def test_what_changed_is_named(before: dict[str, object], now: dict[str, object], names: list[str]) -> None:
    from madx.pipeline.keys import differences

    assert differences(before, now) == names


@pytest.mark.slow
def test_an_engine_that_could_be_built_and_was_not_is_tried_again(
    workspace: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from madx.deploy.ort import OrtBackend
    from madx.errors import EngineError

    def out_of_memory(*_: object, **__: object) -> None:
        raise EngineError("the builder ran out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(OrtBackend, "build", out_of_memory)
        answer = run(cli, workspace, "run", "--set", "export.opset=19")
    assert (answer.code, "out of memory" in answer.err) == (3, True)
    assert run(cli, workspace, "run", "--set", "export.opset=19").code in (0, 1, 3)
    assert "export" in finish_times(workspace)


def test_a_workflow_on_github_shows_the_verdict(
    workspace: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    verdict = json.loads((workspace / "run/verdict.json").read_text())
    told = run(cli, workspace)
    assert summary.read_text().rstrip() == (workspace / "run/report.md").read_text().rstrip()
    assert f"::notice title=madx%3A {verdict['outcome']}::" in told.out
    answer = run(cli, workspace, "run", "--json")
    assert json.loads(answer.out)["outcome"] == verdict["outcome"]
    assert answer.code == told.code
    monkeypatch.delenv("GITHUB_ACTIONS")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    assert "::" not in run(cli, workspace).out
    assert summary.read_text().count("## ") == 2 * (workspace / "run/report.md").read_text().count("## ")
