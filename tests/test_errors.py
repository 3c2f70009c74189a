"""Errors that madx raises on purpose go from one process to another as they are."""

from __future__ import annotations

import importlib
import inspect
import pickle
import re
from pathlib import Path

import pytest

import madx
from madx.errors import ExitCode, MadxError

PACKAGE = Path(madx.__file__).parent


def families() -> set[type[MadxError]]:
    """Every class of the family, of whichever file: those that name a base whose name ends with Error are loaded."""
    for path in PACKAGE.rglob("*.py"):
        if re.search(r"^class \w+\(.*Error\b.*\):", path.read_text(encoding="utf-8"), re.MULTILINE):
            importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    found, waiting = set(), [MadxError]
    while waiting:
        found.add(kind := waiting.pop())
        waiting += [other for other in kind.__subclasses__() if other.__module__.startswith("madx.")]
    return found


def test_the_shell_reads_the_numbers_that_the_docs_name() -> None:
    """Pipelines branch on them: a number that moves is a release that passes where it should not."""
    assert {code.name: int(code) for code in ExitCode} == {"PASSED": 0, "FAILED": 1, "USAGE": 2, "INCONCLUSIVE": 3}
    assert MadxError("a bad recipe").exit_code == 2


def test_there_are_errors_with_more_than_a_message() -> None:
    assert {kind.__name__ for kind in families() if "__init__" in vars(kind)} >= {"UnclearError"}


@pytest.mark.parametrize("kind", sorted(families(), key=lambda kind: kind.__name__))
def test_an_error_is_the_same_in_another_process(kind: type[MadxError]) -> None:
    wanted = inspect.signature(kind.__init__).parameters.values() if "__init__" in vars(kind) else ()
    given = [f"the {one.name}" for one in wanted if one.name != "self"] or ["a message"]
    error = kind(*given)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))
