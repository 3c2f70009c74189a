"""What a restless machine does to a ratio of times, and limits that hold in spite of it.

Layouts: log ratios [P], one for each block pair in the order of timing; the machine [P] for each source. Nothing is
dropped: what was measured while the machine was disturbed is counted, and what was not is counted alone as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from madx.stats import hodges_lehmann, student_limits

Machine = Mapping[str, NDArray[np.float64]]

WAITING = (0.03, 0.1)
"""Share of the time that the engines' threads may wait for a CPU. Waking up costs some of it on a quiet machine too, so
the first is raised to twice what the quietest pairs show, up to the second: there a neighbour was on their CPUs. What
spikes account for is not counted."""
MOST_STEAL = 0.05
"""Share of a CPU's time with work that the hypervisor may take."""
CLOCK_FELL = 0.9
"""A clock below this share of its median has been throttled."""
HOTTER = 10.0
"""Degrees above the median at which a chip is on the way to being throttled."""
_MOST_STOLEN = 0.99
"""Share beyond which nothing is left to divide by."""
FEWEST_CALM = 0.5
"""Share of the pairs that must be undisturbed: with fewer, it was not the engines that were measured."""
_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "waiting": "its threads waited for a CPU",
        "steal": "the hypervisor took CPU time",
        "cpu_mhz": "the CPU's clock fell",
        "gpu_mhz": "the GPU's clock fell",
        "cpu_celsius": "the CPU was hotter",
        "gpu_celsius": "the GPU was hotter",
    }
)


def disturbed(
    machine: Machine, spikes: NDArray[np.float64], *, but: Collection[str] = ()
) -> dict[str, NDArray[np.bool_]]:
    """[P] for each reason, in words, that some pair was measured on another machine than the rest.

    Args:
        machine: what the sensors said.
        spikes: [P] share of the timed seconds that single calls took beyond the median of their block. Waiting that
            they account for has left the medians alone, as where the calls are far shorter than a neighbour's turn on
            the CPU; waiting that they do not account for is in the medians.
        but: sources that do not count.
    """
    found = {}
    for source, reason in _REASONS.items():
        if source not in machine or source in but:
            continue
        values = _unaccounted(machine[source], spikes) if source == "waiting" else machine[source]
        if (flags := _flags(source, values)).any():
            found[reason] = flags
    return found


def undisturbed(machine: Machine, spikes: NDArray[np.float64], *, but: Collection[str] = ()) -> NDArray[np.bool_]:
    """[P] no reason at all; a machine without sensors shows none."""
    calm = np.ones(len(spikes), dtype=bool)
    for flags in disturbed(machine, spikes, but=but).values():
        calm &= ~flags
    return calm


def told(machine: Machine, spikes: NDArray[np.float64]) -> tuple[str, ...]:
    """Evidence: nothing is dropped, and nothing that was disturbed goes unsaid."""
    flags = disturbed(machine, spikes)
    if not flags:
        return ()
    reasons = "; ".join(f"{reason} in {int(hit.sum())}" for reason, hit in flags.items())
    return (f"Of {len(spikes)} pairs some were disturbed and are counted all the same: {reasons}.",)


def not_alone(calm: NDArray[np.bool_]) -> tuple[str, ...]:
    """Why a machine that was disturbed most of the time voids a gate: too few pairs are quiet to hold the others to."""
    if calm.mean() >= FEWEST_CALM:
        return ()
    return (
        f"The machine was disturbed in {int((~calm).sum())} of {len(calm)} pairs: what was timed is these engines and "
        "their neighbours. Quieten the machine and measure again.",
    )


def steal(machine: Machine) -> NDArray[np.float64]:
    """[up to P] share of the time that the hypervisor took from the CPU it took most from, where anything tells."""
    shares = machine.get("steal", np.zeros(0))
    return np.asarray(np.clip(shares[np.isfinite(shares)], 0.0, _MOST_STOLEN))


def _unaccounted(waiting: NDArray[np.float64], spikes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the rest of the time, were the spikes taken out of it together with the waiting they explain."""
    return np.asarray(np.maximum(waiting - spikes, 0) / np.maximum(1 - spikes, 1e-9))


def ratio_limits(
    log_ratios: ArrayLike, calm: NDArray[np.bool_], loads: NDArray[np.integer[Any]], *, confidence: float
) -> tuple[float, float, float]:
    """(estimate, lower, upper) of ln(speed-up): over all pairs, with limits that hold for the undisturbed alone too.

    Hodges-Lehmann with signed-rank limits (`madx.stats.ranks`). The random order within a pair makes noise that hits
    whatever is running fall on either engine alike, however bursty or heavy-tailed it is. A neighbour that costs one
    engine more than the other moves the centre instead: then the undisturbed pairs have another one, and each limit is
    the more cautious of the two, where at least `FEWEST_CALM` of the pairs are undisturbed.

    Pairs of one load say nothing of the next: each load of the engines is one draw, and with several of them the limits
    are no tighter than Student's t over the loads' medians, of all pairs and of the undisturbed alone.

    Args:
        log_ratios: [P], P >= 1.
        calm: [P] as `undisturbed` gives it.
        loads: [P] number of the load that a pair was timed on.
        confidence: of each limit, one-sided.

    Raises:
        MadxError: if the ratios are not finite or the confidence is out of range.
    """
    values = np.asarray(log_ratios, dtype=np.float64)
    found = _limits(values, loads, confidence)
    if calm.all() or calm.mean() < FEWEST_CALM:
        return found  # too few pairs have no limits
    return widest(found, _limits(values[calm], loads[calm], confidence))


def widest(*limits: tuple[float, float, float]) -> tuple[float, float, float]:
    """(estimate, lower, upper): the first one's estimate, and of all of them the more cautious limits."""
    return limits[0][0], min(lower for _, lower, _ in limits), max(upper for _, _, upper in limits)


def _limits(
    values: NDArray[np.float64], loads: NDArray[np.integer[Any]], confidence: float
) -> tuple[float, float, float]:
    within = hodges_lehmann(values, confidence)
    if loads.max() == loads.min():
        return within
    typical = [float(np.median(values[loads == load])) for load in np.unique(loads)]
    return widest(within, (within[0], *student_limits(typical, confidence)))


def _flags(source: str, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """A source that did not answer flags nothing: NaN compares as False."""
    if source == "waiting":
        flags = values > np.clip(2 * np.nanquantile(values, 0.1), *WAITING)
    elif source == "steal":
        flags = values > MOST_STEAL
    elif source.endswith("_mhz"):
        flags = values < CLOCK_FELL * np.nanmedian(values)
    else:
        flags = values > HOTTER + np.nanmedian(values)
    return np.asarray(flags)
