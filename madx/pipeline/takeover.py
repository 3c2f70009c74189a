"""Weights and engines that are taken over are measured at once: whether they fit these images, and how robust they are.

Only selection images are looked at. What does not fit stops the run before hours are spent on it, with what would fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from madx.attacks import linear_classifier
from madx.closeness import ROUNDING
from madx.errors import ModelError
from madx.models.arguments import RESERVED
from madx.models.fitting import CAFFE, CONFIDENCE, FAR, MOST_IMAGES, Better, Fit, Row, find_fit, usual_rows
from madx.models.modes import evaluating
from madx.models.normalise import Normalise, read_normalise
from madx.pipeline.context import Context
from madx.pipeline.given import CANDIDATE
from madx.pipeline.sides import Side
from madx.stats import clopper_pearson
from madx.train import Evaluation, evaluate
from madx.verify.contract import ManyAnswers, check_form

_FORM_IMAGES = 16
_BATCH = 100
"""Images at a time, which bounds the memory."""
_FEWEST_FITTED, _MOST_FITTED = 100, 1000
"""Selection images that a linear classifier is fitted to."""
_LISTED = 20
"""Classes whose order is told in full."""
_LOOK_IT_UP = (
    "Look up how images were scaled and normalised (mean and deviation) in training: what fits best of the usual ones "
    "need not be it. docs/onnx.md has the keys of verify.input."
)
_PAGE = "docs/own-network.md shows an example."


def measure(context: Context, module: nn.Module) -> dict[str, float]:
    """Clean and robust accuracy (prune.attack) on some of the selection split, and of how many images."""
    recipe = context.recipe
    split = context.splits.selection.take(MOST_IMAGES)
    clean, robust = evaluate(module, split, recipe.prune.attack, recipe.threat, seed=recipe.seed, world=context.world)
    return {"clean": clean, "robust": robust, "images": len(split)}


def examine(context: Context, module: nn.Module) -> dict[str, Any]:
    """Whether the weights that the recipe gives fit its images, for the log of the training.

    Args:
        context: of the run.
        module: with the weights, on the device; it comes back as it was.

    Raises:
        ModelError: without a train section, if the network is near chance or was clearly made for other images; with
            one, that is said, for the weights of another task may be meant as a start.
    """
    fit = context.world.share(lambda: _fit(context, module))
    problem = explain_misfit(fit)
    if problem:
        problem = f"model.weights: {context.recipe.model.weights}: {problem} {_PAGE}"
    if problem and (context.recipe.train is None or fit.broken):
        raise ModelError(problem)
    for sentence in [problem] if problem else describe_doubts(fit):
        context.progress.say(sentence)
    return fit.to_json()


def measure_taken(context: Context, module: nn.Module) -> Evaluation:
    """Accuracies of weights that are used as they are, said in one line."""
    found, attack = measure(context, module), context.recipe.prune.attack
    images, clean, robust = int(found["images"]), found["clean"], found["robust"]
    event = f"as taken over, PGD-{attack.steps}"
    context.progress.say(f"{event}: clean {clean:.1%}, robust {robust:.1%} ({images} selection images)")
    _, upper = clopper_pearson(round(robust * images), images, confidence=CONFIDENCE)
    if upper < 1 / context.splits.selection.classes:
        context.progress.say(
            f"robust accuracy is {robust:.1%}, less than guessing withstands: an undefended network, or threat.eps "
            f"({context.recipe.threat.eps:.4g}) is not what it was trained for; there is no robustness that pruning "
            "could lose, and gates on it will say little"
        )
    return Evaluation(step=0, clean=clean, robust=robust, loss=0.0, event=event)


def explain_misfit(fit: Fit) -> str:
    """What is wrong, what would fit, what to do; nothing if the network can be used as it is."""
    if fit.broken:
        return (
            f"the network returns NaN or infinite logits for {fit.broken} of {fit.images} selection images; take an "
            "earlier checkpoint, or look for a division by zero in its forward."
        )
    if fit.better is not None and fit.better.far:
        return f"{_measured(fit)}, so it was made for something else than these images in [0, 1]. {_remedy(fit.better)}"
    if fit.linear_gain >= FAR and fit.linear is not None and fit.standing != "near chance":
        return f"{_measured(fit)}. {_worse_than_linear(fit.linear)}"
    if fit.standing == "near chance":
        tried = ", ".join(fit.tried)
        return (
            f"{_measured(fit)}: this network tells next to nothing about these images. None of these fits either: "
            f"{tried}, another order of the classes. Are these the weights of this network, trained to the end, and "
            "for these classes? Is data.path the data it was trained on? To train it from here, give a train section."
        )
    return ""


def describe_doubts(fit: Fit) -> list[str]:
    """What to say of a network that can be used as it is."""
    doubts = []
    if fit.standing == "undecided":
        lower, upper = fit.limits
        doubts.append(
            f"{_measured(fit)}, between {lower:.1%} and {upper:.1%} at {CONFIDENCE:.0%} confidence each way: that does "
            "not tell it from guessing. Give more images to data.selection, or look whether these are the right weights"
        )
    if fit.better is not None:
        doubts.append(f"it does a little better with something else. {_remedy(fit.better)}")
    return doubts


def _worse_than_linear(share: float) -> str:
    return (
        f"A linear classifier that was fitted to other images of the data is right on {share:.1%} of these, so the "
        "network and the labels do not speak of the same thing. Are these the weights of this network, trained to the "
        "end; are the classes numbered as its outputs are; are images read as it was trained on them, with the same "
        "scaling, normalisation (mean and deviation) and order of the channels?"
    )


def _measured(fit: Fit) -> str:
    return f"clean accuracy is {fit.clean:.1%} on {fit.images} selection images, and guessing gives {fit.chance:.1%}"


def _remedy(better: Better) -> str:
    """What fits, by how much, and what to do about it."""
    what = [better.name] if better.name else []
    what += ["its classes in another order"] if better.order is not None else []
    text = (
        f"With {' and '.join(what)} it is right on {better.clean:.1%} instead of {better.as_given:.1%} of "
        f"{better.images} other selection images. "
    )
    if better.advice:
        text += f"If that is what it was trained with, {better.advice}"
        text += (
            " (or let its forward do so). "
            if better.advice.startswith("set") and "forward" not in better.advice
            else ". "
        )
    if better.alike:
        text += f"As good, as far as these images tell: {', '.join(better.alike)}. "
    if better.order is not None:
        text += _reordering(better.order)
    return text.strip()


def _reordering(order: tuple[int, ...]) -> str:
    moved = [f"label {label} is output {output}" for label, output in enumerate(order) if label != output]
    more = f", ... ({len(moved)} in all)" if len(moved) > _LISTED else ""
    return (
        f"Of the classes, {', '.join(moved[:_LISTED])}{more}. Number the labels of the data in the network's order, or "
        "give its last layer's rows the order of the labels."
    )


@dataclass(frozen=True)
class Doubted:
    """What is doubtful of engines that were given."""

    told: tuple[str, ...] = ()
    """All of it, to be said."""
    reference: tuple[str, ...] = ()
    """Why the reference may answer worse than it could, so that next to it any candidate looks good."""


def examine_given(context: Context, sides: Sequence[Side | None]) -> Doubted:
    """Whether the engines that were given fit the images, before they are attacked; doubts are said, and returned.

    A poor engine is for the gates to judge; one that was made for other images, or another order of the classes, would
    be judged by what it was not asked.

    Raises:
        ModelError: it is far better on something else than the images as they are read.
    """
    images, labels = context.splits.selection.tensors(0, MOST_IMAGES)
    told, reference = [], []
    for side in sides:
        if side is None or side.role not in context.taken:
            continue
        rows = _rows_for(side, images)
        fit = find_fit(_piece_by_piece(side.logits), images, labels, rows=rows, linear=partial(_linear, context))
        problem = explain_misfit(fit)
        if problem and fit.better is not None and fit.better.far and not _has_many_answers(side, images):
            raise ModelError(f"the {side.label} engine: {problem} {_LOOK_IT_UP}")
        found = [f"the {side.label} engine: {one}" for one in ([problem] if problem else describe_doubts(fit))]
        told += found
        if side.role != CANDIDATE and (problem or fit.better is not None):
            reference.append(found[-1])  # what would be better is said last
    for sentence in told:
        context.progress.say(sentence)
    return Doubted(tuple(told), tuple(reference))


def _has_many_answers(side: Side, images: Tensor) -> bool:
    """Whether an image's answer depends on its batch or on chance: that is then the verdict, whatever would fit."""
    measured = side.computes_in in ROUNDING
    found = check_form(side.engine, images[:_FORM_IMAGES].numpy(), tolerance=side.rounding, measured=measured)
    return any(isinstance(sentence, ManyAnswers) for sentence in found)


def _rows_for(side: Side, images: Tensor) -> list[Row]:
    """What is tried on an engine, beside how it is fed; one that takes whole numbers is fed nothing outside [0, 1]."""
    rows = [row for row in usual_rows(images, _given_normalisation(side)) if not (_is_bgr(side) and row.name in CAFFE)]
    if side.rounds:
        rows = [row for row in rows if 0 <= float(row.change(images).min()) <= float(row.change(images).max()) <= 1]
    return [replace(row, advice=_for_engines(row, side)) for row in (*rows, *_other_layout(side))]


def _other_layout(side: Side) -> list[Row]:
    """Colour images all in a row may be meant channel by channel or pixel by pixel, and a file does not say which."""
    fed = side.interface
    if fed is None or len(fed.image) > 1 or fed.shape[0] == 1 or fed.bgr or fed.mean or fed.std:
        return []
    channels, height, width = fed.shape
    if fed.layout == "NHWC":
        name, other, shape, order = "channels first", "NCHW", (height, width, channels), (0, 3, 1, 2)
    else:
        name, other, shape, order = "channels last", "NHWC", (channels, height, width), (0, 2, 3, 1)

    def change(x: Tensor) -> Tensor:
        if other == "NCHW":  # what the engine lays out pixel by pixel is to come out channel by channel
            return x.reshape(-1, *shape).permute(order)
        return x.permute(order).reshape(x.shape)

    return [Row(f"{name}, all in a row", change, "", f"layout: {other}")]


def _is_bgr(side: Side) -> bool:
    return side.interface is not None and side.interface.bgr


def _given_normalisation(side: Side) -> Normalise | None:
    """What the recipe does to images before the engine's file, as a normalisation of images in [0, 1]."""
    fed = side.interface
    if fed is None or fed.whole_numbers or (fed.scale == 1 and not fed.mean and not fed.std):
        return None
    channels = fed.shape[0]
    mean, std = fed.mean or (0.0,) * channels, fed.std or (1.0,) * channels
    if fed.bgr:
        mean, std = mean[::-1], std[::-1]  # rows see the channels as the data has them
    return Normalise([value / fed.scale for value in mean], [value / fed.scale for value in std])


def _for_engines(row: Row, side: Side) -> str:
    """What to do about an ONNX file is said in the recipe, or done before it is exported."""
    if not row.fed or (side.rounds and "scale" in row.fed):
        return row.advice.replace("let its forward begin with", "export the network with a first layer that does")
    section = "input" if side.role == CANDIDATE else "reference_input"
    keys = row.fed
    if _is_bgr(side):  # numbers stand in the file's order, and a second exchange undoes the first
        keys = keys.replace("channel_order: bgr", "channel_order: rgb")
        keys = re.sub(r"\[(.*?)\]", lambda found: f"[{', '.join(found[1].split(', ')[::-1])}]", keys)
    return f"add this to the recipe: verify: {{{section}: {{{keys}}}}}"


def _fit(context: Context, module: nn.Module) -> Fit:
    images, labels = context.splits.selection.tensors(0, MOST_IMAGES)
    given = read_normalise(context.recipe.model.args.get(RESERVED), channels=images.shape[1])
    logits = _piece_by_piece(lambda part: module(part.to(context.device)).float().cpu())
    with evaluating(module):
        return find_fit(logits, images, labels, rows=usual_rows(images, given), linear=partial(_linear, context))


def _piece_by_piece(logits: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same network, given a few images at a time."""
    return lambda images: torch.cat([logits(part) for part in torch.split(images, _BATCH)])


def _linear(context: Context) -> nn.Module | None:
    """A linear classifier of images that the network is not measured on, if there are enough: never of the gate's."""
    selection = context.splits.selection
    if len(selection) >= MOST_IMAGES + _FEWEST_FITTED:
        images, labels = selection.tensors(MOST_IMAGES, MOST_IMAGES + _MOST_FITTED)
    elif len(context.splits.train) >= _FEWEST_FITTED:
        images, labels = context.splits.train.tensors(0, _MOST_FITTED)
    else:
        return None
    return linear_classifier(images, labels, selection.classes)
