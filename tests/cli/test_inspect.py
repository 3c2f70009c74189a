"""`madx inspect` of a made-up run: bars in a terminal, one line a fact elsewhere, JSON for machines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import Cli

LAYERS = {"conv1": (3e-6, 40), "features.block.long_name.conv2": (-2e-9, 400), "": (0.0, 1000)}
"""Mean saliency, and entries kept of 1000."""
QUANTILES = "quantiles 5% -1e-07, 50% 2e-08"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """The files that inspect reads, under a manifest that knows them."""
    contents = {
        "coverage.json": {
            "kept_share": 0.48,
            "layers": [
                {
                    "name": name,
                    "shape_before": [8, 3, 3, 3],
                    "shape_after": [8, 3, 3, 3],
                    "weights": 1000,
                    "kept": kept,
                    "reason": "[i]why" if name == "conv1" else "",
                }
                for name, (_, kept) in LAYERS.items()
            ],
        },
        "saliency.json": {
            "criterion": "mad-paper",
            "batches": 4,
            "batch_size": 128,
            "passes": 0.25,
            "settling": {
                "asked": "auto",
                "enough": 0.9,
                "settled": False,
                "curve": [{"batches": 4, "correlation": 0.5, "overlap": 0.4, "chance": 0.1}],
            },
            "quantile_levels": [0.05, 0.5],
            "edges": [-1e-6, -1e-8, 1e-8, 1e-6, 1e-4],
            "layers": [
                {
                    "name": name,
                    "entries": 1000,
                    "kept": kept,
                    "mean": mean,
                    "negative": 0.3,
                    "zero": 0.1,
                    "quantiles": [-1e-7, 2e-8],
                    "kept_counts": [0, 0, kept, 0],
                    "removed_counts": [500 - kept // 2, 0, 0, 500 - kept // 2],
                }
                for name, (mean, kept) in LAYERS.items()
            ],
        },
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(json.dumps(content))
    outputs = {name: {"sha256": "0" * 64, "bytes": 1} for name in contents}
    record = {"outputs": outputs, "seconds": 1.0, "finished": "2026-01-02T03:04:05Z"}
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": 1, "stages": {"prune": record}}))
    return tmp_path


def test_plain_lines_hold_every_fact(run_dir: Path, cli: Cli) -> None:
    lines = cli("inspect", run_dir).out.splitlines()
    assert "  conv1: 8x3x3x3 to 8x3x3x3, kept 4.0%; [i]why" in lines
    assert f"  conv1: mean 3e-06, kept 4.0%, below zero 30.0%, exactly zero 10.0%, {QUANTILES}" in lines
    assert (
        f"  features.block.long_name.conv2: mean -2e-09, kept 40.0%, below zero 30.0%, exactly zero 10.0%, {QUANTILES}"
        in lines
    )
    assert f"  the network: mean 0, kept 100.0%, below zero 30.0%, exactly zero 10.0%, {QUANTILES}" in lines
    assert any("The kept set has not settled" in line and "40.0 %" in line for line in lines)
    assert "Overlap of the halves: 40% after 4 batches." in lines
    assert not any("█" in line or "\x1b" in line for line in lines)


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_gets_bars_that_fit(run_dir: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(width))
    text = re.sub(r"\x1b\[[0-9;]*m", "", cli("inspect", run_dir).out)
    assert max(map(len, text.splitlines())) <= width
    table = text[text.index("saliency\n") :].splitlines()
    conv, other, network = (
        next(line for line in table if name in line) for name in (" conv1 ", "long_name.conv2 ", " the network ")
    )
    assert "3×10⁻⁶" in conv  # noqa: RUF001
    assert conv.count("█") > 2 * other[: other.index("%")].count("█"), "the mean's bar is the longest"
    assert network.split("%")[1].count("█") > 2 * other.split("%")[1].count("█")


@pytest.mark.parametrize("width", [80, 100, 200])
def test_long_names_and_full_bars_leave_place_for_the_numbers(
    run_dir: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """The end of a name tells layers apart; whatever else there is to see is seen whole, in one line for each layer."""
    long = "module.backbone.features.denseblock1.denselayer1.layer2.shortcut.0"
    for file in ("saliency.json", "coverage.json"):
        content = json.loads((run_dir / file).read_text())
        for number, layer in enumerate(content["layers"]):
            layer |= {"name": f"{long}{number}", "kept": 1000, "mean": -1.7e-10, "reason": ""}
            layer |= {"shape_before": [512, 512, 3, 3], "shape_after": [512, 512, 3, 3]}
            layer |= {"kept_counts": [5] * 64, "removed_counts": [0] * 64}
        (run_dir / file).write_text(json.dumps(content))
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(width)}.items():
        monkeypatch.setenv(name, value)
    text = re.sub(r"\x1b\[[0-9;]*m", "", cli("inspect", run_dir).out)
    assert max(map(len, text.splitlines())) <= width
    for number in range(3):
        coverage, saliency = (line for line in text.splitlines() if f"shortcut.0{number} " in line)
        assert "…" not in coverage[2:] + saliency[2:]
        assert coverage.split()[1:] == ["512x512x3x3", "512x512x3x3", "100.0%"]
        assert saliency.split()[1] == "−1.7×10⁻¹⁰"  # noqa: RUF001
        assert saliency.split()[3] == "100.0%"
        assert len(saliency.split()) == 6


def test_the_network_itself_has_a_name_in_every_list(run_dir: Path, cli: Cli) -> None:
    lines = cli("inspect", run_dir).out.splitlines()
    assert "  the network: 8x3x3x3 to 8x3x3x3, kept 100.0%" in lines


def test_machines_get_the_saliency(run_dir: Path, cli: Cli) -> None:
    findings = json.loads(cli("inspect", run_dir, "--json").out)
    assert findings["saliency"] == json.loads((run_dir / "saliency.json").read_text())


def test_a_run_without_a_saliency_record_is_shown(run_dir: Path, cli: Cli) -> None:
    (run_dir / "saliency.json").unlink()
    answer = cli("inspect", run_dir)
    assert "kept 48.0% of the weights" in answer.out
    assert "mean" not in answer.out


def test_a_criterion_that_looks_at_no_image_has_no_empty_line(run_dir: Path, cli: Cli) -> None:
    path = run_dir / "saliency.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"criterion": "random", "batches": 0, "settling": None}))
    assert cli("inspect", run_dir).out.splitlines()[-2:] == [
        "Criterion: random, which looks at nothing.",
        "Highest mean saliency: conv1, then the network.",
    ]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_record_with_a_number_that_is_none_is_no_bug(options: tuple[str, ...], run_dir: Path, cli: Cli) -> None:
    path = run_dir / "saliency.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"passes": float("nan")}))
    answer = cli("inspect", run_dir, *options)
    assert (answer.code, answer.out) == (2, "")
    assert "saliency.json is not readable JSON (NaN is no finite number); delete it" in " ".join(answer.err.split())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("saliency.json", {"layers": [{"name": "conv1"}]}),
        ("saliency.json", {"layers": 3}),
        ("saliency.json", [1, 2]),
        ("coverage.json", {"kept_share": 0.5}),
        ("verdict.json", {"gates": []}),
        ("manifest.json", {"schema": 1, "stages": {"prune": {"outputs": {}, "seconds": "1 s"}}}),
    ],
)
def test_a_damaged_record_is_no_bug(name: str, content: object, run_dir: Path, cli: Cli) -> None:
    (run_dir / name).write_text(json.dumps(content))
    answer = cli("inspect", run_dir)
    assert answer.code not in (0, 70)
    assert "bug" not in answer.err
    assert f"{run_dir / name} does not hold what madx writes there" in " ".join(answer.err.split())
    assert "delete it" in answer.err
