"""Engines that no run made, and the last release as the reference: what is judged, what is not, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Cli
from safetensors.torch import load_file, save_file

from madx.artifacts import sha256_file
from madx.deploy.engine import Availability, BuiltEngine, backend
from madx.deploy.ort import OrtBackend

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

ENGINE = "run/engines/ort-cpu-fp32/pruned.onnx"
DENSE = "run/engines/ort-cpu-fp32/dense.onnx"
TWIN, DENSE_TWIN = "run/pruned/model.safetensors", "run/dense/model.safetensors"
FINISHED = ("--set", "verify.attack=quick")
QUICK = (*FINISHED, "--set", "verify.images=40")


@pytest.fixture
def workspace(released: Path, tmp_path: Path) -> Path:
    """A private copy of it."""
    return Path(shutil.copytree(released, tmp_path / "copy"))


def verify(cli: Cli, folder: Path, *options: object, gates: str = "", out: str = "out"):
    chosen = ("--set", f"verify.gates=[{gates}]") if gates else ()
    return cli("verify", folder / "tiny.yaml", "--out", folder / out, *chosen, *options)


def told(folder: Path, out: str = "out") -> dict:
    return json.loads((folder / out / "verdict.json").read_text())


def outcomes(folder: Path, out: str = "out") -> dict[str, str]:
    return {gate["metric"]: gate["outcome"] for gate in told(folder, out)["gates"]}


def evidence(folder: Path, metric: str, out: str = "out") -> str:
    return " ".join(next(gate["evidence"] for gate in told(folder, out)["gates"] if gate["metric"] == metric))


ALL = (
    "{metric: clean_drop, at_most: 0.9}, {metric: robust_accuracy, at_least: 0.001}, "
    "{metric: clean_accuracy, at_least: 0.2}, {metric: parity_flips, at_most: 0.2}, {metric: size_ratio, at_most: 0.9}"
)


def test_deleting_the_manifest_does_not_undo_an_attempt(workspace: Path, cli: Cli) -> None:
    """As the message on a damaged one advises."""
    given = ("--engine", workspace / ENGINE)
    for attempt, bound in enumerate((0.9, 0.01), start=1):
        answer = verify(cli, workspace, *given, *QUICK, gates=f"{{metric: clean_accuracy, at_least: {bound}}}")
        assert answer.code in (0, 1, 3), answer.err
        found = told(workspace)
        assert (found["provenance"]["attempt"], found["provenance"]["gates_changed"]) == (attempt, attempt - 1)
        assert found["provenance"]["attempts_known"]
        manifest = workspace / "out/manifest.json"
        assert found["provenance"]["attempts"] == json.loads(manifest.read_text())["attempts"]
        manifest.unlink()
    assert any("measured 2 times" in warning for warning in found["warnings"])
    assert any("gates were changed once" in warning for warning in found["warnings"])


def test_what_is_passed_on_names_no_folder_of_this_machine(workspace: Path, cli: Cli) -> None:
    """The recipe's paths stay as they were written, and work as before."""
    text = (workspace / "tiny.yaml").read_text()
    recipe = text.replace("{name: digits, selection: 100}", "{name: npz, path: data/images.npz, selection: 100}")
    (workspace / "tiny.yaml").write_text(recipe.replace("resnet8,", "resnet8, weights: ../elsewhere/weights.pt,"))
    (workspace / "data").mkdir()
    draws = np.random.default_rng(0)
    images = {f"x_{part}": draws.random((400, 1, 8, 8), dtype=np.float32) for part in ("train", "test")}
    np.savez(workspace / "data/images.npz", **images, y_train=np.arange(400) % 10, y_test=np.arange(400) % 10)
    given = ("--engine", workspace / ENGINE, "--reference", workspace / DENSE)
    assert "99 images" in verify(cli, workspace, *given, *QUICK).err  # these few cannot pass the recipe's own gate
    answer = verify(cli, workspace, *given, *QUICK, "--force")
    assert answer.code in (0, 1, 3), answer.err
    shown = told(workspace)["provenance"]["recipe"]
    assert (shown["data"]["path"], shown["model"]["weights"]) == ("data/images.npz", "../elsewhere/weights.pt")
    files = [path for path in (workspace / "out").rglob("*") if path.is_file()]
    assert len(files) > 6
    assert not [path for path in files if str(workspace.parent).encode() in path.read_bytes()]
    moved = workspace.rename(workspace.with_name("moved"))
    before = (moved / "out/verdict.json").read_bytes()
    given = ("--engine", moved / ENGINE, "--reference", moved / DENSE)
    assert "nothing to do" in verify(cli, moved, *given, *QUICK).out
    assert (moved / "out/verdict.json").read_bytes() == before


def test_a_file_with_everything_is_judged_as_a_run_is(workspace: Path, cli: Cli) -> None:
    """By a suite that has finished: of few steps, twice as many turn too many images, on one CPU or another."""
    files = ("--engine", workspace / ENGINE, "--reference", workspace / DENSE)
    twins = ("--twin", workspace / TWIN, "--reference-twin", workspace / DENSE_TWIN)
    answer = verify(cli, workspace, *files, *twins, *FINISHED, gates=ALL)
    assert (answer.code, set(outcomes(workspace).values())) == (0, {"PASS"}), answer.err
    hashes = told(workspace)["provenance"]["engines"]["ort-cpu-fp32"]
    assert hashes == {"engine": sha256_file(workspace / ENGINE), "reference": sha256_file(workspace / DENSE)}
    for name in ("report.html", "report.md", "junit.xml", "measurements/ort-cpu-fp32.npz"):
        assert (workspace / "out" / name).is_file(), name
    again = verify(cli, workspace, *files, *twins, *FINISHED, gates=ALL)
    assert (again.code, "nothing to do" in again.out) == (0, True)


def test_a_lone_engine_is_judged_by_what_it_does_alone(workspace: Path, cli: Cli) -> None:
    answer = verify(cli, workspace, "--engine", workspace / ENGINE, *QUICK, gates=ALL)
    assert answer.code == 3
    assert outcomes(workspace) == {
        "clean_drop": "INCONCLUSIVE",
        "robust_accuracy": "INCONCLUSIVE",
        "clean_accuracy": "PASS",
        "parity_flips": "INCONCLUSIVE",
        "size_ratio": "INCONCLUSIVE",
    }
    assert "add --reference dense.onnx" in evidence(workspace, "clean_drop")
    assert "add --twin WEIGHTS" in evidence(workspace, "parity_flips")
    assert "upper bound that white-box attacks would lower" in evidence(workspace, "robust_accuracy")
    assert told(workspace)["provenance"]["attack"]["query_only"] is True
    assert not any("twin" in line for line in told(workspace)["provenance"]["attack"]["budget"])
    for report in ("report.html", "report.md"):
        text = (workspace / "out" / report).read_text()
        assert "no gradients were available" in text
        assert "not measured" in text


@pytest.mark.parametrize(
    ("gate", "outcome"),
    [
        ("{metric: robust_accuracy, at_least: 0.001, query_only: true}", "PASS"),
        ("{metric: robust_accuracy, at_least: 0.001}", "INCONCLUSIVE"),
        ("{metric: robust_accuracy, at_least: 0.9}", "FAIL"),  # an upper bound below the floor is a finding
    ],
)
def test_queries_alone_pass_only_by_consent(workspace: Path, cli: Cli, gate: str, outcome: str) -> None:
    enough = (*QUICK, "--set", "verify.attack=standard")  # 50 queries would not break an undefended network
    answer = verify(cli, workspace, "--engine", workspace / ENGINE, *enough, gates=gate)
    assert outcomes(workspace) == {"robust_accuracy": outcome}, evidence(workspace, "robust_accuracy")
    assert answer.code == {"PASS": 0, "INCONCLUSIVE": 3, "FAIL": 1}[outcome]
    with np.load(workspace / "out/measurements/ort-cpu-fp32.npz") as kept:
        assert ("soundness.doubled.candidate" in kept.files) is ("query_only" in gate)  # what it costs is not for free
    if outcome == "PASS":
        assert "The recipe accepts for this gate that it is query-only" in evidence(workspace, "robust_accuracy")


def test_without_twins_two_engines_are_compared_by_queries(workspace: Path, cli: Cli) -> None:
    files = ("--engine", workspace / ENGINE, "--reference", workspace / DENSE)
    gates = "{metric: robust_drop, at_most: 0.6}, {metric: clean_drop, at_most: 0.6}"
    assert verify(cli, workspace, *files, *QUICK, gates=gates).code == 3
    assert outcomes(workspace) == {"robust_drop": "INCONCLUSIVE", "clean_drop": "PASS"}
    assert "query-only" in evidence(workspace, "robust_drop")


def test_a_twin_that_is_another_network_is_found_out(workspace: Path, cli: Cli) -> None:
    """Dense weights under a pruned engine: the examples made on them do not attack it."""
    answer = verify(cli, workspace, "--engine", workspace / ENGINE, "--twin", workspace / DENSE_TWIN, gates=ALL)
    assert answer.code in (1, 3)
    assert outcomes(workspace)["robust_accuracy"] == "INCONCLUSIVE"
    assert "otherwise than the torch twin" in evidence(workspace, "robust_accuracy")


def broken(workspace: Path, what: str) -> tuple[object, ...]:
    """The options of a command that must be refused."""
    engine, other = workspace / ENGINE, workspace / "other.onnx"
    twin = workspace / "twin.safetensors"
    if what == "a folder":
        return ("--engine", workspace / "run")
    if what == "no such file":
        return ("--engine", workspace / "nowhere.onnx")
    if what == "no such twin":
        return ("--engine", engine, "--twin", workspace / "nowhere.safetensors")
    if what == "no ONNX":
        other.write_bytes(b"no protobuf at all")
    elif what in ("other input", "other classes"):
        model = onnx.load(engine)
        value = (model.graph.input if what == "other input" else model.graph.output)[0]
        dims = value.type.tensor_type.shape.dim
        dims[-1].dim_value += 1
        del model.graph.value_info[:]
        onnx.save(model, other)
    elif what == "NaN weights":
        model = onnx.load(engine)
        weight = next(one for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT)
        values = onnx.numpy_helper.to_array(weight).copy()
        values.flat[0] = float("nan")
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        onnx.save(model, other)
    elif what == "NaN twin":
        state = load_file(workspace / TWIN)
        state["linear.weight"][0, 0] = float("nan")
        save_file(state, twin)
        return ("--engine", engine, "--twin", twin)
    elif what == "another network's twin":
        save_file({"weight": load_file(workspace / TWIN)["linear.weight"]}, twin)
        return ("--engine", engine, "--twin", twin)
    elif what == "one twin":
        return ("--engine", engine, "--reference", workspace / DENSE, "--twin", workspace / TWIN)
    elif what == "no attack left":
        return ("--engine", engine)
    elif what == "no engine":
        return ("--reference", engine)
    elif what == "two references":
        return ("--engine", engine, "--reference", workspace / DENSE, "--baseline", workspace / "run")
    elif what == "a twin of nothing":
        return ("--engine", engine, "--reference-twin", workspace / TWIN)
    elif what == "a run's own folder":
        return ("--engine", engine, "--twin", workspace / TWIN, "--out", workspace / "run")
    elif what == "no baseline":
        return ("--engine", engine, "--baseline", workspace / "nowhere")
    return ("--engine", other, *QUICK)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("a folder", "is a folder; expected an ONNX file"),
        ("no such file", "No such file or directory; expected an ONNX file"),
        ("no ONNX", "the ONNX file given as engine for ort-cpu-fp32: "),
        ("other input", "the ONNX input is"),
        ("other classes", "given as engine"),
        ("NaN weights", "values that are NaN or infinite"),
        ("NaN twin", "not finite"),
        ("no such twin", "there is no such weights file"),
        ("another network's twin", "these weights do not fit the network of the recipe"),
        ("one twin", "one engine has a torch twin and the other has none"),
        ("no attack left", "attacks torch twins alone, and none was given"),
        ("no engine", "--reference belongs to --engine"),
        ("two references", "--reference and --baseline are both what to compare with"),
        ("a twin of nothing", "--reference-twin holds the weights of --reference"),
        ("a run's own folder", "choose another --out"),
        ("no baseline", "there is no such file or folder"),
    ],
)
def test_bad_input_is_one_clear_message(workspace: Path, cli: Cli, what: str, said: str) -> None:
    answer = verify(cli, workspace, *broken(workspace, what))
    message = " ".join(answer.err.split())
    assert (answer.code, said in message) == (2, True), message
    assert "Traceback" not in answer.err
    assert not (workspace / "out/verdict.json").exists()


def test_bad_input_leaves_an_earlier_verdict_as_it_was(workspace: Path, cli: Cli) -> None:
    """Also where the first of the given files is sound and the next is not."""
    assert verify(cli, workspace, "--engine", workspace / ENGINE, "--twin", workspace / TWIN, gates=DROP).code == 3
    kept = {path: path.read_bytes() for path in (workspace / "out").rglob("*") if path.is_file()}
    bad = workspace / "empty.onnx"
    bad.touch()
    assert verify(cli, workspace, "--engine", bad, "--twin", workspace / DENSE_TWIN, gates=DROP).code == 2
    assert {path: path.read_bytes() for path in (workspace / "out").rglob("*") if path.is_file()} == kept
    assert cli("inspect", workspace / "out").code == 0


def test_an_engine_that_cannot_be_had_here_is_missing(workspace: Path, cli: Cli) -> None:
    kind = ("--set", "export.engines=[{kind: ort-cuda}]")
    answer = verify(cli, workspace, "--engine", workspace / ENGINE, *kind, *QUICK)
    assert answer.code == 3
    assert all("was not measured" in " ".join(gate["evidence"]) for gate in told(workspace)["gates"])


def test_reports_of_a_lone_engine_are_rendered_again(workspace: Path, cli: Cli) -> None:
    verify(cli, workspace, "--engine", workspace / ENGINE, *QUICK, gates=ALL)
    page = (workspace / "out/report.md").read_text()
    (workspace / "out/report.md").unlink()
    override = ("--set", f"verify.gates=[{ALL}]")
    assert cli("report", workspace / "tiny.yaml", "--run-dir", workspace / "out", *QUICK, *override).code == 0
    assert (workspace / "out/report.md").read_text() == page
    assert cli("inspect", workspace / "out").code == 0


@pytest.mark.parametrize("damaged", ["verdict.json", "taken/ort-cpu-fp32/engine.onnx"])
def test_messages_name_the_command_that_filled_the_folder(workspace: Path, cli: Cli, damaged: str) -> None:
    """Nothing here was made by `madx run`, and no command does without what was given."""
    assert verify(cli, workspace, "--engine", workspace / ENGINE, *QUICK, gates=ALL).code == 3
    assert "queries of the given engine" in (workspace / "out/report.md").read_text()
    (workspace / "out" / damaged).write_bytes(b"{}")
    override = ("--set", f"verify.gates=[{ALL}]")
    answer = cli("report", workspace / "tiny.yaml", "--run-dir", workspace / "out", *QUICK, *override)
    message = " ".join(answer.err.split())
    assert (answer.code, "madx verify --engine" in message, "madx run" in message) == (2, True, False), message
    assert (workspace / "out" / damaged).exists()
    assert verify(cli, workspace, "--engine", workspace / ENGINE, *QUICK, gates=ALL).code == 3


DROP = "{metric: clean_drop, at_most: 0.1}"


@pytest.mark.parametrize("kind", ["run", "folder", "file", "earlier verification"])
def test_the_last_release_is_measured_again(workspace: Path, cli: Cli, kind: str) -> None:
    last = workspace / "last"
    if kind == "run":
        shutil.copytree(workspace / "run", last)
    elif kind == "earlier verification":
        verify(cli, workspace, "--engine", workspace / ENGINE, "--twin", workspace / TWIN, gates=DROP, out="last")
    else:
        last.mkdir()
        shutil.copy(workspace / ENGINE, last / "net.onnx")
        shutil.copy(workspace / TWIN, last / "net.safetensors")
    baseline = last / "net.onnx" if kind == "file" else last
    answer = verify(cli, workspace, "--baseline", baseline, gates=DROP, out="run")
    assert (answer.code, outcomes(workspace, "run")) == (0, {"clean_drop": "PASS"}), answer.err
    hashes = told(workspace, "run")["provenance"]["engines"]["ort-cpu-fp32"]
    assert hashes == {"baseline": sha256_file(workspace / ENGINE), "pruned": sha256_file(workspace / ENGINE)}
    said = evidence(workspace, "clean_drop", "run")
    assert f"the baseline, the last release, measured again beside this one: SHA-256 {hashes['baseline']}" in said
    assert " 0 lost, 0 gained" in said  # the same bytes
    assert any("compared with itself" in warning for warning in told(workspace, "run")["warnings"])


@pytest.mark.slow
def test_another_baseline_is_another_verdict(workspace: Path, cli: Cli) -> None:
    """The dense engine as the last release, then the pruned one, then none: each is measured."""
    last = workspace / "last"
    last.mkdir()
    references = []
    for engine, twin in ((DENSE, DENSE_TWIN), (ENGINE, TWIN)):
        shutil.copy(workspace / engine, last / "net.onnx")
        shutil.copy(workspace / twin, last / "net.safetensors")
        answer = verify(cli, workspace, "--baseline", last, gates=DROP, out="run")
        assert "nothing to do" not in answer.out
        references.append(told(workspace, "run")["provenance"]["engines"]["ort-cpu-fp32"]["baseline"])
    assert references == [sha256_file(workspace / DENSE), sha256_file(workspace / ENGINE)]
    override = ("--set", f"verify.gates=[{DROP}]")
    assert cli("report", workspace / "tiny.yaml", "--run-dir", workspace / "run", *override).code == 0
    assert verify(cli, workspace, gates=DROP, out="run").code in (0, 1, 3)
    assert set(told(workspace, "run")["provenance"]["engines"]["ort-cpu-fp32"]) == {"dense", "pruned"}
    assert not (workspace / "run/taken").exists() or not any((workspace / "run/taken").rglob("*.onnx"))


@pytest.mark.parametrize("changed", [ENGINE, TWIN])
def test_a_release_with_other_bytes_is_no_release(workspace: Path, cli: Cli, changed: str) -> None:
    last = Path(shutil.copytree(workspace / "run", workspace / "last/run")).parent
    (last / changed).write_bytes((last / changed).read_bytes() + b"\0")
    answer = verify(cli, workspace, "--baseline", last / "run", gates=DROP, out="run")
    assert (answer.code, "is not what the stage that made it wrote" in " ".join(answer.err.split())) == (2, True)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), "expected pruned-fp32.onnx or a single .onnx file, found none"),
        (("a.onnx", "b.onnx"), "or a single .onnx file, found a.onnx, b.onnx"),
        (("a.onnx", "x.safetensors", "y.safetensors"), "which of x.safetensors, y.safetensors"),
        (("a.onnx",), "one engine has a torch twin and the other has none"),
    ],
)
def test_a_bundle_must_be_clear(workspace: Path, cli: Cli, files: tuple[str, ...], said: str) -> None:
    last = workspace / "last"
    last.mkdir()
    for name in files:
        shutil.copy(workspace / (ENGINE if name.endswith(".onnx") else TWIN), last / name)
    answer = verify(cli, workspace, "--baseline", last, gates=DROP, out="run")
    assert (answer.code, said in " ".join(answer.err.split())) == (2, True), answer.err


def release_on_a_machine_without_a_gpu(workspace: Path, cli: Cli, engines: str) -> tuple[Path, tuple[str, str]]:
    """A copy of the run that promised these engines, and the option that promises them again."""
    if backend("ort-cuda").availability().can_build:
        pytest.skip("this machine builds ort-cuda")
    promised = ("--set", f"export.engines=[{engines}]")
    assert cli("export", workspace / "tiny.yaml", "--run-dir", workspace / "run", *promised).code == 3
    return Path(shutil.copytree(workspace / "run", workspace / "last")), promised


@pytest.mark.parametrize("there", [True, False], ids=["built here", "built nowhere"])
def test_an_engine_that_the_last_release_did_not_build_is_missing(workspace: Path, cli: Cli, there: bool) -> None:
    """The others are compared; where nothing can be, the message says why."""
    engines = "{kind: ort-cpu}, {kind: ort-cuda}" if there else "{kind: ort-cuda}"
    last, promised = release_on_a_machine_without_a_gpu(workspace, cli, engines)
    answer = verify(cli, workspace, "--baseline", last, *promised, gates=DROP, out="run")
    if not there:
        assert (answer.code, "the baseline's run did not build it" in " ".join(answer.err.split())) == (2, True)
        return
    assert answer.code == 3, answer.err
    found = {gate["engine"]: gate for gate in told(workspace, "run")["gates"]}
    assert {name: gate["outcome"] for name, gate in found.items()} == {
        "ort-cpu-fp32": "PASS",
        "ort-cuda-fp32": "INCONCLUSIVE",
    }
    hashes = told(workspace, "run")["provenance"]["engines"]
    assert hashes["ort-cpu-fp32"]["baseline"] == sha256_file(workspace / ENGINE)
    assert hashes["ort-cuda-fp32"] == {}


def test_a_missing_engine_keeps_the_hash_of_what_there_is_of_it(
    workspace: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was built, and cannot run here: the verdict still says which bytes it speaks of."""
    monkeypatch.setattr(OrtBackend, "availability", lambda _: Availability(True, False, "no such processor here"))
    monkeypatch.setattr(OrtBackend, "build", lambda _, onnx, *__, **___: BuiltEngine.of(onnx.payload, ".onnx", {}))
    given = ("--engine", workspace / ENGINE, "--reference", workspace / DENSE)
    assert verify(cli, workspace, *given, *QUICK, gates=DROP).code == 3
    assert told(workspace)["provenance"]["engines"]["ort-cpu-fp32"] == {
        "engine": sha256_file(workspace / ENGINE),
        "reference": sha256_file(workspace / DENSE),
    }


def test_a_release_without_this_engine_is_no_baseline(workspace: Path, cli: Cli) -> None:
    last = shutil.copytree(workspace / "run", workspace / "last")
    engines = ("--set", "export.engines=[{kind: openvino-cpu}]")
    assert cli("export", workspace / "tiny.yaml", "--run-dir", workspace / "run", *engines).code == 0
    answer = verify(cli, workspace, "--baseline", last, *engines, gates=DROP, out="run")
    said = "this run has no engine openvino-cpu-fp32 to compare with (it has ort-cpu-fp32)"
    assert (answer.code, said in " ".join(answer.err.split())) == (2, True), answer.err


def exchanged(source: Path, target: Path, order: list[int]) -> None:
    """The engine with its outputs in another order."""
    model = onnx.load(source)
    for node in model.graph.node:
        node.output[:] = ["inner" if name == "logits" else name for name in node.output]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(order), "order"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["inner", "order"], ["logits"], axis=1))
    onnx.save(model, target)


def test_an_engine_whose_classes_have_another_order_is_refused_before_it_is_attacked(workspace: Path, cli: Cli) -> None:
    """Two pairs exchanged: beside a reference of the same order it would pass a gate on what was lost."""
    exchanged(workspace / DENSE, workspace / "other.onnx", [1, 0, 3, 2, *range(4, 10)])
    answer = verify(cli, workspace, "--engine", workspace / "other.onnx", *QUICK)
    assert answer.code == 2
    assert "label 0 is output 1, label 1 is output 0, label 2 is output 3, label 3 is output 2" in " ".join(
        answer.err.split()
    )
    assert "attacking" not in answer.err
    assert not (workspace / "out/verdict.json").exists()
