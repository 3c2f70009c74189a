"""What a network was made for is found by trying it; the network here is a rule whose answers are known.

Class k is a bright square at place k. The network fed with what it was made for is right on every image; fed with
anything else it answers class 0, so nothing fits by accident.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import yaml
from torch import Tensor

from madx.errors import EngineError
from madx.models.fitting import CAFFE, FAR, MOST_IMAGES, NORMALISATIONS, Fit, Row, find_fit, usual_rows
from madx.models.normalise import Normalise
from madx.recipe import InputConfig

SIDE = 4
BRIGHT = 0.9
Network = Callable[[Tensor], Tensor]


def data(count: int = 400, *, classes: int = 10, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Noisy images whose square's place and colour say the class, unlike in each channel and along each axis."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (count,), generator=generator)
    images = 0.1 + 0.2 * torch.rand((count, channels, SIDE, SIDE), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0].view(-1)[label] = BRIGHT
    return images, labels


def network(classes: int = 10, *, wants: Network = lambda x: x, answers: list[int] | None = None) -> Network:
    """Right on the images of `data` once `wants` has undone what it is fed; output `answers[k]` answers label k."""
    order = list(range(classes)) if answers is None else answers

    def logits(fed: Tensor) -> Tensor:
        x = wants(fed)
        bright, dark = x[:, 0].flatten(1)[:, :classes], x.flatten(1).amin(1)
        sound = (bright.amax(1) - BRIGHT).abs() < 0.02
        seen = torch.where(sound & (dark > 0.09) & (dark < 0.2), bright.argmax(1), 0)
        return torch.nn.functional.one_hot(torch.tensor(order)[seen], classes).float()

    return logits


def fit(*, wants: Network = lambda x: x, answers: list[int] | None = None) -> Fit:
    return find_fit(network(wants=wants, answers=answers), *data())


def test_what_fits_is_left_alone_and_nothing_else_is_tried() -> None:
    found = fit()
    assert (found.clean, found.standing, found.better, found.tried) == (1.0, "above chance", None, ())


@pytest.mark.parametrize("name", [name for name, (mean, _) in NORMALISATIONS.items() if len(mean) in (1, 3)])
def test_every_normalisation_of_the_table_is_found(name: str) -> None:
    norm = Normalise(*([*values] * (3 // len(values)) for values in NORMALISATIONS[name]))
    found = fit(wants=lambda fed: fed * norm.std + norm.mean)
    assert found.better is not None
    assert name in (found.better.name, *found.better.alike)
    assert "model.args.normalise" in found.better.advice
    assert found.better.clean > found.better.as_given + FAR
    assert found.better.order is None
    assert found.better.far


@pytest.mark.parametrize(
    ("name", "wants"),
    [
        ("black and white exchanged", lambda fed: 1 - fed),
        ("channels in the order blue, green, red (BGR)", lambda fed: fed.flip(1)),
        ("height and width exchanged", lambda fed: fed.transpose(2, 3)),
    ],
)
def test_so_is_what_no_normalisation_undoes(name: str, wants: Network) -> None:
    found = fit(wants=wants)
    assert found.better is not None
    assert (found.better.name, found.better.clean, found.better.order) == (name, 1.0, None)


@pytest.mark.parametrize("name", CAFFE)
def test_order_and_scale_at_once_are_found_and_told_as_keys_for_a_file(name: str) -> None:
    mean = torch.tensor(CAFFE[name]).reshape(3, 1, 1)
    found = fit(wants=lambda fed: ((fed + mean) / 255).flip(1))
    assert found.better is not None
    assert name in (found.better.name, *found.better.alike)
    row = next(row for row in usual_rows(data()[0]) if row.name == name)
    keys = InputConfig.model_validate(yaml.safe_load(f"{{{row.fed}}}"))
    assert (keys.channel_order, keys.scale, keys.mean) == ("bgr", 255, tuple(CAFFE[name]))


@pytest.mark.parametrize("name", [name for name, (mean, _) in NORMALISATIONS.items() if len(mean) in (1, 3)])
def test_every_normalisation_is_found_in_the_other_order_of_the_channels_too(name: str) -> None:
    norm = Normalise(*([*values] * (3 // len(values)) for values in NORMALISATIONS[name]))
    found = fit(wants=lambda fed: fed.flip(1) * norm.std + norm.mean)
    assert found.better is not None
    assert found.better.clean == 1.0
    assert "BGR" in found.better.name
    assert "channel_order: bgr" in next(row for row in usual_rows(data()[0]) if row.name == found.better.name).fed


def test_what_a_row_tells_of_a_file_is_what_a_recipe_takes() -> None:
    """And does the same to the images."""
    images = data(8)[0]
    for row in usual_rows(images):
        if not row.fed:
            continue
        keys = InputConfig.model_validate(yaml.safe_load(f"{{{row.fed}}}"))
        x = images.flip(1) if keys.channel_order == "bgr" else images
        mean, std = (
            torch.tensor(value or (empty,)).reshape(-1, 1, 1) for value, empty in ((keys.mean, 0), (keys.std, 1))
        )
        torch.testing.assert_close(((keys.scale or 1) * x - mean) / std, row.change(images), rtol=5e-3, atol=1e-3)


def test_the_datas_own_mean_and_deviation_are_told_in_numbers() -> None:
    images, labels = data()
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3))
    found = find_fit(network(wants=lambda fed: fed * std[:, None, None] + mean[:, None, None]), images, labels)
    assert found.better is not None
    assert found.better.name == "the data's own mean and deviation"
    assert f"mean: [{mean[0]:.4g}" in found.better.advice


def test_a_new_row_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    halves = Row("images of half the brightness", lambda x: x / 2, "halve them")
    found = find_fit(network(wants=lambda fed: fed * 2), *data(), rows=(*usual_rows(data()[0]), halves))
    assert found.better is not None
    assert (found.better.name, found.better.advice) == (halves.name, halves.advice)
    monkeypatch.setitem(NORMALISATIONS, "images from 0 to 7", ((0,), (1 / 7,)))
    seven = fit(wants=lambda fed: fed / 7)
    assert seven.better is not None
    assert seven.better.name == "images from 0 to 7"


def test_the_recipes_own_normalisation_is_taken_away_or_replaced() -> None:
    """Fed with normalised images, the network wants them bare, or in another scale."""
    images, labels = data()
    given = Normalise([0.5] * 3, [0.25] * 3)
    rows = usual_rows(images, given)
    bare, scaled = network(), network(wants=lambda fed: fed / 255)
    found = [find_fit(lambda x, inner=inner: inner(given(x)), images, labels, rows=rows) for inner in (bare, scaled)]
    assert [one.better.name for one in found if one.better] == [
        "images in [0, 1] without normalisation",
        "images from 0 to 255",
    ]
    assert found[0].better is not None
    assert found[0].better.advice == "leave out model.args.normalise"


@pytest.mark.parametrize("answers", [[1, 2, 3, 4, 5, 6, 7, 8, 9, 0], [1, 0, *range(2, 10)]])
def test_another_order_of_the_classes_is_found(answers: list[int]) -> None:
    found = fit(answers=answers)
    assert found.better is not None
    assert (found.better.name, found.better.order, found.better.clean) == ("", tuple(answers), 1.0)
    assert found.better.alike == ()


def test_scale_and_order_are_found_together() -> None:
    answers = [*range(9, -1, -1)]
    found = fit(wants=lambda fed: fed / 255, answers=answers)
    assert found.better is not None
    assert (found.better.name, found.better.order) == ("images from 0 to 255", tuple(answers))


def test_two_classes_that_are_exchanged() -> None:
    found = find_fit(network(2, answers=[1, 0]), *data(classes=2))
    assert (found.clean, found.standing) == (0.0, "near chance")
    assert found.better is not None
    assert (found.better.order, found.better.clean) == ((1, 0), 1.0)


@pytest.mark.parametrize("classes", [2, 10, 50])
@pytest.mark.parametrize("seed", range(5))
def test_chance_fits_nothing(classes: int, seed: int) -> None:
    """Answers that have nothing to do with the images are near chance or undecided, and no row is recommended."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.rand((500, 1, 4, 4), generator=generator), torch.arange(500) % classes
    found = find_fit(lambda x: torch.randn((len(x), classes), generator=generator), images, labels)
    assert found.standing in ("near chance", "undecided")
    assert found.better is None
    assert found.chance == pytest.approx(1 / classes, rel=0.01)


def test_with_many_images_and_few_classes_chance_is_called_so() -> None:
    images, labels = data(MOST_IMAGES)
    found = find_fit(lambda x: torch.eye(10)[torch.zeros(len(x), dtype=torch.int64)], images, labels)
    assert found.standing == "near chance"
    assert found.limits[1] < found.mark


def test_an_imbalance_is_no_accuracy() -> None:
    """95 % of the images are of class 0. Always answering 0 is guessing; finding half of the others is not."""
    images = torch.rand((500, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    labels = (torch.arange(500) % 20 == 0).long()
    always = find_fit(lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2), images, labels)
    assert (always.clean, always.chance) == (0.95, 0.95)
    assert always.standing != "above chance"
    assert always.better is None
    found = {tuple(image.flatten().tolist()) for image in images[::40]}

    def half(x: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1.0] if tuple(image.flatten().tolist()) in found else [1.0, 0.0] for image in x])

    seen = find_fit(half, images, labels)
    assert seen.clean == pytest.approx(0.976)
    assert seen.standing != "near chance"


def test_a_few_images_decide_nothing() -> None:
    for count in (1, 2, 3):
        images, labels = data(count)
        for answers in (None, [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]):
            found = find_fit(network(answers=answers), images, labels)
            assert (found.images, found.standing, found.better) == (count, "undecided", None)


def test_images_of_one_class_decide_nothing() -> None:
    """In another order every answer would be right, whatever the network is."""
    images, _ = data()
    found = find_fit(network(answers=[1, 2, 3, 4, 5, 6, 7, 8, 9, 0]), images, torch.full((400,), 3))
    assert (found.standing, found.better) == ("undecided", None)


def test_logits_that_are_no_numbers_are_wrong_and_counted() -> None:
    images, labels = data()

    def broken(x: Tensor) -> Tensor:
        logits = network()(x)
        return torch.where(x[:, 0].flatten(1).argmax(1, keepdim=True) == 0, logits / 0, logits)

    found = find_fit(broken, images, labels)
    assert found.broken == int((labels == 0).sum()) > 0
    assert found.clean == pytest.approx(1 - found.broken / 400)


@pytest.mark.parametrize("error", [ValueError, EngineError], ids=["network", "engine whose logits overflow"])
def test_a_network_that_refuses_other_images_is_only_tried(error: type[Exception]) -> None:
    def strict(x: Tensor) -> Tensor:
        if x.max() > 1 or x.min() < 0:
            raise error("images must be in [0, 1]")
        return network(answers=[1, 2, 3, 4, 5, 6, 7, 8, 9, 0])(x)

    found = find_fit(strict, *data())
    assert found.better is not None
    assert found.better.name == ""


def test_no_more_images_are_looked_at_than_stated() -> None:
    seen: list[int] = []

    def counting(x: Tensor) -> Tensor:
        seen.append(len(x))
        return network()(x)

    assert find_fit(counting, *data(MOST_IMAGES + 100)).images == MOST_IMAGES
    assert max(seen) == MOST_IMAGES


def test_a_linear_classifier_that_knows_more_is_counted() -> None:
    """On the same images; chance in the choice of the images is no gain."""
    images, labels = data()
    knows = network()
    poor = network(answers=[9] * 6 + [6, 7, 8, 9])  # nothing of six classes, which no order of the outputs mends
    found = find_fit(poor, images, labels, linear=lambda: knows)
    assert found.linear == 1.0
    assert 0.4 < found.linear_gain < 0.6
    assert find_fit(poor, images, labels, linear=lambda: poor).linear_gain <= 0
    assert find_fit(knows, images, labels, linear=lambda: poor).linear is None, "what is right anyway is not compared"
