"""Small networks, weights files and refusals that the tests of the model room share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from madx.errors import ModelError
from madx.models import Choice, build_model, load_weights, state_digest
from madx.recipe import ModelConfig


def network(*, seed: int = 0, **args: Any) -> nn.Module:
    config = ModelConfig(args={"widths": [4, 4, 8], **args})
    return build_model(config, shape=(1, 8, 8), classes=3, seed=seed)


def refused(module: nn.Module, path: Path, **choice: str) -> str:
    """The message of a refusal that left the network as it was."""
    before = state_digest(module)
    with pytest.raises(ModelError) as caught:
        load_weights(module, path, Choice(**choice))
    assert state_digest(module) == before
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert all(line.startswith("  ") for line in message.split("\n")[1:]), "one paragraph, and a table at most"
    return message


def as_precision(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """A state with its floating-point tensors cast, as half-precision checkpoints have it."""
    state = module.state_dict()
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}


def save(state: Any, path: Path) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path
