"""`madx verify --engine` without a recipe: it ends as with the recipe that it writes; what means nothing is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import yaml
from conftest import Answer, Cli
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits

from madx.errors import RecipeError
from madx.pipeline.alone import _opened, _sizes
from madx.recipe import METRICS, GateConfig, Recipe, load_recipe
from madx.recipe.short import gate_of, name_of, seen_from, text_of

CLEAN = ("--gate", "clean_drop<=0.05")


def digits() -> tuple[np.ndarray, np.ndarray]:
    found = load_digits()
    return np.round(found.images * (255 / 16)).astype(np.uint8), found.target


def classifier(path: Path, *, ridge: float, spoilt: float = 0.0) -> Path:
    """Linear, fitted to images that are not judged; part of it may be spoilt."""
    pixels, labels = digits()
    flat = np.hstack([pixels[:900].reshape(900, -1) / 255, np.ones((900, 1))])
    fitted = np.linalg.solve(flat.T @ flat + ridge * np.eye(65), flat.T @ np.eye(10)[labels[:900]])
    fitted += spoilt * np.random.default_rng(0).normal(size=fitted.shape)
    values = {"W": fitted[:-1].astype(np.float32), "b": fitted[-1].astype(np.float32), "s": np.array([-1, 64])}
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "s"], ["f"]), helper.make_node("Gemm", ["f", "W", "b"], ["scores"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with two engines and images that neither knows."""
    monkeypatch.chdir(tmp_path)
    classifier(tmp_path / "old.onnx", ridge=1.0)
    classifier(tmp_path / "new.onnx", ridge=1.2)
    pixels, labels = digits()
    np.savez(tmp_path / "images.npz", images=pixels[900:1300], labels=labels[900:1300])
    return tmp_path


def verify(cli: Cli, *options: object, **changed: str | None) -> Answer:
    """The usual words of the short form, with some of them changed or (None) left out."""
    said = {"engine": "new.onnx", "reference": "old.onnx", "data": "images.npz", "eps": "8/255", "attack": "quick"}
    words = [word for name, value in (said | changed).items() if value is not None for word in (f"--{name}", value)]
    return cli("verify", *words, *options)


def verdict(folder: Path) -> dict:
    return json.loads((folder / "verdict.json").read_text())


def message(answer: Answer) -> str:
    assert "Traceback" not in answer.err
    return " ".join(answer.err.split())


def test_it_ends_as_the_recipe_does_that_it_writes(here: Path, cli: Cli) -> None:
    answer = verify(cli, *CLEAN, "--gate", "robust_drop <= 9/10", "--seed", 3, "--images", 200)
    out = here / "runs/new-engine"
    assert answer.code == 3, answer.err  # attacks could only ask
    assert {path.name for path in out.iterdir()} >= {"verdict.json", "junit.xml", "report.html", "recipe.yaml"}
    text = (out / "recipe.yaml").read_text()
    printed = [line[2:] for line in answer.err.splitlines() if line.startswith("  ")]
    assert text.splitlines() == printed[: len(text.splitlines())]
    first = verdict(out)
    shown = first["provenance"]["recipe"]
    assert (shown["seed"], shown["verify"]["images"], shown["verify"]["attack"]) == (3, 200, "quick")
    assert (shown["data"]["split"], shown["data"]["path"]) == ("test", "../../images.npz")
    assert f"madx verify {out.relative_to(here)}/recipe.yaml --engine new.onnx" in answer.out
    files = ("--engine", "new.onnx", "--reference", "old.onnx")
    again = cli("verify", out / "recipe.yaml", *files)  # the same run directory: the same stage keys
    assert (again.code, "nothing to do" in again.out) == (3, True)
    assert verdict(out) == first
    other = cli("verify", out / "recipe.yaml", *files, "--out", here / "again")
    assert other.code == answer.code
    for found in ("gates", "outcome"):
        assert verdict(here / "again")[found] == first[found]
    assert cli("recipe", "check", out / "recipe.yaml").out.endswith("it has nothing to train or prune\n")


@pytest.mark.usefixtures("here")
def test_what_is_usual_asks_for_both_drops_and_consent_is_for_robustness_alone(cli: Cli) -> None:
    """The recipe is shown before anything is measured, here with too few images for its gates."""
    usual = [
        "- {metric: robust_drop, at_most: 0.03, confidence: 0.95}",
        "- {metric: clean_drop, at_most: 0.03, confidence: 0.95}",
    ]
    plain, consented = verify(cli, "--images", 20), verify(cli, "--query-only", "--set", "verify.images=20")
    for answer, gates in ((plain, usual), (consented, [usual[0].replace("}", ", query_only: true}"), usual[1]])):
        assert answer.code == 2
        assert [line.strip() for line in answer.err.splitlines() if "- {metric" in line] == gates
        assert "  images: 20" in answer.err
        assert ("attacks can only ask" in answer.err) is (answer is plain)


def test_an_engine_alone_needs_a_bound_of_its_own(here: Path, cli: Cli) -> None:
    for gates in ((), ("--gate", "clean_accuracy>=0.5")):
        said = message(answer := verify(cli, *gates, reference=None))
        assert (answer.code, "say how much robustness is enough: --gate 'robust_accuracy>=0.4'" in said) == (2, True)
    said = message(answer := verify(cli, "--gate", "robust_accuracy>=0.1", *CLEAN, reference=None))
    assert (answer.code, "a gate on clean_drop compares, and there is nothing to compare with" in said) == (2, True)
    assert not (here / "runs").exists()
    answer = verify(cli, "--gate", "robust_accuracy>=0.98", reference=None)
    assert (answer.code, verdict(here / "runs/new-engine")["outcome"]) == (1, "FAIL")


ADDED = "- {metric: robust_drop, at_most: 0.03, confidence: 0.95}"


@pytest.mark.parametrize(
    ("options", "added"),
    [
        (("--gate", "clean_drop<=0.05"), ADDED),
        (("--gate", "speedup>=1.1", "--gate", "clean_accuracy>=0.2"), ADDED),
        (("--set", "verify.gates=[{metric: size_ratio, at_most: 0.9}]"), ADDED),
        (("--query-only", *CLEAN), ADDED.replace("}", ", query_only: true}")),
        (("--gate", "robust_drop<=0.5"), ""),
        (("--gate", "retention>=0.5"), ""),
        ((), ""),
    ],
    ids=["clean", "speed", "set", "query only", "drop", "retention", "usual"],
)
@pytest.mark.usefixtures("here")
def test_beside_a_reference_no_verdict_is_without_a_gate_on_robustness(
    cli: Cli, options: tuple[str, ...], added: str
) -> None:
    """Of too few images, so that the recipe is shown and nothing is measured."""
    answer = verify(cli, *options, "--images", 3)
    assert (answer.code, "which is what this verdict is for" in answer.err) == (2, bool(added)), answer.err
    gates = [line.strip() for line in answer.err.splitlines() if line.strip().startswith("- {metric")]
    assert any(METRICS[yaml.safe_load(gate)[0]["metric"]].on_robustness for gate in gates)
    if added:
        assert gates[-1] == added


def test_a_gate_on_clean_images_alone_does_not_pass(here: Path, cli: Cli) -> None:
    answer = verify(cli, *CLEAN, "--images", 200)
    assert answer.code == 3, answer.err
    outcomes = {gate["metric"]: gate["outcome"] for gate in verdict(here / "runs/new-engine")["gates"]}
    assert outcomes["robust_drop"] == "INCONCLUSIVE"


MISUSE = {
    "--eps 8": ("threat.eps is 8 in L-inf", "did you mean 8/255?"),
    "--eps 0": ("threat.eps", "greater than 0"),
    "--eps nan": ("threat.eps", "finite"),
    "--eps eight": ("threat.eps", "neither a number nor a fraction"),
    "--norm l2 --eps 0": ("threat.eps", "greater than 0"),
    "--seed -1": ("seed", "greater than or equal to 0"),
    "--images 2": ("verify.images", "greater than or equal to 3"),
    "--gate robust_drop<0.02": ("'robust_drop<0.02' is not of the form METRIC<=BOUND",),
    "--gate robust_drop>=0.02": ("a gate on robust_drop takes at_most",),
    "--gate robust_drop<=2": ("2 is not below 1; 0.03 is 3 %",),
    "--gate robust_drop<=2%": ("neither a number nor a fraction",),
    "--gate robustness>=0.5": ("verify.gates.0.metric", "robust_accuracy"),
    "--gate {metric": ("not valid YAML",),
    "--gate clean_drop<=0.1 --gate clean_drop<=0.2": ("two gates on clean_drop",),
    "--data nowhere.npz": ("--data: nowhere.npz does not exist", "--set data.KEY=VALUE"),
    "--data new.onnx": ("--data: new.onnx is no set of images that madx reads",),
    "--set data.path=other.npz": ("--data and --set data.path both say where",),
    "--set threat.epsilon=1": ("unknown key 'threat.epsilon'",),
    "--set verify=3": ("verify", "given: 3"),
    "--set data=3": ("beside --data, give keys of that section",),
    "--set threat=null": ("threat",),
    "--set nonsense": ("section.key=value",),
    "--twin w.pt --reference-twin v.pt": ("nothing says of which network", "--set model.name=resnet18"),
    "--baseline old.onnx": ("--reference and --baseline are both what to compare with",),
}


@pytest.mark.parametrize("options", MISUSE)
def test_what_makes_no_recipe_is_refused_before_anything_is_read(here: Path, cli: Cli, options: str) -> None:
    answer = verify(cli, *options.split())  # of an option that is given twice the last one counts
    for words in MISUSE[options]:
        assert words in message(answer)
    assert (answer.code, answer.err.count("madx:"), (here / "runs").exists()) == (2, 1, False)


@pytest.mark.parametrize(
    ("left_out", "said"),
    [("engine", "--reference belongs to --engine"), ("data", "--data is missing"), ("eps", "--eps is missing")],
)
@pytest.mark.usefixtures("here")
def test_what_is_missing_is_said(cli: Cli, left_out: str, said: str) -> None:
    answer = verify(cli, **{left_out: None})
    assert (answer.code, said in message(answer)) == (2, True)
    assert "a recipe is missing" in message(cli("verify"))


def test_beside_a_recipe_the_options_that_stand_for_one_are_refused(here: Path, cli: Cli) -> None:
    recipe = here / "r.yaml"
    recipe.write_text("data: {name: npz, path: images.npz, split: test}\n")
    options = {"--data": "images.npz", "--eps": "8/255", "--norm": "l2", "--gate": "clean_drop<=0.1"}
    options |= {"--attack": "quick", "--seed": "0", "--images": "100"}
    for words in (*options.items(), ("--query-only",)):
        answer = cli("verify", recipe, "--engine", "new.onnx", *words)
        said = message(answer)
        assert (answer.code, f"{words[0]} stands for a recipe, and {recipe} is one" in said) == (2, True), said
    assert not (here / "runs").exists()


def test_a_recipe_that_makes_nothing_judges_a_file_and_makes_nothing(here: Path, cli: Cli) -> None:
    """No train section, no weights: `verify --engine` needs neither, and whatever makes networks says so."""
    recipe = here / "r.yaml"
    recipe.write_text(
        "name: r\ndata: {name: npz, path: images.npz, split: test}\nverify: {attack: quick, images: 100, gates: "
        "[{metric: clean_accuracy, at_least: 0.2}]}\n"
    )
    assert cli("verify", recipe, "--engine", "new.onnx").code == 0
    assert cli("report", recipe, "--run-dir", "runs/r-engine").code == 0
    for command in ("run", "train", "prune", "export", "verify", "plan"):
        answer = cli(command, recipe)
        assert (answer.code, "nothing to train or prune" in message(answer)) == (2, True), command


def test_fresh_weights_are_never_taken_for_a_network() -> None:
    """Whoever calls the stages without the command line meets the same refusal."""
    from madx.pipeline.training import train

    with pytest.raises(RecipeError, match="nothing to train or prune"):
        train(SimpleNamespace(recipe=Recipe()))


@pytest.mark.slow
def test_classes_without_images_are_counted_as_the_file_has_them(here: Path, cli: Cli) -> None:
    pixels, labels = digits()
    few = (labels < 7) & (np.arange(len(labels)) >= 900)
    np.savez(here / "few.npz", x_test=pixels[few][:200], y_test=labels[few][:200])
    answer = verify(cli, "--gate", "clean_accuracy>=0.2", "--gate", "robust_drop<=0.9", data="few.npz")
    assert answer.code == 3, answer.err  # attacks could only ask
    assert load_recipe(here / "runs/new-engine/recipe.yaml").data.num_classes == 10
    assert "the gate has no image of 3 of 10 classes: 7, 8, 9" in message(answer)


def grey_folders(root: Path, count: int, side: int = 8) -> Path:
    pixels, labels = digits()
    for row in range(900, 900 + count):
        place = root / str(labels[row])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[row]).resize((side, side)).save(place / f"{row}.png")
    return root


@pytest.mark.slow
def test_class_folders_are_read_as_the_file_takes_them(here: Path, cli: Cli) -> None:
    grey_folders(here / "sorted", 150)
    answer = verify(cli, "--gate", "clean_accuracy>=0.2", "--gate", "robust_drop<=0.9", data="sorted")
    assert answer.code == 3, answer.err  # attacks could only ask
    told = load_recipe(here / "runs/new-engine/recipe.yaml").data
    assert (told.name, told.channels, told.path) == ("imagefolder", 1, here / "sorted")


def test_images_of_another_shape_are_refused_with_what_the_file_takes(here: Path, cli: Cli) -> None:
    grey_folders(here / "larger", 60, side=9)
    Image.new("L", (12, 9)).save(here / "larger/0/odd.png")
    said = message(answer := verify(cli, data="larger"))
    assert (answer.code, "data.image_size" in said, "takes images of 8 x 8 pixels" in said) == (2, True, True), said
    (here / "larger/0/odd.png").unlink()
    said = message(answer := verify(cli, "--force", data="larger"))
    assert (answer.code, "the ONNX input is" in said) == (2, True), said
    said = message(verify(cli, "--set", "data.image_size=8", data="larger"))
    assert "60 gate images" in said  # too few for the gates, and of the right size
    assert "images of 60" in said or "verify.gates:" in said


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": 0}, "expected the usual ones"),  # no labels
        ({"x_train": 0, "y_train": 1}, "has no test images"),  # what it was trained on judges nothing
        ({"images": 0, "labels": 2}, "images but"),
        ({"images": 0, "labels": 3}, "data.first_label: 1"),
        ({"images": 4, "labels": 1}, "the ONNX input is"),
        ({"images": 0, "labels": 5}, "classes"),  # more of them than the file tells
    ],
)
def test_data_that_are_not_the_engines_are_refused(here: Path, cli: Cli, arrays: dict[str, int], said: str) -> None:
    pixels, labels = digits()
    there = (pixels[900:], labels[900:], labels[900:950], labels[900:] + 1, pixels[900:, :7], labels[900:] * 2)
    np.savez(here / "odd.npz", **{name: there[place] for name, place in arrays.items()})
    answer = verify(cli, *CLEAN, data="odd.npz")
    assert (answer.code, said in message(answer)) == (2, True), answer.err
    assert not (here / "runs/new-engine/verdict.json").exists()
    assert not (here / "runs/new-engine/recipe.yaml").exists()


def test_few_images_decide_nothing_and_that_is_known_before(here: Path, cli: Cli) -> None:
    said = message(answer := verify(cli, "--images", 20))
    assert (answer.code, "verify.gates:" in said, "attacking" in said) == (2, True, False)
    assert not (here / "runs/new-engine/recipe.yaml").exists()


@pytest.mark.slow
def test_few_images_decide_nothing_by_force_either(here: Path, cli: Cli) -> None:
    answer = verify(cli, "--images", 20, "--force")
    assert (answer.code, verdict(here / "runs/new-engine")["outcome"]) == (3, "INCONCLUSIVE")


@pytest.mark.slow
def test_an_engine_beside_itself_is_said(here: Path, cli: Cli) -> None:
    answer = verify(cli, *CLEAN, reference="new.onnx")
    assert any("compared with itself" in warning for warning in verdict(here / "runs/new-engine")["warnings"])
    assert answer.code in (0, 3)


@pytest.mark.slow
def test_a_spoilt_engine_fails_by_the_usual_gates(here: Path, cli: Cli) -> None:
    classifier(here / "new.onnx", ridge=1.0, spoilt=0.05)
    answer = verify(cli, "--images", 200)
    assert answer.code == 1, answer.out
    assert "FAIL         clean accuracy lost" in answer.out


@pytest.mark.slow
def test_what_is_refused_leaves_a_verdict_and_its_recipe_and_a_recipe_of_ones_own_stays(here: Path, cli: Cli) -> None:
    assert verify(cli, *CLEAN, "--images", 60, "--force").code in (0, 3)
    out = here / "runs/new-engine"
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (here / "broken.onnx").write_bytes(b"none")
    assert verify(cli, *CLEAN, "--out", out, engine="broken.onnx").code == 2
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == kept
    written = (out / "recipe.yaml").read_text()
    for text in ("# mine\nname: mine\n", written.replace("images: 60", "images: 70"), "", f"{written}seed: 4\n"):
        (out / "recipe.yaml").write_text(text)
        said = message(answer := verify(cli, *CLEAN, "--images", 60, "--force"))
        assert (answer.code, "is not as madx wrote it" in said) == (2, True)
        assert (out / "recipe.yaml").read_text() == text
    (out / "recipe.yaml").write_text(written)
    assert "nothing to do" in verify(cli, *CLEAN, "--images", 60, "--force").out


@pytest.mark.parametrize("name", ["new.json", "new.onnxtxt", "new.textproto", "new"])
def test_a_file_is_read_as_onnx_whatever_its_name_ends_with(here: Path, name: str) -> None:
    """The package onnx takes some endings for other ways to write a network, and stops in their parsers."""
    (here / "new.onnx").rename(here / name)
    assert _sizes(_opened(here / name)) == ((1, 8, 8), 10)


def test_a_verdict_comes_of_a_file_whatever_its_name_ends_with(here: Path, cli: Cli) -> None:
    (here / "new.onnx").rename(here / "new.json")
    answer = verify(cli, *CLEAN, "--images", 60, "--force", engine="new.json")
    assert answer.code in (0, 3), message(answer)


def test_the_recipe_is_there_before_anything_is_measured(here: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a run that is killed, and a part of one, can be gone on with; what is refused writes none."""
    seen = []

    def killed(*_given: object, **_more: object) -> None:
        seen.append((here / "runs/new-engine/recipe.yaml").is_file())
        raise KeyboardInterrupt

    monkeypatch.setattr("madx.pipeline.verifying.measure_accuracy", killed)
    monkeypatch.setattr("madx.pipeline.shards.measure_chunks", killed)
    for options in ((), ("--shard", "1/2")):
        assert verify(cli, *CLEAN, "--images", 60, "--force", *options).code == 130
    assert seen == [True, True]
    (here / "broken.onnx").write_bytes(b"none")
    kept = (here / "runs/new-engine/recipe.yaml").read_bytes()
    assert verify(cli, *CLEAN, "--out", "runs/new-engine", engine="broken.onnx").code == 2
    assert (here / "runs/new-engine/recipe.yaml").read_bytes() == kept
    assert verify(cli, *CLEAN, "--seed", 5, "--images", 60, "--force").code == 130  # a sealed one is replaced
    assert load_recipe(here / "runs/new-engine/recipe.yaml").seed == 5


def test_gates_and_paths_as_they_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert gate_of("robust_drop<=0.02") == {"metric": "robust_drop", "at_most": 0.02}
    assert gate_of(" speedup >= 3/2 ") == {"metric": "speedup", "at_least": "3/2"}
    assert GateConfig(**gate_of("{metric: clean_drop, at_most: 0, confidence: 0.9}")).confidence == 0.9
    for wrong in ("", "robust_drop", "<=0.02", "robust_drop<=", "robust_drop==0.1", "a<=1<=2", "a<=0.1 b<=0.2"):
        with pytest.raises(RecipeError, match="METRIC<=BOUND"):
            gate_of(wrong)
    assert [name_of(Path(name)) for name in ("a/net v2.onnx", "-é.onnx", "x.y.onnx")] == ["net-v2", "engine", "x.y"]
    assert seen_from(Path("data/x.npz"), Path("runs/new")) == "../../data/x.npz"
    assert seen_from(Path("/data/x.npz"), Path("runs/new")) == "/data/x.npz"
    for folder in ("far/deep", "sets"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far/deep")
    assert seen_from(Path("x.npz"), Path("link/out")) == "../../../x.npz"  # as the file system goes
    (tmp_path / "sets/latest").symlink_to(tmp_path / "far/deep")
    for name, place in (("sets/latest/../x.npz", "far/x.npz"), ("sets/latest/..", "far"), ("sets/latest", None)):
        (tmp_path / "far/x.npz").touch()  # not sets/x.npz, as the text alone would have it
        written = seen_from(Path(name), Path("link/out"))
        assert os.path.realpath((tmp_path / "far/deep/out").resolve() / written) == os.path.realpath(name)
        assert place is None or written == os.path.relpath(place, "far/deep/out")
    assert seen_from(Path("sets/latest"), Path("runs")) == "../sets/latest"  # a link keeps its name
    odd = {"version": 1, "data": {"path": 'a: "b", {c}.npz'}, "verify": {"gates": [{"metric": "x", "at_most": 1e-3}]}}
    recipe = tmp_path / "r.yaml"
    recipe.write_text(text_of(odd, head="one\ntwo"))
    from madx.recipe.reading import parse_value

    assert parse_value(recipe.read_text(), "r.yaml") == odd


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_twins_and_pieces_work_as_with_a_recipe(here: Path, released: Path, cli: Cli) -> None:
    """The network of the twins is said with --set; shards of the same options are merged into one verdict."""
    pixels, labels = digits()
    np.savez(here / "all.npz", images=pixels, labels=labels)
    engines = {name: released / f"run/engines/ort-cpu-fp32/{name}.onnx" for name in ("pruned", "dense")}
    twins = {name: released / f"run/{name}/model.safetensors" for name in engines}
    words = ("--engine", engines["pruned"], "--reference", engines["dense"], "--twin", twins["pruned"])
    words += ("--reference-twin", twins["dense"], "--data", "all.npz", "--eps", "0.1", "--attack", "quick")
    words += ("--set", "model.args={widths: [16, 16, 16], stem_stride: 1}", "--set", "model.name=resnet8")
    words += ("--images", "300", "--gate", "robust_drop<=0.9", "--set", "threads=1")
    words += ("--gate", "clean_drop<=0.9", "--gate", "parity_flips<=0.2")
    whole = cli("verify", *words, "--out", "whole")
    assert verdict(here / "whole")["provenance"]["attack"]["query_only"] is False
    assert "attacks can only ask" not in whole.err
    for number in (1, 2):
        answer = cli("verify", *words, "--out", f"s{number}", "--shard", f"{number}/2")
        assert (answer.code, "no verdict" in answer.out) == (3, True), answer.err
        assert (here / f"s{number}/recipe.yaml").is_file()
    merged = cli("verify", *words, "--out", "merged", "--merge", "s1", "--merge", "s2")
    found = [
        {gate["metric"]: gate["outcome"] for gate in verdict(here / name)["gates"]} for name in ("whole", "merged")
    ]
    assert (merged.code, found[1]) == (whole.code, found[0])
    assert found[0].keys() == {"robust_drop", "clean_drop", "parity_flips"}
    assert (found[0]["clean_drop"], found[0]["parity_flips"]) == ("PASS", "PASS")


def halved(path: Path) -> onnx.ModelProto:
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


@pytest.mark.parametrize(
    ("width", "options"), [(3, ()), (10, ("--set", "verify.output.name=scores"))], ids=["by its shape", "by its name"]
)
def test_the_precision_is_that_of_the_output_that_is_judged(
    here: Path, cli: Cli, width: int, options: tuple[str, ...]
) -> None:
    """Beside float16 scores, something that float32 computes and nobody judges."""
    model = halved(here / "new.onnx")
    weights = np.zeros((64, width), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "V"))
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["f"], ["f32"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["f32", "V"], ["v"]),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, ["n", width]))
    onnx.save(model, here / "new.onnx")
    gates = ("--gate", "robust_accuracy>=0.1", "--images", 60, "--force")
    answer = verify(cli, *gates, *options, reference=None)
    assert answer.code in (0, 3), message(answer)
    assert verdict(here / "runs/new-engine")["gates"][0]["engine"] == "ort-cpu-fp16"


def test_an_engine_of_float16_is_judged_as_what_it_is(here: Path, cli: Cli) -> None:
    """Nobody named its precision, so it is read from the file and stands in the recipe that is written."""
    for name in ("old", "new"):
        onnx.save(halved(here / f"{name}.onnx"), here / f"{name}.onnx")
    answer = verify(cli, *CLEAN, "--gate", "robust_drop <= 9/10", "--images", 200)
    assert answer.code == 3, answer.err  # attacks could only ask
    assert "{kind: ort-cpu, precision: fp16}" in (here / "runs/new-engine/recipe.yaml").read_text()
    assert verdict(here / "runs/new-engine")["gates"][0]["engine"] == "ort-cpu-fp16"
