"""Small wrong changes to a file of Python, one at a time: what its tests should notice.

Each is a slip that a person makes: a strict bound for one that is not, a constant that is off, a sign, `and` for `or`,
a term or an argument left out, a check that is not made, a doubt that is dropped. Not changed are sentences (strings
with a space, f-strings, what is raised), annotations, decorators and zip's strict.

A mutation is known by the lines that it changes and the function that they stand in, not by their number, so that the
list of equivalent ones outlives changes elsewhere in the file.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import dataclass, replace

OPERATORS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
}
COMPARISONS: dict[type[ast.AST], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
OPPOSITES = {"min": "max", "any": "all", "floor": "ceil", "minimum": "maximum", "argmin": "argmax"}
OPPOSITES |= {other: one for one, other in OPPOSITES.items()}
LEFT_OUT = (ast.Raise, ast.AugAssign, ast.Delete)
"""Statements without which a program still runs; so it does without a call whose value nobody takes."""


@dataclass(frozen=True)
class Mutation:
    """One change."""

    where: str
    """Qualified name of the function or class; empty for the file's own level."""
    before: str
    """The lines that are changed, in one."""
    after: str
    number: int
    """Which of several such changes to such lines, from 1."""
    lines: range
    """Of the statement, or where that holds others of what is changed: who runs none of them cannot notice."""
    text: str
    """The whole file, changed."""

    @property
    def name(self) -> tuple[str, str, str, int]:
        """What it is known by within its file."""
        return self.where, self.before, self.after, self.number


def mutations(source: str) -> list[Mutation]:
    """Every mutation of a file, in the order of its lines; none of them is the file as it is."""
    maker = _Maker(source)
    maker.visit(ast.parse(source))
    made = sorted(maker.made, key=lambda one: one.lines.start)
    seen: Counter[tuple[str, str, str, int]] = Counter()
    numbered: list[Mutation] = []
    for one in made:
        seen[one.name] += 1
        numbered.append(replace(one, number=seen[one.name]))
    return numbered


class _Maker(ast.NodeVisitor):
    def __init__(self, source: str) -> None:
        self.source = source.encode()
        self.made: list[Mutation] = []
        self._starts = [0]
        for line in self.source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._scope: list[str] = []
        self._lines = range(0)

    # Where the tree is walked, and where it is not.

    def visit(self, node: ast.AST) -> None:
        """A statement's own lines, for whatever is changed in it."""
        if isinstance(node, ast.stmt):
            self._lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        super().visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._scope.append(node.name)
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self._own_lines(default)
        for statement in node.body:
            self.visit(statement)
        self._scope.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._scope.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self._scope.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if ast.unparse(node.targets[0]) != "__all__":
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """A sentence."""

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return
        self._replace(node, "pass")
        self.visit(node.value)

    def _own_lines(self, node: ast.AST) -> None:
        """Visit an expression of a statement that holds other statements."""
        self._lines = range(node.lineno, node.end_lineno + 1)  # type: ignore[attr-defined]
        self.visit(node)

    def visit_For(self, node: ast.For) -> None:
        self._own_lines(node.iter)
        for statement in (*node.body, *node.orelse):
            self.visit(statement)

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            self._own_lines(item.context_expr)
        for statement in node.body:
            self.visit(statement)

    def visit_If(self, node: ast.If) -> None:
        self._condition(node)

    def visit_While(self, node: ast.While) -> None:
        self._condition(node)

    def _condition(self, node: ast.If | ast.While) -> None:
        self._lines = range(node.test.lineno, (node.test.end_lineno or 0) + 1)
        self._negate(node.test)
        self.visit(node.test)
        for statement in (*node.body, *node.orelse):
            self.visit(statement)

    # The changes.

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._negate(test)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, right, operator in zip(operands[:-1], operands[1:], node.ops, strict=True):
            sign, others = COMPARISONS[type(operator)]
            for other in others:
                self._between(left, right, sign, other)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in zip(node.values[:-1], node.values[1:], strict=True):
            self._between(left, right, *OPERATORS[type(node.op)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in OPERATORS:
            self._between(node.left, node.right, *OPERATORS[type(node.op)])
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        start, end = self._start(node), self._start(node.operand)
        self._edit(start, end, re.sub(r"^(not\s*|[-~+])", "", self.source[start:end].decode()))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if (other := _another(node.value)) is not None:
            self._replace(node, other)

    def visit_Starred(self, node: ast.Starred) -> None:
        if isinstance(node.ctx, ast.Load):
            self._replace(node, "*()")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        name = getattr(function, "id", getattr(function, "attr", ""))
        if name == "zip":  # strict is for faults of the code itself: with it and without, right code does the same
            for one in node.args:
                self.visit(one)
            return
        if name in OPPOSITES:
            end = self._end(function)
            self._edit(end - len(name), end, OPPOSITES[name])
            plain = [one for one in node.args if not isinstance(one, ast.Starred)]
            if isinstance(function, ast.Name) and len(plain) == len(node.args) == 2 and not node.keywords:
                for one in plain:
                    self._replace(node, f"({self._text(one)})")
        self._leave_out_keywords(node)
        self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, LEFT_OUT):
            self._replace(node, "pass")
        elif isinstance(node, ast.Continue | ast.Break):
            self._replace(node, "break" if isinstance(node, ast.Continue) else "continue")
        if not isinstance(node, ast.Raise):
            super().generic_visit(node)

    def _leave_out_keywords(self, node: ast.Call) -> None:
        everything = sorted((*node.args, *node.keywords), key=self._start)
        for place, one in enumerate(everything):
            if not isinstance(one, ast.keyword) or one.arg is None:
                continue
            if place + 1 < len(everything):
                self._edit(self._start(one), self._start(everything[place + 1]), "")
            elif place:
                self._edit(self._end(everything[place - 1]), self._end(one), "")
            else:
                self._replace(one, "")

    def _negate(self, test: ast.expr) -> None:
        """Comparisons and the like have changes of their own."""
        plain = isinstance(test, ast.Compare | ast.BoolOp)
        if not plain and not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
            self._replace(test, f"(not ({self._text(test)}))")

    # The text.

    def _start(self, node: ast.AST) -> int:
        return self._starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined, no-any-return]

    def _end(self, node: ast.AST) -> int:
        return self._starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined, no-any-return]

    def _text(self, node: ast.AST) -> str:
        return self.source[self._start(node) : self._end(node)].decode()

    def _replace(self, node: ast.AST, text: str) -> None:
        self._edit(self._start(node), self._end(node), text)

    def _between(self, left: ast.AST, right: ast.AST, sign: str, other: str) -> None:
        """Another operator; between two operands stand brackets and comments beside it."""
        start, end = self._end(left), self._start(right)
        gap = self.source[start:end].decode()
        place = re.search(r"\s+".join(map(re.escape, sign.split())), re.sub(r"#.*", lambda m: " " * len(m[0]), gap))
        assert place is not None, f"no {sign} in {gap!r}"
        self._edit(start, end, gap[: place.start()] + other + gap[place.end() :])

    def _edit(self, start: int, end: int, text: str) -> None:
        first = self.source.rfind(b"\n", 0, start) + 1
        last = self.source.find(b"\n", end)
        last = len(self.source) if last < 0 else last
        before = self.source[first:last].decode()
        after = (self.source[first:start] + text.encode() + self.source[end:last]).decode()
        changed = (self.source[:first] + after.encode() + self.source[last:]).decode()
        if _in_one(before) == _in_one(after):
            return
        ast.parse(changed)  # a change that is no Python would be a fault of this file
        where = ".".join(self._scope)
        self.made.append(Mutation(where, _in_one(before), _in_one(after), 1, self._lines, changed))


def _another(value: object) -> str | None:
    """A constant that is off: twice the error of a confidence, twice any other number, one more of a count."""
    if isinstance(value, bool):
        return str(not value)
    if isinstance(value, int):
        return str(value + 1)
    if isinstance(value, float):
        return repr(round(2 * value - 1, 12) if 0.5 < value < 1 else 2 * value or 1.0)
    if isinstance(value, str) and value and not re.search(r"\s", value):
        return repr("not " + value)
    return None


def _in_one(lines: str) -> str:
    return " ".join(lines.split())
