"""A package's own criterion, attack suite, engine and metric are named in a recipe like madx's."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import Cli
from report_cases import measurements

from madx import tables
from madx.attacks import SUITES
from madx.deploy.engine import availabilities, backend, check_runs, kinds
from madx.errors import MadxError, RecipeError
from madx.pipeline import keys, verifying
from madx.pipeline.exporting import availability_record
from madx.prune import CRITERIA
from madx.recipe import METRICS, GateConfig, parse_recipe
from madx.recipe.engines import ENGINE_KINDS
from madx.verify import judge

ROWS = '''
import torch

from madx.attacks import Apgd, Suite
from madx.prune import Criterion
from madx.recipe import EngineKind, Metric
from madx.verify.image_findings import share_finding


def snip(model, x_adv, y, generator):
    """Lee et al. 2019, on adversarial images: |gradient times weight|."""
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(x_adv), y).backward()
    return {name: (p.grad * p).abs().detach() for name, p in model.named_parameters() if p.dim() > 1}


def still_right(accuracy, gate, sequential):
    both = accuracy.clean_candidate & accuracy.robust_candidate
    return share_finding(both, gate, word="right with and without an attack", sequential=sequential)


CRITERION = Criterion(snip, passes=1)
SUITE = Suite("ours", twin=(Apgd(steps=3),), in_the_loop=(Apgd(steps=2),), query=())
ENGINE = EngineKind("extra_rows:Plain", on_gpu=False)
METRIC = Metric("at_least", "share", "gate images", title="right twice", meaning="right with and without an attack",
                at_best="every image were right", on_robustness=True, compares=False, find=still_right)
UNSAID = Metric("at_least", "share", "gate images", title="t", meaning="m", at_best="b", compares=False,
                find=still_right)
FAILS = Metric("at_least", "share", "gate images", title="t", meaning="m", at_best="b", compares=False,
               on_robustness=False, find=lambda accuracy, gate, sequential: 1 / 0)
NO_FINDING = Metric("at_least", "share", "gate images", title="t", meaning="m", at_best="b", compares=False,
                    on_robustness=False, find=lambda accuracy, gate, sequential: 0.5)
BROKEN = EngineKind("extra_rows:broken", on_gpu=False)


def broken(kind):
    raise KeyError(kind)


UNFOUND = Metric("at_least", "share", "gate images", title="t", meaning="m", at_best="b")
NO_ROW = 3


UNSURE = EngineKind("extra_rows:unsure", on_gpu=False)
SILENT = EngineKind("extra_rows:silent", on_gpu=False)
FAR = EngineKind("extra_backend:Plain", on_gpu=False)


def unsure(kind):
    made = Plain(kind)
    made.availability = lambda: {}["driver"]
    return made


def silent(kind):
    made = Plain(kind)
    made.availability = lambda: None
    return made


def Plain(kind):
    from madx.deploy.ort import OrtBackend

    made = OrtBackend("ort-cpu")
    made.kind = kind
    return made
'''
POINTS = """
[madx.criteria]
snip = extra_rows:CRITERION
mad = extra_rows:CRITERION
wrong = extra_rows:NO_ROW
gone = extra_gone:CRITERION

[madx.attacks]
ours = extra_rows:SUITE

[madx.engines]
ort-plain = extra_rows:ENGINE
ort-broken = extra_rows:BROKEN
ort-unsure = extra_rows:UNSURE
ort-silent = extra_rows:SILENT
ort-far = extra_rows:FAR

[madx.metrics]
right_twice = extra_rows:METRIC
unfound = extra_rows:UNFOUND
unsaid = extra_rows:UNSAID
fails = extra_rows:FAILS
no_finding = extra_rows:NO_FINDING
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A package as pip leaves it; call it to install another with other entry points."""

    def install(name: str = "extra", points: str = POINTS) -> None:
        folder = tmp_path / "site" / f"{name}-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(points)
        tables.installed.cache_clear()

    install()
    (tmp_path / "site/extra_rows.py").write_text(ROWS)
    (tmp_path / "site/extra_backend").mkdir()
    (tmp_path / "site/extra_backend/__init__.py").write_text("from extra_rows import Plain\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield install
    monkeypatch.undo()
    for name in ("extra_rows", "extra_backend"):
        sys.modules.pop(name, None)
    tables.installed.cache_clear()


NAMED = """
data: {name: digits}
model: {weights: w.safetensors}
prune: {criterion: snip}
export: {engines: [{kind: ort-plain}]}
verify: {attack: ours, gates: [{metric: right_twice, at_least: 0.1}]}
"""


@pytest.mark.usefixtures("package")
def test_a_recipe_names_a_packages_rows() -> None:
    recipe = parse_recipe(NAMED, source="here")
    assert CRITERIA[recipe.prune.criterion].passes == 1
    assert SUITES["ours"].name == "ours"
    assert backend("ort-plain").kind == "ort-plain"
    assert recipe.export.engines[0].on_gpu is False
    assert recipe.verify.gates[0].about is METRICS["right_twice"]
    added = ("plain", "broken", "unsure", "silent", "far")
    assert [*kinds()] == [*ENGINE_KINDS.own, *(f"ort-{name}" for name in added)]


def test_without_the_package_the_recipe_is_refused_and_says_where_rows_come_from() -> None:
    with pytest.raises(RecipeError) as refused:
        parse_recipe(NAMED, source="here")
    for key, group in (
        ("prune.criterion", "criteria"),
        ("kind", "engines"),
        ("attack", "attacks"),
        ("metric", "metrics"),
    ):
        assert any(key in line and f"entry points of madx.{group}" in line for line in str(refused.value).splitlines())


@pytest.mark.usefixtures("package")
def test_a_name_of_madx_stays_madxs() -> None:
    assert CRITERIA["mad"] is CRITERIA.own["mad"]
    assert list(CRITERIA).count("mad") == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [("wrong", "is int, expected madx.prune.criteria.Criterion"), ("gone", "cannot be imported: ModuleNotFoundError")],
)
@pytest.mark.usefixtures("package")
def test_what_is_no_row_is_refused_with_its_name(name: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as refused:
        CRITERIA[name]
    assert f"'{name}' of madx.criteria (extra_" in str(refused.value)


def test_two_packages_cannot_share_a_name(package: Callable[..., None]) -> None:
    package("other", "[madx.criteria]\nsnip = other:CRITERION\n")
    with pytest.raises(RecipeError, match=r"two installed packages add 'snip' to madx\.criteria"):
        CRITERIA["snip"]


@pytest.mark.usefixtures("package")
def test_a_metric_that_nothing_finds_is_no_gate() -> None:
    with pytest.raises(ValueError, match="unfound of an installed package has no `find`"):
        GateConfig(metric="unfound", at_least=0.5)


@pytest.mark.usefixtures("package")
def test_a_metric_says_whether_it_rests_on_attacks() -> None:
    with pytest.raises(ValueError, match="unsaid of an installed package does not say `on_robustness`"):
        GateConfig(metric="unsaid", at_least=0.5)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(("name", "said"), [("fails", "ZeroDivisionError"), ("no_finding", "`find` gave float")])
def test_a_metric_that_fails_is_its_packages_error(name: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as told:
        judge([measurements()], [GateConfig(metric=name, at_least=0.5)])
    assert f"'{name}' of madx.metrics (extra_rows:" in str(told.value)


@pytest.mark.usefixtures("package")
def test_an_engine_that_is_broken_hides_no_other() -> None:
    found = availabilities()
    assert found["ort-cpu"].can_run
    assert not found["ort-broken"].can_run
    assert "'ort-broken' of madx.engines (extra_rows:BROKEN) failed: KeyError" in found["ort-broken"].reason


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("kind", "said"), [("ort-unsure", "failed: KeyError: 'driver'"), ("ort-silent", "`availability` gave NoneType")]
)
def test_an_engine_that_cannot_say_what_it_can_do_can_do_nothing(
    kind: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is asked: the engine is missing, as one whose runtime is not installed."""
    recipe = parse_recipe(NAMED.replace("ort-plain", kind), source="here")
    [config] = recipe.export.engines
    record = availability_record(config)
    assert (record["built"], record["can_run"], said in record["reason"]) == (False, False, True)
    monkeypatch.setattr(keys, "_common", lambda *_: {})
    context = SimpleNamespace(recipe=recipe)
    assert keys.export(context)["can_build"] == keys.verify(context)["can_run"] == {config.name: False}
    built = {"built": True, "reason": ""}
    monkeypatch.setattr(verifying, "build_record", lambda *_: built)
    assert said in verifying.why_missing(context, config)
    with pytest.raises(MadxError):
        check_runs(backend(kind), config)


@pytest.mark.usefixtures("package")
def test_an_engines_code_is_followed_into_another_package(tmp_path: Path) -> None:
    """The row of one names the backend of another, and the backend is what runs."""
    before = ENGINE_KINDS.code("ort-far")
    code = tmp_path / "site/extra_backend/__init__.py"
    code.write_text(f"{code.read_text()}# otherwise\n")
    now = ENGINE_KINDS.code("ort-far")
    assert keys.differences(before, now) == ["madx.engines:ort-far:extra_backend"]
    shutil.rmtree(code.parent)
    sys.modules.pop("extra_backend")
    with pytest.raises(RecipeError, match=r"'ort-far' of madx\.engines .* failed: ModuleNotFoundError"):
        ENGINE_KINDS.code("ort-far")


@pytest.mark.usefixtures("package")
def test_gates_of_a_package_judge_and_are_no_reason_to_measure_again() -> None:
    asked = {"metric": "right_twice", "at_least": 0.5}
    depends = {"verify": {"sequential": False, "gates": [asked]}, **METRICS.code("right_twice")}
    assert METRICS.code("right_twice")
    assert keys.measuring(depends) == keys.measuring({"verify": {"sequential": False, "gates": []}})


def test_nothing_is_imported_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit('somebody else')")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    backend("ort-cpu")
    assert sys.path == before


@pytest.mark.usefixtures("package")
def test_the_code_of_a_package_is_part_of_the_key(tmp_path: Path) -> None:
    assert CRITERIA.code("mad") == {}
    before = CRITERIA.code("snip")
    (tmp_path / "site/extra_rows.py").write_text(f"{ROWS}# otherwise\n")
    assert before.keys() == CRITERIA.code("snip").keys() == {"madx.criteria:snip"}
    assert before != CRITERIA.code("snip")


@pytest.mark.slow
@pytest.mark.usefixtures("package")
def test_a_run_with_rows_of_a_package_ends_in_a_verdict(tiny_recipe: Path, tmp_path: Path, cli: Cli) -> None:
    settings = (
        *("prune.criterion=snip", "verify.attack=ours", "export.engines=[{kind: ort-plain, threads: 1}]"),
        "verify.gates=[{metric: right_twice, at_least: 0.01}]",
    )
    words = [word for setting in settings for word in ("--set", setting)]
    answer = cli("run", tiny_recipe, "--run-dir", tmp_path / "run", *words)
    assert answer.code in (0, 3), answer.out  # a suite of few steps may leave doubts
    verdict = json.loads((tmp_path / "run/verdict.json").read_text())
    (gate,) = verdict["gates"]
    assert (gate["engine"], gate["metric"]) == ("ort-plain-fp32", "right_twice")
    assert gate["lower"] > gate["bound"]
    assert "right twice" in (tmp_path / "run/report.html").read_text()
