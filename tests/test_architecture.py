"""The rooms of the house: who may import whom, what a bare start loads, and what is said of each file."""

from __future__ import annotations

import ast
import json
import pkgutil
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import madx

PACKAGE = Path(madx.__file__).parent
LAYERS = {
    "errors": 0,
    "seeds": 0,
    "progress": 0,
    "machine": 0,
    "sensors": 0,
    "clocks": 0,
    "closeness": 0,
    "precisions": 0,
    "artifacts": 0,
    "rundir": 0,
    "distributed": 0,
    "recipe": 0,
    "stats": 0,
    "plugins": 0,
    "tables": 0,
    "data": 1,
    "models": 1,
    "attacks": 1,
    "prune": 2,
    "train": 2,
    "deploy": 3,
    "verify": 4,
    "report": 5,
    "pipeline": 5,
    "cli": 5,
}
WITHIN_A_LAYER = {
    ("artifacts", "errors"),
    ("rundir", "artifacts"),
    ("rundir", "errors"),
    ("plugins", "artifacts"),
    ("plugins", "errors"),
    ("sensors", "errors"),
    ("sensors", "machine"),
    ("distributed", "errors"),
    ("tables", "errors"),
    ("tables", "plugins"),
    ("recipe", "errors"),
    ("recipe", "tables"),
    ("stats", "errors"),
    ("closeness", "precisions"),
    ("cli", "pipeline"),
    ("cli", "report"),
    ("pipeline", "report"),
}
"""Rooms of one layer that know each other, each in this direction only."""
NEVER = {
    ("deploy", "prune"): "any torch network can be exported and verified, pruned by madx or not",
    ("deploy", "train"): "the same",
    ("verify", "deploy"): "an engine is a callable there, so that a lambda can stand in",
    ("verify", "prune"): "what judges does not know how the network was made",
    ("verify", "train"): "the same",
    ("attacks", "deploy"): "forward and gradient are callables",
}
ENTRY = ("__init__", "__main__")
"""Files of no room: the package itself holds its version only, and `python -m madx` calls the command line."""
HEAVY = {
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "polygraphy",
    "scipy",
    "sklearn",
    "matplotlib",
    "jinja2",
    "PIL",
    "safetensors",
    "cuda",
    "pyarrow",
}
OPTIONAL = ("pyarrow", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "polygraphy", "cuda")
"""Engines and their tools: a module may need them when it is used, but not when it is imported."""
HELP_TURNS = 14_000_000
"""Turns of an empty loop that `madx --help` may take as long as: half a second where this was written. Seconds would
say more of the machine than of madx."""


def files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def label(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def modules() -> list[str]:
    return sorted(module.name for module in pkgutil.walk_packages([str(PACKAGE)], "madx."))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that a file imports, also inside functions; not what only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports(ast.Module(body=node.orelse, type_ignores=[]))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imports(node)


def rooms_imported(source: str) -> set[str]:
    """The rooms of madx that a file imports; `import madx` alone is the version."""
    names = [name.split(".") for name in imports(ast.parse(source))]
    return {name[1] for name in names if name[0] == "madx" and len(name) > 1 and name[1] in LAYERS}


def violations(room: str, imported: set[str]) -> list[str]:
    """What is wrong with a room's imports, in words."""
    found = []
    for other in sorted(imported - {room}):
        if (room, other) in NEVER:
            found.append(f"{room} must not import {other}: {NEVER[room, other]}")
        elif LAYERS[other] > LAYERS[room]:
            found.append(f"{room} (layer {LAYERS[room]}) must not import {other} (layer {LAYERS[other]})")
        elif LAYERS[other] == LAYERS[room] and (room, other) not in WITHIN_A_LAYER:
            found.append(f"{room} and {other} are of one layer and do not know each other")
    return found


def in_a_child(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


def loaded_by(code: str) -> set[str]:
    """Top-level names of what a bare interpreter has loaded after `code`."""
    tail = "import sys, json; sys.stderr.write(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    child = in_a_child(f"{code}\n{tail}")
    assert child.returncode == 0, child.stderr
    return set(json.loads(child.stderr))


HELP = """
import sys
from madx.cli import main
sys.argv = ["madx", *{words}, "--help"]
try:
    main()
except SystemExit as end:
    assert end.code in (0, None), end.code
"""


def test_every_file_belongs_to_a_room() -> None:
    assert {room_of(path) for path in files()} - set(ENTRY) == set(LAYERS)


@pytest.mark.parametrize("path", files(), ids=label)
def test_imports_flow_one_way(path: Path) -> None:
    room = room_of(path)
    imported = rooms_imported(path.read_text(encoding="utf-8"))
    if room in ENTRY:
        assert imported <= ({"cli"} if room == "__main__" else set())
    else:
        assert violations(room, imported) == []


def test_the_checker_sees_what_it_should() -> None:
    """Known-bad sources: a check that finds nothing proves nothing."""
    hidden = "def f():\n    if True:\n        from madx.verify import gates\n"
    assert rooms_imported(hidden) == {"verify"}
    assert rooms_imported("import madx.deploy.ort as x\nfrom madx import train, __version__") == {"deploy", "train"}
    assert rooms_imported("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import madx.cli\n") == set()
    assert rooms_imported("if TYPE_CHECKING:\n    import madx.cli\nelse:\n    import madx.prune\n") == {"prune"}
    assert rooms_imported("try:\n    import madx.train\nexcept ImportError:\n    import madx.data\n") == {
        "train",
        "data",
    }
    assert violations("prune", {"verify", "recipe", "prune"}) == ["prune (layer 2) must not import verify (layer 4)"]
    assert violations("prune", {"train"}) == ["prune and train are of one layer and do not know each other"]
    assert violations("report", {"pipeline"}) == ["report and pipeline are of one layer and do not know each other"]
    assert violations("deploy", {"prune"})
    assert violations("verify", {"deploy"})
    assert violations("pipeline", set(LAYERS) - {"cli"}) == []


def test_no_permission_is_left_over() -> None:
    used = {(room_of(path), other) for path in files() for other in rooms_imported(path.read_text(encoding="utf-8"))}
    assert used >= WITHIN_A_LAYER


@pytest.mark.parametrize("path", files(), ids=label)
def test_files_say_what_they_are(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "a module says in its first lines what it is"


@pytest.mark.parametrize("path", files(), ids=label)
def test_no_except_exception(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            if label(path) == "cli/app.py" and caught == "Exception":
                continue  # the command line's edge, which tells a crash from a failed gate
            assert caught not in ("Exception", "BaseException", "everything"), f"line {node.lineno}"


@pytest.mark.parametrize(
    "code",
    ["import madx", HELP.format(words=[]), HELP.format(words=["run"]), HELP.format(words=["verify"])],
    ids=["import madx", "madx --help", "madx run --help", "madx verify --help"],
)
def test_a_bare_start_loads_nothing_heavy(code: str) -> None:
    loaded = loaded_by(code)
    assert "madx" in loaded
    assert loaded & HEAVY == set()


def test_import_madx_loads_only_itself() -> None:
    assert loaded_by("import madx") - loaded_by("") <= {"madx", "__future__", "importlib"}


def processor_seconds(*words: str, rounds: int = 3) -> float:
    """What `python WORDS` takes, because other work on the machine is not its fault; the least of so many rounds."""
    seconds = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(seconds)


def test_help_takes_no_longer_than_half_a_second_of_a_plain_loop() -> None:
    allowed = processor_seconds("-c", f"for _ in range({HELP_TURNS}): pass")
    assert processor_seconds("-m", "madx", "--help") < allowed
    assert processor_seconds("-c", "import madx.models", rounds=1) > allowed, "it would not notice that torch is loaded"


def test_every_module_imports_without_its_optional_packages() -> None:
    """In one child, in which none of them can be found."""
    code = f"""
import importlib, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
for name in {[name for name in modules() if name != "madx.__main__"]!r}:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{{name}}: {{error}}")
"""
    child = in_a_child(code)
    assert child.returncode == 0, child.stderr
    assert child.stdout == ""


@pytest.mark.parametrize("room", ["pipeline", "prune", "verify"])
def test_a_reader_finds_every_file_of_the_largest_rooms(room: str) -> None:
    """docs/architecture.md says what each of them does, and names none that is gone."""
    text = (PACKAGE.parent / "docs/architecture.md").read_text().partition("### Which file")[2].partition("Rules of")[0]
    tables = re.split(r"^\| `(\w+)/`.*\n", text, flags=re.MULTILINE)[1:]
    rows = "".join(table for name, table in zip(tables[::2], tables[1::2], strict=True) if name == room)
    named = re.findall(r"`(\w+)`", rows)
    there = [path.stem for path in (PACKAGE / room).glob("*.py") if path.stem not in ENTRY]
    assert sorted(named) == sorted(there)
