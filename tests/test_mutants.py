"""Mutation testing tried on a house of three lines: what is changed, who notices, and what the exit code says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from mutants import CONCERNS, EQUIVALENT, read_equivalent
from mutations import mutations

SOURCE = '''
"""A doc of 1 word."""
LEAST = 0.95


@cached(size=8)
def judge(value: float, *, doubts=(), strict=True):
    """Not 2."""
    check(value)
    if not strict and value >= LEAST - 1:
        raise Error(f"{value + 1} is wrong", 7)
    return (*doubts, "fine enough", max(value, 0), find(value, kind="upper"))
'''


def test_what_is_changed_and_what_is_not() -> None:
    """Sentences, decorators, annotations and what is raised are no judgement."""
    made = [(one.where, one.after) for one in mutations(SOURCE)]
    line = "if not strict and value >= LEAST - 1:"
    end = 'return (*doubts, "fine enough", max(value, 0), find(value, kind="upper"))'
    assert sorted(made) == sorted(
        [
            ("", "LEAST = 0.9"),
            ("judge", "def judge(value: float, *, doubts=(), strict=False):"),
            ("judge", "pass"),
            ("judge", line.replace("not strict", "strict")),
            ("judge", line.replace("and", "or")),
            ("judge", line.replace(">=", ">")),
            ("judge", line.replace(">=", "<")),
            ("judge", line.replace("- 1", "+ 1")),
            ("judge", line.replace("- 1", "- 2")),
            ("judge", "pass"),
            ("judge", end.replace("*doubts", "*()")),
            ("judge", end.replace("max(", "min(")),
            ("judge", end.replace("max(value, 0)", "(value)")),
            ("judge", end.replace("max(value, 0)", "(0)")),
            ("judge", end.replace("max(value, 0)", "max(value, 1)")),
            ("judge", end.replace(', kind="upper"', "")),
            ("judge", end.replace('"upper"', "'not upper'")),
        ]
    )


def test_a_change_is_known_by_its_lines_and_not_by_their_numbers() -> None:
    source = "def f(a):\n    b = a + 1\n    b = a + 1\n    return b\n"
    names = [one.name for one in mutations(source)]
    assert len(names) == len(set(names)) == 4
    assert [one.name for one in mutations("import os\n\n\n" + source)] == names
    texts = {one.text for one in mutations(source)}
    assert len(texts) == 4
    assert source not in texts


def test_of_several_operators_each_is_changed() -> None:
    after = {one.after for one in mutations("x = (a) < b <= (c or d or not e)  # or\n")}
    assert {"x = (a) <= b <= (c or d or not e) # or", "x = (a) < b < (c or d or not e) # or"} <= after
    assert {"x = (a) < b <= (c and d or not e) # or", "x = (a) < b <= (c or d and not e) # or"} <= after
    assert "x = (a) < b <= (c or d or e) # or" in after


ENTRY = "madx/a.py judge #2\n- if a >= b:\n+ if a > b:\n= they are never equal,\n= being of two kinds\n"


def test_the_list_says_why() -> None:
    reasons = read_equivalent("# The list.\n\n" + ENTRY)
    assert reasons == {("madx/a.py", "judge", "if a >= b:", "if a > b:", 2): "they are never equal, being of two kinds"}
    for bad in (ENTRY.replace("= ", "  "), ENTRY + "\n" + ENTRY):
        with pytest.raises(ValueError, match=r"madx/a\.py judge"):
            read_equivalent(bad)


def test_every_listed_change_is_of_a_file_that_is_tried() -> None:
    listed = read_equivalent((ROOT / EQUIVALENT).read_text())
    tried = {path for files, _ in CONCERNS.values() for pattern in files for path in ROOT.glob(pattern)}
    for path in {key[0] for key in listed}:
        assert ROOT / path in tried
        names = {(path, *one.name) for one in mutations((ROOT / path).read_text())}
        gone = {key for key in listed if key[0] == path} - names
        assert not gone, "these lines changed: is the reason still true?"


HOUSE = "def judge(lower, bound):\n    return lower >= bound\n"
WEAK = "from madx.rule import judge\n\n\ndef test_both():\n    assert judge(2, 1)\n    assert not judge(0, 1)\n"
STRONG = WEAK + "\n\ndef test_the_bound_itself_passes():\n    assert judge(1, 1)\n"
LISTED = "madx/rule.py judge\n- return lower >= bound\n+ return lower > bound\n= numbers are never equal\n"


NOTICED = "listed as equivalent, and noticed by tests/test_rule.py::test_the_bound_itself_passes"
STEPS = """
import contextlib, io, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from mutants import KEPT, main
concerns = {"rule": (("madx/rule.py",), ("tests",))}
for files in json.loads(sys.argv[3]):
    for path, text in files.items():
        (Path(sys.argv[2]) / path).write_text(text)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = main(Path(sys.argv[2]), concerns, [])
    tried = len((Path(sys.argv[2]) / KEPT / "results.jsonl").read_text().splitlines())
    print(json.dumps([code, tried, said.getvalue()]))
"""


def test_a_survivor_fails_unless_it_is_listed_and_a_listed_one_fails_if_it_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "madx").mkdir()
    (tmp_path / "tests").mkdir()
    test = "tests/test_rule.py"
    steps = [
        {"madx/__init__.py": "", "madx/rule.py": HOUSE, test: WEAK},
        {EQUIVALENT: LISTED},
        {test: STRONG},
        {EQUIVALENT: ""},
        {EQUIVALENT: LISTED.replace("lower > bound", "lower - bound")},
        {test: STRONG.replace("judge(2, 1)", "judge(1, 22)")},
    ]
    command = [sys.executable, "-c", STEPS, str(ROOT / "tests"), str(tmp_path), json.dumps(steps)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    survived, listed, noticed, killed, gone, broken = (json.loads(line) for line in done.stdout.splitlines())
    assert (survived[0], survived[1], "+ return lower > bound" in survived[2]) == (1, 2, True)
    assert "+ return lower < bound" not in survived[2]
    assert (listed[0], listed[1]) == (0, 2), "what is known is not tried again"
    assert (noticed[0], NOTICED in noticed[2]) == (1, True)
    assert killed[0] == 0
    assert (gone[0], "no such change is made" in gone[2]) == (1, True)
    assert (broken[0], "do not pass as it is" in broken[2]) == (2, True)
