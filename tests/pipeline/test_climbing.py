"""The security curve of linear networks, whose curve has a closed form."""

import numpy as np
import pytest
import torch
from torch import nn

from madx.pipeline.curve import ATTACK, climb_radii, radii
from madx.pipeline.engines import EngineUnderTest
from madx.pipeline.examples import Trial
from madx.recipe import ThreatConfig

N = 300
"""More than one batch."""
GENERATOR = torch.Generator().manual_seed(3)
WEIGHTS = torch.randn(2, 16, generator=GENERATOR)
# Pixels stay so far from 0 and 1 that the box plays no part in the closed form.
IMAGES = 0.35 + 0.3 * torch.rand(N, 1, 4, 4, generator=GENERATOR)


class Linear(nn.Module):
    """Two classes; the second wins where w (x - 1/2) > 0."""

    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def forward(self, x):
        score = (x - 0.5).flatten(1) @ self.weights
        return torch.stack([-score, score], dim=1)


DENSE, PRUNED = Linear(WEIGHTS[0]), Linear(WEIGHTS[0] + 0.3 * WEIGHTS[1])
LABELS = DENSE(IMAGES).argmax(1)


def side(role, twin, engine=None):
    def logits(images):
        with torch.no_grad():
            return (engine or twin)(torch.from_numpy(images)).numpy()

    return EngineUnderTest(role, twin.eval(), loaded=logits)


SIDES = side("dense", DENSE), side("pruned", PRUNED)


def robust(threat, sides=SIDES):
    """What withstands within the threat's radius, as the attack of the curve finds it."""
    trial = Trial(threat, 0, IMAGES, LABELS)
    return [trial.withstood(side, (ATTACK,), stream=("gates", side.role)) for side in sides]


def found(threat, sides=SIDES, **more):
    return climb_radii(Trial(threat, 0, IMAGES, LABELS), sides, withstood=robust(threat, sides), **more)


def reach(network, norm):
    """The radius at which each image falls: margin / dual norm of the weights; 0 if it is wrong already."""
    margin = ((IMAGES - 0.5).flatten(1) @ network.weights * (2 * LABELS - 1)).numpy()
    return np.maximum(margin, 0) / float(network.weights.norm(p=1 if norm == "linf" else 2))


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("l2", 0.06)])
def test_the_curve_of_a_linear_network_is_known(norm, eps):
    threat = ThreatConfig(norm=norm, eps=eps)
    curve = found(threat)
    assert curve.eps[0] == 0
    assert threat.eps in curve.eps
    assert curve.eps[-1] >= 2 * eps
    for network, rows in ((DENSE, curve.reference), (PRUNED, curve.candidate)):
        exact = reach(network, norm)[None, :] > curve.eps[:, None]
        border = np.abs(reach(network, norm)[None, :] - curve.eps[:, None]) < 0.002 * eps  # as near as ten steps come
        np.testing.assert_array_equal(rows | border, exact | border)
        assert 0.1 < exact[2].mean() < 0.95  # the case can tell
    assert curve.reference[-1].mean() <= 0.02
    assert (curve.reference[-2].mean() > 0.02) or curve.eps[-1] == 2 * eps  # no further than it must


def test_what_counts_is_the_engine_and_not_its_twin():
    """An engine that is always right stands at every radius, whatever its twin does; the climb ends all the same."""
    truth = side("pruned", PRUNED)

    class Right(nn.Module):
        def forward(self, x):
            return nn.functional.one_hot(LABELS[nearest(x)], 2).float()

    def nearest(x):
        return torch.cdist(x.flatten(1), IMAGES.flatten(1), p=1).argmin(1)

    curve = found(ThreatConfig(eps=0.001), (truth, side("pruned", PRUNED, Right())))
    assert curve.candidate.all()
    assert not curve.reference.all()
    assert len(curve.eps) == 15


def test_an_engine_that_is_never_right_has_nothing_to_lose():
    wrong = side("pruned", PRUNED, Linear(-WEIGHTS[0]))
    curve = found(ThreatConfig(eps=0.02), (SIDES[0], wrong))
    assert not curve.candidate.any()
    np.testing.assert_array_equal(curve.reference, found(ThreatConfig(eps=0.02)).reference[: len(curve.eps)])


def test_at_the_threats_radius_the_gates_have_the_word():
    """The curve's attack is cheaper than theirs: what theirs turned must not stand in the curve, nor further out."""
    threat = ThreatConfig(eps=0.02)
    turned = [rows & (np.arange(N) % 2 == 0) for rows in robust(threat)]
    curve = climb_radii(Trial(threat, 0, IMAGES, LABELS), SIDES, withstood=turned)
    at = curve.eps.tolist().index(threat.eps)
    for rows, left in ((curve.reference, turned[0]), (curve.candidate, turned[1])):
        np.testing.assert_array_equal(rows[at], left)
        assert (rows[at - 1] & ~left).any(), "closer in, an attack of its own is needed"


def test_radii_end_where_every_image_is_allowed():
    found = radii(Trial(ThreatConfig(eps=0.4), 0, IMAGES, LABELS))
    assert found[-1] == 1.0
    assert len(set(found)) == len(found)
    wide = Trial(ThreatConfig(norm="l2", eps=3.0), 0, IMAGES, LABELS)
    assert radii(wide)[-1] == 4.0  # the diagonal of a cube with 16 edges


def test_one_engine_alone_has_the_curve_that_it_has_beside_another():
    both = found(ThreatConfig(eps=0.02))
    alone = found(ThreatConfig(eps=0.02), SIDES[1:])
    assert alone.reference is None
    rows = min(len(both.eps), len(alone.eps))
    np.testing.assert_array_equal(alone.candidate[:rows], both.candidate[:rows])


class Dying:
    """A checkpoint whose process is killed after so many states; what it keeps, it keeps as a file would."""

    def __init__(self, states):
        self.left, self.state = states, None

    def load(self):
        return self.state

    def save(self, state):
        self.state = {name: value.clone() for name, value in state.items()}
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_a_curve_that_is_killed_continues_and_ends_the_same(monkeypatch):
    threat = ThreatConfig(eps=0.02)
    whole, checkpoint, climbed = found(threat), Dying(4), []
    with pytest.raises(KeyboardInterrupt):
        found(threat, checkpoint=checkpoint)
    withstood, known = Trial.withstood, robust(threat)

    def noted(trial, *given, **named):
        climbed.append(trial.threat.eps)
        return withstood(trial, *given, **named)

    monkeypatch.setattr(Trial, "withstood", noted)
    continued = climb_radii(Trial(threat, 0, IMAGES, LABELS), SIDES, withstood=known, checkpoint=checkpoint)
    for name, array in whole.to_arrays().items():
        np.testing.assert_array_equal(continued.to_arrays()[name], array, err_msg=name)
    assert sorted(set(climbed)) == whole.eps[5:].tolist(), "what was kept is climbed again, or the kill came too late"
    assert len(whole.eps) > 4
    climbed.clear()
    climb_radii(Trial(threat, 0, IMAGES, LABELS), SIDES, withstood=known, checkpoint=checkpoint)
    assert climbed == []


def test_the_same_every_time():
    first, second = (found(ThreatConfig(eps=0.02)) for _ in range(2))
    np.testing.assert_array_equal(first.candidate, second.candidate)
