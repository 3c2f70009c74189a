"""Commands that need no run: help, version, schema, doctor."""

import json

import pytest
from conftest import Cli

import madx


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"madx {madx.__version__}\n"


@pytest.mark.parametrize(
    "command", ["train", "prune", "export", "verify", "run", "report", "init", "doctor", "inspect", "data", "recipe"]
)
def test_every_command_has_help(cli: Cli, command: str) -> None:
    answer = cli(command, "--help")
    assert answer.code == 0
    assert "Usage: madx" in answer.out


def test_an_unknown_command_is_wrong_use(cli: Cli) -> None:
    answer = cli("prunee")
    assert answer.code == 2
    assert "prunee" in answer.err


def test_the_schema_names_every_section(cli: Cli) -> None:
    schema = json.loads(cli("recipe", "schema").out)
    assert {"data", "model", "threat", "train", "prune", "export", "verify"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_doctor_tells_of_every_engine(cli: Cli) -> None:
    findings = json.loads(cli("doctor", "--json").out)
    assert findings["engines"]["ort-cpu"]["can_run"] is True
    assert set(findings["engines"]) == {"ort-cpu", "ort-cuda", "openvino-cpu", "tensorrt", "tensorrt-rtx"}
    for kind, found in findings["engines"].items():
        assert found["can_run"] or found["reason"], f"{kind} does not say why it cannot run"
    assert "ort-cuda" in cli("doctor").out


def test_doctor_tells_which_precision_is_fastest_here_and_on_what(cli: Cli) -> None:
    precision = json.loads(cli("doctor", "--json").out)["precision"]
    assert precision["choice"].startswith("precision auto: ")
    assert precision["timings"][0] == {"precision": "fp32", "channels_last": False, "ratio": 1.0, "gradient_error": 0.0}
    assert precision["machine"]["torch_uses"]


def test_a_crash_is_no_failed_gate(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from madx.cli import doctor

    def breaks() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(doctor, "examine", breaks)
    answer = cli("doctor")
    assert answer.code == 70
    assert "this is a bug in madx, not a verdict" in answer.err
