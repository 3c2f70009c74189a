"""Networks whose channels cannot be removed: each is refused, and left as it was."""

from __future__ import annotations

import copy

import pytest
import small_networks as nets
import torch
from prune_cases import case, random_scores
from small_networks import SMALL

from madx.errors import ModelError
from madx.prune import remove_channels_

BROKEN = {
    "fixed_count": (nets.fixed_count, "does not run with fewer channels"),
    # torch-pruning 1.6 swaps the halves of chunk(), without an error of its own.
    "split_channels": (nets.split_channels, "does not compute what the dense one computes"),
    "flattened_concatenation": (nets.flattened_concatenation, "it sees 17 channels in parts.fc"),
    "untraceable": (nets.untraceable, "no gradient leads from the logits"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_networks_that_cannot_lose_channels_are_left_alone(name: str) -> None:
    build, message = BROKEN[name]
    given = case(build, *SMALL)
    before = copy.deepcopy(given.network.state_dict())
    with pytest.raises(ModelError, match=message) as caught:
        remove_channels_(given.network, random_scores(given.network), 0.5, round_to=4, example=given.images)
    assert "use prune.structure: 2:4 or unstructured" in str(caught.value)
    after = given.network.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    given.network(given.images)


def test_a_forward_pass_that_raises() -> None:
    given = case(nets.plain, *SMALL)
    with pytest.raises(ModelError, match=r"torch-pruning cannot follow .*RuntimeError"):
        remove_channels_(given.network, random_scores(given.network), 0.5, round_to=4, example=torch.zeros(2, 7, 4, 4))
