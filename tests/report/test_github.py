import re
import urllib.parse
from dataclasses import replace

import pytest
import report_cases as cases

from madx.report import render_markdown
from madx.report.github import annotate, command, step_summary
from madx.verify import GateResult, Outcome, Verdict

LINE = re.compile(r"::(error|warning|notice) title=([^:,\r\n]*)::([^\r\n]*)")


def read(line):
    """A workflow command as the runner takes it apart; what it writes as %XX is plain again."""
    kind, title, message = LINE.fullmatch(line).groups()
    return kind, urllib.parse.unquote(title), urllib.parse.unquote(message)


def gate(outcome, metric="speedup", engine="e", evidence=()):
    return GateResult(engine, metric, 1.5, "at_least", 1.4, 1.3, 1.6, 0.95, outcome, evidence)


@pytest.mark.parametrize(
    "text", ["plain", "100 % of a:b,c", "two\nlines\r\nof it", "%0A", "::error::x", "L∞ ≤ 8/255 →"]
)
def test_a_command_says_what_it_was_given(text):
    assert read(command("error", text, text)) == ("error", text, text)


def test_control_characters_do_not_reach_the_log():
    assert "\x1b" not in command("notice", cases.HOSTILE, cases.HOSTILE)


@pytest.mark.parametrize("name", cases.CONTENTS)
def test_every_gate_that_does_not_pass_is_told(name):
    verdict = cases.CONTENTS[name].verdict
    told = [read(line) for line in annotate(verdict, "why")]
    outcomes = [gate.outcome for gate in verdict.gates]
    kinds = [kind for kind, _, _ in told]
    assert kinds.count("error") == outcomes.count(Outcome.FAIL)
    assert kinds.count("warning") == outcomes.count(Outcome.INCONCLUSIVE) + len(verdict.warnings)
    assert kinds.count("notice") == 1
    assert told[-1][1] == f"madx: {verdict.outcome.value}"


def test_an_annotation_has_the_clause_and_the_evidence():
    verdict = Verdict(gates=(gate(Outcome.FAIL, engine="ort: a,b", evidence=("Counted.", "50 % of it.")),))
    kind, title, message = read(annotate(verdict, "why")[0])
    assert (kind, title) == ("error", "madx FAIL: speed-up on ort: a,b")
    assert message.splitlines()[0].startswith("speed-up 1.40")
    assert message.splitlines()[1:] == ["Counted.", "50 % of it."]


@pytest.mark.parametrize(("count", "shown", "more"), [(9, 9, 0), (10, 10, 0), (11, 10, 2), (40, 10, 31)])
def test_no_more_than_ten_of_a_kind(count, shown, more):
    gates = tuple(gate(Outcome.FAIL, engine=str(number)) for number in range(count))
    told = [read(line) for line in annotate(Verdict(gates, warnings=("w",) * count), "why")]
    for kind in ("error", "warning"):
        found = [message for this, _, message in told if this == kind]
        assert len(found) == shown
        assert (found[-1] == f"{more} more are in the report") == bool(more)


def test_a_whole_log_is_cut():
    (line, _) = annotate(Verdict((gate(Outcome.FAIL, evidence=("\n" * 100_000,)),)), "why")
    assert len(line) < 13_000


def folded(text):
    return text.count("<details>") - text.count("</details>")


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_long_summary_is_cut_at_a_section(share):
    whole = render_markdown(replace(cases.TWO_ENGINES, recipe={"name": "x", "note": "### no\n<details>\n" * 30}))
    room = int(share * len(whole.encode()))
    text = step_summary(whole, room)
    assert len(text.encode()) <= room
    assert "The rest is cut" in text.splitlines()[-1]
    body = text[: text.rindex("\n>")]
    assert whole.startswith(body)
    rest = whole[len(body) :].lstrip("\n")
    assert body == "" or rest.startswith(("### ", "<details>"))
    assert folded(body) == 0
    assert "### no" not in body


def test_a_summary_that_fits_is_whole():
    whole = render_markdown(cases.FAILING)
    assert step_summary(whole) == whole
    assert step_summary(whole, len(whole.encode())) == whole
    assert step_summary(whole, len(whole.encode()) - 1) != whole


def test_the_verdict_goes_last():
    whole = render_markdown(cases.FAILING)
    assert step_summary(whole, 2000).startswith("## ❌ FAIL: fashion-resnet18")
    assert step_summary(whole, 20) == ""
