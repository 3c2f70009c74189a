"""What to type next: a step as the report decides it, and the command line that takes it, made where it is shown.

A verdict is read on other machines, so neither it nor a report names folders of this one.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self


@dataclass(frozen=True)
class Step:
    """One command that gets further."""

    verb: Literal["run", "verify"]
    settings: Mapping[str, str] = field(default_factory=dict)
    """Keys of the recipe to change, and to what."""
    only_latency: bool = False
    """Whether engines are timed again and nothing else is measured."""
    files: tuple[str, ...] = ()
    """Options that name a file which is missing yet, with words in capitals for the file."""
    before: str = ""
    """A command that has to come first."""


@dataclass(frozen=True)
class Invocation:
    """A command line of `run` or `verify` as it was typed, without what only says how to go about it."""

    recipe: str = "RECIPE"
    run_dir: str | None = None
    overrides: tuple[str, ...] = ()
    given: Mapping[str, str] = field(default_factory=dict)
    """Files from outside, by option: {"--baseline": "runs/last"}."""

    def to_json(self) -> dict[str, Any]:
        """The fields under their names."""
        return {**self.__dict__, "overrides": list(self.overrides), "given": dict(self.given)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The inverse; what is missing is as if nothing had been typed."""
        return cls(**{**content, "overrides": tuple(content.get("overrides", ()))})

    def portable(self) -> Invocation:
        """The same for a reader elsewhere: paths from here on, and of files in other places only their names."""
        return replace(
            self,
            recipe=_portable(self.recipe),
            run_dir=None if self.run_dir is None else _portable(self.run_dir),
            overrides=tuple(_portable_override(override) for override in self.overrides),
            given={option: _portable(path) for option, path in self.given.items()},
        )


NOTHING_TYPED = Invocation()


def command(step: Step, typed: Invocation) -> str:
    """The whole command line, ready to be pasted; a setting that was typed and is changed now is not repeated."""
    kept = [one for one in typed.overrides if one.partition("=")[0].strip() not in step.settings]
    parts = ["madx", step.verb, typed.recipe]
    if typed.run_dir is not None:
        parts += ["--run-dir", typed.run_dir]
    for option, path in typed.given.items():
        parts += [option, path]
    for setting in (*kept, *(f"{key}={value}" for key, value in step.settings.items())):
        parts += ["--set", setting]
    if step.only_latency:
        parts += ["--only", "latency"]
    line = shlex.join([*parts, *step.files])
    return f"{step.before} && {line}" if step.before else line


def _portable(text: str) -> str:
    path, here = Path(text), Path.cwd()
    if not path.is_absolute():
        return text
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def _portable_override(override: str) -> str:
    key, equals, value = override.partition("=")
    return f"{key}{equals}{_portable(value)}"
