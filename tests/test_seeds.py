"""Random streams by name: what they are is part of every stored result, so it is pinned."""

from __future__ import annotations

import hashlib
import itertools
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from madx.seeds import derive_seed, numpy_generator, torch_generator

NAMES = st.tuples(
    st.integers(0, 2**40), st.lists(st.text("abcxyz-_ 0189", max_size=6) | st.integers(0, 999), max_size=3)
)


@pytest.mark.parametrize(
    ("seed", "words", "expected"),
    [  # by hand: printf '0\\x1fstep\\x1f0' | sha256sum, the first 16 digits, halved
        (0, (), 3456079177858693020),
        (0, ("step", 0), 1570828854305967072),
        (7, ("train", "epoch", 12), 1245816879877081470),
    ],
)
def test_the_streams_of_a_recipe_never_change(seed: int, words: tuple[str | int, ...], expected: int) -> None:
    text = chr(31).join([str(seed), *map(str, words)])
    assert derive_seed(seed, *words) == int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) // 2
    assert derive_seed(seed, *words) == expected


@given(NAMES)
def test_a_seed_has_63_bits_so_that_every_library_takes_it(name: tuple[int, list[str | int]]) -> None:
    seed, words = name
    assert 0 <= derive_seed(seed, *words) < 2**63
    torch_generator(seed, *words)
    numpy_generator(seed, *words)


@given(NAMES, NAMES)
def test_different_names_are_different_streams(a: tuple[int, list[str | int]], b: tuple[int, list[str | int]]) -> None:
    def spelled(name: tuple[int, list[str | int]]) -> list[str]:
        return [str(name[0]), *map(str, name[1])]

    assert (derive_seed(a[0], *a[1]) == derive_seed(b[0], *b[1])) == (spelled(a) == spelled(b))


def test_words_are_not_run_together() -> None:
    names = [("a", "bc"), ("ab", "c"), ("abc",), ("abc", ""), ("", "abc"), ("a", "b", "c"), ("bc", "a")]
    seeds = [derive_seed(1, *name) for name in names]
    assert all(x != y for x, y in itertools.combinations(seeds, 2))
    assert derive_seed(1, "2") != derive_seed(12)
    assert derive_seed(1, 23) != derive_seed(12, 3)


def test_neighbouring_steps_give_unrelated_numbers() -> None:
    draws = np.stack([numpy_generator(0, "step", step).random(200) for step in range(20)])
    torch_draws = torch.stack([torch.rand(200, generator=torch_generator(0, "step", step)) for step in range(20)])
    for rows in (draws, torch_draws.numpy()):
        # 190 pairs of 200 draws: a correlation beyond 0.3 is more than four standard errors
        assert np.abs(np.corrcoef(rows) - np.eye(20)).max() < 0.3


def test_generators_repeat_and_leave_the_global_states_alone() -> None:
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = (torch.rand(9, generator=torch_generator(3, "x")) for _ in range(2))
    assert torch.equal(first, second)
    assert np.array_equal(numpy_generator(3, "x").random(9), numpy_generator(3, "x").random(9))
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert np.array_equal(np.random.get_state()[1], before[2])


def test_deriving_a_seed_needs_no_torch() -> None:
    program = (
        "import sys, madx.seeds as s; s.derive_seed(0, 'a'); s.numpy_generator(0); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
