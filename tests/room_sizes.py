"""The longest files and functions of each kind, and those with the most parameters: `make lint` prints them.

Nothing fails by it: whether a long file is about one thing is for a reader to say. Docstrings of a function do
not count, nor do `self` and `cls`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from heapq import nlargest
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "madx"
SHOWN = 5


def functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """(where and what, lines of code, parameters) of each function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            named = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            body = [one for one in node.body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
            code = ast.unparse(ast.Module(body=body, type_ignores=[]))
            where = f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}"
            yield where, len(code.splitlines()), len([name for name in named if name not in ("self", "cls")])


def report(most: int = SHOWN) -> list[str]:
    """Lines to print."""
    paths = sorted(PACKAGE.rglob("*.py"))
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    found = [one for path in paths for one in functions(path)]
    return [
        f"{len(paths)} files of {sum(lengths.values()):,} lines, {len(found):,} functions",
        *(f"  {lengths[name]:4} lines       {name}" for name in nlargest(most, lengths, key=lengths.__getitem__)),
        *(f"  {lines:4} lines       {where}" for where, lines, _ in nlargest(most, found, key=lambda one: one[1])),
        *(f"  {taken:4} parameters  {where}" for where, _, taken in nlargest(most, found, key=lambda one: one[2])),
    ]


if __name__ == "__main__":
    sys.stdout.write("\n".join(report()) + "\n")
