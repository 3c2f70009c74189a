"""Report contents made in code: every outcome, with and without the parts that a run may lack."""

from dataclasses import replace

import numpy as np
from accuracy_cases import gallery, sound, unseen

from madx.recipe import GateConfig
from madx.report import ReportContent
from madx.verify import (
    Accuracy,
    Curve,
    EngineParity,
    Ladder,
    Latency,
    Measurements,
    Parity,
    Sizes,
    Subject,
    Verdict,
    judge,
)
from madx.verify.answers import Answers

HOSTILE = "<script>alert('x')</script> | `tick` \x1b[31m & \"quoted\" \udcff"
"""What a path, a name or an engine's error may hold."""

GATES = (
    GateConfig(metric="speedup", at_least=1.5),
    GateConfig(metric="robust_drop", at_most=0.03),
    GateConfig(metric="clean_drop", at_most=0.02),
    GateConfig(metric="robust_accuracy", at_least=0.4),
    GateConfig(metric="parity_flips", at_most=0.02),
    GateConfig(metric="size_ratio", at_most=0.5),
)


def measurements(engine="ort-cpu-fp32", *, images=1000, lost=12, gained=4, speedup=2.6, noise=0.01, pairs=40):
    """Both engines on the same images: 76 % robust on the reference, `lost` and `gained` of them on the candidate."""
    return Measurements(
        engine=engine,
        accuracy=accuracy(images, lost, gained),
        latency=latency(speedup, noise, pairs),
        parity=Parity(reference=_parity(images), candidate=_parity(images)),
        soundness=sound(),
        sizes=Sizes(reference=4_000_000, candidate=1_000_000),
        ladder=ladder(),
        curve=curve(),
    )


RUNGS = (
    "dense, fp32",
    "channels removed, fp32",
    "channels removed, fp16",
    "channels removed and 2:4, fp16",
)


def ladder(seconds=(2e-3, 1e-3, 0.8e-3, 0.8e-3), missing=None):
    """Removed channels make it twice as fast, the lower precision 1.25 times, 2:4 no faster."""
    wobble = np.exp(0.01 * np.random.default_rng(5).standard_normal((30, 2, len(seconds), 5)))
    calls = (np.array(seconds)[:, None] * wobble).astype(np.float32)
    return Ladder(RUNGS[: len(seconds)], batch=1, timing="host call", seconds=calls, missing=missing or {})


def curve(images=500, factors=(0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5)):
    """The reference loses 37 % of the images for every eps of the threat, the candidate 3 % of all before the start."""
    eps = np.array(factors) * 8 / 255
    number = np.arange(images)
    reference = number < images * (0.9 - 0.37 * np.array(factors)[:, None])
    return Curve("apgd cross-entropy, 1 x 10 steps", eps, reference, reference & (number >= 0.03 * images))


def accuracy(images=1000, lost=12, gained=4):
    number = np.arange(images)
    clean = number < 0.9 * images
    robust = number < 0.76 * images
    candidate = (robust & (number >= lost)) | (clean & ~robust & (number < 0.76 * images + gained))
    return Accuracy(
        index=number,
        labels=number % 10,
        clean_reference=clean,
        clean_candidate=clean & (number < 0.9 * images - lost // 2),
        attacks=("PGD on the dense twin", "PGD on the pruned twin", "queries"),
        attacked=np.stack([clean, clean, robust | candidate]),
        standing_reference=np.stack([clean & (number < 0.8 * images), robust, robust]),
        standing_candidate=np.stack([clean, candidate, candidate]),
        overrun=np.zeros(3),
        **unseen(3)
        | {"kinds": ("white-box", "white-box", "query")}
        | {"gallery": gallery(min(lost, 8), min(gained, 8), side=8)},
        answers_reference=_answers(images),
        answers_candidate=_answers(images),
    )


def _answers(images):
    number = np.arange(images)
    classes = np.where(number < 0.9 * images, number % 10, (number + 3) % 10)
    return Answers(
        classes,
        served=np.ones(images, dtype=bool),
        unsteady=np.zeros(images, dtype=bool),
        flat=np.zeros(images, dtype=bool),
    )


def _parity(images):
    flips = np.zeros(images, dtype=bool)
    return EngineParity(
        flips_clean=flips,
        flips_adversarial=flips.copy(),
        flips_changed=flips.copy(),
        difference=np.full(images, 1e-5),
        apart=np.full(images, 1e-2),
        violations=(),
    )


def latency(speedup=2.6, noise=0.01, pairs=40, disturbed=2):
    """A neighbour was on the engines' CPUs in the last `disturbed` pairs."""
    waiting = np.where(np.arange(pairs) < pairs - disturbed, 0.002, 0.4)
    generator = np.random.default_rng(7)
    blocks = 0.0024 * np.exp(noise * generator.standard_normal((4, pairs, 2, 1)))
    calls = np.exp(0.1 * generator.random((4, pairs, 2, 20)))
    base = (blocks * calls / np.median(calls, axis=-1, keepdims=True)).astype(np.float32)
    shown = np.tile(np.arange(20, dtype=np.int32), (pairs, 2, 1))
    return Latency(
        images=shown,
        clean=10,
        loads=np.arange(pairs, dtype=np.int32) // 5,
        batch=1,
        timing="host call, preallocated I/O",
        order=tuple("ABBA" if number % 2 else "BAAB" for number in range(pairs)),
        reference=base[0],
        candidate=base[1] / np.float32(speedup),
        control_a=base[2],
        control_b=base[3],
        machine={"cpu_mhz": np.full(pairs, 2600.0), "waiting": waiting, "load": np.linspace(0.1, 0.3, pairs)},
        facts={"machine": {"cpus": 4}, "reference": {"intra_op_threads": 1, "spinning": False}},
        cpu=0.98 * np.stack([base[0], base[1] / np.float32(speedup), base[2], base[3]]),
    )


def lone(measured):
    """The same without its reference."""
    accuracy = replace(measured.accuracy, clean_reference=None, standing_reference=None)
    return replace(
        measured,
        accuracy=accuracy,
        latency=None,
        parity=Parity(None, measured.parity.candidate),
        soundness=replace(measured.soundness, reference=None),
        sizes=Sizes(None, measured.sizes.candidate),
        reference=None,
        candidate=Subject("engine", "ab" * 32),
        ladder=None,
        curve=replace(measured.curve, reference=None),
    )


def blind(measured):
    """The same without torch twins."""
    nothing = EngineParity(*np.zeros((3, 0), bool), np.zeros(0), np.zeros(0), ())
    kinds = ("query",) * len(measured.accuracy.kinds)
    return replace(
        measured,
        accuracy=replace(measured.accuracy, kinds=kinds),
        parity=Parity(nothing if measured.reference else None, nothing),
        soundness=replace(measured.soundness, reference=None, candidate=None),
        curve=None,
    )


def content(measured=None, gates=GATES, missing=None, **changes):
    """A whole run; `changes` replace fields."""
    measured = (measurements(),) if measured is None else measured
    names = [value.engine for value in measured] + list(missing or {})
    whole = ReportContent(
        recipe={"name": "fashion-resnet18", "prune": {"criterion": "mad-paper", "structure": "channels"}, "seed": 3},
        verdict=judge(measured, gates, missing=missing or {}),
        provenance={
            "seed": 3,
            "threat": {"norm": "linf", "eps": 8 / 255},
            "attack": {"suite": "quick", "budget": ["twin: apgd", "engine alone: square"], "eight_bit": False},
            "gate_images": {"images": 1000, "split": 10000, "sha256": "ab" * 32},
            "engines": {name: {"dense": "12" * 32, "pruned": "34" * 32} for name in names},
            "machine": {"processor": "A processor", "cpus": 4, "gpus": [], "system": "Linux x86_64"},
            "tools": {"madx": "0.1.0", "python": "3.11.7"},
        },
        measurements=tuple(measured),
        coverage=COVERAGE,
        finetuning={
            "one_shot": {"clean": 0.085, "robust": 0.085, "images": 200},
            "recalibrated": {"clean": 0.61, "robust": 0.32, "images": 200},
            "evaluations": [
                {"step": step, "clean": 0.8 + step / 1000, "robust": 0.6 + step / 900, "loss": 0.7, "event": ""}
                for step in (30, 60, 90)
            ],
        },
        builds={name: build(name) if name not in (missing or {}) else unbuilt(name) for name in names},
        saliency=saliency(),
        stages={
            "train": {"seconds": 4000.2, "finished": "2026-01-02T03:04:05Z", "outputs": {"dense/model": {}}},
            "prune": {"seconds": 75.04, "finished": "2026-01-02T03:14:05Z", "outputs": {"pruned/model": {}}},
        },
    )
    return replace(whole, **changes)


LAYERS = {"conv1": 5.6e-07, "layer1.conv1": -2.9e-08, "linear": 4.1e-06}
"""Mean saliency by layer."""


def saliency(means=LAYERS, *, overlaps=(0.4, 0.91, 0.93), enough=0.9, passes=0.3, threshold=2e-9, **changes):
    """What the prune stage sums up; without overlaps the halves were not compared."""
    curve = [
        {"batches": 2 ** (number + 1), "correlation": 0.5 + number / 10, "overlap": overlap, "chance": 0.11}
        for number, overlap in enumerate(overlaps)
    ]
    settled = {"asked": "auto", "enough": enough, "settled": bool(curve) and overlaps[-1] >= enough, "curve": curve}
    return {
        "criterion": "mad-paper",
        "batches": curve[-1]["batches"] if curve else 1,
        "batch_size": 128,
        "passes": passes,
        "settling": settled if curve else None,
        "quantile_levels": [0.5],
        "edges": [-1e-7, -1e-8, -1e-9, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5],
        "layers": [layer_saliency(name, mean) for name, mean in means.items()],
        "threshold": threshold,
    } | changes


def layer_saliency(name, mean):
    return {
        "name": name,
        "entries": 1000,
        "kept": 250,
        "mean": mean,
        "negative": 0.2,
        "zero": 0.31,
        "quantiles": [mean / 2],
        "kept_counts": [0, 0, 0, 50, 100, 90, 10],
        "removed_counts": [100, 50, 500, 100, 0, 0, 0],
    }


def build(name):
    rows = {"node_a": {"eligible": True}, "node_b": {"eligible": False}}
    files = {
        role: {
            "file": f"engines/{name}/{role}.onnx",
            "sha256": digest * 32,
            "facts": {"bytes": size, "provider": "CPU"},
            "sparsity_2_4": rows,
        }
        for role, digest, size in (("dense", "12", 4_000_000), ("pruned", "34", 1_000_000))
    }
    section = {"kind": "ort-cpu", "precision": "fp32"}
    return {"engine": section, "built": True, "can_run": True, "reason": "", **files}


def unbuilt(name):
    return {"built": False, "can_run": False, "reason": f"{name} needs a GPU; install 'madx[tensorrt]'"}


COVERAGE = {
    "kept_share": 0.2525,
    "layers": [
        {
            "name": name,
            "kind": "Conv2d",
            "shape_before": [32, 16, 3, 3],
            "shape_after": [16, 16, 3, 3],
            "weights": 4608,
            "kept": 2304,
            "reason": reason,
        }
        for name, reason in (("conv1", ""), ("layer1.conv1", "its 16 inputs are the image's"), ("linear", ""))
    ],
}

PASSING = content()
FAILING = content((measurements(lost=150, speedup=1.2),))
UNDECIDED = content((measurements(lost=30),))
TWO_ENGINES = content((measurements(), measurements("openvino-cpu-fp32", lost=20)))
MISSING = content((), missing={"tensorrt-fp16": "it could not be built: " + unbuilt("tensorrt-fp16")["reason"]})
LONE = content((lone(measurements()),), coverage={}, finetuning={}, saliency={})
QUERIES = content((blind(lone(measurements())),), coverage={}, finetuning={}, saliency={})
BARE = ReportContent(
    recipe={},
    verdict=Verdict(gates=()),
    provenance={},
    measurements=(),
    coverage={},
    finetuning={},
    builds={},
    saliency={},
    stages={},
)
HOSTILE_RUN = content(
    (),
    missing={HOSTILE: HOSTILE},
    recipe={"name": HOSTILE},
    coverage={"kept_share": 0.5, "layers": [{**COVERAGE["layers"][0], "name": HOSTILE, "reason": HOSTILE}]},
    saliency=saliency({HOSTILE: -1e-7, "$x_1$ 层": 2e-7, "": 0.0}, overlaps=()),
    stages={HOSTILE: {}},
)
CONTENTS = {
    "passing": PASSING,
    "failing": FAILING,
    "undecided": UNDECIDED,
    "two engines": TWO_ENGINES,
    "missing": MISSING,
    "lone": LONE,
    "queries": QUERIES,
    "bare": BARE,
    "hostile": HOSTILE_RUN,
}
