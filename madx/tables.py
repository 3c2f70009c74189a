"""Tables that installed packages may add rows to: criteria, attacks, engines and metrics, by the name a recipe uses.

A package adds a row with an entry point, `name = "package.module:attribute"`, in the table's group; a recipe then names
it as it names madx's own. Nothing of a package is imported before a recipe names its row, and a name that madx has
stays madx's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from madx.errors import RecipeError
from madx.plugins import USER_ERRORS, code_digest, describe

Row = TypeVar("Row")


@cache
def installed(group: str) -> Mapping[str, EntryPoint]:
    """What the packages of this environment add to the table `group`.

    Raises:
        RecipeError: two packages give different rows the same name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise RecipeError(
                f"two installed packages add {point.name!r} to {group}: {other.value} and {point.value}; a recipe "
                "could not say which, so uninstall one of them"
            )
    return MappingProxyType(found)


def _nothing(_: object) -> tuple[str, ...]:
    return ()


class Table(Mapping[str, Row], Generic[Row]):
    """madx's own rows, and those of installed packages, each imported when it is asked for."""

    def __init__(
        self, group: str, kind: type[Row], own: Mapping[str, Row], *, runs: Callable[[Row], Iterable[str]] = _nothing
    ) -> None:
        """`runs` gives the modules of code that a row only names: that code may be another package's."""
        self.group, self.kind, self.own, self.runs = group, kind, dict(own), runs

    def __getitem__(self, name: str) -> Row:
        """The row.

        Raises:
            KeyError: nobody has such a row.
            RecipeError: a package's row cannot be imported, or is none.
        """
        return self.own[name] if name in self.own else self._imported(installed(self.group)[name])

    def __contains__(self, name: object) -> bool:
        """Whether there is such a row, without importing it."""
        return name in self.own or name in installed(self.group)

    def __iter__(self) -> Iterator[str]:
        """Madx's own first."""
        return iter((*self.own, *(name for name in installed(self.group) if name not in self.own)))

    def __len__(self) -> int:
        """Of both."""
        return len(tuple(iter(self)))

    def code(self, name: str) -> dict[str, str]:
        """What the row adds to the key of a stage: digests of its package's source and of others' that it names.

        Of madx's own rows nothing, as madx's version is in the keys.

        Raises:
            RecipeError: a package's row or what it names cannot be imported, or has no source.
        """
        if name in self.own or name not in installed(self.group):
            return {}
        point = installed(self.group)[name]
        row = self._imported(point)
        found = {f"{self.group}:{name}": code_digest(point.value, error=RecipeError)}
        for module in self.runs(row):
            if _package(module) not in (_package(point.value), _package(__name__)):
                with self.blamed(name):
                    import_module(module)
                found[f"{self.group}:{name}:{module}"] = code_digest(module, error=RecipeError)
        return found

    @contextmanager
    def blamed(self, name: str) -> Iterator[None]:
        """Around a call of the row's code: its errors are told as the package's; those of madx's own rows pass.

        Raises:
            RecipeError: the package's code failed.
        """
        try:
            yield
        except USER_ERRORS as problem:
            if name in self.own:
                raise
            raise RecipeError(
                f"{_where(installed(self.group)[name])} failed: {describe(problem)}; mend the package that adds it"
            ) from problem

    def _imported(self, point: EntryPoint) -> Row:
        where = _where(point)
        try:
            row: Any = point.load()
        except USER_ERRORS as problem:
            raise RecipeError(
                f"{where} cannot be imported: {describe(problem)}; mend the package, or uninstall it"
            ) from problem
        if not isinstance(row, self.kind):
            raise RecipeError(
                f"{where} is {type(row).__name__}, expected {self.kind.__module__}.{self.kind.__qualname__}; mend the "
                "package that adds it"
            )
        return row


def _package(name: str) -> str:
    """The top of a module's name, or of 'module:attribute'."""
    return name.partition(":")[0].partition(".")[0]


def _where(point: EntryPoint) -> str:
    """Which row of whom."""
    return f"{point.name!r} of {point.group} ({point.value})"
