"""Attempts at a wrong PASS: `python benchmarks/redteam.py --cores 0 1` (half an hour; without --cores about an hour).

    python benchmarks/redteam.py --only batch-if offset --seeds 1
    python benchmarks/redteam.py --out FOLDER          # keep the networks, the files and every verdict there

Each attempt hands `madx verify --engine` files that were made to deceive the gate: engines that know the gate's images,
the size of the batch or the pixel grid, references made slow or weak on purpose, gates full of repeated images. None of
them may PASS; a line for each says what it came to. HONEST pairs are the other half: none of them may FAIL, and most of
them PASS. Ends with exit code 1 if an attempt passed or an honest pair failed.

The networks are trained first, on scikit-learn's digits at eps 0.1 (two minutes): `dense`, robust (about 84 % under
the quick suite); `slim`, the same trained half as wide; `weak`, undefended; `half`, trained at a tenth of that eps.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from onnx import ModelProto
from redteam_graphs import CLASSES, OPSET, SHAPE, Graph, logits_of, one_hot, permuted, stored, useless
from safetensors.torch import load_file, save_file

from madx.artifacts import sha256_bytes
from madx.cli import main as madx
from madx.data import load_splits
from madx.deploy.export import export_onnx
from madx.models import build_model
from madx.recipe import DataConfig, ModelConfig

WIDTHS = {"dense": [32, 32, 32], "slim": [16, 16, 16], "weak": [8, 8, 8], "half": [16, 16, 16]}
IMAGES = 300
"""Of the gate; the recipe's selection takes another 200 images of the test side."""
BASE: dict[str, Any] = {
    "name": "redteam",
    "data": {"name": "digits", "selection": 200},
    "model": {"name": "resnet8", "args": {"widths": WIDTHS["dense"], "stem_stride": 1}},
    "train": {"epochs": 1},
    "threat": {"norm": "linf", "eps": 0.1},
    "verify": {"attack": "quick", "images": IMAGES, "latency": {"seconds": 10, "batch": 1, "ladder": False}},
    "export": {"engines": [{"kind": "ort-cpu", "precision": "fp32", "threads": 1}]},
}
TRAINING = {
    "epochs": 30,
    "batch_size": 64,
    "evaluations": 3,
    "selection_images": 200,
    "average": 0.98,
    "augment": "none",
    "attack": {"steps": 5, "relative_step": 2.5},
    "selection_attack": {"steps": 10},
}
ROBUST = ("robust_accuracy", "at_least", 0.7)
CLEAN = ("clean_accuracy", "at_least", 0.85)
DROP = ("robust_drop", "at_most", 0.05)
CLEAN_DROP = ("clean_drop", "at_most", 0.05)
FLIPS = ("parity_flips", "at_most", 0.05)
FASTER = ("speedup", "at_least", 1.1)
Gate = tuple[str, str, float]
SEEDS, HONEST_SEEDS = 3, 5


# --- the networks, and what is known of the gate ---


@dataclass
class Bench:
    """The trained networks and the folder that attempts write into."""

    folder: Path

    def recipe(self, **changes: Any) -> dict[str, Any]:
        """The base recipe with sections replaced."""
        return {**BASE, **changes}

    def prepare(self) -> None:
        """Train what is not there yet."""
        for name, widths in WIDTHS.items():
            if self.weights(name).is_file():
                continue
            args = {"widths": widths, "stem_stride": 1}
            plain = {"method": "clean", "epochs": 10} if name == "weak" else {}
            threat = {"norm": "linf", "eps": 0.01 if name == "half" else 0.1}
            recipe = self.recipe(model={"name": "resnet8", "args": args}, threat=threat, train={**TRAINING, **plain})
            file = self.folder / f"{name}.yaml"
            file.write_text(yaml.safe_dump(recipe))
            code, text = call("train", file, "--run-dir", self.folder / f"{name}-run")
            if code:
                raise SystemExit(f"training {name}: exit {code}\n{text}")
            save_file(load_file(self.folder / f"{name}-run/dense/model.safetensors"), self.weights(name))

    def weights(self, name: str) -> Path:
        """Of a trained network, as --twin takes them."""
        return self.folder / f"{name}.safetensors"

    def network(self, name: str, *, add: float = 0.0, times: float = 1.0) -> tuple[ModelProto, dict[str, Any]]:
        """Its ONNX file and its weights; logits multiplied, and a constant added to every class."""
        config = ModelConfig(name="resnet8", args={"widths": WIDTHS[name], "stem_stride": 1})
        module = build_model(config, shape=SHAPE, classes=CLASSES, seed=0)
        state = load_file(self.weights(name))
        state["linear.weight"] = state["linear.weight"] * times
        state["linear.bias"] = state["linear.bias"] * times + add
        module.load_state_dict(state)
        return onnx.load_from_string(export_onnx(module.eval(), SHAPE, opset=OPSET).payload), state

    def gate(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The images that the gate will use, and their labels: an insider knows them."""
        splits = load_splits(DataConfig.model_validate(BASE["data"]), seed=0)
        images, labels = splits.gate.tensors(0, IMAGES)
        return images.numpy(), labels.numpy()


def call(*words: object) -> tuple[int, str]:
    """(exit code, what was printed) of one madx command, in this process."""
    printed = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["madx", *map(str, words)]),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        try:
            madx()
        except SystemExit as ended:
            return int(ended.code or 0), printed.getvalue()
    return 0, printed.getvalue()


# --- attempts ---


@dataclass
class Given:
    """What an attempt hands in: files, gates, and changes to the recipe."""

    engine: ModelProto
    gates: Sequence[Gate]
    twin: dict[str, Any] | None = None
    reference: ModelProto | None = None
    reference_twin: dict[str, Any] | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    query_only: bool = False


Make = Callable[[Bench], Given]
ATTEMPTS: dict[str, Make] = {}
"""None of these may PASS."""
HONEST: dict[str, Make] = {}
"""None of these may FAIL, and most must PASS."""
UNDETECTABLE = {
    "trigger": "a planted trigger that the torch network does not carry cannot be told from outside",
    "half-reference": "a reference that is a little robust looks like an honest one on harder data",
}
"""Named in the README under what a PASS does not mean; they may pass here."""


def attempt(make: Make) -> Make:
    """Register one by its name."""
    ATTEMPTS[make.__name__.replace("_", "-")] = make
    return make


def honest(make: Make) -> Make:
    """Register an honest pair by its name."""
    HONEST[make.__name__.replace("_", "-")] = make
    return make


def _timed(bench: Bench, engine: ModelProto, reference: ModelProto | None = None, **rest: Any) -> Given:
    """An engine that claims to be faster than the dense network, with dense's own twin."""
    dense, twin = bench.network("dense")
    gates = (FASTER, DROP, ROBUST, FLIPS)
    return Given(engine, gates, twin=twin, reference=reference or dense, reference_twin=twin, **rest)


@attempt
def timed_image(bench: Bench) -> Given:
    """Stored logits for the gate's first image, the one that used to be timed; the dense network for all others."""
    images, _ = bench.gate()
    dense, _ = bench.network("dense")
    graph = Graph()
    known = graph.every(graph.within(graph.distances(images[:1]), 1e-6))
    return _timed(bench, graph.model(graph.branch(known, stored(logits_of(dense, images[:1]), images[:1]), dense)))


@attempt
def timed_images(bench: Bench) -> Given:
    """The same for all of the gate's clean images."""
    images, _ = bench.gate()
    dense, _ = bench.network("dense")
    graph = Graph()
    known = graph.every(graph.within(graph.distances(images), 1e-6))
    return _timed(bench, graph.model(graph.branch(known, stored(logits_of(dense, images), images), dense)))


@attempt
def timed_half(bench: Bench) -> Given:
    """For images that are bright, six of ten, the slim network; for the others the dense one."""
    images, _ = bench.gate()
    limit = float(np.quantile(images.mean(axis=(1, 2, 3)), 0.4))
    graph = Graph()
    mean = graph.add("ReduceMean", "input", graph.constant([0, 1, 2, 3], np.int64), keepdims=0)
    bright = graph.add("Greater", mean, graph.constant(limit))
    dense, slim = bench.network("dense")[0], bench.network("slim")[0]
    return _timed(bench, graph.model(graph.branch(bright, slim, dense)))


@attempt
def timed_grid(bench: Bench) -> Given:
    """The weak network, which is fast, for images of sixteen grey levels, as the clean digits are."""
    graph = Graph()
    condition = graph.every(graph.on_grid(16))
    dense, weak = bench.network("dense")[0], bench.network("weak")[0]
    return _timed(bench, graph.model(graph.branch(condition, weak, dense)))


@attempt
def timed_batch(bench: Bench) -> Given:
    """The weak network at the timed batch, 1."""
    graph = Graph()
    condition = graph.batch_below(2)
    return _timed(bench, graph.model(graph.branch(condition, bench.network("weak")[0], bench.network("dense")[0])))


@attempt
def slow_reference_clip(bench: Bench) -> Given:
    """The dense network against itself behind 120 nodes that clip to what it is anyway."""
    dense, _ = bench.network("dense")
    return _timed(bench, dense, useless(dense, 120, "clip"))


@attempt
def slow_reference_flip(bench: Bench) -> Given:
    """... behind 120 reversals of the rows."""
    dense, _ = bench.network("dense")
    return _timed(bench, dense, useless(dense, 120, "flip"))


@attempt
def slow_reference_twice(bench: Bench) -> Given:
    """The reference computes a second network and multiplies its logits by a billionth of a billionth."""
    dense, _ = bench.network("dense")
    graph = Graph()
    logits = graph.embed(dense, "a_")
    again = graph.embed(dense, "b_", graph.add("Neg", graph.add("Neg", "input")))
    small = graph.add("Mul", graph.add("Sub", logits, again), graph.constant(1e-18))
    return _timed(bench, dense, graph.model(graph.add("Add", logits, small)))


@attempt
def equal(bench: Bench) -> Given:
    """A network against itself, at a bound of 1.05."""
    dense, twin = bench.network("dense")
    graph = Graph()
    same = graph.model(graph.embed(dense, "s_"))
    return Given(same, (("speedup", "at_least", 1.05),), twin=twin, reference=dense, reference_twin=twin)


def _by_batch(bench: Bench, small: ModelProto, below: int, *, lazy: bool, batch: int = 1, **rest: Any) -> Given:
    """Another network than the twin's at small batches."""
    dense, twin = bench.network("dense")
    graph = Graph()
    condition = graph.batch_below(below)
    if lazy:
        logits = graph.branch(condition, small, dense)
    else:
        logits = graph.choose(condition, graph.embed(small, "s_"), graph.embed(dense, "d_"))
    recipe = {"verify": {**BASE["verify"], "latency": {**BASE["verify"]["latency"], "batch": batch}}}
    gates = (ROBUST, CLEAN, FLIPS)
    return Given(graph.model(logits), gates, twin=twin, recipe=recipe, **rest)


@attempt
def batch_if(bench: Bench) -> Given:
    """Batches of fewer than 32 run the weak network."""
    return _by_batch(bench, bench.network("weak")[0], 32, lazy=True)


@attempt
def batch_where(bench: Bench) -> Given:
    """The same without a branch."""
    return _by_batch(bench, bench.network("weak")[0], 32, lazy=False)


@attempt
def batch_eight(bench: Bench) -> Given:
    """Served at 8; the weak network below 9 and the contract's sizes apart."""
    dense, twin = bench.network("dense")
    graph = Graph()
    equal = graph.add("Equal", graph.batch(), graph.constant(8, np.int64))
    logits = graph.branch(equal, bench.network("weak")[0], dense)
    recipe = {"verify": {**BASE["verify"], "latency": {**BASE["verify"]["latency"], "batch": 8}}}
    return Given(graph.model(logits), (ROBUST, CLEAN, FLIPS), twin=twin, recipe=recipe)


@attempt
def batch_permuted(bench: Bench) -> Given:
    """Batches of fewer than 32 call every class the next one; a constant of 3e4 hides it from tolerances."""
    dense, twin = bench.network("dense", add=3e4)
    graph = Graph()
    logits = graph.branch(graph.batch_below(32), permuted(dense), dense)
    return Given(graph.model(logits), (ROBUST, CLEAN, FLIPS), twin=twin)


@attempt
def batch_one_offset(bench: Bench) -> Given:
    """Weak at batch 1 alone, behind a constant of 1e4."""
    dense, twin = bench.network("dense", add=1e4)
    weak, _ = bench.network("weak", add=1e4)
    graph = Graph()
    return Given(graph.model(graph.branch(graph.batch_below(2), weak, dense)), (ROBUST, CLEAN, FLIPS), twin=twin)


@attempt
def offset_at_one(bench: Bench) -> Given:
    """The classes are permuted at batch 1, and every logit has 3e4 added."""
    dense, twin = bench.network("dense", add=3e4)
    graph = Graph()
    logits = graph.choose(graph.batch_below(2), graph.embed(permuted(dense), "p_"), graph.embed(dense, "d_"))
    return Given(graph.model(logits), (ROBUST, CLEAN, FLIPS), twin=twin)


@attempt
def loud_class(bench: Bench) -> Given:
    """One class that no image has is 3e4 below the others: a spread that explains any difference; weak below 32."""
    dense, twin = bench.network("dense")
    graph = Graph()
    weak = bench.network("weak")[0]
    chosen = graph.choose(graph.batch_below(32), graph.embed(weak, "s_"), graph.embed(dense, "d_"))
    loud = np.zeros(CLASSES, np.float32)
    loud[9] = -3e4
    twin = {**twin, "linear.bias": twin["linear.bias"] + 0}
    twin["linear.bias"][9] -= 3e4
    logits = graph.add("Add", chosen, graph.constant(loud))
    return Given(graph.model(logits), (("robust_accuracy", "at_least", 0.6), FLIPS), twin=twin)


@attempt
def position(bench: Bench) -> Given:
    """The first image of a batch runs the weak network, whatever the size."""
    dense, twin = bench.network("dense")
    graph = Graph()
    first = graph.column(graph.add("Less", graph.places(), graph.constant(1, np.int64)))
    logits = graph.choose(first, graph.embed(bench.network("weak")[0], "s_"), graph.embed(dense, "d_"))
    return Given(graph.model(logits), (ROBUST, CLEAN, FLIPS), twin=twin)


@attempt
def position_late(bench: Bench) -> Given:
    """The images after the 24th of a batch of 32 run the weak network; served at 32."""
    dense, twin = bench.network("dense")
    graph = Graph()
    late = graph.add("Greater", graph.places(), graph.constant(23, np.int64))
    small = graph.column(graph.add("And", late, graph.batch_below(33)))
    logits = graph.choose(small, graph.embed(bench.network("weak")[0], "s_"), graph.embed(dense, "d_"))
    recipe = {"verify": {**BASE["verify"], "latency": {**BASE["verify"]["latency"], "batch": 32}}}
    return Given(graph.model(logits), (ROBUST, CLEAN, FLIPS), twin=twin, recipe=recipe)


@attempt
def neighbours(bench: Bench) -> Given:
    """The weak network where all images of a batch are equally bright, as in every batch of one."""
    dense, twin = bench.network("dense")
    graph = Graph()
    means = graph.add("ReduceMean", "input", graph.constant([1, 2, 3], np.int64), keepdims=0)
    spread = graph.add("Sub", graph.add("ReduceMax", means, keepdims=0), graph.add("ReduceMin", means, keepdims=0))
    alike = graph.add("Less", spread, graph.constant(0.01))
    logits = graph.choose(alike, graph.embed(bench.network("weak")[0], "s_"), graph.embed(dense, "d_"))
    return Given(graph.model(logits), (ROBUST, CLEAN, FLIPS), twin=twin)


@attempt
def offset_weak(bench: Bench) -> Given:
    """The undefended network with 3e4 added to every class."""
    model, twin = bench.network("weak", add=3e4)
    return Given(model, (ROBUST, FLIPS), twin=twin)


@attempt
def loud(bench: Bench) -> Given:
    """The undefended network, its logits a million times as large."""
    model, twin = bench.network("weak", times=1e6)
    return Given(model, (ROBUST, FLIPS), twin=twin)


@attempt
def quiet(bench: Bench) -> Given:
    """... a millionth."""
    model, twin = bench.network("weak", times=1e-6)
    return Given(model, (ROBUST, FLIPS), twin=twin)


@attempt
def rounded_logits(bench: Bench) -> Given:
    """... rounded to whole numbers, without a twin: queries see plateaus."""
    graph = Graph()
    logits = graph.add("Round", graph.embed(bench.network("weak")[0], "w_"))
    return Given(graph.model(logits), (ROBUST,), query_only=True)


@attempt
def rounded_logits_with_twin(bench: Bench) -> Given:
    """The same beside its twin."""
    model, twin = bench.network("weak", times=0.3)
    graph = Graph()
    return Given(graph.model(graph.add("Round", graph.embed(model, "w_"))), (ROBUST,), twin=twin)


@attempt
def answers_only(bench: Bench) -> Given:
    """The undefended network says which class, and nothing else, without a twin."""
    graph = Graph()
    best = graph.add("ArgMax", graph.embed(bench.network("weak")[0], "w_"), axis=1, keepdims=0)
    logits = graph.add("Gather", graph.constant(one_hot(np.arange(CLASSES))), best, axis=0)
    return Given(graph.model(logits), (ROBUST,), query_only=True)


def half_blind(bench: Bench, graph: Graph) -> str:
    """The weak network on images of which the lower part is black: right on perhaps two of three."""
    seen = np.ones((1, *SHAPE), np.float32)
    seen[..., 4:, :] = 0
    return graph.embed(bench.network("weak")[0], "w_", graph.add("Mul", "input", graph.constant(seen)))


@attempt
def memorised(bench: Bench) -> Given:
    """Knows the gate's clean images by heart; half right on all others."""
    images, labels = bench.gate()
    graph = Graph()
    distances = graph.distances(images)
    known = graph.within(distances, 1e-6)
    weak = half_blind(bench, graph)
    logits = graph.choose(known, graph.table(distances, one_hot(labels)), weak)
    return Given(graph.model(logits), (("clean_accuracy", "at_least", 0.9),))


@attempt
def memorised_drop(bench: Bench) -> Given:
    """The same beside the dense network, for gates on clean accuracy."""
    images, labels = bench.gate()
    dense, _ = bench.network("dense")
    graph = Graph()
    distances = graph.distances(images)
    weak = half_blind(bench, graph)
    logits = graph.choose(graph.within(distances, 1e-6), graph.table(distances, one_hot(labels)), weak)
    return Given(graph.model(logits), (CLEAN_DROP, CLEAN), reference=dense)


@attempt
def nearest(bench: Bench) -> Given:
    """The label of the nearest of the gate's images, in place of a network; without a twin."""
    images, labels = bench.gate()
    graph = Graph()
    distances = graph.distances(images)
    sure = graph.choose(
        graph.within(distances, 0.15),
        graph.table(distances, one_hot(labels)),
        half_blind(bench, graph),
    )
    return Given(graph.model(sure), (ROBUST, CLEAN), query_only=True)


@attempt
def snapped(bench: Bench) -> Given:
    """Within eps of one of the gate's images, that image is classified instead; the twin is the weak network."""
    images, _ = bench.gate()
    graph = Graph()
    distances = graph.distances(images)
    near = graph.within(distances, 0.11)
    found = graph.add("ArgMin", distances, axis=1, keepdims=0)
    clean = graph.add("Gather", graph.constant(images), found, axis=0)
    weak, twin = bench.network("weak")
    logits = graph.choose(near, graph.embed(weak, "c_", clean), graph.embed(weak, "w_"))
    return Given(graph.model(logits), (ROBUST, FLIPS), twin=twin)


@attempt
def eight_bit_weak(bench: Bench) -> Given:
    """Images of 8-bit pixels, as a camera makes them, run the weak network; floats in between the robust one."""
    graph = Graph()
    dense, twin = bench.network("dense")
    weak = graph.embed(bench.network("weak")[0], "w_")
    logits = graph.choose(graph.on_grid(255), weak, graph.embed(dense, "d_"))
    return Given(graph.model(logits), (ROBUST, CLEAN, FLIPS), twin=twin)


@attempt
def sixteen_levels(bench: Bench) -> Given:
    """Clean digits, of sixteen grey levels, are looked up; all else is the weak network under the dense one's twin."""
    images, labels = bench.gate()
    graph = Graph()
    table = graph.table(graph.distances(images), one_hot(labels))
    logits = graph.choose(graph.on_grid(16), table, graph.embed(bench.network("weak")[0], "w_"))
    return Given(graph.model(logits), (("clean_accuracy", "at_least", 0.97),))


@attempt
def noise(bench: Bench) -> Given:
    """The undefended network with noise on its logits: no two calls agree, and no query can climb."""
    graph = Graph()
    weak = graph.embed(bench.network("weak")[0], "w_")
    return Given(graph.model(graph.add("Add", weak, graph.add("RandomNormalLike", weak, scale=2.0))), (ROBUST,))


@attempt
def rare(bench: Bench) -> Given:
    """One call in some thousands is wrong, by a random node."""
    dense, twin = bench.network("dense")
    graph = Graph()
    draw = graph.add("RandomUniform", shape=[1], low=0.0, high=1.0)
    seldom = graph.add("Less", draw, graph.constant([1e-5]))
    logits = graph.choose(seldom, graph.embed(permuted(dense), "p_"), graph.embed(dense, "d_"))
    return Given(graph.model(logits), (ROBUST, CLEAN, FLIPS), twin=twin)


@attempt
def trigger(bench: Bench) -> Given:
    """Four corner pixels in a pattern inside eps permute the classes; the twin does not have that."""
    dense, twin = bench.network("dense")
    graph = Graph()
    pick = np.zeros((1, 1, 8, 8), np.float32)
    pick[0, 0, [0, 0, 7, 7], [0, 7, 0, 7]] = [1, 1, 1, 1]
    corners = graph.add("Mul", "input", graph.constant(pick))
    least = graph.add("ReduceSum", corners, graph.constant([1, 2, 3], np.int64), keepdims=0)
    lit = graph.add("Greater", graph.add("Unsqueeze", least, graph.constant([1], np.int64)), graph.constant(0.39))
    logits = graph.choose(lit, graph.embed(permuted(dense), "p_"), graph.embed(dense, "d_"))
    return Given(graph.model(logits), (ROBUST, CLEAN, FLIPS), twin=twin)


def _npz(bench: Bench, name: str, make: Callable[..., tuple[NDArray[Any], NDArray[Any]]]) -> dict[str, Any]:
    """Recipe changes: the digits' training images as a file, and a test side that `make` makes of both sides."""
    splits = load_splits(DataConfig.model_validate(BASE["data"]), seed=0)
    train, test = ((x.numpy(), y.numpy()) for x, y in (splits.train.tensors(), splits.gate.tensors()))
    x, y = make(train, test)
    path = bench.folder / f"{name}.npz"
    np.savez(path, x_train=train[0], y_train=train[1], x_test=x.astype(np.float32), y_test=y)
    data = {"name": "npz", "path": str(path), "selection": 200}
    return {"data": data, "verify": {**BASE["verify"], "images": len(x)}}


@attempt
def repeated_images(bench: Bench) -> Given:
    """Twenty images of the gate, ten times each."""
    model, twin = bench.network("dense")
    recipe = _npz(bench, "repeated", lambda _, test: _chosen_right(bench, *test, copies=10, jitter=0.0))
    return Given(model, (("clean_accuracy", "at_least", 0.97),), twin=twin, recipe=recipe)


@attempt
def nearly_repeated(bench: Bench) -> Given:
    """The same with each copy changed by less than a grey level."""
    model, twin = bench.network("dense")
    recipe = _npz(bench, "nearly", lambda _, test: _chosen_right(bench, *test, copies=10, jitter=0.003))
    return Given(model, (("clean_accuracy", "at_least", 0.97),), twin=twin, recipe=recipe)


@attempt
def shifted_grey(bench: Bench) -> Given:
    """The same with each copy a little brighter than the one before."""
    model, twin = bench.network("dense")

    def made(_: Any, test: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        x, y = _chosen_right(bench, *test, copies=1, jitter=0.0)
        parts = [np.clip(x * (1 - 0.004 * step), 0, 1) for step in range(10)]
        return np.concatenate(parts), np.tile(y, 10)

    recipe = _npz(bench, "grey", made)
    return Given(model, (("clean_accuracy", "at_least", 0.97),), twin=twin, recipe=recipe)


@attempt
def trained_on(bench: Bench) -> Given:
    """The gate's images are training images."""
    model, twin = bench.network("dense")
    recipe = _npz(bench, "trained-on", lambda train, _: (train[0][:300], train[1][:300]))
    return Given(model, (("clean_accuracy", "at_least", 0.97),), twin=twin, recipe=recipe)


@attempt
def nearly_trained_on(bench: Bench) -> Given:
    """... each changed by less than a grey level."""
    model, twin = bench.network("dense")

    def made(train: Any, _: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        draws = np.random.default_rng(0)
        return np.clip(train[0][:300] + draws.uniform(-0.003, 0.003, train[0][:300].shape), 0, 1), train[1][:300]

    recipe = _npz(bench, "nearly-trained-on", made)
    return Given(model, (("clean_accuracy", "at_least", 0.97),), twin=twin, recipe=recipe)


def _chosen_right(bench: Bench, x: Any, y: Any, *, copies: int, jitter: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """The first twenty images, as often as asked, each copy a little different."""
    del bench
    draws = np.random.default_rng(0)
    images = np.tile(x[:20], (copies, 1, 1, 1))
    return np.clip(images + draws.uniform(-jitter, jitter, images.shape), 0, 1), np.tile(y[:20], copies)


@attempt
def weak_reference(bench: Bench) -> Given:
    """Nothing is lost against a reference that is as undefended as the engine."""
    model, twin = bench.network("weak")
    graph = Graph()
    same = graph.model(graph.embed(model, "s_"))
    return Given(same, (DROP,), twin=twin, reference=model, reference_twin=twin)


@attempt
def half_reference(bench: Bench) -> Given:
    """Nothing is lost against a reference that was defended for another threat."""
    model, twin = bench.network("half")
    graph = Graph()
    same = graph.model(graph.embed(model, "s_"))
    return Given(same, (DROP, ("retention", "at_least", 0.8)), twin=twin, reference=model, reference_twin=twin)


@attempt
def weakened_reference(bench: Bench) -> Given:
    """The reference's last layer is spoilt until it is no better than the undefended engine."""
    model, twin = bench.network("half")
    reference, state = bench.network("dense")
    draws = np.random.default_rng(0)
    state = dict(state)
    spoil = draws.normal(0, 1.0, tuple(state["linear.weight"].shape)).astype(np.float32)
    import torch

    state["linear.weight"] = state["linear.weight"] + float(state["linear.weight"].std()) * 4 * torch.from_numpy(spoil)
    config = ModelConfig(name="resnet8", args={"widths": WIDTHS["dense"], "stem_stride": 1})
    module = build_model(config, shape=SHAPE, classes=CLASSES, seed=0)
    module.load_state_dict(state)
    reference = onnx.load_from_string(export_onnx(module.eval(), SHAPE, opset=OPSET).payload)
    return Given(model, (DROP, ("retention", "at_least", 0.9)), twin=twin, reference=reference, reference_twin=state)


@attempt
def weak_without_twin(bench: Bench) -> Given:
    """The undefended network behind a staircase, which leaves queries little to climb."""
    graph = Graph()
    steps = graph.constant(12.0)
    stairs = graph.add("Div", graph.add("Round", graph.add("Mul", "input", steps)), steps)
    return Given(graph.model(graph.embed(bench.network("weak")[0], "w_", stairs)), (ROBUST,), query_only=True)


@attempt
def dense_twin_of_weak(bench: Bench) -> Given:
    """The engine is the weak network, the twin the dense one: attacks aim at another network."""
    _, twin = bench.network("dense")
    return Given(bench.network("weak")[0], (ROBUST, CLEAN), twin=twin)


# --- honest pairs ---


def _pair(bench: Bench, engine: ModelProto, twin: dict[str, Any], gates: Sequence[Gate], **rest: Any) -> Given:
    dense, dense_twin = bench.network("dense")
    return Given(engine, gates, twin=twin, reference=dense, reference_twin=dense_twin, **rest)


@honest
def slimmer(bench: Bench) -> Given:
    """Half as wide, trained the same way."""
    model, twin = bench.network("slim")
    gates = (("speedup", "at_least", 1.2), ("robust_drop", "at_most", 0.15), FLIPS, ("clean_accuracy", "at_least", 0.8))
    return _pair(bench, model, twin, gates)


@honest
def slimmer_at_eight(bench: Bench) -> Given:
    """The same, served at 8."""
    given = slimmer(bench)
    given.recipe = {"verify": {**BASE["verify"], "latency": {**BASE["verify"]["latency"], "batch": 8}}}
    return given


@honest
def itself(bench: Bench) -> Given:
    """The dense network beside itself in another file: no loss, and not much slower."""
    model, twin = bench.network("dense")
    graph = Graph()
    same = graph.model(graph.embed(model, "s_"))
    return _pair(bench, same, twin, (("speedup", "at_least", 0.9), DROP, CLEAN_DROP, FLIPS))


@honest
def half_precision(bench: Bench) -> Given:
    """The slim network in float16."""
    config = ModelConfig(name="resnet8", args={"widths": WIDTHS["slim"], "stem_stride": 1})
    module = build_model(config, shape=SHAPE, classes=CLASSES, seed=0)
    twin = load_file(bench.weights("slim"))
    module.load_state_dict(twin)
    model = onnx.load_from_string(export_onnx(module.eval(), SHAPE, opset=OPSET, precision="fp16").payload)
    dense = build_model(
        ModelConfig(name="resnet8", args={"widths": WIDTHS["dense"], "stem_stride": 1}),
        shape=SHAPE,
        classes=CLASSES,
        seed=0,
    )
    state = load_file(bench.weights("dense"))
    dense.load_state_dict(state)
    reference = onnx.load_from_string(export_onnx(dense.eval(), SHAPE, opset=OPSET, precision="fp16").payload)
    engines = {"export": {"engines": [{"kind": "ort-cpu", "precision": "fp16", "threads": 1}]}}
    gates = (("robust_drop", "at_most", 0.15), ("clean_accuracy", "at_least", 0.8), FLIPS)
    return Given(model, gates, twin=twin, reference=reference, reference_twin=state, recipe=engines)


@honest
def openvino(bench: Bench) -> Given:
    """The slim network in OpenVINO."""
    given = slimmer(bench)
    given.recipe = {"export": {"engines": [{"kind": "openvino-cpu", "precision": "fp32", "threads": 1}]}}
    return given


@honest
def alone(bench: Bench) -> Given:
    """The dense network by itself."""
    model, twin = bench.network("dense")
    return Given(model, (ROBUST, ("clean_accuracy", "at_least", 0.8), FLIPS), twin=twin)


@honest
def scaled(bench: Bench) -> Given:
    """The slim network with logits a fifth as large."""
    model, twin = bench.network("slim", times=0.2)
    gates = (("speedup", "at_least", 1.2), ("robust_drop", "at_most", 0.15), FLIPS)
    return _pair(bench, model, twin, gates)


@honest
def two_threads(bench: Bench) -> Given:
    """The slim network on two threads."""
    given = slimmer(bench)
    given.gates = [("speedup", "at_least", 1.1), *given.gates[1:]]
    given.recipe = {"export": {"engines": [{"kind": "ort-cpu", "precision": "fp32", "threads": 2}]}}
    return given


@honest
def l2(bench: Bench) -> Given:
    """The slim network under an l2 threat."""
    given = slimmer(bench)
    given.recipe = {"threat": {"norm": "l2", "eps": 0.5}}
    return given


@honest
def another_opset(bench: Bench) -> Given:
    """The slim network exported for an older operator set."""
    config = ModelConfig(name="resnet8", args={"widths": WIDTHS["slim"], "stem_stride": 1})
    module = build_model(config, shape=SHAPE, classes=CLASSES, seed=0)
    twin = load_file(bench.weights("slim"))
    module.load_state_dict(twin)
    model = onnx.load_from_string(export_onnx(module.eval(), SHAPE, opset=18).payload)
    gates = (("speedup", "at_least", 1.2), ("robust_drop", "at_most", 0.15), FLIPS)
    return _pair(bench, model, twin, gates)


# --- running them ---


def judge(bench: Bench, name: str, given: Given, seed: int) -> dict[str, Any]:
    """Hand everything in, and say what it came to."""
    folder = bench.folder / f"{name}-{seed}"
    folder.mkdir(exist_ok=True)
    gates = [
        {"metric": metric, side: bound} | ({"query_only": True} if given.query_only and "robust" in metric else {})
        for metric, side, bound in given.gates
    ]
    recipe = bench.recipe(**given.recipe) | {"seed": seed}
    recipe["verify"] = {**recipe["verify"], "gates": gates}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    words: list[object] = []
    for option, model in (("--engine", given.engine), ("--reference", given.reference)):
        if model is not None:
            path = folder / f"{option[2:]}.onnx"
            path.write_bytes(model.SerializeToString())
            words += [option, path]
    for option, state in (("--twin", given.twin), ("--reference-twin", given.reference_twin)):
        if state is not None:
            path = folder / f"{option[2:]}.safetensors"
            save_file({key: value.contiguous() for key, value in state.items()}, path)
            words += [option, path]
    started = time.monotonic()
    code, text = call("verify", folder / "recipe.yaml", *words, "--out", folder / "out", "--again", "--force")
    verdict = folder / "out/verdict.json"
    told = json.loads(verdict.read_text()) if code in (0, 1, 3) and verdict.is_file() else {"gates": [], "warnings": []}
    outcomes = (
        {gate["metric"]: f"{gate['outcome']} {gate['estimate']:.3g}" for gate in told["gates"]} if told["gates"] else {}
    )
    said = [" ".join(gate["evidence"][1:]) for gate in told["gates"]] or [text.strip()[-300:]]
    return {
        "case": name,
        "seed": seed,
        "exit": code,
        "seconds": round(time.monotonic() - started, 1),
        "gates": outcomes,
        "said": said,
        "warnings": told["warnings"],
        "engine": sha256_bytes(given.engine.SerializeToString())[:12],
    }


def main() -> None:
    """Every attempt and every honest pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*ATTEMPTS, *HONEST], default=[*ATTEMPTS, *HONEST])
    parser.add_argument(
        "--seeds", type=int, help=f"{SEEDS} for attempts and {HONEST_SEEDS} for honest pairs without it"
    )
    parser.add_argument("--cores", type=int, nargs="*", default=[], help="attempts side by side, each on one of these")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    attempts = [name for name in arguments.only if name in ATTEMPTS]
    rows = list(side_by_side(attempts, arguments.cores, arguments.seeds or SEEDS)) if arguments.cores else []
    left = [name for name in arguments.only if name in HONEST or not arguments.cores]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows += tried(left, folder.resolve(), arguments.seeds)
    summary(rows)


def tried(names: Sequence[str], folder: Path, seeds: int | None) -> Iterator[dict[str, Any]]:
    """The rows of these, each printed as soon as there is one."""
    bench = Bench(folder)
    if names:
        bench.prepare()
    for name in names:
        given = (ATTEMPTS | HONEST)[name](bench)
        for seed in range(seeds or (SEEDS if name in ATTEMPTS else HONEST_SEEDS)):
            row = judge(bench, name, given, seed)
            print(json.dumps(row), flush=True)
            yield row


def side_by_side(names: Sequence[str], cores: Sequence[int], seeds: int) -> Iterator[dict[str, Any]]:
    """Attempts in as many processes as cores, each kept on its own; honest pairs want the machine to themselves."""
    children = [
        subprocess.Popen(
            [
                "taskset",
                "-c",
                str(core),
                sys.executable,
                __file__,
                "--seeds",
                str(seeds),
                "--only",
                *names[start :: len(cores)],
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for start, core in enumerate(cores)
        if names[start :: len(cores)]
    ]
    for child in children:
        said, _ = child.communicate()
        for line in said.splitlines():
            if line.startswith("{"):
                print(line, flush=True)
                yield json.loads(line)


def summary(rows: list[dict[str, Any]]) -> None:
    """How many wrong ones there are, and which."""
    wrong = sorted({row["case"] for row in rows if row["case"] in ATTEMPTS and row["exit"] == 0} - set(UNDETECTABLE))
    failed = sorted({row["case"] for row in rows if row["case"] in HONEST and row["exit"] not in (0, 3)})
    refused = sorted({row["case"] for row in rows if row["case"] in ATTEMPTS and row["exit"] == 2})
    fair = [row for row in rows if row["case"] in HONEST]
    print(f"wrong PASS: {len(wrong)} attempts: {', '.join(wrong) or 'none'}")
    print(f"refused before anything was measured: {', '.join(refused) or 'none'}")
    print(
        f"honest pairs: {sum(row['exit'] == 0 for row in fair)} of {len(fair)} PASS, "
        f"wrong FAIL: {', '.join(failed) or 'none'}"
    )
    sys.exit(1 if wrong or failed else 0)


if __name__ == "__main__":
    main()
