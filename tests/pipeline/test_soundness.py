"""Every sign that a robust accuracy cannot be trusted, provoked by a network or an engine that deserves it."""

import pytest
import torch
from nearest_cases import CLASSES, IMAGES, LABELS, THREAT, N, Nearest, side

from madx.attacks import Apgd, Suite, linear_classifier
from madx.pipeline.examples import Trial
from madx.pipeline.soundness import trials
from madx.recipe import ThreatConfig
from madx.verify import Soundness
from madx.verify.signs import signs_of_attacks

SUITE = Suite("test", twin=(Apgd(steps=20),), in_the_loop=(), query=())


class Steep(Nearest):
    """Logits so large that the softmax is saturated: cross-entropy in float32 has no gradient left."""

    def forward(self, x):
        return 1e4 * super().forward(x)


class Staircase(Nearest):
    """Pixels are rounded to eight levels first: the gradient is zero everywhere."""

    def forward(self, x):
        return super().forward(torch.floor(8 * x) / 8)


class Denoising(Nearest):
    """An engine that takes away small perturbations: what was made on its twin looks weaker on it."""

    def forward(self, x):
        return super().forward((3 * (x - 0.5)).clamp(-0.5, 0.5) + 0.5)


class Noise(torch.autograd.Function):
    """Images pass; their gradient is noise."""

    @staticmethod
    def forward(_context, x):
        return x.clone()

    @staticmethod
    def backward(_context, slope):
        return torch.randn(slope.shape, generator=torch.Generator().manual_seed(int(1e6 * slope.abs().sum()) % 2**31))


class Shattered(Nearest):
    """Gradients that are there, finite, and tell nothing."""

    def forward(self, x):
        return super().forward(Noise.apply(x))


class Broken(Nearest):
    """Gradients that are no numbers."""

    def forward(self, x):
        return super().forward(x) + 0 * torch.sqrt(x - x).sum((1, 2, 3))[:, None]


class Maze(Nearest):
    """Gradients point away from every other centre: they exist, and lead nowhere."""

    def forward(self, x):
        logits = super().forward(x)
        return 2 * logits.detach() - logits


def found(twin, *, engine=None, suite=SUITE, threat=THREAT, images=IMAGES):
    trial = Trial(threat, 0, images, LABELS)
    undefended = linear_classifier(images, LABELS, CLASSES)
    parts = trials(trial, suite, (side("dense", Nearest()), side("pruned", twin, engine)), undefended)
    return Soundness.from_arrays({name: rows for part in parts.values() for name, rows in part().items()})


def test_a_sound_attack_raises_no_sign():
    sound = found(Nearest())
    assert 10 < sound.candidate.twin_right.sum() < N  # the case can tell: some fall, some stand
    assert signs_of_attacks(sound) == ()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"twin": Staircase()}, "input gradient is exactly zero on 120 of 120 images"),
        ({"twin": Staircase()}, "Allowed to change the images at will"),
        ({"twin": Maze()}, "its gradients lead nowhere"),
        ({"twin": Maze()}, "its gradients are masked and lead no attack"),
        ({"twin": Shattered()}, "its gradients are masked and lead no attack"),
        ({"twin": Broken()}, "or no number"),
        ({"twin": Nearest(), "engine": Denoising()}, "rounding hides it"),
        ({"twin": Nearest(), "threat": ThreatConfig(eps=0.2 / 255)}, "An undefended linear classifier keeps"),
    ],
)
def test_every_sign_has_its_culprit(arguments, said):
    sentences = signs_of_attacks(found(**arguments))
    assert any(said in sentence for sentence in sentences), sentences
    assert all("reference" not in sentence or "undefended" in said for sentence in sentences)


def test_large_logits_hide_nothing():
    """The suite's losses do not depend on the scale of the logits, so this is no masking."""
    steep, plain = found(Steep()).candidate.twin_right, found(Nearest()).candidate.twin_right
    assert (steep != plain).sum() <= 2  # what lies within rounding of the border
