"""Which gate a verdict hangs on, and the one command that gets further."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import report_cases as cases

from madx.recipe import EngineConfig, GateConfig, Recipe, TrainConfig, parse_recipe
from madx.report import headline
from madx.report.headline import deciding
from madx.report.next_step import NOTHING_TYPED, Invocation, Step, command
from madx.verify import GateResult, Outcome, Remedy, Verdict, judge

PASS, FAIL, INCONCLUSIVE = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE
SPEED = GateConfig(metric="speedup", at_least=1.5)
DROP = GateConfig(metric="robust_drop", at_most=0.03)


def recipe(**sections):
    return Recipe.model_validate({"train": {}} | sections).model_dump(mode="json")


def provenance(images=1000, split=10_000, **facts):
    return {"gate_images": {"images": images, "split": split}} | facts


def told(measured, gates=(SPEED, DROP), *, of=None, missing=None, **facts):
    verdict = judge(measured, gates, missing=missing or {})
    return headline(verdict, of or recipe(), provenance(**facts)), verdict


def gate(metric, lower, upper, outcome, bound=None, direction="at_most", **rest):
    bound = {"speedup": 1.5, "robust_drop": 0.03, "clean_drop": 0.02}[metric] if bound is None else bound
    direction = "at_least" if metric == "speedup" else direction
    return GateResult("e", metric, bound, direction, (lower + upper) / 2, lower, upper, 0.95, outcome, (), **rest)


@pytest.mark.parametrize(
    ("gates", "decides"),
    [
        # PASS: 2.1 against 1.5 is 40 % away, 2.9 against 3 points 3 %, 1 against 2 points half
        (
            [
                gate("speedup", 2.1, 2.2, PASS),
                gate("robust_drop", 0.0, 0.029, PASS),
                gate("clean_drop", 0.0, 0.01, PASS),
            ],
            1,
        ),
        # FAIL: 1.2 lacks a fifth of 1.5, 4 points are a third beyond 3; what passes or is open does not decide
        (
            [
                gate("speedup", 1.1, 1.2, FAIL),
                gate("robust_drop", 0.04, 0.09, FAIL),
                gate("clean_drop", 0.0, 0.03, INCONCLUSIVE),
            ],
            1,
        ),
        ([gate("speedup", 0.5, 0.6, FAIL), gate("robust_drop", 0.031, 0.09, FAIL)], 0),
        ([gate("clean_drop", 0.005, 0.01, FAIL, bound=0.0), gate("robust_drop", 0.031, 0.09, FAIL)], 0),
        (
            [
                gate("speedup", 1.4, 1.6, INCONCLUSIVE, remedy=Remedy.MORE_TIMING),
                gate("robust_drop", 0.01, 0.05, INCONCLUSIVE, remedy=Remedy.MORE_IMAGES),
                gate("clean_drop", 0.01, 0.05, INCONCLUSIVE, remedy=Remedy.MEND_ENGINE),
            ],
            2,
        ),
        ([gate("speedup", 1.4, 1.6, INCONCLUSIVE), gate("robust_drop", 0.0, 0.02, PASS)], 0),
    ],
    ids=["pass", "fail", "fail by speed", "a bound of 0", "what is due first", "of an older madx"],
)
def test_the_gate_that_decides(gates, decides):
    verdict = Verdict(tuple(gates))
    assert deciding(verdict) is gates[decides]
    found = headline(verdict, recipe(), provenance())
    assert (found.gate, found.engine) == (gates[decides].metric, "e")


def test_images_are_asked_for_as_the_discordance_says():
    """30 lost and 4 gained of 1,000: (1.645 + 0.842)^2 x 0.034 / (0.03 - 0.026)^2 = 13,137 images for 80 %."""
    measured = [cases.measurements(lost=30)]
    found, _ = told(measured, split=60_000)
    assert found.remedy is Remedy.MORE_IMAGES
    assert found.step == Step("verify", {"verify.images": "14000"})
    assert "13138 images" in found.sentence


@pytest.mark.parametrize(
    ("images", "split", "data", "remedy", "step"),
    [
        (1000, 13_999, {}, Remedy.MORE_IMAGES, Step("verify", {"verify.images": "13999"})),
        (1000, 1000, {}, Remedy.RECOVER_ACCURACY, Step("run", {"prune.finetune.epochs": "4"})),
        (1000, 1000, {"gate": 1000}, Remedy.MORE_IMAGES, Step("run", {"data.gate": "14000"})),
    ],
    ids=["all that there are", "there are no more", "the recipe holds some back"],
)
def test_no_more_images_than_there_are(images, split, data, remedy, step):
    found, _ = told([cases.measurements(lost=30)], of=recipe(data=data), images=images, split=split)
    assert (found.remedy, found.step) == (remedy, step)
    assert f"{split:,}" in found.sentence


def test_pairs_are_asked_for_as_their_spread_says():
    found, verdict = told([cases.measurements(speedup=1.5, noise=0.02)])
    pairs = verdict.gates[0].wanted_pairs
    assert pairs > 2000, "more pairs than can be evaluated"
    settings = {"verify.latency.pairs": "2000", "verify.latency.block_calls": str(-(-20 * pairs // 2000))}
    assert found.step == Step("verify", settings, only_latency=True)
    found, verdict = told([cases.measurements(speedup=1.5, noise=0.1)])
    assert verdict.gates[0].wanted_pairs > 40
    assert f"about {verdict.gates[0].wanted_pairs:,} pairs" in found.sentence


def test_what_is_undecided_on_time_too_is_asked_for_at_once():
    found, verdict = told([cases.measurements(lost=30, speedup=1.5, noise=0.02)], split=60_000)
    assert [one.remedy for one in verdict.gates] == [Remedy.MORE_TIMING, Remedy.MORE_IMAGES]
    assert found.remedy is Remedy.MORE_IMAGES
    assert set(found.step.settings) == {"verify.images", "verify.latency.pairs", "verify.latency.block_calls"}
    assert not found.step.only_latency


def restless(measured):
    waiting = np.full(len(measured.latency.order), 0.5)
    latency = replace(measured.latency, machine=measured.latency.machine | {"waiting": waiting}, cpu=None)
    return replace(measured, latency=latency)


FP16 = EngineConfig(kind="openvino-cpu", precision="fp16", threads=1)


def strange(measured):
    side = measured.parity.candidate
    flips = np.ones(side.images, dtype=bool)
    changed = replace(side, flips_clean=flips, flips_adversarial=flips)
    return replace(measured, engine=FP16.name, parity=replace(measured.parity, candidate=changed))


GIVEN = {"given": {"engine": {}}, "attack": {"query_only": True}}


@pytest.mark.parametrize(
    ("measured", "facts", "remedy", "line"),
    [
        ([restless(cases.measurements())], {}, "QUIETER_MACHINE", "verify RECIPE --only latency"),
        (
            [strange(cases.measurements())],
            {"of": recipe(export={"engines": [FP16]})},
            "MEND_ENGINE",
            "run RECIPE --set 'export.engines=[{kind: openvino-cpu, threads: 1}]'",
        ),
        ([cases.lone(cases.measurements())], GIVEN, "GIVE_REFERENCE", "verify RECIPE --reference REFERENCE.onnx"),
        (
            [cases.lone(cases.measurements())],
            GIVEN | {"attack": {"query_only": False}},
            "GIVE_REFERENCE",
            "verify RECIPE --reference REFERENCE.onnx --reference-twin REFERENCE.safetensors",
        ),
        (
            [cases.blind(cases.measurements())],
            GIVEN | {"given": {"engine": {}, "reference": {}}},
            "GIVE_TWIN",
            "verify RECIPE --twin WEIGHTS.safetensors --reference-twin REFERENCE.safetensors",
        ),
        (
            [cases.measurements(lost=0, gained=0, images=20)],
            {"images": 20},
            "MORE_IMAGES",
            "verify RECIPE --set verify.images=350",
        ),
        ([cases.measurements(lost=150)], {}, "RECOVER_ACCURACY", "run RECIPE --set prune.sparsity=0.4"),
        ([cases.measurements(lost=60)], {}, "RECOVER_ACCURACY", "run RECIPE --set prune.finetune.epochs=4"),
        (
            [cases.measurements(lost=60)],
            {"of": recipe(prune={"structure": "2:4", "finetune": {"epochs": 1.5}})},
            "RECOVER_ACCURACY",
            "run RECIPE --set prune.finetune.epochs=3",
        ),
        ([cases.measurements(speedup=1.2)], {}, "FASTER_CANDIDATE", "run RECIPE --set prune.sparsity=0.6"),
        (
            [cases.measurements(speedup=1.2)],
            {"of": recipe(prune={"structure": "2:4"})},
            "FASTER_CANDIDATE",
            "run RECIPE --set prune.structure=channels",
        ),
        ([cases.measurements(speedup=1.2)], GIVEN, "FASTER_CANDIDATE", "verify RECIPE"),
        (
            [cases.measurements()],
            {"of": recipe(verify={"attack": "quick"})},
            "STRONGER_ATTACK",
            "verify RECIPE --set verify.attack=standard",
        ),
        (
            [cases.measurements()],
            {"of": recipe(verify={"attack": {"steps": 3}})},
            "STRONGER_ATTACK",
            "verify RECIPE --set verify.attack=standard",
        ),
        ([cases.measurements()], {"of": recipe(verify={"attack": "paranoid"})}, None, None),
        ([cases.measurements()], {"gates": [SPEED]}, None, None),
    ],
)
def test_the_command_that_gets_further(measured, facts, remedy, line):
    found, _ = told(measured, **facts)
    assert found.remedy == (remedy and Remedy[remedy])
    assert found.command(NOTHING_TYPED) == (line and f"madx {line}")


def test_an_engine_that_is_missing_comes_before_all_else():
    missing = {"openvino-cpu-fp32": "it could not be built: no module; install it with: pip install 'madx[openvino]'"}
    found, _ = told([restless(cases.measurements())], missing=missing)
    assert (found.engine, found.remedy) == ("openvino-cpu-fp32", Remedy.INSTALL_ENGINE)
    typed = Invocation("a b.yaml", "runs/x")
    assert found.command(typed) == "pip install 'madx[openvino]' && madx run 'a b.yaml' --run-dir runs/x"


def test_a_reference_that_knows_nothing_is_trained_longer_or_replaced():
    measured = cases.measurements()
    accuracy = replace(
        measured.accuracy,
        clean_reference=measured.accuracy.clean_reference & False,
        standing_reference=measured.accuracy.standing_reference & False,
    )
    measured = [replace(measured, accuracy=accuracy)]
    found, verdict = told(measured)
    assert verdict.outcome is INCONCLUSIVE
    assert (found.remedy, found.step) == (Remedy.ROBUST_REFERENCE, Step("run", {"train.epochs": "30"}))
    found, _ = told(measured, of=recipe(train=None, model={"weights": "w.safetensors"}))
    assert found.step == Step("run", {"model.weights": "ROBUST.safetensors"})


@pytest.mark.parametrize("remedy", [Remedy.MORE_IMAGES, Remedy.RECOVER_ACCURACY, Remedy.FASTER_CANDIDATE])
def test_a_gate_on_a_metric_of_a_package_that_has_gone_has_a_sentence_and_a_command(remedy):
    gone = gate("of_a_package", 0.1, 0.3, INCONCLUSIVE, bound=0.2, remedy=remedy, more_images=500)
    found = headline(Verdict((gone,)), recipe(), provenance())
    assert "of_a_package" in found.sentence
    assert found.step is not None


def test_nothing_measured_has_no_command():
    found = headline(Verdict(()), {}, {})
    assert (found.gate, found.engine, found.remedy, found.step) == (None, None, None, None)


@pytest.mark.parametrize("name", cases.CONTENTS)
def test_every_verdict_has_a_sentence(name):
    content = cases.CONTENTS[name]
    assert content.headline.sentence
    assert "\n" not in content.headline.sentence


def test_a_command_repeats_what_was_typed_but_for_what_changes():
    typed = Invocation(
        "recipes/my net.yaml",
        "runs/y",
        ("verify.images=100", "prune={sparsity: 0.6}"),
        {"--baseline": "runs/last"},
    )
    step = Step("verify", {"verify.images": "6000"}, only_latency=True)
    line = command(step, typed)
    assert line == (
        "madx verify 'recipes/my net.yaml' --run-dir runs/y --baseline runs/last --set 'prune={sparsity: 0.6}' "
        "--set verify.images=6000 --only latency"
    )
    assert shlex.split(line)[2] == typed.recipe


def test_settings_of_a_command_are_settings_of_a_recipe():
    """Whatever the step changes, the recipe takes it."""
    measured = cases.measurements
    contents = [
        told([measured(lost=30)])[0],
        told([measured(lost=150)])[0],
        told([measured(speedup=1.2)])[0],
        told([strange(measured())], of=recipe(export={"engines": [FP16]}))[0],
        told([measured(speedup=1.51, noise=0.02)])[0],
    ]
    for found in contents:
        overrides = [f"{key}={value}" for key, value in found.step.settings.items()]
        assert overrides
        parse_recipe("train: {}", source="test", overrides=overrides)
    assert Recipe(train=TrainConfig()).prune.finetune.epochs == 2  # what the sentences above rest on


def test_readers_elsewhere_are_told_no_folders_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    typed = Invocation(
        str(tmp_path / "recipes/a.yaml"),
        "/elsewhere/runs/x",
        ("data.path=/home/somebody/images", "verify.images=5", "prune.sparsity=0.5"),
        {"--baseline": "../last"},
    )
    assert Invocation.from_json(json.loads(json.dumps(typed.to_json()))) == typed
    assert typed.portable() == Invocation(
        "recipes/a.yaml", "x", ("data.path=images", "verify.images=5", "prune.sparsity=0.5"), {"--baseline": "../last"}
    )
