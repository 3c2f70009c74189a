"""Which criterion keeps the most robust accuracy? The shipped Fashion-MNIST network, pruned by weights or by channels.

    python benchmarks/criteria.py                      # every cell that the results file lacks; hours on two cores
    python benchmarks/criteria.py --seeds 0 --sparsities 0.9 --criteria mad magnitude
    python benchmarks/criteria.py --structure channels # half of the channels, at multiples of 16, as the recipe has it
    python benchmarks/criteria_table.py                # the results file -> docs/criteria-table.md, docs/criteria.svg

A cell is one criterion at one sparsity with one seed (of the batches, their attacks and the fine-tuning). Three
networks come of it: one-shot; with BatchNorm recalibrated on adversarial images; and after the same fine-tuning for
every criterion. Scores of criteria that average use BATCHES batches; those that learn take LEARNING_STEPS steps more:
work that the others do not do. `mad-start` is where `mad` starts, without learning.

Each network is measured on the test set's first images: clean, PGD-50 (one start) and APGD (cross-entropy, then
targeted DLR at the likeliest wrong classes). The attacks climb gradients in the precision that is fastest on this
machine (the committed results: bfloat16) and every example is scored again in float32; `--check` compares bfloat16 with
float32 gradients on the dense network. The results file keeps every image's outcome as a hexadecimal bit string, so
that differences between criteria are paired.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from madx.attacks import Apgd, TargetedApgd, Victim, input_gradient, last_iterate, run_suite, strongest_examples
from madx.data import Split, load_splits
from madx.models import build_model, load_weights
from madx.models.precision import ComputeFormat, Precision, probe
from madx.prune import (
    CRITERIA,
    Removal,
    Rule,
    Task,
    average_scores,
    learn_scores,
    removes_channels,
)
from madx.recipe import AttackConfig, FinetuneConfig, LearningConfig, PruneConfig, load_recipe
from madx.seeds import derive_seed, torch_generator
from madx.train import TrainingJob, recalibrate_, train_

HERE = Path(__file__).parent
RECIPE = load_recipe(HERE.parent / "recipes/fashion-mnist.yaml")
RESULTS = HERE / "results/criteria.jsonl"
Structure = Literal["unstructured", "channels"]
DENSE = "dense"
START = "mad-start"
SPARSITIES: dict[Structure, tuple[float, ...]] = {
    "unstructured": (0.8, 0.9, 0.95, 0.7, 0.99, 0.5),
    "channels": (RECIPE.prune.sparsity,),
}
SEEDS = (0, 1, 2)
BATCHES, LEARNING_STEPS, RECALIBRATION_BATCHES, ROUNDS = 20, 100, 8, 2
IMAGES_ONE_SHOT, IMAGES_FINETUNED = 500, 1000
ATTACK = AttackConfig(steps=10)
PGD50 = AttackConfig(steps=50, relative_step=2.5)
APGD = (Apgd(steps=25), TargetedApgd(steps=25, targets=3))
FINETUNE = FinetuneConfig(
    epochs=0.5,
    lr=0.05,
    attack=AttackConfig(steps=5, relative_step=2.5),
    augment="none",
    average=0.98,
    evaluations=1,
    selection_images=250,
    selection_attack=AttackConfig(steps=1),
)


FINETUNED = "finetuned"
STATES = ("one_shot", "recalibrated", FINETUNED)


@lru_cache
def compute_format() -> ComputeFormat:
    """What `precision: auto` comes to for this network on this machine."""
    return probe(dense(), splits().train.shape).fastest()


@lru_cache
def splits() -> Any:
    """The recipe's data."""
    return load_splits(RECIPE.data, RECIPE.seed)


def dense() -> nn.Module:
    """The shipped network."""
    train = splits().train
    model = build_model(RECIPE.model, shape=train.shape, classes=train.classes, seed=0)
    assert RECIPE.model.weights is not None
    load_weights(model, RECIPE.model.weights)
    return model.eval()


def batches(count: int, seed: int, word: str) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(number, images, labels) of `count` training batches in an order named by seed and word."""
    split: Split = splits().train
    for turn in itertools.count():
        shuffle = derive_seed(seed, word, turn)
        for number, (x, y) in enumerate(split.batches(128, shuffle=shuffle, drop_last=True)):
            whole = turn * (len(split) // 128) + number
            if whole == count:
                return
            yield whole, compute_format().ordered(x), y


def adversarial(model: nn.Module, x: Tensor, y: Tensor, attack: AttackConfig, generator: torch.Generator) -> Tensor:
    """PGD examples of one batch."""
    gradient = input_gradient(model, precision=compute_format().precision)
    examples = last_iterate(gradient, x, y, threat=RECIPE.threat, attack=attack, generator=generator)
    return compute_format().ordered(examples)


@lru_cache(maxsize=1)
def averaged(criterion: str, seed: int) -> dict[str, Tensor]:
    """The criterion's scores, averaged over batches."""
    model, score = dense(), CRITERIA["mad" if criterion == START else criterion]
    count = BATCHES if score.images else 1
    made = (
        (adversarial(model, x, y, ATTACK, torch_generator(seed, "scores", n)), y, torch_generator(seed, criterion, n))
        for n, x, y in batches(count, seed, "scores")
    )
    return average_scores(model, (score(model, *batch) for batch in made)).scores


def pruned(criterion: str, structure: Structure, sparsity: float, seed: int) -> Removal:
    """What the criterion leaves of the dense network."""
    model, scores = dense(), averaged(criterion, seed)
    config = PruneConfig(structure=structure, sparsity=sparsity, round_to=RECIPE.prune.round_to)
    rule = Rule(model, config, example=torch.zeros(2, *splits().train.shape))
    if criterion != START and (learner := CRITERIA[criterion].learner):
        channels = rule.channel_masks(scores) if removes_channels(config) else None
        keep = rule.masks if channels is None else channels.masks
        learning = LearningConfig(steps=LEARNING_STEPS)
        task = Task(learning, keep, learning_attack, format=compute_format())
        if channels is not None:
            task = replace(task, collect=channels.slopes)
        scores = scores | learn_scores(
            model,
            ((x, y, torch_generator(seed, "learn", n)) for n, x, y in batches(LEARNING_STEPS, seed, "learn")),
            channels.start(scores) if channels else scores,
            learner,
            task,
        )
    return rule.remove(scores)


def learning_attack(network: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """Examples of the network as it is pruned then."""
    return adversarial(network, x, y, LearningConfig().attack, generator)


def recalibrated_(model: nn.Module, seed: int) -> None:
    """BatchNorm on adversarial images of the pruned network itself."""
    for turn in range(ROUNDS):
        recalibrate_(
            model,
            (
                adversarial(model, x, y, ATTACK, torch_generator(seed, "recalibrate", turn, n))
                for n, x, y in batches(RECALIBRATION_BATCHES, seed, "recalibrate")
            ),
        )


def finetuned_(model: nn.Module, masks: dict[str, Tensor], seed: int) -> None:
    """The same steps on the same images for every criterion."""
    format = compute_format()
    job = TrainingJob(splits().train, splits().selection, FINETUNE, RECIPE.threat, seed, masks=masks, format=format)
    train_(model, job)


def outcomes(model: nn.Module, images: int, *, pgd: bool, precision: Precision | None = None) -> dict[str, np.ndarray]:
    """For each of the first test images whether it was classified correctly: clean, under PGD-50, under APGD."""
    source = splits().gate.source
    precision = precision or compute_format().precision
    found: dict[str, list[np.ndarray]] = {"clean": [], "pgd50": [], "apgd": []}
    model.eval()
    for start in range(0, images, 250):
        index = np.arange(start, start + 250)
        x = compute_format().ordered(torch.from_numpy(source.images(index)))
        y = torch.from_numpy(source.labels[index])
        found["clean"].append(right(model, x, y))
        generator = torch_generator(0, "criteria", start)
        if pgd:
            gradient = input_gradient(model, precision=precision, largest_gap=10.0)
            points = strongest_examples(model, gradient, x, y, threat=RECIPE.threat, attack=PGD50, generator=generator)
            found["pgd50"].append(right(model, points, y) & found["clean"][-1])
        victim = Victim.of(model, precision=precision)
        points = run_suite(victim, x, y, attacks=APGD, threat=RECIPE.threat, generator=generator).points
        found["apgd"].append(right(model, points, y) & found["clean"][-1])
    return {name: np.concatenate(parts) for name, parts in found.items() if parts}


@torch.no_grad()
def right(model: nn.Module, x: Tensor, y: Tensor) -> np.ndarray:
    """Scored in float32."""
    return (model(x).argmax(1) == y).numpy()


def cell(criterion: str, structure: Structure, sparsity: float, seed: int, *, lacks: set[str]) -> dict[str, Any]:
    """The states that one cell lacks. PGD-50 is taken with the first seed only."""
    pgd = seed == SEEDS[0]
    started = time.monotonic()
    removal = pruned(criterion, structure, sparsity, seed)
    entry: dict[str, Any] = {"criterion": criterion, "sparsity": sparsity, "seed": seed}
    entry |= {} if structure == "unstructured" else {"structure": structure}
    entry["kept"] = {
        name: round(mask.float().mean().item(), 4) for name, mask in removal.masks.items() if mask.dim() > 1
    }
    model = compute_format().order_(removal.module)
    if "one_shot" in lacks:
        entry["one_shot"] = packed(outcomes(model, IMAGES_ONE_SHOT, pgd=pgd))
    recalibrated_(model, seed)
    if "recalibrated" in lacks:
        entry["recalibrated"] = packed(outcomes(model, IMAGES_ONE_SHOT, pgd=pgd))
    if FINETUNED in lacks:
        finetuned_(model, removal.held, seed)
        entry[FINETUNED] = packed(outcomes(model, IMAGES_FINETUNED, pgd=pgd))
    return entry | {"seconds": round(time.monotonic() - started, 1)}


def dense_cell(seed: int, *, lacks: set[str]) -> dict[str, Any]:
    """The dense network as it comes, and after the same fine-tuning: what pruning can hope for."""
    model = dense()
    entry: dict[str, Any] = {"criterion": DENSE, "sparsity": 0.0, "seed": seed}
    if "one_shot" in lacks:
        entry["one_shot"] = packed(outcomes(model, IMAGES_FINETUNED, pgd=seed == SEEDS[0]))
    finetuned_(model, {}, seed)
    entry[FINETUNED] = packed(outcomes(model, IMAGES_FINETUNED, pgd=seed == SEEDS[0]))
    return entry


def packed(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Outcomes as hexadecimal bit strings, first image first."""
    return {name: {"images": len(bits), "right": np.packbits(bits).tobytes().hex()} for name, bits in found.items()}


def measured(criterion: str, structure: str, sparsity: float, seed: int) -> set[str]:
    """States that the results file has of one cell, which may have several lines; no structure means unstructured."""
    if not RESULTS.exists():
        return set()
    entries = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    wanted = (criterion, structure, sparsity, seed)
    return {
        state
        for entry in entries
        if wanted == (entry["criterion"], entry.get("structure", "unstructured"), entry["sparsity"], entry["seed"])
        for state in STATES
        if state in entry
    }


def measure(criteria: list[str], structure: Structure, sparsities: list[float], seeds: list[int]) -> None:
    """Every state that is missing, a line for each cell; several processes may share the work."""
    RESULTS.parent.mkdir(exist_ok=True)
    for seed, sparsity, criterion in itertools.product(seeds, sparsities, criteria):
        if criterion == DENSE:
            lacks = {"one_shot", FINETUNED} - measured(DENSE, "unstructured", 0.0, seed)
            entry = dense_cell(seed, lacks=lacks) if lacks else {}
        else:
            lacks = {*STATES} - measured(criterion, structure, sparsity, seed)
            entry = cell(criterion, structure, sparsity, seed, lacks=lacks) if lacks else {}
        if not entry:
            continue
        with RESULTS.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        shares = {
            name: {kind: f"{np.unpackbits(np.frombuffer(bytes.fromhex(v['right']), np.uint8)).sum() / v['images']:.1%}"
                   for kind, v in entry[name].items()}
            for name in STATES if name in entry
        }  # fmt: skip
        print(criterion, sparsity, seed, json.dumps(shares), flush=True)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--criteria", nargs="+", default=[DENSE, START, *CRITERIA])
    parser.add_argument("--structure", choices=[*SPARSITIES], default="unstructured")
    parser.add_argument("--sparsities", nargs="+", type=float)
    parser.add_argument("--seeds", nargs="+", type=int, default=[*SEEDS])
    parser.add_argument("--check", action="store_true", help="bfloat16 against float32 gradients, dense network")
    arguments = parser.parse_args()
    if arguments.check:
        precisions: tuple[Precision, ...] = ("bf16", "fp32")
        for precision in precisions:
            found = outcomes(dense(), IMAGES_FINETUNED, pgd=True, precision=precision)
            print(precision, {name: f"{bits.mean():.1%}" for name, bits in found.items()})
        return
    structure: Structure = arguments.structure
    measure(arguments.criteria, structure, arguments.sparsities or [*SPARSITIES[structure]], arguments.seeds)


if __name__ == "__main__":
    main()
