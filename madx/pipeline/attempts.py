"""How often engines were judged in one run directory, and what of the last time may be judged again.

Gates judge measurements and make none: where only gates changed, the same measurements are held against the new ones.
Nothing is free, though. A bound that was chosen after the numbers were seen, and a measurement that was repeated until
it pleased, keep no error rate; so both are counted, and the verdict says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from madx.errors import ArtifactError
from madx.pipeline import files, keys
from madx.pipeline.context import Context
from madx.pipeline.reporting import read_arrays, read_verdict
from madx.verify import Measurements


def earlier_provenance(context: Context) -> dict[str, Any]:
    """Of the verdict that is about to be replaced; nothing if there is none or it is damaged."""
    if files.VERDICT not in context.run.hashes("verify"):
        return {}
    try:
        return read_verdict(context)[1]
    except ArtifactError:
        return {}


def kept_measurements(context: Context, earlier: Mapping[str, Any]) -> dict[str, Measurements]:
    """What the last verification measured, by engine, if nothing but gates that measure nothing changed since.

    Args:
        context: the running verify stage.
        earlier: `earlier_provenance`; where it is lost, so is the count, and everything is measured again.
    """
    record = context.run.stage("verify")
    if record is None or not earlier or context.afresh or record["key"] == context.key:
        return {}
    if keys.measuring(record["depends"]) != keys.measuring(keys.verify(context)):
        return {}
    names = {config.name: files.measurements(config) for config in context.recipe.export.engines}
    try:
        return {
            engine: Measurements.from_arrays(read_arrays(context.run.read(name)))
            for engine, name in names.items()
            if name in record["outputs"]
        }
    except ArtifactError:
        return {}


@dataclass(frozen=True)
class Attempts:
    """Of the very engines, by their bytes, that the verdict speaks of."""

    measured: int
    """How often they were measured."""
    gates_changed: int
    """How often they were held against other gates than the time before."""

    def warnings(self) -> tuple[str, ...]:
        """What a reader must know; nothing the first time."""
        again = (
            f"these engines were measured {self.measured} times, and this is the last: read the earlier verdicts too"
        )
        changed = (
            f"the gates were changed {_times(self.gates_changed)} after these engines had been measured: a bound "
            "chosen with the numbers in sight keeps no error rate; confirm it on images that were not measured yet"
        )
        return (*([again] if self.measured > 1 else ()), *([changed] if self.gates_changed else ()))

    def to_json(self) -> dict[str, int]:
        """As the provenance keeps it."""
        return {"attempt": self.measured, "gates_changed": self.gates_changed}


def attempts(earlier: Mapping[str, Any], subject: Mapping[str, Any], *, kept: bool) -> Attempts:
    """One more than the verdict before it, if that speaks of the same engines.

    Args:
        earlier: provenance of the verdict before.
        subject: engines and gates of this one.
        kept: whether nothing was measured this time.
    """
    if earlier.get("engines") != subject["engines"]:
        return Attempts(measured=1, gates_changed=0)
    changed = earlier.get("gates") != subject["gates"]
    return Attempts(
        measured=int(earlier.get("attempt", 0)) + (not kept),
        gates_changed=int(earlier.get("gates_changed", 0)) + changed,
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
