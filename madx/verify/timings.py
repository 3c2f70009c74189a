"""What was timed on one engine, call by call, and the state of the machine beside it.

Layouts: seconds of every call [P, 2, C], float32, in the order of time: P block pairs, the two blocks of that engine
within a pair, C calls a block; a block counts with its median. The batch of images that a call was shown, [P, 2, C], is
the same for everything that was timed in that place. Loads [P]: the load of the engines that a pair was timed on. The
CPU times [4, P, 2, C], where they were taken, are those of everything that was timed, in the order of `all_calls`. The
machine [P], float64, one value for each pair and source, NaN where the source did not answer then; a source that the
machine does not have is not there at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from madx.errors import ArtifactError, MadxError
from madx.sensors import check_names
from madx.verify.arrays import Arrays, Bools, check_shapes, read_array, with_prefix, without_prefix

Calls = NDArray[np.float32]
MAX_PAIRS = 2000
"""The interval takes all averages of two pairs: two million numbers at this many."""
_CALLS = ("reference", "candidate", "control_a", "control_b")
_REST = {"batch", "timing", "facts", "clean"}
_OPTIONAL = ("images", "loads", "cpu")
_MACHINE = "machine"


@dataclass(frozen=True, eq=False)
class Latency:
    """Interleaved timings of both engines, and of the reference against itself on the same schedule."""

    batch: int
    """Images a call."""
    timing: str
    """What was timed, by name, for example "host call, preallocated I/O"."""
    order: tuple[str, ...]
    """Of each pair: "ABBA" or "BAAB", A being the reference."""
    reference: Calls
    """[P, 2, C] seconds."""
    candidate: Calls
    """[P, 2, C] seconds."""
    control_a: Calls
    """[P, 2, C] seconds of the reference in the place of A: the A/A control, run beside each pair."""
    control_b: Calls
    """[P, 2, C] seconds of the reference in the place of B."""
    machine: Mapping[str, NDArray[np.float64]]
    """[P] of each source in `madx.sensors.SOURCES` that this machine has, over that pair and its control."""
    facts: Mapping[str, Any]
    """The machine and the engines (threads, versions), JSON-able."""
    images: NDArray[np.int32] | None = None
    """[P, 2, C] number of the batch of images that each call was shown; None: all were shown the same."""
    clean: int = 1
    """Batches with a smaller number are clean images, the others perturbed copies of such."""
    loads: NDArray[np.int32] | None = None
    """[P] number of the load of the engines; None: they were loaded once."""
    cpu: Calls | None = None
    """[4, P, 2, C] seconds on a CPU, of `all_calls` (`madx.clocks`); None where they are not the calls' own."""

    def __post_init__(self) -> None:
        given = self.all_calls
        if self.reference.ndim != 3 or self.reference.shape[-1] == 0:
            raise ArtifactError(
                f"the latency has the shape {list(self.reference.shape)}, expected [pairs, 2, calls] with at least one "
                "call; measure again"
            )
        check_shapes("latency", [(calls, (len(self.order), 2, self.calls)) for calls in given])
        check_shapes("latency", [(values, (len(self.order),)) for values in self.machine.values()])
        check_shapes("latency", [] if self.images is None else [(self.images, self.reference.shape)])
        check_shapes("latency", [] if self.loads is None else [(self.loads, (len(self.order),))])
        check_shapes("latency", [] if self.cpu is None else [(self.cpu, (4, *self.reference.shape))])
        if not all(np.isfinite(calls).all() and (calls > 0).all() for calls in given):
            raise ArtifactError("a timed call is not a positive number of seconds; measure again")

    @property
    def calls(self) -> int:
        """C."""
        return int(self.reference.shape[-1])

    @property
    def all_calls(self) -> tuple[Calls, ...]:
        """Reference, candidate, and the control's two: everything that was timed."""
        return self.reference, self.candidate, self.control_a, self.control_b

    @property
    def perturbed(self) -> Bools | None:
        """[P, 2, C] the calls that were shown perturbed images; None if none were."""
        if self.images is None or not (self.images >= self.clean).any():
            return None
        found: Bools = self.images >= self.clean
        return found

    @property
    def load_numbers(self) -> NDArray[np.int32]:
        """[P] of each pair, also where there was one load."""
        return np.zeros(len(self.order), dtype=np.int32) if self.loads is None else self.loads

    @property
    def log_ratios(self) -> NDArray[np.float64]:
        """[P] ln(reference / candidate) of each pair's block medians; the schedule cancels a linear drift."""
        return log_ratios(self.reference, self.candidate)

    @property
    def control_log_ratios(self) -> NDArray[np.float64]:
        """[P] the same for the reference against itself."""
        return log_ratios(self.control_a, self.control_b)

    @property
    def spikes(self) -> NDArray[np.float64]:
        """[P] share of a pair's and its control's seconds that single calls took beyond their block's median."""
        given = [calls.astype(np.float64) for calls in self.all_calls]
        total = sum(calls.sum(axis=(1, 2)) for calls in given)
        typical = sum(self.calls * block_medians(calls).sum(axis=1) for calls in given)
        return np.asarray(np.maximum(1 - typical / total, 0))

    def to_arrays(self) -> Arrays:
        """The calls and the machine as they are; the rest as text."""
        rest = {"batch": self.batch, "timing": self.timing, "facts": dict(self.facts), "clean": self.clean}
        optional = {name: getattr(self, name) for name in _OPTIONAL}
        return {
            **{name: getattr(self, name) for name in _CALLS},
            **{name: array for name, array in optional.items() if array is not None},
            **with_prefix(_MACHINE, dict(self.machine)),
            "order": np.array(self.order, dtype=np.str_),
            "rest": np.array(json.dumps(rest)),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `to_arrays`.

        Raises:
            ArtifactError: if an array is missing or has the wrong shape.
        """
        calls: dict[str, Any] = {name: read_array(arrays, name) for name in _CALLS}
        calls |= {name: arrays[name] for name in _OPTIONAL if name in arrays}
        machine = without_prefix(arrays, _MACHINE)
        try:
            check_names(machine)
        except MadxError as error:
            raise ArtifactError(f"the latency was not written by this madx: {error}") from None
        order = tuple(str(word) for word in read_array(arrays, "order"))
        rest: dict[str, Any] = _parsed(str(read_array(arrays, "rest")))
        return cls(order=order, machine=machine, **calls, **rest)


def block_medians(calls: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """[P, 2] of [P, 2, C]; calls that are NaN do not count."""
    medians: NDArray[np.float64] = np.nanmedian(calls.astype(np.float64), axis=-1)
    return medians


def log_ratios(a: Calls, b: Calls) -> NDArray[np.float64]:
    """[P] mean ln(block median) of `a` less that of `b`."""
    ratios: NDArray[np.float64] = np.log(block_medians(a)).mean(axis=1) - np.log(block_medians(b)).mean(axis=1)
    return ratios


def _parsed(text: str) -> dict[str, Any]:
    """The part of a latency that is text; whatever else it holds is a file that this madx did not write."""
    try:
        rest = json.loads(text)
    except json.JSONDecodeError as error:
        raise ArtifactError(f"the latency's facts are not JSON: {error}; measure again") from None
    if not isinstance(rest, dict) or set(rest) != _REST:
        raise ArtifactError(
            f"the latency's facts should be batch, timing, clean and facts; they are {text[:80]!r}; measure again"
        )
    return rest
