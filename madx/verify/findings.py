"""What the measurements say about one metric: estimate, one-sided limits, and reasons to distrust them.

One function per metric of `GateConfig`, in a table here or, for those over the gate's images, in `image_findings`. The
speed-up is reference time / candidate time, the size ratio candidate bytes / reference bytes; flips are shares of the
images that parity was measured on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from madx.recipe import GateConfig
from madx.stats import hodges_lehmann
from madx.verify.evidence import Finding
from madx.verify.image_findings import METRICS_OVER_IMAGES, over_images, share_finding
from madx.verify.latency import CONTROL_BIAS, CONTROL_CONFIDENCE, CONTROL_SHARE
from madx.verify.limits import discordant
from madx.verify.measurements import Latency, Measurements

__all__ = ["TWIN_FLIPS", "Finding", "claimed_gain", "discordant", "finding"]

TWIN_FLIPS = 0.01
"""Share of images on which an engine may disagree with its twin before examples made on the twin say too little."""


def finding(measured: Measurements, gate: GateConfig, *, sequential: bool = False) -> Finding:
    """The finding on the gate's metric, with limits at the gate's confidence.

    Args:
        measured: all of one engine.
        gate: metric, bound and confidence.
        sequential: whether the number of images was decided by looking at them, see `madx.verify.limits`.
    """
    if gate.metric not in METRICS_OVER_IMAGES:
        return _METRICS[gate.metric](measured, gate)
    found = over_images(measured.accuracy, gate, sequential=sequential)
    return replace(found, doubts=(*_contract_doubts(measured), *found.doubts))


def claimed_gain(measured: Latency, bound: float, confidence: float) -> float:
    """|ln speed-up| that is at stake: the measured or the required one, whichever is larger.

    The required one counts so that an engine without any gain can fail its gate although its own gain is zero.
    """
    estimate, _, _ = hodges_lehmann(measured.log_ratios, confidence)
    required = abs(math.log(bound)) if bound > 0 else 0.0
    return max(abs(estimate), required)


def _speedup(measured: Measurements, gate: GateConfig) -> Finding:
    latency = measured.latency
    estimate, lower, upper = (_exp(value) for value in hodges_lehmann(latency.log_ratios, gate.confidence))
    return Finding(
        estimate=estimate,
        lower=lower,
        upper=upper,
        evidence=(
            f"{estimate:.3f} times as fast at batch {latency.batch} ({latency.timing}), one-sided "
            f"{gate.confidence:.3g} limits {lower:.3f} and {upper:.3f}: Hodges-Lehmann over {len(latency.order)} "
            f"interleaved pairs of blocks of {latency.calls} calls.",
        ),
        method="Hodges-Lehmann, signed-rank limits",
        advice=("More seconds or pairs in verify.latency narrow the limits.",),
        void=_control_faults(latency, claimed_gain(latency, gate.bound, gate.confidence)),
    )


def _control_faults(latency: Latency, gain: float) -> tuple[str, ...]:
    """The reference against itself must show 1, sharply."""
    _, lower, upper = hodges_lehmann(latency.control_log_ratios, CONTROL_CONFIDENCE)
    shown = f"{_exp(lower):.4f} to {_exp(upper):.4f}"
    faults = []
    if max(lower, -upper) > CONTROL_BIAS * gain:
        faults.append(
            f"The A/A control does not contain 1: the reference against itself is {shown} times as fast, so the "
            "machine or the schedule favours one side."
        )
    if not upper - lower < CONTROL_SHARE * gain:
        faults.append(
            f"The A/A control is too wide: the reference against itself is {shown} times as fast, wider than a quarter "
            f"of the gain at stake ({_exp(gain):.3f} times, on the log scale). Quieten the machine or give "
            "verify.latency more seconds."
        )
    return tuple(faults)


def _parity_flips(measured: Measurements, gate: GateConfig) -> Finding:
    """The worse of the two engines: a comparison is as good as the worse of its sides."""
    sides = {"reference": measured.parity.reference, "candidate": measured.parity.candidate}
    name, worse = max(sides.items(), key=lambda item: float(item[1].flips.mean()))
    word = f"labelled otherwise than by the torch twin, clean or adversarial, on the worse ({name}) engine"
    # These images are as many whatever the gates decide on the others, so nobody looks early.
    return share_finding(worse.flips, gate, word=word, sequential=False)


def _size_ratio(measured: Measurements, _gate: GateConfig) -> Finding:
    """Files are counted, not sampled: the limits are the estimate."""
    sizes = measured.sizes
    ratio = sizes.candidate / sizes.reference
    evidence = f"{sizes.candidate:,} bytes against {sizes.reference:,} of the reference: {ratio:.3f} of its size."
    return Finding(estimate=ratio, lower=ratio, upper=ratio, evidence=(evidence,), method="counted")


def _contract_doubts(measured: Measurements) -> tuple[str, ...]:
    """An engine that breaks its contract, or is not its twin, has no accuracy that deserves the name."""
    sides = {"reference": measured.parity.reference, "candidate": measured.parity.candidate}
    broken = [
        f"The {name} engine breaks its contract: {sentence}."
        for name, side in sides.items()
        for sentence in side.violations
    ]
    strange = [
        f"The {name} engine labels {int(side.flips.sum())} of {side.images} images otherwise than the torch twin that "
        "the adversarial examples were made on, so these examples do not attack the engine."
        for name, side in sides.items()
        if float(side.flips.mean()) > TWIN_FLIPS
    ]
    return (*broken, *strange)


def _exp(value: float) -> float:
    """Exp that knows what to do with a limit that does not exist."""
    return math.exp(value) if math.isfinite(value) else value


_METRICS: dict[str, Callable[[Measurements, GateConfig], Finding]] = {
    "speedup": _speedup,
    "parity_flips": _parity_flips,
    "size_ratio": _size_ratio,
}
