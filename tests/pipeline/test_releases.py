"""Which engine of the last release a baseline is, and what is known of it."""

import json
from types import SimpleNamespace

import pytest

from madx.deploy.engine import BuiltEngine
from madx.errors import ArtifactError
from madx.pipeline import files, taking
from madx.pipeline.given import Given
from madx.pipeline.releases import sources
from madx.recipe import EngineConfig
from madx.rundir import RunDirectory

HALF = EngineConfig(kind="tensorrt", precision="fp16")
FULL = HALF.of_precision("fp32")
FOUND = {"computes_in": "int8", "random": "it draws", "batch_wide": "DynamicQuantizeLinear", "depends_on_values": "If"}


def entry(config, **facts):
    return {"file": files.engine(config, "pruned", ".plan"), "precision": config.precision, "facts": facts}


@pytest.fixture
def release(tmp_path):
    """Writes a run that recorded builds, by engine."""

    def written(*records):
        run, outputs = RunDirectory(tmp_path / "run"), [files.PRUNED]
        run.path(files.PRUNED).parent.mkdir(parents=True)
        run.path(files.PRUNED).write_bytes(b"weights")
        for config, pruned in records:
            record = {"reason": "no such runtime"} | ({} if pruned is None else {"pruned": pruned})
            path = run.path(files.build(config))
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(record))
            outputs.append(files.build(config))
            if pruned is not None:
                run.path(pruned["file"]).write_bytes(b"a plan")
                outputs.append(pruned["file"])
        run.record_stage("export", {}, outputs)
        return Given(baseline=run.root)

    return written


def test_an_engine_that_was_promised_and_not_built_is_missing_whatever_else_there_is(release):
    given = release((HALF, None), (FULL, entry(FULL)))
    with pytest.raises(ArtifactError, match="did not build it: no such runtime"):
        sources(given, (HALF,))


def test_one_of_another_precision_is_taken_where_none_is_recorded(release):
    found = sources(release((FULL, entry(FULL))), (HALF,))["baseline"]
    assert {name: one.released.precision for name, one in found.engines.items()} == {HALF.name: "fp32"}


def test_a_built_engine_keeps_what_was_found_in_its_file(release):
    """Its bytes show none of it; what it was held to was the other recipe's word."""
    given = release((HALF, entry(HALF, **FOUND, held_to="fp32", bytes=7)))
    source = sources(given, (HALF,))["baseline"]
    engine, record = taking._engine(SimpleNamespace(), HALF, source, here=False)
    assert isinstance(engine, BuiltEngine)
    assert {name: record["facts"].get(name) for name in FOUND} == FOUND
    assert "held_to" not in record["facts"]
