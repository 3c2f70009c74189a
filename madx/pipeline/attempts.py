"""How often engines were measured, timed and judged in one run directory.

Gates judge measurements and make none: where only gates changed, the same measurements are held against the new ones.
Nothing is free, though. A bound that was chosen after the numbers were seen, and a measurement that was repeated until
it pleased, keep no error rate; so both are counted, and the verdict says so. The counts of a run directory stand in its
manifest and, once more, in its verdict, so that a manifest that was damaged and deleted takes none of them along.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from madx.artifacts import read_json, sha256_bytes
from madx.errors import ArtifactError
from madx.pipeline import files
from madx.pipeline.context import Context
from madx.recipe import canonical_json


@dataclass(frozen=True)
class Attempts:
    """Of the very engines, by what they compute, that the verdict speaks of."""

    measured: int
    """How often they were measured."""
    gates_changed: int
    """How often they were held against other gates than the time before."""
    known: bool = True
    """Whether these are all: False once the counts of a run directory were lost."""
    timed_again: int = 0
    """How often latency alone was measured again (`madx verify --only latency`), beside whole measurements."""

    def warnings(self, earlier: str = "") -> tuple[str, ...]:
        """What a reader must know; nothing the first time. `earlier` tells what earlier timings came to."""
        timings = self.measured + self.timed_again
        timed = (
            f"latency alone was timed again {_times(self.timed_again)} on these engines, and of {timings} timings this "
            f"is the last: whoever stops at one that pleases passes a gate on times that is not met with up to "
            f"{timings} times the chance of a single timing"
            f"{f'; the earlier ones came to: {earlier}' if earlier else ''}"
        )
        again = (
            f"these engines were measured {self.measured} times, and this is the last: read the earlier verdicts too"
        )
        changed = (
            f"the gates were changed {_times(self.gates_changed)} after these engines had been measured: a bound "
            "chosen with the numbers in sight keeps no error rate; confirm it on images that were not measured yet"
        )
        lost = (
            "how often these engines were judged before is not known: this run directory has lost its manifest.json, "
            "and its verdict.json does not say it either"
        )
        told = {again: self.measured > 1, timed: self.timed_again > 0, changed: self.gates_changed > 0}
        return tuple(warning for warning, due in (told | {lost: not self.known}).items() if due)

    def to_json(self) -> dict[str, int | bool]:
        """As the manifest and the provenance keep it."""
        return {
            "attempt": self.measured,
            "timed_again": self.timed_again,
            "gates_changed": self.gates_changed,
            "attempts_known": self.known,
        }


def counted(
    context: Context,
    engines: Mapping[str, Mapping[str, str]],
    gates: Sequence[Any],
    *,
    kept: Container[str],
    timed: Container[str] = (),
) -> Attempts:
    """Count one more attempt at each engine, in the manifest, before anybody can read what was measured.

    Args:
        context: the running verify stage.
        engines: those that were judged: by name, the SHA-256 of what the engines that were compared compute, by role.
        gates: of the recipe, as JSON.
        kept: names of the engines that were not measured this time.
        timed: names of the engines of which latency alone was.

    Returns:
        Those of the engine that was tried most often.
    """
    _take_up(context)
    known = not _lost(context)
    judged_by, found = _digest(sorted(map(canonical_json, gates))), [Attempts(1, 0, known)]  # in whatever order
    for name, hashes in engines.items():
        subject = _digest({"engine": name, "hashes": dict(hashes)})
        one = one_more(context.run.attempts().get(subject, {}), judged_by, kept=name in kept, timed=name in timed)
        found.append(replace(one, known=known))
        context.run.keep_attempts(subject, found[-1].to_json() | {"gates": judged_by})
    most = {name: max(getattr(one, name) for one in found) for name in ("measured", "gates_changed", "timed_again")}
    return Attempts(known=known, **most)


def one_more(before: Mapping[str, Any], gates: str, *, kept: bool, timed: bool = False) -> Attempts:
    """After an attempt at these gates (a SHA-256); `before` is what the manifest kept of the last one."""
    changed = bool(before) and before["gates"] != gates
    return Attempts(
        measured=int(before.get("attempt", 0)) + (not (kept or timed)),
        timed_again=int(before.get("timed_again", 0)) + timed,
        gates_changed=int(before.get("gates_changed", 0)) + changed,
    )


def _take_up(context: Context) -> None:
    """Bring counts of the last verdict, which is about to be replaced, back into a manifest that lacks them."""
    here = context.run.attempts()
    for subject, there in (_in_verdict(context) or {}).items():
        larger = _larger(_NEVER | here[subject], there) if subject in here else there
        if here.get(subject) != larger:
            context.run.keep_attempts(subject, larger)


def _larger(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Of two records of the same engines the later one; no count is smaller than in either, whatever became of them."""
    later = max(one, other, key=lambda kept: (kept["attempt"], kept["timed_again"], kept["gates_changed"]))
    counts = {name: max(one[name], other[name]) for name in ("attempt", "timed_again", "gates_changed")}
    return {**later, **counts, "attempts_known": one["attempts_known"] and other["attempts_known"]}


def _in_verdict(context: Context) -> dict[str, dict[str, Any]] | None:
    """Counts as the last verdict has them, whether or not a manifest vouches for it; None if it says nothing."""
    try:
        found = read_json(context.run.path(files.VERDICT))["provenance"]["attempts"]
        return {
            subject: {name: kind(({"timed_again": 0} | kept)[name]) for name, kind in _KEPT.items()}
            for subject, kept in found.items()
        }
    except (ArtifactError, LookupError, TypeError, ValueError, AttributeError):
        return None


_KEPT: dict[str, Callable[[Any], Any]] = {
    "attempt": int,
    "timed_again": int,
    "gates_changed": int,
    "attempts_known": bool,
    "gates": str,
}
_NEVER = {"attempt": 0, "timed_again": 0, "gates_changed": 0, "attempts_known": True, "gates": ""}


def _lost(context: Context) -> bool:
    """Whether engines were judged here and nobody knows how often; what was once lost is not found again."""
    here = context.run.attempts()
    if here:
        return not all(record.get("attempts_known") for record in here.values())
    if context.run.path(files.VERDICT).exists():
        return _in_verdict(context) is None  # it may say that no engine was there to be judged
    return any(context.run.root.glob(files.MEASUREMENTS))


def _digest(content: Any) -> str:
    return sha256_bytes(canonical_json(content).encode())


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
