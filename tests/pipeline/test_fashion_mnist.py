"""What the README promises of Fashion-MNIST, on the real images: the shipped network, a silent loss, 2:4."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
from conftest import Cli

ROOT = Path(__file__).parent.parent.parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.usefixtures("from_the_root"),
]


@pytest.mark.long
def test_the_shipped_network_is_what_the_readme_says() -> None:
    spec = importlib.util.spec_from_file_location("shipped_network", ROOT / "benchmarks/shipped_network.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.measure()
    assert found["clean"] >= 0.85
    assert found["pgd50_10_restarts"] >= 0.75
    assert (ROOT / "recipes/weights/fashion-mnist-resnet8.safetensors").stat().st_size < 6_000_000


def test_the_2_4_recipe_builds_sparse_engines_it_cannot_run(tmp_path: Path, cli: Cli) -> None:
    """Hardly trained, for the structure and the engines only."""
    if "tensorrt-rtx" not in os.environ.get("MADX_PROMISED_ENGINES", "").split(","):
        pytest.importorskip("tensorrt_rtx", reason='pip install ".[rtx]"')
    quick = (
        *("prune.batches=1", "prune.learning.steps=5", "prune.finetune.epochs=0.05", "prune.finetune.evaluations=1"),
        "verify.images=100",
    )
    options = [word for change in quick for word in ("--set", change)]
    answer = cli("run", ROOT / "recipes/fashion-mnist-2-4.yaml", "--run-dir", tmp_path / "run", "--force", *options)
    assert answer.code in (0, 1, 3), answer.err
    record = json.loads((tmp_path / "run/engines/tensorrt-rtx-fp16/build.json").read_text())
    assert record["built"] is True
    assert (tmp_path / "run" / record["pruned"]["file"]).stat().st_size > 100_000
    eligible = [row for row in record["pruned"]["sparsity_2_4"].values() if row["eligible"]]
    assert len(eligible) >= 8
    assert not any(row["eligible"] for row in record["dense"]["sparsity_2_4"].values())


def test_the_silent_loss_is_caught(tmp_path: Path, cli: Cli) -> None:
    """On a quarter of its images; the bound on clean accuracy is what so few can decide."""
    gates = "verify.gates=[{metric: clean_drop, at_most: 0.03}, {metric: robust_drop, at_most: 0.03}]"
    quick = ("verify.images=250", gates, "verify.latency.seconds=0.5")
    options = [word for change in quick for word in ("--set", change)]
    answer = cli("run", ROOT / "recipes/fashion-mnist-silent-loss.yaml", "--run-dir", tmp_path / "run", *options)
    assert answer.code == 1, answer.err
    verdict = json.loads((tmp_path / "run/verdict.json").read_text())
    found = {gate["metric"]: gate for gate in verdict["gates"]}
    assert {metric: gate["outcome"] for metric, gate in found.items()} == {"clean_drop": "PASS", "robust_drop": "FAIL"}
    assert found["robust_drop"]["lower"] > 0.3
    assert found["clean_drop"]["estimate"] < 0.01
    report = (tmp_path / "run/report.md").read_text().partition("###")[0]
    assert [words in report for words in ("PASS: clean accuracy", "FAIL: robust accuracy")] == [True, True]
