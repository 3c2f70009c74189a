from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from madx.errors import DataError, MadxError, ModelError
from madx.plugins import describe, load_callable

SOURCE = """
from math import sqrt
import helper_of_plugin

CONSTANT = 3

class Thing:
    pass

def build(size):
    return helper_of_plugin.double(size)

def lazy(size):
    import late_helper_of_plugin
    return late_helper_of_plugin.triple(size)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory with code in it; sys.path and sys.modules are put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "a_plugin.py").write_text(SOURCE)
    (tmp_path / "helper_of_plugin.py").write_text("def double(size):\n    return 2 * size\n")
    (tmp_path / "late_helper_of_plugin.py").write_text("def triple(size):\n    return 3 * size\n")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_finds_code_in_the_current_directory_and_its_helpers() -> None:
    assert load_callable("a_plugin:build", error=ModelError)(4) == 8
    assert load_callable("a_plugin:lazy", error=ModelError)(4) == 12
    assert load_callable("a_plugin:Thing", error=ModelError)().__class__.__name__ == "Thing"


def test_finds_packages_and_installed_code(folder: Path) -> None:
    (folder / "pack").mkdir()
    (folder / "pack" / "inner.py").write_text("def build():\n    return 'inner'\n")
    assert load_callable("pack.inner:build", error=ModelError)() == "inner"
    assert load_callable("json:loads", error=ModelError)("[1]") == [1]


def test_the_current_directory_is_added_once() -> None:
    for _ in range(3):
        load_callable("a_plugin:build", error=ModelError)
    assert sys.path.count(str(Path.cwd())) == 1


BROKEN = [
    pytest.param("", "a_plugin", ["not of the form", "'a_plugin'"], id="no colon"),
    pytest.param("", "a_plugin:", ["not of the form"], id="no callable"),
    pytest.param("", "a plugin:build", ["not of the form"], id="space"),
    pytest.param("", "../a_plugin:build", ["not of the form"], id="path"),
    pytest.param(
        "",
        "nowhere_to_be_found:build",
        ["no module 'nowhere_to_be_found'", "current directory"],
        id="missing",
    ),
    pytest.param("", "a_plugin.inner:build", ["a_plugin.inner"], id="not a package"),
    pytest.param("", "a_plugin:bild", ["no 'bild'", "a_plugin.py", "defines Thing, build, lazy"], id="no attribute"),
    pytest.param("", "a_plugin:CONSTANT", ["'CONSTANT' is int", "function or class"], id="not callable"),
    pytest.param(
        "import nowhere_at_all",
        "broken_plugin:f",
        ["needs a module", "nowhere_at_all", "line 1"],
        id="dependency",
    ),
    pytest.param("x = 1\ny = undefined", "broken_plugin:f", ["NameError", "broken_plugin.py, line 2"], id="name error"),
    pytest.param("def f(:", "broken_plugin:f", ["SyntaxError", "broken_plugin.py"], id="syntax"),
    pytest.param("raise ValueError('two\\nlines')", "broken_plugin:f", ["ValueError: two lines"], id="raises"),
    pytest.param("x = 1", "broken_plugin:f", ["no 'f'", "defines no function or class"], id="empty"),
]


@pytest.mark.parametrize(("source", "name", "words"), BROKEN)
@pytest.mark.parametrize("kind", [ModelError, DataError])
def test_every_failure_is_one_clear_error(
    folder: Path, source: str, name: str, words: list[str], kind: type[MadxError]
) -> None:
    (folder / "broken_plugin.py").write_text(source)
    with pytest.raises(kind) as caught:
        load_callable(name, error=kind)
    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    assert "\n" not in message


def test_an_error_of_our_own_kind_passes_unchanged(folder: Path) -> None:
    (folder / "own_plugin.py").write_text("from madx.errors import DataError\nraise DataError('mine')\n")
    with pytest.raises(DataError, match=r"^mine$"):
        load_callable("own_plugin:f", error=ModelError)


def test_describe_points_at_the_users_line_not_at_the_package_that_raised(folder: Path) -> None:
    (folder / "deep_plugin.py").write_text("import numpy\ndef f():\n    return numpy.zeros(3).reshape(2)\n")
    with pytest.raises(ValueError, match="reshape") as caught:
        load_callable("deep_plugin:f", error=ModelError)()
    # This test's own call is the user's too, but the last line counts.
    assert describe(caught.value).endswith("(deep_plugin.py, line 3)")


def test_describe_without_a_place_or_text() -> None:
    assert describe(ValueError()) == "ValueError: no message"
