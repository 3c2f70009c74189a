# ruff: noqa: RUF001 - the reports print true multiplication and minus signs
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madx.recipe import METRICS
from madx.report import words
from madx.verify import GateResult, Outcome, Verdict
from madx.verify.gates import decide


def test_every_metric_has_a_title():
    assert [words.title(name) for name in METRICS] == [metric.title for metric in METRICS.values()]
    assert words.title("of a later madx") == "of a later madx"


def gate(metric="speedup", *, bound=1.5, estimate=2.0, lower=1.9, upper=2.1, outcome=Outcome.PASS, confidence=0.95):
    return GateResult(
        engine="e",
        metric=metric,
        bound=bound,
        direction=METRICS[metric].direction,
        estimate=estimate,
        lower=lower,
        upper=upper,
        confidence=confidence,
        outcome=outcome,
        evidence=(),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (words.percent(0.7613), "76.1 %"),
        (words.percent(0.0), "0.0 %"),
        (words.percent(None), "not measured"),
        (words.points(0.0113), "1.1 points"),
        (words.points(-0.0113), "−1.1 points"),
        (words.points(-0.0001), "0.0 points"),
        (words.points(None), "not measured"),
        (words.change(0.0113), "+1.1 points"),
        (words.change(-0.0113), "−1.1 points"),
        (words.change(-0.0001), "0.0 points"),
        (words.ratio(2.6132), "2.61×"),
        (words.ratio(None), "not measured"),
        (words.level(0.95), "95 %"),
        (words.level(0.999), "99.9 %"),
        (words.milliseconds(0.000412), "0.412 ms"),
        (words.milliseconds(0.0351), "35.1 ms"),
        (words.milliseconds(0.123), "123 ms"),
        (words.milliseconds(12.3456), "12,346 ms"),
        (words.size(391_264), "391.3 kB"),
        (words.size(12), "12 bytes"),
        (words.duration(17.678), "17.7 s"),
        (words.duration(59.96), "1 min 00 s"),
        (words.duration(185), "3 min 05 s"),
        (words.duration(3599.7), "1 h 00 min"),
        (words.duration(7801), "2 h 10 min"),
        (words.clean("a\x1b[31m\udcff\nb\x85"), "a\ufffd[31m\ufffd\nb\ufffd"),
        (words.plain({"a": True, "b": [1, 2.34567], "c": None, "d": []}), "a yes, b 1, 2.346, c none, d none"),
    ],
)
def test_numbers(text, expected):
    assert text == expected


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (gate(), "speed-up 2.00× (at 95 % confidence at least 1.90×; required 1.5×)"),
        (
            gate(estimate=1.2, lower=1.1, upper=1.234, outcome=Outcome.FAIL),
            "speed-up 1.20× (at 95 % confidence at most 1.24×; required 1.5×)",
        ),
        (
            gate(estimate=1.5, lower=1.4, upper=1.6, outcome=Outcome.INCONCLUSIVE),
            "speed-up 1.50× (1.40× to 1.60×, each limit at 95 % confidence; required 1.5×)",
        ),
        (
            gate("robust_drop", bound=0.029, estimate=0.011, lower=0.001, upper=0.029),
            "robust accuracy lost 1.1 points (at 95 % confidence at most 2.9 points lost; allowed 2.9 points)",
        ),
        (
            gate("robust_drop", bound=0.03, estimate=-0.02, lower=-0.03, upper=-0.0123),
            "robust accuracy lost −2.0 points (at 95 % confidence at least 1.2 points gained; allowed 3 points)",
        ),
        (
            gate("robust_drop", bound=0.03, estimate=0.05, lower=0.03004, upper=0.07, outcome=Outcome.FAIL),
            "robust accuracy lost 5.0 points (at 95 % confidence at least 3.004 points lost; allowed 3 points)",
        ),
        (
            gate("retention", bound=0.95, estimate=0.981, lower=0.9587, upper=1.004),
            "robust accuracy kept 98.1 % (at 95 % confidence at least 95.8 %; required 95 %)",
        ),
        (
            gate("worst_class_drop", bound=0.05, estimate=0.04, lower=0.01, upper=0.06, outcome=Outcome.INCONCLUSIVE),
            "robust accuracy lost in the worst class 4.0 points (1.0 to 6.0 points lost, each limit at 95 % "
            "confidence; allowed 5 points)",
        ),
        (
            gate("size_ratio", bound=0.5, estimate=0.2631, lower=0.2631, upper=0.2631),
            "file size against the reference 0.26× (counted; allowed 0.5×)",
        ),
        (
            gate(estimate=None, lower=None, upper=None, outcome=Outcome.INCONCLUSIVE),
            "speed-up: no number (required 1.5×)",
        ),
        (
            gate(lower=None, upper=None, outcome=Outcome.INCONCLUSIVE),
            "speed-up 2.00× (too few data for limits; required 1.5×)",
        ),
    ],
)
def test_clauses(result, expected):
    assert words.clause(result) == expected


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([], "No gate was measured, so nothing is shown."),
        (["PASS"], "The gate holds."),
        (["PASS", "PASS"], "All 2 gates hold."),
        (["FAIL", "PASS"], "1 of 2 gates fails."),
        (["FAIL", "FAIL", "INCONCLUSIVE"], "2 of 3 gates fail."),
        (["INCONCLUSIVE"], "The evidence does not decide 1 of 1 gate."),
    ],
)
def test_headlines(outcomes, expected):
    gates = tuple(gate(outcome=Outcome(word)) for word in outcomes)
    assert words.tally(gates, Verdict(gates).outcome) == expected


@given(
    metric=st.sampled_from(sorted(METRICS)),
    bound=st.sampled_from([0.0, 0.01, 0.029, 0.03, 0.5, 0.77]),
    steps=st.tuples(st.integers(-30000, 30000), st.integers(0, 30000)),
)
def test_printed_limits_never_contradict_the_outcome(metric, bound, steps):
    """Whoever applies the gate's rule to what is printed comes to the same outcome."""
    lower = bound + steps[0] * 1e-5
    upper = lower + steps[1] * 1e-5 + 1e-5
    outcome = decide(round(lower, 9), round(upper, 9), bound=bound, direction=METRICS[metric].direction)
    result = gate(metric, bound=bound, estimate=lower, lower=lower, upper=upper, outcome=outcome)
    low, high = (_number(part) for part in words.limits(result).split(" to "))
    wanted = _number(words.required(result).split(maxsplit=2)[2])
    assert decide(low, high, bound=wanted, direction=METRICS[metric].direction) is outcome
    factor = 1 if METRICS[metric].unit == "ratio" else 100
    assert float(low) <= factor * lower + 1e-9
    assert float(high) >= factor * upper - 1e-9


def _number(text):
    return Decimal(text.split()[0].removesuffix("×").replace("−", "-"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (2.04e-7, "2.04×10⁻⁷"),
        (-1e-12, "−1×10⁻¹²"),
        (0.25, "0.25"),
        (-0.001, "−0.001"),
        (123456.0, "1.23×10⁵"),
    ],
)
def test_any_magnitude_has_few_digits(value, expected):
    assert words.scientific(value) == expected
