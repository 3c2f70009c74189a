"""No tool that decides the bytes of an engine, or a number of a verdict, is missing from the keys of the stages."""

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

import madx
from madx.pipeline import Context, keys, versions
from madx.pipeline.versions import tool_versions
from madx.progress import Silent
from madx.recipe import load_recipe
from madx.rundir import RunDirectory

WITHOUT_EFFECT = {
    "pydantic": "a recipe is checked the same way, and its values are in the keys",
    "pydantic-core": "part of pydantic",
    "pyyaml": "reads a recipe, whose values are in the keys",
    "typer": "the command line",
    "rich": "the command line",
    "safetensors": "how networks are filed; the files themselves are hashed",
    "jinja2": "how a report looks",
    "markupsafe": "how a report looks",
    "matplotlib": "how a report looks",
    "junitparser": "how a report looks",
    "packaging": "compares version numbers",
    "typing-extensions": "annotations",
    "tensorrt": "not installed with madx; listed under its own name",
    "tensorrt-rtx": "not installed with madx; listed under the names of its packages",
}
"""What madx uses and no stage depends on, with the reason."""
DISTRIBUTIONS = {"pil": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml", "google": "protobuf"}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> set[str]:
    """Distributions that a file of the package imports, also inside functions."""
    found = set()
    for path in Path(madx.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.partition(".")[0] for name in names}
    own = found - sys.stdlib_module_names - {"madx"}
    return {plain(DISTRIBUTIONS.get(name.lower(), name)) for name in own}


def needed_by(tool: str) -> set[str]:
    """Distributions that a tool always brings along."""
    lines = [line for line in metadata.requires(tool) or [] if "extra ==" not in line]
    return {plain(re.split(r"[^A-Za-z0-9_.-]", line)[0]) for line in lines}


def test_every_tool_is_in_the_keys_or_known_to_be_without_effect() -> None:
    used = imported()
    for writer in ("onnx", "onnxscript", "onnxconverter-common"):  # the bytes of an ONNX file are theirs
        used |= {plain(writer)} | needed_by(writer)
    assert len(used) > 15
    assert used - {plain(tool) for tool in versions._TOOLS} - set(WITHOUT_EFFECT) == set()


@pytest.mark.parametrize("tool", ["onnxconverter-common", "onnx-ir", "protobuf", "scipy", "pillow"])
@pytest.mark.parametrize("stage", ["export", "verify", "take"])
def test_another_version_is_another_key(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, stage: str
) -> None:
    context = Context(load_recipe(tiny_recipe), RunDirectory(tmp_path / "run"), Silent())
    before = getattr(keys, stage)(context)
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.0.1" if plain(name) == tool else version(name))
    assert keys.differences(before, getattr(keys, stage)(context)) == [f"tools.{tool}"]


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_TOOLS", ("torch", "no-such-tool"))
    assert set(tool_versions()) == {"madx", "python", "torch"}
