"""Whether a network fits its images: is it better than guessing, and would another usual scaling or order do better?

Networks come with weights that were trained on images in 0..255, on normalised ones, on another order of the channels,
or of the classes. Images are float32 [n, C, H, W] in [0, 1], labels int64 [n], logits [n, K]. What is chosen is chosen
on every other image and measured on the rest, so that chance fits nothing; limits are one-sided at `CONFIDENCE`. The
images must be the selection's: what a gate judges by is not looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from madx.errors import EngineError
from madx.models.normalise import Normalise
from madx.plugins import USER_ERRORS
from madx.stats import clopper_pearson, drop_interval

MOST_IMAGES = 500
"""Enough to tell ten points, and a second's work for a small network."""
CONFIDENCE = 0.95
FAR = 0.1
"""A gain that no accident of rounding or contrast explains: the network was made for other images."""

_GLANCE = 100
"""Images that every row is tried on; on all images only ..."""
_FINALISTS = 3
"""... as many as did best there ..."""
_CLOSE = 0.1
"""... and came this close to the best, as a share of the images."""

Standing = Literal["above chance", "near chance", "undecided"]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """One thing that people do to images before their networks."""

    name: str
    change: Callable[[Tensor], Tensor]
    """From images in [0, 1] to what the network is fed."""
    advice: str
    """What to do if it fits, as an imperative."""
    fed: str = ""
    """The same for an ONNX file, as keys of a recipe's verify.input; empty where these cannot say it."""
    after: str = ""
    """The row that this one adds something to: tried where that one did about best, or where none did well."""
    norm: Normalise | None = None
    """Of a row that normalises."""


_AS_GIVEN = Row("", lambda x: x, "")
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
NORMALISATIONS: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "images from 0 to 255": ((0,), (1 / 255,)),
    "images from -1 to 1": ((0.5,), (0.5,)),
    "images from -127.5 to 127.5": ((0.5,), (1 / 255,)),
    "images from 0 to 16, as scikit-learn's digits are": ((0,), (1 / 16,)),
    "ImageNet's mean and deviation": _IMAGENET,
    "CIFAR-10's mean and deviation": _CIFAR10,
    "CIFAR-100's mean and deviation": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "SVHN's mean and deviation": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "MNIST's mean and deviation": ((0.1307,), (0.3081,)),
    "Fashion-MNIST's mean and deviation": ((0.2860,), (0.3530,)),
}
"""(mean, deviation) by name, for each channel, or one number for all."""
CAFFE: dict[str, Sequence[float]] = {
    "BGR from 0 to 255": (0, 0, 0),
    "BGR from 0 to 255 less Caffe's mean": (103.939, 116.779, 123.68),
}
"""Mean of blue, green and red by name."""
_CAFFES_SCALE = "images from 0 to 255"
"""The row of `NORMALISATIONS` that `CAFFE` has in the other order."""


def usual_rows(images: Tensor, given: Normalise | None = None) -> tuple[Row, ...]:
    """What is tried on images of this shape, beside what they are.

    Args:
        images: float32 [n, C, H, W] in [0, 1]; their own mean and deviation are tried too.
        given: the normalisation that the recipe already puts before the network; others are tried in its place.
    """
    channels = images.shape[1]
    own = (images.mean((0, 2, 3)).tolist(), images.std((0, 2, 3)).clamp(min=1e-3).tolist())
    rows = [
        _normalised(name, mean, std, channels, given)
        for name, (mean, std) in (*NORMALISATIONS.items(), ("the data's own mean and deviation", own))
        if len(mean) in (1, channels)
    ]
    if given is not None:
        rows.insert(
            0,
            Row(
                "images in [0, 1] without normalisation",
                lambda x: _undone(x, given),
                "leave out model.args.normalise",
                "scale: 1, mean: 0, std: 1",
            ),
        )
    inverted = "" if given else "scale: -1, mean: -1"
    rows.append(Row("black and white exchanged", lambda x: 1 - x, "let its forward begin with x = 1 - x", inverted))
    if channels == 3:
        swap = "set data.channel_order to the other of rgb and bgr, or let its forward begin with x = x[:, [2, 1, 0]]"
        bgr = "channel_order: bgr"
        rows.append(Row("channels in the order blue, green, red (BGR)", lambda x: x[:, [2, 1, 0]], swap, bgr))
        rows += [_caffe(name, mean, given) for name, mean in CAFFE.items()]
        rows += [_in_bgr(row, given) for row in rows if row.norm is not None and row.name != _CAFFES_SCALE]
    if images.shape[2] == images.shape[3]:
        turn = "let its forward begin with x = x.transpose(2, 3)"
        rows.append(Row("height and width exchanged", lambda x: x.transpose(2, 3), turn))
    return tuple(rows)


def _caffe(name: str, mean: Sequence[float], given: Normalise | None) -> Row:
    """Both at once: what networks that began in Caffe were trained on."""
    norm = Normalise([value / 255 for value in mean], [1 / 255] * 3)
    numbers = ", ".join(f"{value:g}" for value in mean)

    def change(x: Tensor) -> Tensor:
        found = norm(x[:, [2, 1, 0]])
        return found if given is None else _undone(found, given)

    advice = f"let its forward begin with x = 255 * x[:, [2, 1, 0]] - torch.tensor([{numbers}]).reshape(-1, 1, 1)"
    fed = f"channel_order: bgr, scale: 255, mean: [{numbers}]"
    return Row(name, change, advice, fed if given is None else f"{fed}, std: 1")


def _normalised(name: str, mean: Sequence[float], std: Sequence[float], channels: int, given: Normalise | None) -> Row:
    """A row of `NORMALISATIONS`, as the recipe can have it."""
    means, stds = ([*values] * (channels // len(values)) for values in (mean, std))
    norm = Normalise(means, stds)
    numbers = [", ".join(_number(value) for value in values) for values in (means, stds)]
    advice = f"set model.args.normalise: {{mean: [{numbers[0]}], std: [{numbers[1]}]}}"
    fed = f"scale: 1, mean: [{numbers[0]}], std: [{numbers[1]}]"
    if set(means) == {0} and set(stds) == {1 / 255}:
        fed = "scale: 255" if given is None else "scale: 255, mean: 0, std: 1"
    return Row(name, lambda x: norm(x) if given is None else _undone(norm(x), given), advice, fed, norm=norm)


def _in_bgr(row: Row, given: Normalise | None) -> Row:
    """A row of `NORMALISATIONS` with the channels exchanged as well; an ONNX file's numbers are in the file's order."""

    def change(x: Tensor) -> Tensor:
        assert row.norm is not None  # by whom this is called
        found = row.norm(x)[:, [2, 1, 0]]
        return found if given is None else _undone(found, given)

    reverse = re.sub(r"\[(.*?)\]", lambda found: f"[{', '.join(found[1].split(', ')[::-1])}]", row.fed)
    return Row(
        f"{row.name}, channels in the order blue, green, red (BGR)",
        change,
        f"{row.advice}, and let its forward begin with x = x[:, [2, 1, 0]]",
        f"channel_order: bgr, {reverse}",
        after=row.name,
    )


def _number(value: float) -> str:
    return "1/255" if value == 1 / 255 else f"{value:.4g}"


def _undone(x: Tensor, given: Normalise) -> Tensor:
    """What the recipe's normalisation turns into `x`."""
    return x * given.std + given.mean


@dataclass(frozen=True)
class Better:
    """What fits the network better than what it is given, on images that chose nothing."""

    name: str
    """Of the row; empty if only the order of the classes is another."""
    advice: str
    order: tuple[int, ...] | None
    """`order[k]` is the output that answers label k, where that is not output k."""
    images: int
    clean: float
    """Share of these images it is right on, changed so."""
    as_given: float
    """The same images as they are."""
    gain: float
    """Lower limit of the difference."""
    alike: tuple[str, ...]
    """Names of rows that do as well, as far as these images tell."""

    @property
    def far(self) -> bool:
        """Whether the images as they are cannot be what the network was made for."""
        return self.gain >= FAR


@dataclass(frozen=True)
class Fit:
    """How a network does on images as they are, and what would be better."""

    images: int
    clean: float
    """Share that it is right on; logits that are no numbers are wrong."""
    limits: tuple[float, float]
    """Of `clean`."""
    chance: float
    """Accuracy of guessing: the same answers, given to the images at random, or 1/K if that is more."""
    standing: Standing
    """Near chance: the upper limit is below `mark`. Above: the lower limit is not. Else there is no telling."""
    broken: int
    """Images that the logits are NaN or infinite for."""
    tried: tuple[str, ...]
    """Names of the rows."""
    better: Better | None
    linear: float | None
    """Share that a linear classifier of other images is right on; None where there were too few of them."""
    linear_gain: float
    """Lower limit of how much more that is."""

    @property
    def mark(self) -> float:
        """The accuracy with twice the odds of guessing; below it, a network has learned next to nothing of them."""
        return _mark(self.chance)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@torch.no_grad()
def find_fit(
    logits: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    rows: Sequence[Row] | None = None,
    linear: Callable[[], Callable[[Tensor], Tensor] | None] = lambda: None,
) -> Fit:
    """Measure a network on images as they are; unless it is right on nearly all, try what else they might have been.

    Args:
        logits: the network in eval mode: [n, C, H, W] -> [n, K].
        images: selection images, in random order; the first `MOST_IMAGES` are used.
        labels: their classes.
        rows: what is tried; `usual_rows` by default.
        linear: makes a linear classifier of other images, which knows no more than their pixels and the data's own
            labels; it is asked for where there is something to compare, and may have none.
    """
    x, y = images[:MOST_IMAGES], labels[:MOST_IMAGES].numpy()
    outputs = logits(x)
    trial = _Trial(logits, x, y, classes=outputs.shape[1])
    given = _answers(outputs)
    right = int((given == y).sum())
    tried = tuple(usual_rows(x) if rows is None else rows) if right < (1 - FAR) * len(y) else ()
    classifier = linear() if tried else None
    plain = None if classifier is None else _answers(classifier(x))
    return Fit(
        images=len(y),
        clean=right / len(y),
        limits=clopper_pearson(right, len(y), confidence=CONFIDENCE),
        chance=_chance(given, y, trial.classes),
        standing=_standing(given, y, trial.classes),
        broken=int((given < 0).sum()),
        tried=tuple(row.name for row in tried if not row.after),
        better=_better(trial, given, tried) if tried and len(y) >= 4 else None,
        linear=None if plain is None else float((plain == y).mean()),
        linear_gain=0.0 if plain is None else _gain(given, plain, y),
    )


@dataclass(frozen=True)
class _Trial:
    """What rows are tried with."""

    logits: Callable[[Tensor], Tensor]
    x: Tensor
    y: Labels
    classes: int

    def answers(self, row: Row, part: slice) -> Labels:
        """The answers to some of the images, changed; a network that refuses such images has none."""
        images = self.x[part]
        try:
            return _answers(self.logits(row.change(images)))
        except (*USER_ERRORS, EngineError):  # logits that are no numbers are an error of an engine's
            return np.full(len(images), -1, dtype=np.int64)


def _answers(outputs: Tensor) -> Labels:
    """The classes that logits name, [n]; -1, which is no class, where one of them is no number."""
    named = torch.where(outputs.isfinite().all(1), outputs.argmax(1), -1)
    found: Labels = named.cpu().numpy().astype(np.int64)
    return found


def _chance(answers: Labels, y: Labels, classes: int) -> float:
    """Expected accuracy if the answers were shuffled: it counts what an imbalance of the classes gives away."""
    given, wanted = (np.bincount(values[values >= 0], minlength=classes) / len(y) for values in (answers, y))
    return max(1 / classes, float(given @ wanted))


def _mark(chance: float) -> float:
    """The share with twice the odds of `chance`."""
    return 2 * chance / (1 + chance)


def _standing(answers: Labels, y: Labels, classes: int) -> Standing:
    """Told by both limits; labels of one class alone tell nothing."""
    if len(np.unique(y)) < 2:
        return "undecided"
    lower, upper = clopper_pearson(int((answers == y).sum()), len(y), confidence=CONFIDENCE)
    mark = _mark(_chance(answers, y, classes))
    return "near chance" if upper < mark else "above chance" if lower >= mark else "undecided"


def _better(trial: _Trial, given: Labels, tried: Sequence[Row]) -> Better | None:
    """The best of the rows, with the classes in the outputs' order or in the best one, if it is better for certain."""
    choosing, held = slice(0, None, 2), slice(1, None, 2)
    first = slice(0, 2 * _GLANCE, 2)  # of those that choose: few images tell which row is worth all of them
    glances = {_AS_GIVEN: given[first]} | {row: trial.answers(row, first) for row in tried if not row.after}
    glances |= {row: trial.answers(row, first) for row in _added(glances, tried, trial.y[first], trial.classes)}
    answers = {
        row: given if row is _AS_GIVEN else trial.answers(row, slice(None)) for row in _promising(glances, trial, first)
    }
    y, kept, order = trial.y, _best(answers, trial.y, choosing), None
    orders = {row: _best_order(values[choosing], y[choosing], trial.classes) for row, values in answers.items()}
    ordered = {row: _reordered(values, orders[row]) for row, values in answers.items()}
    other, chosen = _best(ordered, y, choosing), answers[kept]
    if _gain(chosen[held], ordered[other][held], y[held]) > 0 and _mostly(ordered[other][held], y[held]):
        kept, chosen, order = other, ordered[other], tuple(int(output) for output in orders[other])
    gain = _gain(given[held], chosen[held], y[held])
    if gain <= 0 or _standing(chosen[held], y[held], trial.classes) != "above chance":
        return None
    return Better(
        name=kept.name,
        advice=kept.advice,
        order=order,
        images=len(y[held]),
        clean=float((chosen[held] == y[held]).mean()),
        as_given=float((given[held] == y[held]).mean()),
        gain=gain,
        alike=tuple(
            row.name
            for row, values in (answers if order is None else ordered).items()
            if _AS_GIVEN not in (row, kept) and row is not kept and _gain(values[held], chosen[held], y[held]) <= 0
        ),
    )


def _added(glances: dict[Row, Labels], tried: Sequence[Row], y: Labels, classes: int) -> list[Row]:
    """The rows that add something to others: to those that did best, or to all where none says anything."""
    right = {row.name: int((seen == y).sum()) for row, seen in glances.items()}
    starts = sorted({row.after for row in tried if row.after}, key=lambda name: -right[name])
    if max(right.values()) >= _mark(_chance(glances[_AS_GIVEN], y, classes)) * len(y):
        starts = starts[:_FINALISTS]
    return [row for row in tried if row.after in starts]


def _promising(glances: dict[Row, Labels], trial: _Trial, part: slice) -> list[Row]:
    """As given, and the rows that did about best at a glance: in the outputs' own order, or in their best one."""
    y = trial.y[part]
    ordered = {row: _reordered(seen, _best_order(seen, y, trial.classes)) for row, seen in glances.items()}
    rows = {_AS_GIVEN: None}  # a dict keeps the table's order
    for answers in (glances, ordered):
        right = {row: int((seen == y).sum()) for row, seen in answers.items()}
        ranked = sorted(right, key=lambda row: -right[row])[:_FINALISTS]
        rows |= dict.fromkeys(row for row in ranked if right[row] >= right[ranked[0]] - _CLOSE * len(y))
    return list(rows)


def _best(answers: dict[Row, Labels], y: Labels, part: slice) -> Row:
    """Of rows that are equally good the first, so that what changes nothing is not chosen."""
    return max(answers, key=lambda row: int((answers[row][part] == y[part]).sum()))


def _best_order(answers: Labels, y: Labels, classes: int) -> Labels:
    """The assignment of outputs to labels, one to one, that is right most often; what no image tells of stays."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (y[answers >= 0], answers[answers >= 0]), 1)
    _, order = linear_sum_assignment(counts + 1e-6 * np.eye(classes), maximize=True)
    found: Labels = order.astype(np.int64)
    return found


def _reordered(answers: Labels, order: Labels) -> Labels:
    """What the answers mean if output order[k] stands for label k; -1 stays."""
    meaning = np.append(np.argsort(order), -1)
    found: Labels = meaning[answers]
    return found


def _mostly(answers: Labels, y: Labels) -> bool:
    """Whether more than half is right for certain: a random network too has a best order."""
    return clopper_pearson(int((answers == y).sum()), len(y), confidence=CONFIDENCE)[0] > 0.5


def _gain(before: Labels, after: Labels, y: Labels) -> float:
    """Lower limit of how much more often `after` is right than `before`, on the same images."""
    lost = int(((before == y) & (after != y)).sum())
    gained = int(((before != y) & (after == y)).sum())
    return -drop_interval(len(y), lost, gained, confidence=CONFIDENCE)[1]
