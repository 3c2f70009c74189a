"""Accuracy under attack against a linear network, whose robust accuracy has a closed form; and resuming."""

import numpy as np
import pytest
import torch

from madx.attacks import input_gradient, strongest_examples
from madx.errors import DataError, EngineError, MadxError
from madx.recipe import AttackConfig, ThreatConfig
from madx.verify import Accuracy, Adversary, Chunk, Examples, measure_chunk
from madx.verify.robustness import Served

EPS = 0.06
THREAT = ThreatConfig(norm="linf", eps=EPS)
RNG = np.random.default_rng(11)
DENSE = RNG.normal(size=9).astype(np.float32)
PRUNED = (DENSE + 0.4 * RNG.normal(size=9)).astype(np.float32)
# Pixels stay 0.1 away from 0 and 1, so that the box plays no part in the closed form.
IMAGES = RNG.uniform(0.1, 0.9, size=(60, 1, 3, 3)).astype(np.float32)
LABELS = ((IMAGES.reshape(60, -1) - 0.5) @ (DENSE + PRUNED) > 0).astype(np.int64)


def engine(weights):
    """Two classes; the second wins where w (x - 1/2) > 0."""

    def logits(images):
        score = (images.reshape(len(images), -1) - np.float32(0.5)) @ weights
        return np.stack([-score, score], axis=1)

    return logits


def white_box(weights, reach=1.0):
    """The strongest possible example on the linear network: every pixel moves eps against the label."""

    def examples(images, labels, _number):
        sign = torch.from_numpy(np.sign(weights)).view(1, 1, 3, 3)
        return images - reach * EPS * sign * (2 * labels - 1).view(-1, 1, 1, 1)

    return examples


def adversary(name, examples):
    """Each example costs one gradient."""
    return Adversary(
        name, "white-box", lambda x, y, number: Examples(examples(x, y, number), forward=0, gradient=len(x))
    )


def margins(weights):
    """Signed distance of each image from a wrong label, in logits."""
    return ((IMAGES.reshape(60, -1) - 0.5) @ weights) * (2 * LABELS - 1)


def closed_form(weights, attacked_with):
    """Robust = the margin outlives eps times the overlap of the weights with the attack's signs."""
    return np.all([margins(weights) - EPS * weights @ np.sign(other) > 0 for other in attacked_with], axis=0)


BOTH = (adversary("dense", white_box(DENSE)), adversary("pruned", white_box(PRUNED)))


def chunk(number=0, images=IMAGES, labels=LABELS, start=0):
    return Chunk(number=number, index=np.arange(start, start + len(images)), images=images, labels=labels)


def measure(adversaries=BOTH, eight_bit=False, **chunk_fields):
    return measure_chunk(
        engine(DENSE),
        engine(PRUNED),
        chunk=chunk(**chunk_fields),
        adversaries=adversaries,
        threat=THREAT,
        eight_bit=eight_bit,
    )


def test_closed_form_of_a_linear_network():
    value = measure()
    np.testing.assert_array_equal(value.clean_reference, margins(DENSE) > 0)
    np.testing.assert_array_equal(value.clean_candidate, margins(PRUNED) > 0)
    np.testing.assert_array_equal(value.robust_reference, closed_form(DENSE, [DENSE, PRUNED]))
    np.testing.assert_array_equal(value.robust_candidate, closed_form(PRUNED, [DENSE, PRUNED]))
    # The case must be able to tell right from wrong: some images stand, some fall, and the engines differ.
    assert 5 < value.robust_candidate.sum() < value.clean_candidate.sum()
    assert (value.robust_reference != value.robust_candidate).any()


def test_every_example_is_scored_on_both_engines():
    value = measure(adversaries=[adversary("dense", white_box(DENSE))])
    np.testing.assert_array_equal(value.robust_candidate, closed_form(PRUNED, [DENSE]))  # transfer


def test_only_what_stands_is_attacked():
    seen = []

    def spy(images, labels, number):
        seen.append((len(images), number))
        return white_box(PRUNED)(images, labels, number)

    value = measure(adversaries=[BOTH[0], adversary("spy", spy)], number=4)
    after_first = (value.clean_reference & value.standing_reference[0]) | (
        value.clean_candidate & value.standing_candidate[0]
    )
    assert seen == [(int(after_first.sum()), 4)]
    np.testing.assert_array_equal(value.attacked[1], after_first)


def test_an_overrun_is_recorded_and_gains_nothing():
    honest, greedy = measure(), measure(adversaries=[adversary("dense", white_box(DENSE, 1.5)), BOTH[1]])
    np.testing.assert_array_equal(honest.overrun, [0, 0])
    assert greedy.overrun == pytest.approx([0.5, 0], abs=1e-4)
    np.testing.assert_array_equal(honest.robust_candidate, greedy.robust_candidate)


def test_an_adversary_may_spoil_its_own_copy():
    def spoiler(images, _labels, _number):
        images.fill_(0.5)
        return images

    before = IMAGES.copy()
    measure(adversaries=[adversary("spoiler", spoiler)])
    np.testing.assert_array_equal(IMAGES, before)


def test_pgd_on_the_twin_reaches_the_closed_form():
    class Twin(torch.nn.Module):
        def forward(self, x):
            score = (x.flatten(1) - 0.5) @ torch.from_numpy(DENSE)
            return torch.stack([-score, score], dim=1)

    def pgd(images, labels, number):
        return strongest_examples(
            Twin(),
            input_gradient(Twin()),
            images,
            labels,
            threat=THREAT,
            attack=AttackConfig(steps=5, relative_step=2.5),
            generator=torch.Generator().manual_seed(number),
        )

    value = measure(adversaries=[adversary("pgd", pgd)])
    np.testing.assert_array_equal(value.robust_reference, closed_form(DENSE, [DENSE]))


def test_chunks_join_to_the_measurement_of_all():
    """Attacks see other neighbours, and nothing else changes; not even the order is lost."""
    starts = (0, 25, 50)
    parts = [
        measure(number=number, images=IMAGES[start : start + 25], labels=LABELS[start : start + 25], start=start)
        for number, start in enumerate(starts)
    ]
    at_once = measure()
    for name, array in at_once.to_arrays().items():
        np.testing.assert_array_equal(Accuracy.concatenate(parts).to_arrays()[name], array)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (lambda: [], "no chunk"),
        (lambda: [measure(), measure()], "two chunks"),
        (lambda: [measure(), measure(adversaries=BOTH[:1])], "attacked differently"),
    ],
)
def test_chunks_that_do_not_join_are_refused(parts, said):
    with pytest.raises(MadxError, match=said):
        Accuracy.concatenate(parts())


def silent(images):
    return engine(DENSE)(images) * np.nan


@pytest.mark.parametrize(
    ("adversaries", "said"),
    [
        ((), "at least one"),
        ((BOTH[0], BOTH[0]), "each name once"),
        ([adversary("short", lambda images, _l, _n: images[:1])], r"shape \[1, 1, 3, 3\]"),
        ([adversary("nan", lambda images, _l, _n: images * torch.nan)], "NaN"),
    ],
)
def test_faulty_adversaries_are_refused(adversaries, said):
    with pytest.raises(MadxError, match=said):
        measure(adversaries=adversaries)


def test_faulty_engines_and_images_are_refused():
    with pytest.raises(EngineError, match="NaN or infinite"):
        measure_chunk(silent, engine(PRUNED), chunk=chunk(), adversaries=BOTH, threat=THREAT)
    with pytest.raises(DataError, match="normalisation"):
        measure(images=(IMAGES - 0.5) / 0.25)


def test_when_nothing_stands_no_attack_runs():
    def never(*_):
        raise AssertionError("attacked an image that had fallen")

    wrong = 1 - (margins(DENSE) > 0).astype(np.int64)
    value = measure_chunk(
        engine(DENSE),
        engine(DENSE),
        chunk=chunk(labels=np.where(wrong, LABELS, 1 - LABELS)),
        adversaries=[adversary("never", never)],
        threat=THREAT,
    )
    assert value.robust_reference.sum() == 0


def test_passes_are_those_of_the_attacked_images():
    value = measure()
    np.testing.assert_array_equal(value.passes[:, 1], value.attacked.sum(axis=1))
    np.testing.assert_array_equal(value.passes[:, 0], 0)


def test_the_gallery_shows_what_only_one_engine_kept():
    value = measure()
    shown = value.gallery
    kept_by_one = {True: value.robust_reference & ~value.robust_candidate,
                   False: value.robust_candidate & ~value.robust_reference}  # fmt: skip
    for lost, expected in kept_by_one.items():
        assert expected.any()
        np.testing.assert_array_equal(shown.index[shown.lost == lost], np.flatnonzero(expected)[: shown.LIMIT])
    np.testing.assert_array_equal(shown.clean, IMAGES[shown.index])
    for weights, rows in ((PRUNED, shown.lost), (DENSE, ~shown.lost)):
        logits = engine(weights)(shown.adversarial[rows])
        assert (logits.argmax(axis=1) != LABELS[shown.index[rows]]).all()
        np.testing.assert_array_equal(shown.taken_for[rows], logits.argmax(axis=1))
    np.testing.assert_array_equal(shown.labels, LABELS[shown.index])
    assert np.abs(shown.adversarial - shown.clean).max() <= EPS * (1 + 1e-6)


def test_survivors_meet_their_examples_again_in_eight_bits():
    """An image that stands by less than the rounding may fall to it; nothing that fell stands again."""
    plain, rounded = measure(), measure(eight_bit=True)
    assert rounded.attacks == (*plain.attacks, "8-bit rounding of the last examples")
    assert rounded.kinds[-1] == "8-bit"
    np.testing.assert_array_equal(rounded.attacked[-1], plain.robust_reference | plain.robust_candidate)
    assert not (rounded.robust_candidate & ~plain.robust_candidate).any()


def weak_at(size, other=-DENSE):
    """Another network when it is called with that many images."""

    def logits(images):
        return engine(other if len(images) == size else DENSE)(images)

    return logits


def served(candidate, batch):
    adversaries = (adversary("dense", white_box(DENSE)),)
    how = Served(batch, (1e-3, 1e-3))
    return measure_chunk(engine(DENSE), candidate, chunk=chunk(), adversaries=adversaries, threat=THREAT, served=how)


def test_an_engine_is_right_only_if_it_is_at_the_batch_that_is_served():
    honest, cheat, elsewhere = served(engine(DENSE), 1), served(weak_at(1), 1), served(weak_at(2), 1)
    assert honest.robust_candidate.sum() > 10
    assert not cheat.robust_candidate.any()
    assert not cheat.clean_candidate.any()
    assert cheat.answers["candidate"].unsteady.all()
    for one in (honest, elsewhere):
        assert (one.robust_candidate == honest.robust_reference).all()
        assert not one.answers["candidate"].unsteady.any()


@pytest.mark.parametrize("batch", [64, 128])
def test_the_served_batch_is_shown_to_the_engine_whole_however_attacks_ask_it(batch):
    """Attacks may ask in pieces; what is served is one call."""
    asked = []

    def session(images):
        asked.append(len(images))
        return engine(DENSE)(images)

    how = Served(batch, (1e-3, 1e-3), sessions=(session, session))
    adversaries = (adversary("dense", white_box(DENSE)),)
    attacked = engine(DENSE)
    measure_chunk(attacked, attacked, chunk=chunk(), adversaries=adversaries, threat=THREAT, served=how)
    assert set(asked) == {batch}


def test_flat_probabilities_are_counted_on_the_candidate_alone():
    def rounded(images):
        logits = engine(DENSE)(images)
        return np.where(logits == logits.max(1, keepdims=True), 0, -104).astype(np.float32)

    adversaries = (adversary("dense", white_box(DENSE)),)
    for probabilities in (True, False):
        how = Served(4, (1e-3, 1e-3), probabilities=probabilities)
        found = measure_chunk(rounded, rounded, chunk=chunk(), adversaries=adversaries, threat=THREAT, served=how)
        assert found.answers["candidate"].flat.all() == probabilities
        assert not found.answers["reference"].flat.any()


def test_what_was_asked_as_it_is_served_survives_joining_and_writing():
    whole = served(engine(DENSE), 4)
    joined = Accuracy.concatenate([whole])
    again = Accuracy.from_arrays(joined.to_arrays())
    assert again.answers.keys() == {"reference", "candidate"}
    np.testing.assert_array_equal(again.answers["candidate"].classes, engine(DENSE)(IMAGES).argmax(1))
