"""What was not measured decides no gate: each metric without a reference, without a twin, and by consent."""

from dataclasses import replace

import numpy as np
import pytest
from report_cases import blind, lone, measurements

from madx.errors import ArtifactError, MadxError
from madx.recipe import METRICS, GateConfig
from madx.verify import Accuracy, Measurements, Outcome, Soundness, Subject, decided, gates, judge
from madx.verify.findings import finding
from madx.verify.remedies import Remedy

SHARES = {
    "robust_accuracy": {"at_least": 0.1},
    "clean_accuracy": {"at_least": 0.1},
    "parity_flips": {"at_most": 0.1},
}
COMPARISONS = {
    "speedup": {"at_least": 1.01},
    "p99_ratio": {"at_most": 0.99},
    "robust_drop": {"at_most": 0.2},
    "clean_drop": {"at_most": 0.2},
    "retention": {"at_least": 0.5},
    "worst_class_drop": {"at_most": 0.5},
    "size_ratio": {"at_most": 0.9},
}


def result(measured, metric, **changes):
    bounds = SHARES.get(metric) or COMPARISONS[metric]
    (gate,) = judge([measured], [GateConfig(metric=metric, **bounds | changes)]).gates
    return gate


def test_no_metric_is_left_out():
    assert SHARES.keys() | COMPARISONS.keys() == METRICS.keys()


@pytest.mark.parametrize("metric", COMPARISONS)
def test_without_a_reference_nothing_is_compared(metric):
    gate = result(lone(measurements()), metric)
    assert (gate.outcome, gate.estimate, gate.lower, gate.upper) == (Outcome.INCONCLUSIVE, None, None, None)
    assert "add --reference dense.onnx, or --baseline" in gate.evidence[0]
    assert gate.remedy is Remedy.GIVE_REFERENCE


@pytest.mark.parametrize("metric", COMPARISONS)
@pytest.mark.parametrize("why", ["", "the control was biased"], ids=["judged", "void"])
def test_every_comparison_names_the_bytes_of_the_baseline(metric, why, monkeypatch):
    """Also the one that decides nothing: which release it was compared with is what its reader asks first."""
    monkeypatch.setattr(gates, "finding", lambda *a, **k: replace(finding(*a, **k), void=(why,) if why else ()))
    gate = result(replace(measurements(), reference=Subject("baseline", "ab" * 32)), metric)
    assert (gate.outcome is Outcome.INCONCLUSIVE) or not why
    assert len([sentence for sentence in gate.evidence if "ab" * 32 in sentence]) == 1
    assert (why in gate.evidence) is bool(why)


@pytest.mark.parametrize("metric", [*SHARES, *COMPARISONS])
def test_a_reference_that_is_fed_wrongly_forbids_a_pass_of_what_compares_with_it(metric):
    doubted = result(replace(measurements(), reference_doubts=("Fed 0 to 255 it is better.",)), metric)
    told = [sentence for sentence in doubted.evidence if "Fed 0 to 255 it is better." in sentence]
    assert bool(told) is (metric in COMPARISONS)
    if told:
        assert doubted.outcome is not Outcome.PASS
        assert doubted.outcome is Outcome.FAIL or doubted.remedy is Remedy.FEED_REFERENCE
    else:
        assert doubted.outcome is Outcome.PASS


def test_doubts_about_the_reference_survive_their_file():
    measured = replace(measurements(), reference_doubts=("One.", "Two."))
    assert Measurements.from_arrays(measured.to_arrays()).reference_doubts == ("One.", "Two.")


@pytest.mark.parametrize("metric", SHARES)
def test_absolute_gates_need_no_reference(metric):
    alone, beside = result(lone(measurements()), metric), result(measurements(), metric)
    assert (alone.outcome, alone.estimate, alone.lower, alone.upper) == (
        Outcome.PASS,
        beside.estimate,
        beside.lower,
        beside.upper,
    )


@pytest.mark.parametrize("metric", ["robust_accuracy", "robust_drop", "retention", "worst_class_drop"])
def test_queries_pass_a_gate_on_robustness_only_by_its_own_consent(metric):
    whole, queries = measurements(lost=0), blind(measurements(lost=0))
    assert result(whole, metric).outcome is Outcome.PASS
    refused, accepted = result(queries, metric), result(queries, metric, query_only=True)
    assert (refused.outcome, accepted.outcome) == (Outcome.INCONCLUSIVE, Outcome.PASS)
    assert (refused.lower, refused.upper) == (accepted.lower, accepted.upper)  # only the outcome is withheld
    assert all("upper bound that white-box attacks would lower" in gate.evidence[-1] for gate in (refused, accepted))


def test_a_consent_that_was_not_needed_is_told():
    whole = measurements(lost=0)
    with_twins, without = (result(one, "robust_accuracy", query_only=True) for one in (whole, blind(whole)))
    assert with_twins.outcome is Outcome.PASS
    assert "query_only: true was not needed here" in with_twins.evidence[-1]
    assert not any("not needed" in sentence for sentence in without.evidence)


def test_queries_may_fail_a_gate():
    """Robust accuracy is at most what queries leave: below the floor, gradients would only be worse."""
    assert result(blind(measurements()), "robust_accuracy", at_least=0.99).outcome is Outcome.FAIL


@pytest.mark.parametrize("metric", ["clean_accuracy", "clean_drop", "speedup", "size_ratio"])
def test_what_needs_no_attack_needs_no_twin(metric):
    assert result(blind(measurements()), metric).outcome is result(measurements(), metric).outcome
    with pytest.raises(ValueError, match="query_only belongs to a gate on robustness"):
        result(measurements(), metric, query_only=True)


def test_without_a_twin_there_is_no_parity():
    gate = result(blind(measurements()), "parity_flips")
    assert (gate.outcome, gate.estimate) == (Outcome.INCONCLUSIVE, None)
    assert "add --twin WEIGHTS" in gate.evidence[0]
    assert gate.remedy is Remedy.GIVE_TWIN


def test_an_engine_that_breaks_its_contract_passes_nothing_without_a_twin_either():
    measured = blind(measurements())
    softmax = replace(measured.parity.candidate, violations=("the outputs look like softmax probabilities",))
    gate = result(replace(measured, parity=replace(measured.parity, candidate=softmax)), "clean_accuracy")
    assert gate.outcome is Outcome.INCONCLUSIVE
    assert "softmax" in gate.evidence[-1]


def test_the_verdict_says_what_was_not_there():
    warnings = judge([blind(lone(measurements()))], [GateConfig(metric="clean_accuracy", at_least=0.1)]).warnings
    assert any("no reference engine was given" in warning for warning in warnings)
    assert any("query-only" in warning for warning in warnings)


def test_the_baseline_is_named_with_its_bytes():
    measured = replace(measurements(), reference=Subject("baseline", "cd" * 32))
    said = " ".join(result(measured, "robust_drop").evidence)
    assert f"the baseline, the last release, measured again beside this one: SHA-256 {'cd' * 32}." in said
    assert "baseline" not in " ".join(result(measured, "clean_accuracy").evidence)
    assert "SHA-256" not in " ".join(result(measurements(), "robust_drop").evidence)


@pytest.mark.parametrize("change", [lone, blind, lambda measured: blind(lone(measured))])
def test_what_was_not_measured_is_not_there_after_reading_either(change):
    before = change(measurements())
    after = Measurements.from_arrays(before.to_arrays())
    assert (after.reference, after.candidate, after.sizes) == (before.reference, before.candidate, before.sizes)
    assert (after.latency is None) == (before.latency is None)
    assert after.parity.sides.keys() == before.parity.sides.keys()
    assert after.soundness.sides.keys() == before.soundness.sides.keys()
    assert after.query_only == before.query_only


@pytest.mark.parametrize("part", ["accuracy", "latency", "parity", "sizes"])
def test_half_a_reference_is_refused(part):
    """Every part knows the reference, or none does."""
    whole = measurements()
    with pytest.raises(ArtifactError, match=f"{part} say otherwise"):
        replace(whole, **{part: getattr(lone(whole), part)})


def test_chunks_with_and_without_a_reference_are_not_joined():
    accuracy = measurements().accuracy
    other = replace(lone(measurements()).accuracy, index=accuracy.index + accuracy.images)
    with pytest.raises(MadxError, match="on a reference and some without"):
        Accuracy.concatenate([accuracy, other])


def test_nothing_stands_in_for_a_reference():
    with pytest.raises(MadxError, match="there was no reference engine"):
        _ = lone(measurements()).accuracy.robust_reference


def test_gates_that_cannot_be_judged_do_not_keep_a_measurement_waiting():
    accuracy = lone(measurements()).accuracy
    waiting = GateConfig(metric="clean_accuracy", at_least=0.1)
    assert decided(accuracy, [waiting, GateConfig(metric="robust_drop", at_most=0.01)])
    assert not decided(accuracy, [GateConfig(metric="robust_drop", at_most=0.01)])


def test_queries_without_gradients_before_them_mask_nothing():
    """What only queries turned is a sign of masking where gradients had their turn, and the whole attack elsewhere."""
    sound = Soundness(None, None, np.ones(200, bool), np.zeros(200, bool))
    measured = replace(blind(measurements()), soundness=sound)
    assert not any("masked" in sentence for sentence in result(measured, "robust_accuracy").evidence)
