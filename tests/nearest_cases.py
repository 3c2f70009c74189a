"""Images around class centres, and the network that takes the nearest: its worst case under L-inf is known exactly."""

import torch
from torch import nn

from madx.pipeline.engines import EngineUnderTest
from madx.recipe import ThreatConfig

N, CLASSES = 120, 4
GENERATOR = torch.Generator().manual_seed(5)
CENTRES = torch.rand(CLASSES, 1, 12, 12, generator=GENERATOR)
LABELS = torch.arange(N) % CLASSES
IMAGES = (CENTRES[LABELS] + 0.3 * torch.randn(N, 1, 12, 12, generator=GENERATOR)).clamp(0, 1)
THREAT = ThreatConfig(norm="linf", eps=0.2)


class Nearest(nn.Module):
    """The nearest centre wins: as robust as these images allow, with gradients that lead there."""

    def forward(self, x):
        return -((x[:, None] - CENTRES) ** 2).flatten(2).sum(2)


def nearest_withstands(images=IMAGES, labels=LABELS, eps=THREAT.eps):
    """In closed form: a logit less another is linear in the image, so each pixel goes to one end of its interval."""
    low, high = (images - eps).clamp_min(0), (images + eps).clamp_max(1)
    stands = torch.ones(len(images), dtype=torch.bool)
    for other in range(CLASSES):
        slope = 2 * (CENTRES[other] - CENTRES[labels])
        worst = torch.where(slope > 0, high, low)
        logits = Nearest()(worst)
        gap = logits[:, other] - logits.gather(1, labels[:, None]).squeeze(1)
        stands &= (gap < 0) | (labels == other)
    return stands


def side(role, twin, engine=None):
    """An engine beside its twin; the engine is the twin itself unless it is given; without a twin, queries are left."""
    network = engine or twin

    def logits(images):
        with torch.no_grad():
            return network(torch.from_numpy(images)).numpy()

    return EngineUnderTest(role, twin and twin.eval(), loaded=logits)
