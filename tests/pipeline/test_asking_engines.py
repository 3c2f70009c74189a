"""How attacks ask an engine: in pieces that do not depend on the machine, by as many callers as it has cores idle."""

import threading

import numpy as np
import pytest
import torch

from madx.pipeline.engines import EngineUnderTest

IMAGES = torch.rand(130, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def sums(images):
    flat = images.reshape(len(images), -1)
    return np.stack([flat.sum(1), -flat.sum(1), flat[:, 0]], axis=1)


@pytest.mark.parametrize("callers", [1, 2, 3])
def test_every_machine_asks_in_the_same_pieces_and_the_answers_come_in_order(callers):
    sizes, lock = [], threading.Lock()

    def engine(images):
        with lock:
            sizes.append(len(images))
        return sums(images)

    found = EngineUnderTest("pruned", None, loaded=engine, callers=callers).logits(IMAGES)
    np.testing.assert_array_equal(found.numpy(), sums(IMAGES.numpy()))
    assert sorted(sizes) == [30, 50, 50]


def test_as_many_callers_as_are_allowed_are_inside_the_engine_together():
    meeting = threading.Barrier(2, timeout=60)

    def engine(images):
        meeting.wait()  # nobody comes back before another is there too
        return sums(images)

    found = EngineUnderTest("pruned", None, loaded=engine, callers=2).logits(IMAGES[:100])
    np.testing.assert_array_equal(found.numpy(), sums(IMAGES[:100].numpy()))
