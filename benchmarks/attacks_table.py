"""benchmarks/results/attacks.jsonl -> docs/attacks-table.md and docs/attacks.svg.

python benchmarks/attacks_table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

HERE = Path(__file__).parent
RESULTS = HERE / "results/attacks.jsonl"
TABLE, PLOT = HERE.parent / "docs/attacks-table.md", HERE.parent / "docs/attacks.svg"
TITLES = {"fixture": "network of the tests' reference file", "shipped": "shipped network"}
CURVES = ("pgd-50, 10 restarts", "quick", "square", "torchattacks apgd + targeted")
"""`square` is the standard suite followed by its queries, so its curve begins with the standard one."""
Entries = dict[tuple[str, str], dict[str, Any]]


def read() -> Entries:
    """(network, attack) -> what was measured."""
    entries = map(json.loads, RESULTS.read_text().splitlines())
    return {(entry["network"], entry["attack"]): entry for entry in entries}


def rows(entries: Entries, network: str) -> list[str]:
    """One line for each attack."""
    lines = ["| attack | images | clean | left | gradients an image | forward passes | seconds |", "|" + " --- |" * 7]
    for (owner, name), entry in entries.items():
        if owner != network:
            continue
        count, passes = entry["images"], [entry["gradients_per_image"], entry["forwards_per_image"]]
        costs = ["" if name.startswith("torchattacks") else f"{value:.0f}" for value in passes]
        shares = [f"{entry[key] / count:.1%}" for key in ("clean", "left")]
        lines.append(f"| {name} | {count} | {' | '.join([*shares, *costs])} | {entry['seconds']:.0f} |")
    return lines


def plot(entries: Entries) -> None:
    """Images left over time."""
    mpl.rcParams.update(
        {"svg.hashsalt": "madx", "font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False}
    )
    networks = [network for network in TITLES if any(owner == network for owner, _ in entries)]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, network in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks, strict=True):
        for number, name in enumerate(CURVES):
            entry = entries.get((network, name))
            if entry:
                seconds, left = zip(*entry["curve"], strict=True)
                shares = [100 * value / entry["images"] for value in left]
                label = "standard, then square" if name == "square" else name
                axes.step(seconds, shares, where="post", color=f"C{number}", label=label)
                axes.plot(seconds[-1], shares[-1], "o", color=f"C{number}", markersize=4)
        axes.set(title=TITLES[network], xlabel="seconds", xscale="symlog")
    figure.axes[0].set_ylabel("accuracy left, %")
    figure.axes[-1].legend(frameon=False, fontsize=7.5)
    figure.savefig(PLOT, metadata={"Date": None})


def main() -> None:
    """Write both."""
    entries = read()
    lines = ["<!-- written by benchmarks/attacks_table.py -->"]
    for network, title in TITLES.items():
        if any(owner == network for owner, _ in entries):
            threads = sorted({entry["threads"] for (owner, _), entry in entries.items() if owner == network})
            lines += ["", f"**{title}**, {' and '.join(map(str, threads))} threads", "", *rows(entries, network)]
    TABLE.write_text("\n".join(lines) + "\n")
    plot(entries)


if __name__ == "__main__":
    main()
