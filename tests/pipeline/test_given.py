"""What is given from outside is read once, by all processes of a job together."""

from pathlib import Path

import pytest

from madx.distributed import World
from madx.errors import ArtifactError
from madx.pipeline import Context, Given, context, run_stages, stage_named
from madx.progress import Silent
from madx.recipe import load_recipe
from madx.rundir import RunDirectory


class Nested(World):
    """Knows whether process 0 is at work alone while the others wait."""

    def __init__(self) -> None:
        self.depth = 0

    def share(self, function):
        self.depth += 1
        try:
            return function()
        finally:
            self.depth -= 1


def test_sources_are_read_where_every_process_waits_for_them(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read first inside the work of process 0, they would be known there, and the others would wait for ever."""
    bundle = tmp_path / "last"
    bundle.mkdir()
    (bundle / "net.onnx").write_bytes(b"an engine")
    (bundle / "net.safetensors").write_bytes(b"its twin")
    world, depths, read = Nested(), [], context.sources

    def watched(*arguments):
        depths.append(world.depth)
        return read(*arguments)

    monkeypatch.setattr(context, "sources", watched)
    given = Given(baseline=bundle)
    run = Context(load_recipe(tiny_recipe), RunDirectory(tmp_path / "run"), Silent(), world, given)
    with pytest.raises(ArtifactError, match="the stage train comes first"):
        run_stages(run, [stage_named("verify")])
    assert depths == [1]
