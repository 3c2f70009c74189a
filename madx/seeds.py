"""Random numbers by name: every random stream is derived from the recipe's seed and the words that say what it is for.

A stream named ("train", epoch, step) gives the same numbers whether the run was killed before it or not, so a resumed
run continues exactly; nothing in madx uses a global random state or the clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *words: str | int) -> int:
    """The seed of the stream named by `words`: 63 bits of SHA-256 over the recipe's seed and the words."""
    text = "\x1f".join([str(seed), *(str(word) for word in words)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *words: str | int) -> torch.Generator:
    """A CPU torch generator for the stream named by `words`."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, *words))


def numpy_generator(seed: int, *words: str | int) -> np.random.Generator:
    """A numpy generator for the stream named by `words`."""
    return np.random.default_rng(derive_seed(seed, *words))


@contextmanager
def torch_draws(seed: int, *words: str | int, device: torch.device | None = None) -> Iterator[None]:
    """Code that can only draw from torch's global state (dropout, constructors) draws from the stream named by `words`.

    Args:
        seed: the recipe's seed.
        words: the stream's name.
        device: a GPU whose state is seeded too; the CPU's always is.

    Every state is as it was afterwards.
    """
    import torch

    gpus = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        start = derive_seed(seed, *words)
        torch.default_generator.manual_seed(start)  # torch.manual_seed would seed every GPU
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(start)
        yield
