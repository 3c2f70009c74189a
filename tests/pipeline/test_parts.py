"""Work in parts: what a kill leaves is taken up, and the arrays are those of one go."""

from types import SimpleNamespace

import numpy as np
import pytest

from madx.artifacts import FileCheckpoint
from madx.pipeline.context import Context
from madx.progress import Silent

ROWS = {"undefended": np.array([True, False]), "reference": np.array([False]), "candidate": np.array([True, True])}


def test_a_kill_costs_the_part_that_was_under_way(tmp_path):
    context = SimpleNamespace(checkpoint=lambda name: FileCheckpoint(tmp_path / f"{name}.pt", "key"), progress=Silent())
    done = []

    def part(name, dies):
        def work():
            if dies:
                raise KeyboardInterrupt
            done.append(name)
            return {f"{name}.rows": ROWS[name]}

        return work

    def measured(dies_at=""):
        return Context.in_parts(context, "checks", "checking", {name: part(name, name == dies_at) for name in ROWS})

    with pytest.raises(KeyboardInterrupt):
        measured(dies_at="candidate")
    assert done == ["undefended", "reference"]
    found = measured()
    assert done == list(ROWS), "what was done before the kill was done again"
    assert {name.removesuffix(".rows"): rows.tolist() for name, rows in found.items()} == {
        name: rows.tolist() for name, rows in ROWS.items()
    }
