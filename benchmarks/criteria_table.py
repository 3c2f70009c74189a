"""benchmarks/results/criteria.jsonl -> docs/criteria-table.md and docs/criteria.svg.

    python benchmarks/criteria_table.py

The unit is the test image: an image's outcome is averaged over the seeds first, so that images which three networks
share do not count as three. Intervals are 95 % over images (normal approximation); what three seeds vary beyond that is
printed as their range. Differences are paired by image, and only seeds that both sides have are compared.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).parent
RESULTS = HERE / "results/criteria.jsonl"
TABLE, PLOT = HERE.parent / "docs/criteria-table.md", HERE.parent / "docs/criteria.svg"
STATES = {
    "one_shot": "one-shot",
    "recalibrated": "one-shot, adversarial BatchNorm",
    "finetuned": "fine-tuned",
}
ATTACKS = ("clean", "pgd50", "apgd")
OURS, DENSE = "mad", "dense"
NOTE = "Accuracies in %, with 95 % intervals over images and the range of the seeds. PGD-50 was taken with seed 0 only."
Seeds = dict[int, np.ndarray]


class Results:
    """The cells of one structure. The dense network is among its criteria, at every sparsity."""

    def __init__(self, structure: str) -> None:
        self.cells: dict[tuple[str, float], dict[int, dict[str, Any]]] = defaultdict(dict)
        for line in RESULTS.read_text().splitlines():
            entry = json.loads(line)
            if entry["criterion"] == DENSE or entry.get("structure", "unstructured") == structure:
                seeds = self.cells[entry["criterion"], entry["sparsity"]]
                seeds[entry["seed"]] = seeds.get(entry["seed"], {}) | entry
        self.sparsities = sorted({sparsity for name, sparsity in self.cells if name != DENSE})
        self.criteria = list(dict.fromkeys(name for name, _ in self.cells if name != DENSE))

    def outcomes(self, name: str, sparsity: float, state: str, attack: str = "apgd") -> Seeds:
        """Seed -> 1.0 for each image that was classified correctly; no seed where nothing was measured."""
        if name == DENSE:
            sparsity, state = 0.0, state if state == "finetuned" else "one_shot"
        cell = self.cells.get((name, sparsity), {})
        found = {seed: entry.get(state, {}).get(attack) for seed, entry in sorted(cell.items())}
        return {seed: _unpacked(bits) for seed, bits in found.items() if bits}

    def gap(self, other: str, sparsity: float, state: str) -> tuple[float, float, int] | None:
        """OURS minus `other` under APGD, in points: mean, half width, seeds. Dense was measured on more images."""
        ours, theirs = (self.outcomes(name, sparsity, state) for name in (OURS, other))
        seeds = sorted(set(ours) & set(theirs))
        if not seeds or other == OURS:
            return None
        gap = np.mean([ours[seed] - theirs[seed][: len(ours[seed])] for seed in seeds], axis=0)
        return 100 * float(gap.mean()), half_width(gap), len(seeds)

    def ranking(self, sparsity: float, state: str) -> list[str]:
        """Measured criteria by accuracy under APGD, best first."""
        found = {name: self.outcomes(name, sparsity, state) for name in self.criteria}
        means = {name: np.mean([*seeds.values()]) for name, seeds in found.items() if seeds}
        return sorted(means, key=means.__getitem__, reverse=True)

    def dense(self, sparsity: float, state: str, attack: str = "apgd") -> Seeds:
        """The dense network on the images that OURS was measured on."""
        images = [len(bits) for bits in self.outcomes(OURS, sparsity, state).values()]
        found = self.outcomes(DENSE, sparsity, state, attack)
        return {seed: bits[: min(images)] for seed, bits in found.items()} if images else {}


def _unpacked(bits: dict[str, Any]) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(bits["right"]), np.uint8))[: bits["images"]].astype(float)


def half_width(values: np.ndarray) -> float:
    """Of the 95 % interval of the mean, in points."""
    return 196 * float(values.std(ddof=1)) / math.sqrt(len(values))


def figure_of(seeds: Seeds) -> str:
    """Mean over images and seeds with its interval, and the seeds' range."""
    if not seeds:
        return ""
    mean = np.mean([*seeds.values()], axis=0)
    text = f"{100 * mean.mean():.1f} ± {half_width(mean):.1f}"
    each = [100 * value.mean() for value in seeds.values()]
    return f"{text} ({min(each):.1f} to {max(each):.1f})" if len(each) > 1 else text


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Markdown, with a blank line before."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return ["", *(f"| {' | '.join(row)} |" for row in (head, marks, *rows))]


def glance(results: Results, state: str) -> list[str]:
    """Accuracy under APGD (number of seeds), criteria over sparsities; the best in bold."""
    columns = []
    for sparsity in results.sparsities:
        seeds = {name: results.outcomes(name, sparsity, state) for name in results.ranking(sparsity, state)}
        shown = {name: f"{100 * np.mean([*bits.values()]):.1f}" for name, bits in seeds.items()}
        best = next(iter(shown.values()), "")
        columns.append(
            {name: f"{f'**{mean}**' if mean == best else mean} ({len(seeds[name])})" for name, mean in shown.items()}
        )
    names = max(columns, key=len)
    rows = [[f"`{name}`", *(column.get(name, "") for column in columns)] for name in names]
    head = ["criterion", *map("{:.0%}".format, results.sparsities)]
    return ["", f"**{STATES[state]}**", *table(head, rows)]


def gaps(results: Results, state: str) -> list[str]:
    """OURS minus each other under APGD (number of seeds), criteria over sparsities."""
    found = {
        name: [results.gap(name, sparsity, state) for sparsity in results.sparsities]
        for name in (*results.criteria, DENSE)
        if name != OURS
    }
    rows = [
        [name, *(f"{gap[0]:+.1f} ± {gap[1]:.1f} ({gap[2]})" if gap else "" for gap in row)]
        for name, row in found.items()
    ]
    return ["", f"**{STATES[state]}**", *table([f"`{OURS}` minus", *map("{:.0%}".format, results.sparsities)], rows)]


def figures(results: Results, sparsity: float, state: str) -> list[str]:
    """Every figure of one state at one sparsity, the dense network's on the same images last."""

    def row(name: str, shown: str, attacks: list[Seeds]) -> list[str]:
        gap = results.gap(name, sparsity, state)
        return [
            *(shown, str(len(attacks[-1])), *map(figure_of, attacks)),
            f"{gap[0]:+.1f} ± {gap[1]:.1f}" if gap else "",
        ]

    rows = [
        row(name, f"`{name}`", [results.outcomes(name, sparsity, state, attack) for attack in ATTACKS])
        for name in results.ranking(sparsity, state)
    ]
    rows.append(row(DENSE, DENSE, [results.dense(sparsity, state, attack) for attack in ATTACKS]))
    return table(["criterion", "seeds", "clean", "PGD-50", "APGD", f"`{OURS}` minus this, APGD"], rows)


def all_figures(structure: str, what: str) -> list[str]:
    """All tables of a structure; `what` is removed."""
    results = Results(structure)
    lines: list[str] = []
    for state, words in STATES.items():
        for sparsity in results.sparsities:
            if results.ranking(sparsity, state):
                lines += ["", f"**{words}, {sparsity:.0%} of the {what} removed**", *figures(results, sparsity, state)]
    return lines


def draw(axes: Axes, results: Results, state: str) -> None:
    """APGD accuracy of each criterion over sparsity, with intervals; the dense network dashed."""
    for number, name in enumerate(results.criteria):
        found = {sparsity: results.outcomes(name, sparsity, state) for sparsity in results.sparsities}
        means = {f"{sparsity:.0%}": np.mean([*seeds.values()], axis=0) for sparsity, seeds in found.items() if seeds}
        axes.errorbar(
            [*means],
            [100 * mean.mean() for mean in means.values()],
            yerr=[half_width(mean) for mean in means.values()],
            label=name, color=f"C{number}", marker="o", markersize=3, capsize=2,
            linewidth=2.2 if name == OURS else 1,
        )  # fmt: skip
    dense = results.dense(results.sparsities[0], state)
    axes.axhline(float(100 * np.mean([*dense.values()])), color="0.5", linewidth=0.8, linestyle="--", label=DENSE)
    axes.set(title=STATES[state], xlabel="weights removed")


def plot(results: Results) -> None:
    """Without training and with it, side by side."""
    mpl.rcParams.update(
        {"svg.hashsalt": "madx", "font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False}
    )
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, state in zip(figure.subplots(1, 2), ("recalibrated", "finetuned"), strict=True):
        draw(axes, results, state)
    figure.axes[0].set_ylabel("accuracy under APGD, %")
    figure.axes[0].legend(frameon=False, fontsize=7.5)
    figure.savefig(PLOT, metadata={"Date": None})


def main() -> None:
    """Write both."""
    results = Results("unstructured")
    lines = ["<!-- written by benchmarks/criteria_table.py -->", "", NOTE]
    lines += ["", "## Accuracy under APGD over weights removed (number of seeds)"]
    lines += [line for state in STATES for line in glance(results, state)]
    lines += [
        "",
        f"## `{OURS}` minus the others under APGD: points, paired 95 % intervals over images (number of seeds)",
    ]
    lines += [line for state in STATES for line in gaps(results, state)]
    lines += ["", "## All figures", *all_figures("unstructured", "weights"), *all_figures("channels", "channels")]
    TABLE.write_text("\n".join(lines) + "\n")
    plot(results)


if __name__ == "__main__":
    main()
