"""The engines under test: what is known of one, which two are compared, and that both are closed whatever happens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from madx.deploy.interface import Interface
from madx.distributed import SINGLE
from madx.errors import EngineError
from madx.pipeline import engines
from madx.pipeline.engines import EngineUnderTest, Pair, has_torch_model, how_precise, loaded_engines, roles
from madx.recipe import EngineConfig

HALF = EngineConfig(precision="fp16")


@pytest.mark.parametrize(
    ("facts", "computes_in", "numbers"),
    [
        ({}, "fp16", "fp16"),
        ({"computes_in": "int8"}, "int8", "int8"),
        ({"computes_in": "int8", "numbers": "int8 and fp32"}, "int8", "int8 and fp32"),
        ({"computes_in": "int8", "held_to": "fp16"}, "fp16", "int8"),  # the recipe's word is the stricter one
        ({"computes_in": "", "numbers": "", "held_to": ""}, "fp16", "fp16"),
    ],
)
def test_what_it_is_held_to_is_not_what_it_computes_in(facts: dict[str, str], computes_in: str, numbers: str) -> None:
    one = EngineUnderTest("pruned", None, HALF, facts=facts)
    assert (one.precision, one.computes_in, one.numbers) == ("fp16", computes_in, numbers)


@pytest.mark.parametrize(
    ("taken", "pair", "models"),
    [
        ((), ("dense", "pruned"), (True, True)),
        (("baseline",), ("baseline", "pruned"), (False, True)),
        (("engine",), (None, "engine"), (None, True)),
        (("engine", "reference"), ("reference", "engine"), (False, True)),
    ],
)
def test_which_two_are_compared(taken: tuple[str, ...], pair: Any, models: Any) -> None:
    sources = {role: SimpleNamespace(twin=Path("weights") if role == "engine" else None) for role in taken}
    context: Any = SimpleNamespace(taken=taken, alone="engine" in taken, sources=sources)
    assert roles(context) == pair
    assert tuple(role and has_torch_model(context, role) for role in pair) == models


def test_the_record_of_an_earlier_madx_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It had no facts of the file and no precision of its own: the recipe's holds for both."""
    old = {"built": True, "reason": "", "dense": {"file": "a.onnx"}, "pruned": {"file": "b.onnx"}}
    monkeypatch.setattr(engines, "build_record", lambda *_: old)
    context: Any = SimpleNamespace(taken=(), alone=False)
    assert how_precise(context, HALF) == []
    old["dense"] = {"file": "a.onnx", "precision": "fp32"}
    [told] = how_precise(context, HALF)
    assert "the dense computes in fp32, the pruned computes in fp16" in told


class Session:
    """An engine that says whether it was closed."""

    callers = 1

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def pair() -> Pair:
    one = EngineUnderTest("dense", None, HALF, b"reference", interface=None)
    return one, replace(one, role="pruned", payload=b"candidate")


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, Any]:
    """What each payload is loaded as."""
    found: dict[bytes, Any] = {b"reference": Session(), b"candidate": Session()}

    def load(payload: bytes, config: EngineConfig, **_: Any) -> Any:
        assert config == HALF
        if isinstance(found[payload], Exception):
            raise found[payload]
        return found[payload]

    monkeypatch.setattr(engines, "backend", lambda _: SimpleNamespace(load=load))
    return found


def test_both_are_loaded_once_and_closed_at_the_end(sessions: dict[bytes, Any]) -> None:
    reference, candidate = pair()
    with pytest.raises(AssertionError, match="before it is loaded"):
        _ = candidate.session
    context: Any = SimpleNamespace(world=SINGLE)
    with loaded_engines(context, reference, candidate) as (first, second):
        assert first is not None
        assert (first.session, second.session) == tuple(sessions.values())
        assert (first.subject, second.subject) == (reference.subject, candidate.subject)
        assert [one.closed for one in sessions.values()] == [0, 0]
    assert [one.closed for one in sessions.values()] == [1, 1]
    with loaded_engines(context, None, candidate) as (nothing, _):
        assert nothing is None


def test_one_that_cannot_be_loaded_leaves_no_other_open(sessions: dict[bytes, Any]) -> None:
    first, sessions[b"candidate"] = sessions[b"reference"], EngineError("no")
    context: Any = SimpleNamespace(world=SINGLE)
    with pytest.raises(EngineError), loaded_engines(context, *pair()):
        pytest.fail("one of two is no comparison")
    assert first.closed == 1


def test_its_torch_model_is_shown_the_whole_numbers_that_its_file_takes() -> None:
    network = nn.Sequential(nn.Flatten())
    plain = EngineUnderTest("engine", network)
    fed = replace(Interface.canonical((1, 2, 2), 4), dtype="uint8")
    rounding = replace(plain, interface=fed)
    assert (plain.rounds, rounding.rounds) == (False, True)
    images = torch.full((1, 1, 2, 2), 0.3).numpy()
    assert plain.torch_classifier(torch.device("cpu"))(images)[0, 0] == images[0, 0, 0, 0]
    levels = 255 * rounding.torch_classifier(torch.device("cpu"))(images)
    assert abs(levels - levels.round()).max() < 1e-4
    assert abs(levels - 255 * 0.3).max() > 0.1, "0.3 is no grey level"
