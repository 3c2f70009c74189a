"""benchmarks/data.py runs, with little, and says what it measured."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_the_benchmark_of_the_data_runs() -> None:
    little = ["--images", "70", "--side", "16", "--most", "60", "--repeats", "1", "--batches", "2", "--array-mb", "1"]
    found = subprocess.run(
        [sys.executable, ROOT / "benchmarks/data.py", *little], check=True, capture_output=True, text=True
    )
    for words in ("70 images: own memory at most", "plain Pillow", "one batch ahead", "savez_compressed of 1 MB"):
        assert words in found.stdout
