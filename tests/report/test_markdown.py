# ruff: noqa: RUF001 - the reports print true multiplication and minus signs
import re

import pytest
import report_cases as cases

from madx.report import render_markdown
from madx.verify import GateResult, Outcome, Verdict

CELL = re.compile(r"(?<!\\)\|")


def tables(text):
    """Blocks of lines that begin with a bar, as lists of cells."""
    found, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in CELL.split(line)[1:-1]])
        elif rows:
            found.append(rows)
            rows = []
    return found


@pytest.mark.parametrize("name", cases.CONTENTS)
class TestEverySummary:
    def test_begins_with_the_verdict(self, name):
        content = cases.CONTENTS[name]
        assert content.verdict.outcome.value in render_markdown(content).splitlines()[0]

    def test_tables_are_rectangular(self, name):
        for table in tables(render_markdown(cases.CONTENTS[name])):
            assert {len(row) for row in table} == {len(table[0])}

    def test_details_are_balanced_and_no_other_tag_comes_through(self, name):
        text = render_markdown(cases.CONTENTS[name]).partition("```yaml")[0]
        assert text.count("<details>") == text.count("</details>") + 1  # the recipe's is closed after its fence
        assert set(re.findall(r"</?(\w+)", text)) <= {"details", "summary", "code"}

    def test_is_utf_8_and_the_same_every_time(self, name):
        text = render_markdown(cases.CONTENTS[name])
        assert text == render_markdown(cases.CONTENTS[name])
        text.encode("utf-8")


def test_the_gates_table_has_every_gate():
    gates = cases.FAILING.verdict.gates
    table = next(rows for rows in tables(render_markdown(cases.FAILING)) if rows[0][0] == "gate")
    assert [row[-1].split()[-1] for row in table[2:]] == [gate.outcome.value for gate in gates]
    assert table[2][2:4] == ["at least 1.5×", "1.20×"]


def test_the_numbers_of_accuracy_and_latency():
    text = render_markdown(cases.PASSING)
    assert "76.0 % (760 of 1000) | 75.2 % (752 of 1000) | −0.8 points | 12 | 4 |" in text
    assert "| 1 | 2.40 ms | 0.922 ms | 2.55 ms | not carried | 2.6" in text
    assert "**Stronger attacks may find more**" in text


def test_what_is_missing_is_said():
    text = render_markdown(cases.BARE)
    assert "No gate was measured." in text
    assert "Accuracy was not measured on any engine." in text
    assert "Latency was not measured on any engine." in text


def test_a_long_log_is_cut_below_the_limit_of_a_step_summary():
    sentence = "x" * 100_000
    gate = GateResult("e", "speedup", 1.5, "at_least", None, None, None, 0.95, Outcome.INCONCLUSIVE, (sentence,))
    verdict = Verdict(gates=(gate,) * 20, warnings=(sentence,) * 200)
    text = render_markdown(cases.content(verdict=verdict))
    assert len(text.encode()) < 512 * 1024
    assert "(cut)" in text
    assert "and 150 more in the HTML report" in text


def test_a_fence_is_longer_than_any_in_the_recipe():
    text = render_markdown(cases.content(recipe={"name": "a ```` b"}))
    assert "\n`````yaml\n" in text


def test_the_saliency_has_a_row_for_each_layer():
    text = render_markdown(cases.PASSING)
    table = next(rows for rows in tables(text) if rows[0][:2] == ["layer", "mean saliency"])
    assert [row[0] for row in table[2:]] == list(cases.LAYERS)
    assert table[3] == ["layer1.conv1", "−2.9×10⁻⁸", "20.0 %", "25.0 %"]
    assert "The kept set has settled" in text
    assert "Saliency was not recorded." in render_markdown(cases.BARE)
