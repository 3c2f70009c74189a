from xml.etree import ElementTree

import pytest
import report_cases as cases
from junitparser import Error, Failure, JUnitXml

from madx.report import render_junit
from madx.verify import Outcome


def outcomes(content):
    return [gate.outcome for gate in content.verdict.gates]


@pytest.mark.parametrize("name", cases.CONTENTS)
def test_counts_are_the_verdicts(name):
    content = cases.CONTENTS[name]
    root = ElementTree.fromstring(render_junit(content).encode())
    wanted = outcomes(content) or [Outcome.INCONCLUSIVE]  # a verdict without a gate must not look green
    timed = sum("seconds" in record for record in content.stages.values())
    gates = root.find("testsuite")
    for element, tests in ((root, len(wanted) + timed), (gates, len(wanted))):
        counts = {key: int(element.get(key)) for key in ("tests", "failures", "errors", "skipped")}
        assert counts == {
            "tests": tests,
            "failures": wanted.count(Outcome.FAIL),
            "errors": wanted.count(Outcome.INCONCLUSIVE),
            "skipped": 0,
        }
    assert len(list(gates.iter("testcase"))) == len(wanted)


@pytest.mark.parametrize("name", ["passing", "failing", "undecided", "two engines", "missing"])
def test_each_gate_has_its_case(name):
    content = cases.CONTENTS[name]
    suite, *_ = JUnitXml.fromstring(render_junit(content).encode())
    for case, gate in zip(suite, content.verdict.gates, strict=True):
        assert case.classname == f"madx.{gate.engine}"
        assert case.name.startswith(gate.metric)
        kinds = {Outcome.PASS: [], Outcome.FAIL: [Failure], Outcome.INCONCLUSIVE: [Error]}
        assert [type(result) for result in case.result] == kinds[gate.outcome]
        told = case.result[0].text if case.result else case.system_out
        assert all(sentence in told for sentence in gate.evidence)
        if gate.outcome is Outcome.INCONCLUSIVE:
            assert case.result[0].type == "inconclusive"


def test_names_of_cases_are_unique():
    suite, *_ = JUnitXml.fromstring(render_junit(cases.TWO_ENGINES).encode())
    names = [(case.classname, case.name) for case in suite]
    assert len(names) == len(set(names)) == 2 * len(cases.GATES)


def test_warnings_are_the_suites_output():
    root = ElementTree.fromstring(render_junit(cases.MISSING).encode())
    assert "was promised and not measured" in root.find("testsuite/system-out").text
    assert ElementTree.fromstring(render_junit(cases.PASSING).encode()).find("testsuite/system-out") is None


def test_the_same_every_time():
    assert render_junit(cases.FAILING) == render_junit(cases.FAILING)
    assert render_junit(cases.FAILING).startswith("<?xml")


def test_stages_tell_their_times():
    gates, stages = JUnitXml.fromstring(render_junit(cases.PASSING).encode())
    assert {case.name: case.time for case in stages} == {"train": 4000.2, "prune": 75.04}
    assert stages.time == pytest.approx(4075.24)
    assert {case.classname for case in stages} == {"madx.stages"}
    assert not any(case.result for case in stages)
    assert gates.name == "madx fashion-resnet18"


def test_stages_without_a_time_are_left_out():
    for name in ("bare", "hostile"):
        assert len(list(JUnitXml.fromstring(render_junit(cases.CONTENTS[name]).encode()))) == 1
