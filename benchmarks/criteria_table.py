"""benchmarks/results/criteria.jsonl -> docs/criteria-table.md and docs/criteria.svg.

    python benchmarks/criteria_table.py

The unit is the test image: an image's outcome is averaged over the seeds first, so that images which three networks
share do not count as three. Intervals are 95 % over images (normal approximation); what three seeds vary beyond that is
printed as their range. Differences are paired by image, and only seeds that both criteria have are compared.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

HERE = Path(__file__).parent
RESULTS = HERE / "results/criteria.jsonl"
TABLE, PLOT = HERE.parent / "docs/criteria-table.md", HERE.parent / "docs/criteria.svg"
STATES = {
    "one_shot": "one-shot",
    "recalibrated": "one-shot, adversarial BatchNorm",
    "finetuned_pgd5": "fine-tuned with PGD-5",
    "finetuned": "fine-tuned with PGD-3 (scatters by points, see criteria.md)",
}
ATTACKS = ("clean", "pgd50", "apgd")
OURS = "mad"
NOTE = "Accuracies in %, with 95 % intervals over images and the range of the seeds. PGD-50 was taken with seed 0 only."
Cells = dict[tuple[str, float], dict[int, dict[str, Any]]]


def read(structure: str) -> Cells:
    """(criterion, sparsity) -> seed -> the cell; the dense network's are among those of every structure."""
    cells: Cells = defaultdict(dict)
    for line in RESULTS.read_text().splitlines():
        entry = json.loads(line)
        if entry["criterion"] == "dense" or entry.get("structure", "unstructured") == structure:
            seeds = cells[entry["criterion"], entry["sparsity"]]
            seeds[entry["seed"]] = seeds.get(entry["seed"], {}) | entry
    return cells


def bits(entry: dict[str, Any], state: str, attack: str) -> np.ndarray | None:
    """Outcomes of the images, float, or None where it was not measured."""
    found = entry.get(state, {}).get(attack)
    if not found:
        return None
    return np.unpackbits(np.frombuffer(bytes.fromhex(found["right"]), np.uint8))[: found["images"]].astype(float)


def over_seeds(cell: dict[int, dict[str, Any]], state: str, attack: str) -> dict[int, np.ndarray]:
    """The seeds that have it."""
    found = {seed: bits(entry, state, attack) for seed, entry in sorted(cell.items())}
    return {seed: value for seed, value in found.items() if value is not None}


def half_width(values: np.ndarray) -> float:
    """Of the 95 % interval of the mean, in points."""
    return 196 * float(values.std(ddof=1)) / math.sqrt(len(values))


def figure_of(cell: dict[int, dict[str, Any]], state: str, attack: str) -> str:
    """Mean over images and seeds with its interval, and the seeds' range."""
    found = over_seeds(cell, state, attack)
    if not found:
        return ""
    mean = np.mean(list(found.values()), axis=0)
    text = f"{100 * mean.mean():.1f} ± {half_width(mean):.1f}"
    if len(found) == 1:
        return text
    each = [100 * value.mean() for value in found.values()]
    return f"{text} ({min(each):.1f} to {max(each):.1f})"


def difference(cells: Cells, other: str, sparsity: float, state: str) -> tuple[float, float, int] | None:
    """OURS minus `other` under APGD, in points: mean, half width, seeds."""
    ours, theirs = (over_seeds(cells.get((name, sparsity), {}), state, "apgd") for name in (OURS, other))
    seeds = sorted(set(ours) & set(theirs))
    if not seeds or other == OURS:
        return None
    gap = np.mean([ours[seed] - theirs[seed] for seed in seeds], axis=0)
    return 100 * float(gap.mean()), half_width(gap), len(seeds)


def ranking(cells: Cells, sparsity: float, state: str) -> list[str]:
    """Criteria by APGD accuracy, best first."""
    found = {
        name: np.mean([value.mean() for value in values.values()])
        for (name, share), cell in cells.items()
        if share == sparsity and (values := over_seeds(cell, state, "apgd"))
    }
    return sorted(found, key=found.__getitem__, reverse=True)


def above_dense(cells: Cells, sparsity: float, state: str) -> tuple[float, float, int] | None:
    """OURS minus the dense network, after the same fine-tuning where there is one: mean, half width, seeds."""
    ours = over_seeds(cells.get((OURS, sparsity), {}), state, "apgd")
    theirs = over_seeds(cells.get(("dense", 0.0), {}), _dense_state(state), "apgd")
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        return None
    gap = np.mean([ours[seed] - theirs[seed][: len(ours[seed])] for seed in seeds], axis=0)
    return 100 * float(gap.mean()), half_width(gap), len(seeds)


def _dense_state(state: str) -> str:
    return state if state.startswith("finetuned") else "one_shot"


def dense_row(cells: Cells, sparsity: float, state: str) -> list[str]:
    """The dense network on the same images, after the same fine-tuning where there is one."""
    cell = cells.get(("dense", 0.0), {})
    ours = over_seeds(cells.get((OURS, sparsity), {}), state, "apgd")
    gap = above_dense(cells, sparsity, state)
    if gap is None:
        return []
    images = min(len(value) for value in ours.values())
    found = {name: over_seeds(cell, _dense_state(state), name) for name in ATTACKS}
    figures = " | ".join(
        f"{100 * np.mean([value[:images] for value in values.values()]):.1f}" for values in found.values()
    )
    return [f"| dense | {len(cell)} | {figures} | {gap[0]:+.1f} ± {gap[1]:.1f} |"]


def rows(cells: Cells, sparsity: float, state: str) -> list[str]:
    """One table."""
    lines = [
        "| criterion | seeds | clean | PGD-50 | APGD | `mad` minus this, APGD |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in ranking(cells, sparsity, state):
        cell = cells[name, sparsity]
        found = difference(cells, name, sparsity, state)
        gap = f"{found[0]:+.1f} ± {found[1]:.1f}" if found else ""
        figures = " | ".join(figure_of(cell, state, attack) for attack in ATTACKS)
        lines.append(f"| `{name}` | {len(over_seeds(cell, state, 'apgd'))} | {figures} | {gap} |")
    return lines + dense_row(cells, sparsity, state)


def dense_lines(cells: Cells) -> list[str]:
    """What pruning starts from, and what the same fine-tuning does to the dense network."""
    cell = cells.get(("dense", 0.0), {})
    lines = []
    for state, words in {**STATES, "one_shot": "as shipped"}.items():
        figures = [f"{name} {figure_of(cell, state, name)}" for name in ATTACKS if over_seeds(cell, state, name)]
        if figures:
            lines.append(f"- dense, {words}: {', '.join(figures)}")
    return lines


def plot(cells: Cells) -> None:
    """APGD accuracy over sparsity: recalibrated and fine-tuned."""
    mpl.rcParams.update(
        {"svg.hashsalt": "madx", "font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False}
    )
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    names = list(dict.fromkeys(name for name, _ in cells if name != "dense"))
    for axes, state in zip(figure.subplots(1, 2), ("recalibrated", "finetuned_pgd5"), strict=True):
        for number, name in enumerate(names):
            points = sorted((share, over_seeds(cell, state, "apgd")) for (n, share), cell in cells.items() if n == name)
            means = [(share, np.mean(list(found.values()), axis=0)) for share, found in points if found]
            axes.errorbar(
                [f"{share:.0%}" for share, _ in means],
                [100 * mean.mean() for _, mean in means],
                yerr=[half_width(mean) for _, mean in means],
                label=name, color=f"C{number}", marker="o", markersize=3, capsize=2,
                linewidth=2.2 if name == OURS else 1,
            )  # fmt: skip
        dense = over_seeds(cells.get(("dense", 0.0), {}), _dense_state(state), "apgd")
        images = [
            len(bits)
            for (name, _), cell in cells.items()
            if name == OURS
            for bits in over_seeds(cell, state, "apgd").values()
        ]
        if dense and images:
            level = 100 * np.mean([value[: min(images)] for value in dense.values()])
            axes.axhline(level, color="0.5", linewidth=0.8, linestyle="--", label="dense")
        axes.set(title=STATES[state], xlabel="weights removed")
    figure.axes[0].set_ylabel("accuracy under APGD, %")
    figure.axes[0].legend(frameon=False, fontsize=7.5)
    figure.savefig(PLOT, metadata={"Date": None})


def glance(cells: Cells) -> list[str]:
    """APGD alone, criteria over sparsities: a table for each state that several sparsities have."""
    lines: list[str] = []
    for state, words in STATES.items():
        found = {share: ranking(cells, share, state) for share in sorted({share for _, share in cells})}
        ranked = {share: names for share, names in found.items() if names and share}
        if len(ranked) < 2:
            continue
        lines += ["", f"**{words}**", "", f"| criterion | {' | '.join(f'{share:.0%}' for share in ranked)} |"]
        lines.append(f"| --- {'| ---: ' * len(ranked)}|")
        for name in max(ranked.values(), key=len):
            row = [_at_a_glance(cells, name, share, state, best=name == names[0]) for share, names in ranked.items()]
            lines.append(f"| `{name}` | {' | '.join(row)} |")
    return lines


def differences(cells: Cells) -> list[str]:
    """OURS minus each other under APGD, criteria over sparsities: a table for each state of several sparsities."""
    shares = sorted({share for _, share in cells if share})
    lines: list[str] = []
    for state, words in STATES.items():
        names = [name for name in dict.fromkeys(name for name, _ in cells) if name not in ("dense", OURS)]
        found = {name: [difference(cells, name, share, state) for share in shares] for name in names}
        found["dense"] = [above_dense(cells, share, state) for share in shares]
        if sum(gap is not None for gap in found["dense"]) < 2:
            continue
        lines += ["", f"**{words}**", "", f"| `{OURS}` minus | {' | '.join(f'{share:.0%}' for share in shares)} |"]
        lines.append(f"| --- {'| ---: ' * len(shares)}|")
        for name, gaps in found.items():
            if any(gaps):
                row = [f"{gap[0]:+.1f} ± {gap[1]:.1f} ({gap[2]})" if gap else "" for gap in gaps]
                lines.append(f"| {name} | {' | '.join(row)} |")
    return lines


def _at_a_glance(cells: Cells, name: str, share: float, state: str, *, best: bool) -> str:
    """Mean over images and seeds, and the number of seeds."""
    found = over_seeds(cells.get((name, share), {}), state, "apgd")
    if not found:
        return ""
    mean = f"{100 * np.mean([value.mean() for value in found.values()]):.1f}"
    return f"{f'**{mean}**' if best else mean} ({len(found)})"


def tables(structure: str, what: str) -> list[str]:
    """All tables of a structure; `what` is removed."""
    cells = read(structure)
    lines: list[str] = []
    for state, words in STATES.items():
        for sparsity in sorted({share for name, share in cells if name != "dense"}):
            if ranking(cells, sparsity, state):
                lines += ["", f"**{words}, {sparsity:.0%} of the {what} removed**", "", *rows(cells, sparsity, state)]
    return lines


def main() -> None:
    """Write both."""
    cells = read("unstructured")
    lines = ["<!-- written by benchmarks/criteria_table.py -->", "", NOTE, "", *dense_lines(cells)]
    lines += ["", "## Accuracy under APGD over weights removed (number of seeds)", *glance(cells)]
    lines += [
        "",
        f"## `{OURS}` minus the others under APGD: points, paired 95 % intervals over images (number of seeds)",
    ]
    lines += [*differences(cells), "", "## All figures"]
    lines += tables("unstructured", "weights") + tables("channels", "channels")
    TABLE.write_text("\n".join(lines) + "\n")
    plot(cells)


if __name__ == "__main__":
    main()
