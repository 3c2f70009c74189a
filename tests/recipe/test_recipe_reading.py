"""Every mistake in a recipe is one RecipeError that names the key and repeats what was given."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madx.errors import RecipeError
from madx.recipe import Recipe, load_recipe, load_written, parse_recipe, require_network, resolve_paths

TRAINED = "train: {}\n"
"""The least that a recipe needs."""


def parsed(text: str, *overrides: str) -> Recipe:
    return resolve_paths(parse_recipe(TRAINED + text, source="r.yaml", overrides=overrides), Path("/base"))


def refused(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parsed(text, *overrides)
    return str(caught.value)


VALUES: dict[str, list[str]] = {
    # recipe: what the message must hold
    "prune: {sparcity: 0.5}": ["unknown key 'prune.sparcity'", "did you mean 'sparsity'?"],
    "prunes: {}": ["unknown key 'prunes'", "did you mean 'prune'?"],
    "prune: {zzz: 1}": ["unknown key 'prune.zzz'", "known here: attack, batch_size, batches, criterion"],
    "prune: {finetune: {lrr: 1}}": ["unknown key 'prune.finetune.lrr'", "did you mean 'lr'?"],
    "export: {engines: [{knd: tensorrt}]}": ["unknown key 'export.engines.0.knd'", "did you mean 'kind'?"],
    "threat: {eps: 8/0}": ["threat.eps", "'8/0' divides by zero"],
    "threat: {eps: 8}": ["threat.eps is 8 in L-inf", "did you mean 8/255?"],
    "threat: {eps: eight}": ["threat.eps", "'eight' is neither a number nor a fraction"],
    "threat: {eps: 1/2/3}": ["threat.eps", "'1/2/3' is neither a number nor a fraction"],
    "threat: {eps: 0}": ["threat.eps", "greater than 0", "given: 0"],
    "threat: {eps: .nan}": ["threat.eps", "finite", "given: nan"],
    "threat: {eps: -.inf}": ["threat.eps", "finite", "given: -inf"],
    "threat: {eps: nan}": ["threat.eps", "finite", "given: 'nan'"],
    "threat: {eps: 1e400}": ["threat.eps", "finite"],
    "threat: {eps: '1e999999999'}": ["threat.eps", "finite", "'1e999999999'"],
    "threat: {eps: yes}": ["threat.eps", "true is not a number"],
    "threat: {eps: [1]}": ["threat.eps", "valid number", "given: [1]"],
    "threat: {norm: l1}": ["threat.norm", "'linf' or 'l2'", "given: 'l1'"],
    "prune: {sparsity: 1.2}": ["prune.sparsity", "less than 1", "given: 1.2"],
    "prune: {sparsity: 0}": ["prune.sparsity", "greater than 0", "given: 0"],
    "prune: {structure: '2:4', sparsity: 0.6}": ["prune.structure: 2:4 removes exactly half", "0.6"],
    "prune: 3": ["prune", "dictionary", "given: 3"],
    "prune: {batches: 4.5}": ["prune.batches", "4.5 is neither a whole number from 1 on nor auto"],
    "prune: {batches: 0}": ["prune.batches", "0 is neither a whole number from 1 on nor auto"],
    "prune: {batches: Auto}": ["prune.batches", "'Auto' is neither"],
    "prune: {batches: true}": ["prune.batches", "true is neither"],
    "prune: {settled: 0}": ["prune.settled", "greater than 0", "given: 0"],
    "prune: {settled: 95}": ["prune.settled", "less than 1", "given: 95"],
    "prune: {max_batches: 1}": ["prune.max_batches", "greater than or equal to 2", "given: 1"],
    "prune: {round_to: 0}": ["prune.round_to", "greater than or equal to 1", "given: 0"],
    "seed: false": ["seed", "false is not a number"],
    "seed: -1": ["seed", "given: -1"],
    "name: ../elsewhere": ["name", "pattern", "given: '../elsewhere'"],
    "name: no": ["name", "valid string", "given: False"],
    "version: 2": ["version 2", "up to version 1", "pip install -U madx"],
    "version: '1'": ["version", "given: '1'"],
    "export: {engines: []}": ["export.engines is empty"],
    "export: {engines: {kind: ort-cpu}}": ["export.engines", "given: {'kind': 'ort-cpu'}"],
    "export: {engines: [{kind: ort-cpu}, {}]}": ["export.engines lists ort-cpu-fp32 twice"],
    "export: {engines: [{verify: false}]}": ["every engine of export.engines has verify: false"],
    "export: {opset: 17}": ["export.opset", "given: 17"],
    "verify: {gates: []}": ["verify.gates is empty"],
    "verify: {latency: {ladder: maybe}}": ["verify.latency.ladder: input should be true or false (given: 'maybe')"],
    "verify: {gates: [{metric: speedup, at_most: 2}]}": ["verify.gates.0", "takes at_least, and only that"],
    "verify: {gates: [{metric: robust_drop, at_least: 0, at_most: 1}]}": ["takes at_most, and only that"],
    "verify: {gates: [{metric: retention, at_most: 0.1}]}": ["a gate on retention takes at_least, and only that"],
    "verify: {gates: [{metric: retention, at_least: 1}]}": ["share of the reference's robust accuracy: 1 is not below"],
    "verify: {gates: [{metric: worst_class_drop, at_least: 0.1}]}": ["takes at_most, and only that"],
    "verify: {gates: [{metric: worst_class_drop, at_most: 5}]}": ["share of the images: 5 is not below 1"],
    "verify: {gates: [{metric: robust_drop, at_most: 1}]}": ["could not fail", "1 is not below 1", "0.03 is 3 %"],
    "verify: {gates: [{metric: robust_accuracy, at_least: 1}]}": ["could not pass", "1 is not below 1"],
    "verify: {gates: [{metric: robust_accuracy, at_least: 0}]}": ["at_least: 0 could not fail", "above 0"],
    "verify: {gates: [{metric: speedup, at_least: 0}]}": ["speedup with at_least: 0 could not fail"],
    "verify: {gates: [{metric: p99_ratio, at_most: 0}]}": ["p99_ratio with at_most: 0 could not pass"],
    "verify: {gates: [{metric: size_ratio, at_most: -1}]}": ["size_ratio with at_most: -1 could not pass"],
    "verify: {gates: [{metric: parity_flips, at_most: 0}]}": ["could not pass, as its limits are above 0"],
    "verify: {gates: [{metric: clean_drop, at_most: -0.1}]}": ["would ask for a gain", "is 0"],
    "verify: {sequential: maybe}": ["verify.sequential", "given: 'maybe'"],
    "verify: {gates: [{metric: size_ratio, at_most: 1}, {metric: size_ratio, at_most: 2}]}": [
        "two gates on size_ratio"
    ],
    "verify: {gates: [{metric: robust_drop, at_most: 0.1, confidence: 0.5}]}": ["confidence", "given: 0.5"],
    "data: {name: digits, path: x}": ["data.name: digits reads no files", "data.path"],
    "data: {name: factory, factory: 'a:b', path: x}": ["data.name: factory reads no files", "data.path"],
    "data: {name: npz}": ["data.name: npz needs data.path"],
    "data: {name: imagefolder}": ["needs data.path"],
    "data: {image_size: 32}": ["data.image_size belongs to data.name: imagefolder"],
    "data: {factory: 'a:b'}": ["data.factory belongs to data.name: factory"],
    "data: {name: factory}": ["data.factory belongs to data.name: factory"],
    "model: {name: factory}": ["model.factory belongs to model.name: factory"],
    "model: {name: factory, factory: os.system}": ["model.factory", "'os.system'", "package.module:callable"],
    "model: {args: {x: .nan}}": ["model.args", "finite numbers"],
    "model: {args: {x: 2024-01-01}}": ["model.args", "date"],
    "model: {args: {x: !!binary aGk=}}": ["model.args", "bytes"],
    "model: {weights: ~nosuchuser/weights.pt}": ["'~nosuchuser/weights.pt' cannot be resolved"],
    'model: {weights: "a\\0b"}': ["cannot be resolved", "null"],
}


@pytest.mark.parametrize("text", VALUES)
def test_mistakes_are_named(text: str) -> None:
    message = refused(text)
    assert all(part in message for part in VALUES[text]), message
    assert "\n" not in message


def test_each_mistake_has_its_line() -> None:
    lines = refused("seed: -1\nprune: {sparsity: 2, batches: 0}\nnonsense: 1").splitlines()
    starts = ["seed: ", "prune.sparsity: ", "prune.batches: ", "unknown key 'nonsense'"]
    assert len(lines) == len(starts)
    assert all(any(line.startswith(f"r.yaml: {start}") for line in lines) for start in starts)


def test_long_values_are_cut() -> None:
    assert len(refused("name: '" + "x" * 100_000 + "!'")) < 500


NO_YAML = {
    "duplicate": ("name: a\nname: b", "'name' stands twice"),
    "nested duplicate": ("prune: {sparsity: 0.5, sparsity: 0.6}", "'sparsity' stands twice"),
    "tab": ("\tname: x", "at line 2, column 1: name: x ^; YAML is indented with blanks, not tabs"),
    "NUL": ("name: a\0b", "#x0000"),
    "two documents": ("name: a\n---\nname: b", "single document"),
    "unclosed": ("name: [a", "not valid YAML"),
    "number as key": ("1: 2", "the key 1 is not text"),
    "list as key": ("? [1, 2]\n: 3", "the key [1, 2] is not text"),
    "null as key": ("~: 3", "the key None is not text"),
    "alias": ("threat: &t {eps: 0.1}\nverify: *t", "the alias *t has no place in a recipe"),
    "merge key": ("prune: {<<: {sparsity: 0.1}}", "'<<' is not text"),
    "loop": ("model: &m {args: *m}", "alias *m"),
    "code": ("name: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    "impossible date": ("name: 2024-99-99", "month must be in 1..12"),
    "empty int": ("seed: !!int ''", "not valid YAML"),
    "bad timestamp": ("name: !!timestamp x", "not valid YAML"),
    "bad bool": ("name: !!bool x", "not valid YAML"),
    "endless digits": ("seed: " + "9" * 5000, "not valid YAML"),
    "deep": ("name: " + "[" * 3000, "not valid YAML"),
}


@pytest.mark.parametrize("name", NO_YAML)
def test_what_is_not_the_yaml_of_a_recipe(name: str) -> None:
    text, part = NO_YAML[name]
    message = refused(text)
    assert message.startswith("r.yaml: not valid YAML: ")
    assert part in message


def test_a_billion_laughs_end_at_the_first() -> None:
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    started = time.process_time()
    assert "alias *a0" in refused("\n".join([*lines, "name: *a11"]))
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("text", "kind"), [("- 1", "list"), ("just text", "str"), ("3", "int"), ("2024-01-01", "date"), ("true", "bool")]
)
def test_a_recipe_is_a_mapping(text: str, kind: str) -> None:
    with pytest.raises(RecipeError, match=f"r.yaml: a recipe is a mapping of sections, this is a {kind}"):
        parse_recipe(text, source="r.yaml")


@pytest.mark.parametrize("text", ["", "# only a comment", "---", "train: null"])
def test_nothing_to_prune(text: str) -> None:
    """A file from outside can be judged by such a recipe, and nothing can be made."""
    recipe = parse_recipe(text, source="r.yaml")
    with pytest.raises(RecipeError, match=r"give a train section, or model\.weights"):
        require_network(recipe)
    require_network(parse_recipe(TRAINED, source="r.yaml"))
    require_network(parse_recipe("model: {weights: w.pt}", source="r.yaml"))


@pytest.mark.parametrize(
    ("text", "eps"),
    [
        ("8/255", 8 / 255),
        ("' 8 / 255 '", 8 / 255),
        ("0.1", 0.1),
        ("1", 1.0),
        ("1e-3", 0.001),
        ("1E-3", 0.001),
        ("+1e-3", 0.001),
        ("'0.5/2'", 0.25),
        ("1.e-2", 0.01),
    ],
)
def test_numbers_as_people_write_them(text: str, eps: float) -> None:
    assert parsed(f"threat: {{eps: {text}}}").threat.eps == eps


@pytest.mark.parametrize("text", ["2:4", "'2:4'", "channels+2:4"])
def test_a_structure_with_a_colon_needs_no_quotes(text: str) -> None:
    assert parsed(f"prune: {{structure: {text}}}").prune.structure == text.strip("'")


def test_eps_of_l2_may_be_large() -> None:
    assert parsed("threat: {norm: l2, eps: 2}").threat.eps == 2


OVERRIDES: list[tuple[str, tuple[str, ...], Any]] = [
    ("prune.sparsity=0.6", ("prune", "sparsity"), 0.6),
    ("prune.finetune.lr=1e-3", ("prune", "finetune", "lr"), 0.001),
    ("prune.finetune=null", ("prune", "finetune"), None),
    ("threat.eps=4/255", ("threat", "eps"), 4 / 255),
    ("train.attack.steps=3", ("train", "attack", "steps"), 3),
    ("model.args={widths: [1, 2, 3]}", ("model", "args"), {"widths": [1, 2, 3]}),
    ("model.args.widths=[1, 2, 3]", ("model", "args"), {"widths": [1, 2, 3]}),
    ("model.args.text=a=b", ("model", "args"), {"text": "a=b"}),
    (" seed =7", ("seed",), 7),
]


@pytest.mark.parametrize(("override", "keys", "value"), OVERRIDES)
def test_overrides(override: str, keys: tuple[str, ...], value: Any) -> None:
    found: Any = parsed("", override)
    for key in keys:
        found = getattr(found, key)
    assert found == value


def test_overrides_replace_and_the_last_one_counts() -> None:
    recipe = parsed("prune: {sparsity: 0.3, batches: 7}", "prune.sparsity=0.6", "prune.sparsity=0.7")
    assert (recipe.prune.sparsity, recipe.prune.batches) == (0.7, 7)
    engines = parsed("", "export.engines=[{kind: tensorrt, precision: fp16}]").export.engines
    assert [engine.name for engine in engines] == ["tensorrt-fp16"]


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("prune.sparsity", "not of the form section.key=value"),
        ("=1", "not of the form section.key=value"),
        ("prune..sparsity=1", "not of the form section.key=value"),
        (".seed=1", "not of the form section.key=value"),
        ("seed.x=1", "seed is not a section of the recipe"),
        ("export.engines.kind=tensorrt", "export.engines is not a section"),
        ("prune.sparsity=[1", "--set 'prune.sparsity=[1': not valid YAML"),
        ("prune.sparsity=2", "prune.sparsity: input should be less than 1 (given: 2)"),
        ("prune.sparsity=", "given: None"),
        ("prune.sparcity=0.5", "did you mean 'sparsity'?"),
    ],
)
def test_overrides_that_are_wrong(override: str, part: str) -> None:
    message = refused("seed: 1\nexport: {engines: [{}]}", override)
    assert part in message
    assert "\n" not in message


def test_paths_are_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "recipe.yaml"
    file.write_text("data: {name: npz, path: ../images.npz}\nmodel: {weights: weights.pt}\n")
    monkeypatch.chdir(tmp_path)
    for path in (file, Path("deep/recipe.yaml")):
        recipe = load_recipe(path)
        assert recipe.data.path == tmp_path / "images.npz"
        assert recipe.model.weights == tmp_path / "deep" / "weights.pt"
    monkeypatch.setenv("HOME", str(tmp_path))
    file.write_text("data: {name: npz, path: /abs/x.npz}\nmodel: {weights: ~/w.pt}\n")
    assert load_recipe(file).data.path == Path("/abs/x.npz")
    assert load_recipe(file).model.weights == tmp_path / "w.pt"


@pytest.mark.parametrize("path", ["images.npz", "../images.npz", "/abs/x.npz", "~/x.npz"])
def test_a_path_is_also_known_as_it_was_written(tmp_path: Path, path: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"data: {{name: npz, path: {path}}}\nmodel: {{weights: {path}}}\nseed: 1\n")
    written = load_written(file, ["seed=2"])
    assert (written.data.path, written.model.weights, written.seed) == (Path(path), Path(path), 2)
    assert resolve_paths(written, tmp_path) == load_recipe(file, ["seed=2"])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"there is no recipe .*nowhere\.yaml; `madx init"):
        load_recipe(tmp_path / "nowhere.yaml")
    with pytest.raises(RecipeError, match="cannot be read: Is a directory; expected a YAML file"):
        load_recipe(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: café".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin\.yaml is not UTF-8 text .*expected a YAML file"):
        load_recipe(latin)
    marked = tmp_path / "marked.yaml"
    marked.write_bytes(b"\xef\xbb\xbfname: marked\r\ntrain: {}\r\n")
    assert load_recipe(marked).name == "marked"


def attempt(text: str) -> Recipe | str:
    """The recipe, or what its error says; any other error is a bug."""
    try:
        return resolve_paths(parse_recipe(text, source="r.yaml"), Path("/base"))
    except RecipeError as error:
        return str(error)


@given(text=st.text(max_size=60))
@settings(max_examples=300)
def test_any_text_is_a_recipe_or_a_recipe_error(text: str) -> None:
    assert attempt(text)


YAML_WORDS = [
    "name",
    "prune",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "&a ",
    "*a",
    "!!int ",
    "!!set ",
    "|",
    "\n",
    "  ",
    "'",
    "1",
]


@given(words=st.lists(st.sampled_from(YAML_WORDS), max_size=25))
@settings(max_examples=300)
def test_any_yaml_like_text_too(words: list[str]) -> None:
    text = "".join(words)
    assert attempt(text)


@pytest.mark.parametrize(("text", "batches"), [("auto", "auto"), ("40", 40), ("'40'", 40), ("1", 1)])
def test_batches_are_counted_or_left_to_the_saliency(text: str, batches: int | str) -> None:
    assert parsed(f"prune: {{batches: {text}}}").prune.batches == batches
