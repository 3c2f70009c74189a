"""What of the last verification stays as it was measured, when only gates changed or only latency is timed again.

Everything is read from files that the manifest vouches for, and belongs to the very engines that it was measured on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from madx.artifacts import parse_object, sha256_bytes, sha256_file, write_atomically
from madx.errors import ArtifactError
from madx.pipeline import files, keys
from madx.pipeline.context import Context
from madx.pipeline.reporting import read_arrays
from madx.pipeline.unfinished import PENDING, unfinished
from madx.recipe import about
from madx.report import words
from madx.verify import GateResult, Measurements, Verdict

_COPIES = "kept"
"""In a verification's checkpoint folder: what it is about to replace."""
_RECORD = "measured.json"
"""Beside what is not judged yet."""
_TOLD = 5
"""Earlier timings that a warning names; the provenance has all."""


@dataclass(frozen=True)
class Kept:
    """Measurements of the last verification, by engine, and the verdict on them; without any, all is measured."""

    measurements: Mapping[str, Measurements] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Of the last verdict."""
    gates: tuple[GateResult, ...] = ()
    """Of the last verdict."""
    finished: str = ""
    """When it was reached."""
    timed_again: bool = False
    """Whether latency is measured once more."""
    pending: bool = False
    """Whether there is no verdict yet on what was measured and counted."""

    @property
    def why(self) -> str:
        """Why nothing is measured."""
        if self.pending:
            return "judging failed after all was measured: that is judged now"
        return "only gates changed: what was measured is judged again"

    @property
    def untouched(self) -> tuple[str, ...]:
        """Engines of which nothing is measured."""
        return () if self.timed_again else tuple(self.measurements)

    @property
    def retimed(self) -> tuple[str, ...]:
        """Engines of which latency alone is measured."""
        return tuple(self.measurements) if self.timed_again else ()

    def measured_at(self, engines: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        """When what was measured on each engine that was judged, for the provenance."""
        now, before = utc_now(), self.provenance.get("measured_at", {})
        found = {}
        for name in engines:
            rest = before.get(name, {}).get("rest", self.finished) if name in self.measurements else now
            latency = before.get(name, {}).get("latency", self.finished) if name in self.untouched else now
            found[name] = {"latency": latency, "rest": rest}
        return found

    def earlier_timings(self) -> list[dict[str, Any]]:
        """What earlier timings of these engines came to at the gates on times, the first one first."""
        before: list[dict[str, Any]] = list(self.provenance.get("earlier_timings", []))
        if not self.timed_again:
            return before
        times = self.provenance.get("measured_at", {})
        return before + [
            {"timed": times.get(gate.engine, {}).get("latency", self.finished)} | gate.to_json()
            for gate in self.gates
            if (known := about(gate.metric)) and known.timed
        ]


def what_is_kept(context: Context) -> Kept:
    """Of the last verification, as the recipe and the command line have it now.

    Raises:
        ArtifactError: latency alone is to be timed again, and there is nothing to keep beside it.
    """
    return kept_beside_timings(context) if context.only_latency else _kept_for_gates(context)


def kept_beside_timings(context: Context) -> Kept:
    """All but the timings of the last verification, which must be of these engines, data, attacks and tools.

    Raises:
        ArtifactError: there is none, it has no timings, something else changed too, or a file is damaged.
    """
    record, root = context.run.stage("verify"), context.run.root
    if record is None:
        raise ArtifactError(
            f"--only latency times again what was measured already, and {root} holds no verdict on these engines; run "
            "`madx verify` without it first"
        )
    before, now = (keys.beside_timings(depends) for depends in (record["depends"], keys.verify(context)))
    if changes := keys.differences(before, now):
        raise ArtifactError(
            f"--only latency keeps what else was measured, and that no longer fits: changed: {', '.join(changes[:5])}; "
            f"beside verify.gates and verify.latency (but its batch) all must be as in the verdict of {root}. Run "
            "`madx verify` without --only"
        )
    kept = _read(context, record, timed_again=True)
    untimed = [name for name, one in kept.measurements.items() if one.latency is None]
    if untimed or not kept.measurements:
        raise ArtifactError(
            f"--only latency: {', '.join(untimed) or 'no engine'} was compared with nothing, so it was never timed; "
            "give --reference or --baseline, and verify without --only"
        )
    return kept


def _kept_for_gates(context: Context) -> Kept:
    """Everything, if nothing but gates that measure nothing changed since; the verdict must still be there too.

    What was measured last counts: an earlier verification is no way back from one that could not be judged.
    """
    if context.stage.afresh:
        return Kept()
    if (pending := _kept_until_judged(context)) is not None:
        return pending
    record = context.run.stage("verify")
    if record is None or record["key"] == context.stage.key:
        return Kept()
    if keys.measuring(record["depends"]) != keys.measuring(keys.verify(context)):
        return Kept()
    try:
        return _read(context, record, timed_again=False)
    except ArtifactError:
        return Kept()


def _read(context: Context, record: Mapping[str, Any], *, timed_again: bool) -> Kept:
    names = {config.name: files.measurements(config) for config in context.recipe.export.engines}
    content = parse_object(_vouched(context, record, files.VERDICT), files.VERDICT, ("provenance",))
    return Kept(
        measurements={
            engine: Measurements.from_arrays(read_arrays(_vouched(context, record, name)))
            for engine, name in names.items()
            if name in record["outputs"]
        },
        provenance=content["provenance"],
        gates=Verdict.from_json(content).gates,
        finished=str(record.get("finished", "")),
        timed_again=timed_again,
    )


def _vouched(context: Context, record: Mapping[str, Any], name: str) -> bytes:
    """A file of the last verification, or the copy that one which was killed while it replaced them left of it.

    Raises:
        ArtifactError: neither has the bytes that the manifest vouches for.
    """
    try:
        return context.run.read(name)
    except ArtifactError:
        for folder in (one.folder for one in unfinished(context.run) if one.stage == "verify"):
            path = folder / _COPIES / name
            payload = path.read_bytes() if path.is_file() else b""
            if sha256_bytes(payload) == record["outputs"].get(name, {}).get("sha256"):
                return payload
        raise


def copy_kept(context: Context, kept: Kept) -> None:
    """Copy what latency is to be replaced in: attacks that took hours are not lost to a kill between two files."""
    record = context.run.stage("verify")
    if not kept.timed_again or record is None or not context.world.first:
        return
    for name in record["outputs"]:
        write_atomically(context.run.path(f"{context.checkpoints}/{_COPIES}/{name}"), _vouched(context, record, name))


def keep_until_judged(context: Context, measured: Sequence[Measurements], told: Mapping[str, Any]) -> None:
    """Keep what was measured and counted beside the chunks, for a verification that is taken up again.

    Args:
        context: the running verify stage.
        measured: what no file of the run holds yet.
        told: of the provenance, what only this verification knows.
    """
    folder = f"{context.checkpoints}/{PENDING}"
    names = {
        values.engine: context.write_arrays(f"{folder}/{values.engine}.npz", values.to_arrays()) for values in measured
    }
    if not measured or not context.world.first:
        return
    hashes = {engine: sha256_file(context.run.path(name)) for engine, name in names.items()}
    record = {"made_of": context.stage.made_of, "told": dict(told), "engines": hashes, "finished": utc_now()}
    context.write_json(f"{folder}/{_RECORD}", record)  # the last one, so that nothing is taken for whole that is not


def _kept_until_judged(context: Context) -> Kept | None:
    """What the last verification left that counted and could not judge, if it is what this one would measure."""
    found = []
    for folder in (one.folder / PENDING for one in unfinished(context.run) if one.stage == "verify"):
        try:
            record = parse_object((folder / _RECORD).read_bytes(), _RECORD, ("made_of", "told", "engines", "finished"))
            if _same_measuring(record["made_of"], context.stage.made_of):
                found.append((record["finished"], _read_pending(folder, record)))
        except (OSError, ArtifactError, LookupError, TypeError, AttributeError):
            continue  # damaged, or nothing there: measured again, and counted so
    return max(found, key=lambda one: one[0])[1] if found else None


def unjudged(context: Context) -> str:
    """Why a finished verification is not the last word, or nothing: one since then counted and could not be judged."""
    record, pending = context.run.stage("verify"), _kept_until_judged(context)
    newer = record is not None and pending is not None and pending.finished > str(record.get("finished", ""))
    return "measured again since, and not judged yet" if newer else ""


def _same_measuring(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    same_engines: bool = before["inputs"] == now["inputs"]
    return same_engines and keys.measuring(before["depends"]) == keys.measuring(now["depends"])


def _read_pending(folder: Path, record: Mapping[str, Any]) -> Kept:
    measurements = {}
    for engine, digest in record["engines"].items():
        payload = (folder / f"{engine}.npz").read_bytes()
        if sha256_bytes(payload) != digest:
            raise ArtifactError(f"{folder / engine}.npz is not what was written")
        measurements[engine] = Measurements.from_arrays(read_arrays(payload))
    return Kept(measurements, record["told"], finished=record["finished"], pending=True)


def timings_said(earlier: list[dict[str, Any]]) -> str:
    """What the earlier timings came to, the last ones, in words."""
    shown = []
    for entry in earlier[-_TOLD:]:
        gate = GateResult.from_json({key: value for key, value in entry.items() if key != "timed"})
        shown.append(f"{words.title(gate.metric)} {words.estimate(gate)} {gate.outcome.value} ({entry['timed']})")
    return "; ".join(shown)


def utc_now() -> str:
    """As the manifest writes times."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
