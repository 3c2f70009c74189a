"""Numbers and gates in words, the same in every report.

Shares are printed as percentages with one decimal, drops as points, ratios with two decimals; what was not measured is
"not measured", never 0. Limits are rounded away from the claim (a lower limit down, an upper limit up), with more
decimals where fewer would hide on which side of the bound they lie. Bounds are printed as the recipe gives them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Any, Literal

from madx.recipe import about
from madx.verify import GateResult, Outcome

ABSENT = "not measured"
TIMES = "\N{MULTIPLICATION SIGN}"
MINUS = "\N{MINUS SIGN}"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_TOO_FEW = "too few data for limits"
_MOST_DECIMALS = 6
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_SUFFIXES = {"ratio": TIMES, "drop": " points", "share": " %"}


def clean(text: str) -> str:
    """Without control characters, terminal escapes and lone surrogates, which neither XML nor UTF-8 can hold."""
    return _UNPRINTABLE.sub("\ufffd", text)


def ending(name: str, most: int) -> str:
    """A name of at most `most` characters; its end is what tells a layer from its neighbours."""
    name = clean(name)
    return name if len(name) <= most else f"…{name[1 - most :]}"


def title(metric: str) -> str:
    """The metric's name in words; an unknown one keeps its own."""
    known = about(metric)
    return known.title if known else metric


def percent(share: float | None) -> str:
    """0.7613 -> "76.1 %"."""
    return ABSENT if share is None else f"{100 * share:.1f} %"


def points(share: float | None) -> str:
    """0.0113 -> "1.1 points"."""
    return ABSENT if share is None else f"{_signed(f'{100 * share:.1f}')} points"


def change(share: float) -> str:
    """A signed change in points, with a true minus: "−1.1 points"."""
    text = f"{100 * share:+.1f}"
    return f"{'0.0' if float(text) == 0 else text.replace('-', MINUS)} points"


def count(number: int | None) -> str:
    """1200 -> "1,200"."""
    return ABSENT if number is None else f"{number:,}"


def ratio(value: float | None) -> str:
    """2.6132 -> "2.61×"."""
    return ABSENT if value is None else f"{value:.2f}{TIMES}"


def level(confidence: float) -> str:
    """0.95 -> "95 %"."""
    return f"{100 * confidence:g} %"


def milliseconds(seconds: float) -> str:
    """Three significant digits at least: 0.000412 -> "0.412 ms"."""
    value = 1000 * seconds
    return f"{value:,.0f} ms" if value >= 1000 else f"{value:#.3g} ms".replace(". ", " ")


def scientific(value: float) -> str:
    """Few digits of any magnitude, with true signs and raised exponents: 2.04e-07 -> "2.04×10⁻⁷"."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}".replace("-", MINUS)
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}{TIMES}{power_of_ten(int(exponent))}".replace("-", MINUS)


def power_of_ten(exponent: int) -> str:
    """-7 -> "10⁻⁷"."""
    return f"10{str(exponent).translate(_RAISED)}"


def size(count: int) -> str:
    """Bytes in decimal units, as file managers show them."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def duration(seconds: float) -> str:
    """Of a stage: "17.7 s", "3 min 05 s", "2 h 10 min"."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def estimate(gate: GateResult) -> str:
    """The gate's estimate in its unit."""
    form = {"ratio": ratio, "drop": points, "share": percent}[_kind(gate.metric)]
    return form(gate.estimate)


def required(gate: GateResult) -> str:
    """The bound as the recipe gives it: "at least 1.5×", "at most 3 points"."""
    return f"{'at least' if gate.direction == 'at_least' else 'at most'} {_bound(gate)}"


def limits(gate: GateResult) -> str:
    """Both one-sided limits: "2.55× to 2.67×"; a limit that the data do not give is said to be missing."""
    if _unlimited(gate):
        return ABSENT if gate.estimate is None else _TOO_FEW
    if gate.lower == gate.upper:
        return f"{estimate(gate)}, counted"
    return _between(gate)


def confidence(gate: GateResult) -> str:
    """What the limits are limits at; nothing where there are none, or where things were counted."""
    return "" if gate.lower == gate.upper else f"each at {level(gate.confidence)}"


def clause(gate: GateResult, *, subject: str = "") -> str:
    """The gate in one clause, with the limit that decided it, or both if none did.

    Args:
        gate: the gate.
        subject: stands in for the metric's name and estimate.
    """
    if gate.estimate is None:
        return f"{title(gate.metric)}: no number ({_wanted(gate)})"
    subject = subject or f"{title(gate.metric)} {estimate(gate)}"
    return f"{subject} ({_decisive(gate)}; {_wanted(gate)})"


def plain(value: Any) -> str:
    """A fact of JSON as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(part)}" for key, part in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(plain(part) for part in value) or "none"
    return str(value)


def capital(text: str) -> str:
    """A sentence as it begins a line; Jinja's filter of that name would lower the rest."""
    return text[:1].upper() + text[1:]


def tally(gates: tuple[GateResult, ...], outcome: Outcome) -> str:
    """How many gates came to what."""
    if not gates:
        return "No gate was measured, so nothing is shown."
    counts = {kind: sum(gate.outcome is kind for gate in gates) for kind in Outcome}
    total = len(gates)
    if outcome is Outcome.PASS:
        return "The gate holds." if total == 1 else f"All {total} gates hold."
    if outcome is Outcome.FAIL:
        failed = counts[Outcome.FAIL]
        return f"{failed} of {total} {_plural(total)} {'fails' if failed == 1 else 'fail'}."
    return f"The evidence does not decide {counts[Outcome.INCONCLUSIVE]} of {total} {_plural(total)}."


def _plural(total: int) -> str:
    return "gate" if total == 1 else "gates"


def _decisive(gate: GateResult) -> str:
    """A passed gate rests on the limit that faces its bound, a failed one on the other."""
    if gate.lower == gate.upper:
        return _TOO_FEW if _unlimited(gate) else "counted"
    surely, lost = f"at {level(gate.confidence)} confidence", " lost" if _kind(gate.metric) == "drop" else ""
    if gate.outcome is Outcome.INCONCLUSIVE:
        return f"{_between(gate)}{lost}, each limit {surely}"
    at_least = (gate.direction == "at_least") == (gate.outcome is Outcome.PASS)
    if lost and not at_least and gate.upper is not None and gate.upper < 0:
        return f"{surely} at least {_upper(gate).lstrip(MINUS)} gained"
    return f"{surely} {'at least ' + _lower(gate) if at_least else 'at most ' + _upper(gate)}{lost}"


def _between(gate: GateResult) -> str:
    """The unit once, unless it is a sign that belongs to its number."""
    lower, unit = _lower(gate), _unit(gate.metric)
    return f"{lower.removesuffix(unit) if unit.startswith(' ') else lower} to {_upper(gate)}"


def _unlimited(gate: GateResult) -> bool:
    return gate.lower is None and gate.upper is None


def _wanted(gate: GateResult) -> str:
    return f"{'required' if gate.direction == 'at_least' else 'allowed'} {_bound(gate)}"


def _bound(gate: GateResult) -> str:
    return f"{_exact(gate.bound, gate.metric):f}{_unit(gate.metric)}"


def _lower(gate: GateResult) -> str:
    return _limit(gate, gate.lower, ROUND_FLOOR)


def _upper(gate: GateResult) -> str:
    return _limit(gate, gate.upper, ROUND_CEILING)


def _limit(gate: GateResult, value: float | None, rounding: str) -> str:
    """Rounded away from the claim; decimals are added until the rounded limit stands to the bound as the limit does."""
    if value is None:
        return "(no limit)"
    exact, bound = _exact(value, gate.metric), _exact(gate.bound, gate.metric)
    rounded = exact
    for decimals in range(2 if _kind(gate.metric) == "ratio" else 1, _MOST_DECIMALS + 1):
        rounded = exact.quantize(Decimal(1).scaleb(-decimals), rounding)
        if _meets(gate, rounded, bound) == _meets(gate, exact, bound):
            break
    return f"{_signed(f'{rounded:f}')}{_unit(gate.metric)}"


def _meets(gate: GateResult, value: Decimal, bound: Decimal) -> bool:
    """The rule of the gates: the bound itself is on the right side."""
    return value >= bound if gate.direction == "at_least" else value <= bound


def _exact(value: float, metric: str) -> Decimal:
    """In the unit it is printed in, without the noise of binary fractions: 0.029 is 2.9 points."""
    scaled = Decimal(repr(value)) * (1 if _kind(metric) == "ratio" else 100)
    return scaled.quantize(Decimal("1e-9"), ROUND_HALF_EVEN).normalize()


def _unit(metric: str) -> str:
    return _SUFFIXES[_kind(metric)]


def _kind(metric: str) -> Literal["ratio", "share", "drop"]:
    """What sort of number it is; an unknown one is printed as a share."""
    known = about(metric)
    return known.unit if known else "share"


def _signed(text: str) -> str:
    """A true minus, and none before zero."""
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)
