"""What a workflow on GitHub is told, and that nothing else is."""

from pathlib import Path

import pytest

from madx.cli.github import publish
from madx.report.github import SUMMARY_LIMIT
from madx.verify import GateResult, Outcome, Verdict

VERDICT = Verdict((GateResult("e", "speedup", 1.5, "at_least", 1.4, 1.3, 1.45, 0.95, Outcome.FAIL, ()),))


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


def never() -> str:
    raise AssertionError("the report was read although nobody wants it")


def test_elsewhere_nothing_happens(capsys: pytest.CaptureFixture[str]) -> None:
    publish(VERDICT, "why\nnext", never, as_json=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("value", "as_json", "lines"), [("true", False, 2), ("true", True, 0), ("1", False, 0)])
def test_annotations_are_for_workflows_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str, as_json: bool, lines: int
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", value)
    publish(VERDICT, "why\nnext", never, as_json=as_json)
    out = capsys.readouterr().out
    assert len(out.splitlines()) == lines
    assert ("%0Awhy%0Anext" in out) == bool(lines)


@pytest.mark.parametrize("as_json", [True, False])
def test_the_summary_is_appended_to_within_the_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, as_json: bool
) -> None:
    path = tmp_path / "summary"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    publish(VERDICT, "why\nnext", lambda: "## PASS ✅\n", as_json=as_json)
    publish(VERDICT, "why\nnext", lambda: "## FAIL\n" + "### section\nö\n" * 100_000, as_json=as_json)
    publish(VERDICT, "why\nnext", lambda: "## third\n", as_json=as_json)
    content = path.read_bytes()
    assert content.startswith("## PASS ✅\n".encode())
    assert b"## FAIL\n" in content
    assert SUMMARY_LIMIT - 200 < len(content) <= SUMMARY_LIMIT


def test_a_summary_that_cannot_be_written_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no" / "folder"))
    publish(VERDICT, "why\nnext", lambda: "## PASS\n", as_json=False)
    assert "could not be written" in capsys.readouterr().err
