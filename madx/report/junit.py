"""The report for CI: JUnit XML with one test case per engine and gate, and one per stage, which tells its time.

A FAIL is a failure. An INCONCLUSIVE is an error, so that no CI shows it as passed; so is a verdict without any gate.
"""

from __future__ import annotations

from junitparser import Error, Failure, JUnitXml, SystemOut, TestCase, TestSuite

from madx.report import words
from madx.report.content import ReportContent
from madx.verify import GateResult, Outcome


def render_junit(content: ReportContent) -> str:
    """Class names are "madx.<engine>"; the verdict's warnings are the suite's output."""
    verdict = content.verdict
    suite = TestSuite(words.clean(f"madx {content.recipe.get('name', '')}".strip()))
    for gate in verdict.gates:
        suite.add_testcase(_case(gate, _advice(content, gate)))
    if not verdict.gates:
        suite.add_testcase(_nothing_measured())
    if verdict.warnings:
        output = SystemOut()
        output.text = words.clean("\n".join(verdict.warnings))
        suite.append(output)  # type: ignore[no-untyped-call]
    report = JUnitXml()
    report.add_testsuite(suite)
    if timed := _stages(content):
        report.add_testsuite(timed)
    report.update_statistics()  # type: ignore[no-untyped-call]
    text: str = report.tostring().decode("utf-8")  # type: ignore[no-untyped-call]
    return text if text.startswith("<?xml") else f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _stages(content: ReportContent) -> TestSuite | None:
    """What took how long: a gate has no time of its own, as one measurement serves them all."""
    known = {name: record["seconds"] for name, record in content.stages.items() if "seconds" in record}
    if not known:
        return None
    suite = TestSuite(words.clean(f"madx stages {content.recipe.get('name', '')}".strip()))
    for name, seconds in known.items():
        suite.add_testcase(TestCase(words.clean(name), "madx.stages", seconds))
    return suite


def _advice(content: ReportContent, gate: GateResult) -> str:
    """At the gate that decided: what would get further, and what to type."""
    decided = content.headline
    if (gate.metric, gate.engine) != (decided.gate, decided.engine) or content.next_command is None:
        return ""
    return f". Next{f' ({decided.remedy.value})' if decided.remedy else ''}: {content.next_command}"


def _case(gate: GateResult, advice: str) -> TestCase:
    case = TestCase(f"{gate.metric} {words.required(gate)}", words.clean(f"madx.{gate.engine}"))
    message, evidence = words.clean(f"{words.clause(gate)}{advice}"), words.clean("\n".join(gate.evidence))
    if gate.outcome is Outcome.PASS:
        case.system_out = f"{message}\n{evidence}"
        return case
    result = Failure(message, "fail") if gate.outcome is Outcome.FAIL else Error(message, "inconclusive")
    result.text = evidence
    case.result = [result]
    return case


def _nothing_measured() -> TestCase:
    """A CI that finds no test would call the run green."""
    case = TestCase("verdict", "madx")
    case.result = [Error("no gate was measured, so nothing is shown", "inconclusive")]
    return case
