"""What a TensorRT builder's log says: sparse layers, types of the built layers, and real problems.

A log is text, one message per line, each starting with its severity in brackets ('[E] ', '[W] ', ...); a message of
several lines continues without one. TensorRT tells the sparse layers nowhere else, and its wording changed: 8.x
writes 'Layers eligible for sparse math: A, B', 10.x and later 'Found 2 layer(s) eligible to use sparse tactics'.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_COUNTED = re.compile(r"\(Sparsity\) (Found|Chose) (\d+) layer\(s\)[^:]*(?::\s*(.*))?")
_LISTED = re.compile(r"\(Sparsity\) (Layers eligible|TRT inference plan picked)[^:]*:\s*(.*)")
_FIELD = re.compile(r"(?:, |\s)(LayerType|Inputs|Constants|Outputs|ParameterType|TacticName|StreamId|Metadata): ?")
_NAME = re.compile(r"^(?:\[\w\] )?(?:Layers:)?\s*Name: (.*)$")
_TYPE = re.compile(r"Data[Tt]ype: ([^,}]+?)\s*[,}]")
_ORIGIN = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_NO_GPU_NOISE = "cudaError 35"


@dataclass(frozen=True)
class SparseLayers:
    """Layers that may and do use sparse math; None where the log does not say."""

    eligible: int | None = None
    chosen: int | None = None
    eligible_names: tuple[str, ...] = ()
    chosen_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuiltLayer:
    """One layer of the built engine."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    """Data types of its inputs as the builder writes them, for example 'Half'."""
    outputs: tuple[str, ...]
    tactic: str
    """Name of the kernel; TensorRT-RTX chooses it on the GPU and writes a stub."""
    onnx_nodes: tuple[str, ...] = field(default=())
    """ONNX nodes it computes."""


def sparse_layers(log: str) -> SparseLayers:
    """Counts and names of sparse layers, from either wording; a line with names adds to an earlier one without."""
    counts: dict[str, int] = {}
    names: dict[str, tuple[str, ...]] = {}
    for line in log.splitlines():
        if match := _COUNTED.search(line):
            key = "eligible" if match[1] == "Found" else "chosen"
            counts[key] = int(match[2])
            names[key] = _split(match[3]) or names.get(key, ())
        elif match := _LISTED.search(line):
            key = "eligible" if match[1].startswith("Layers") else "chosen"
            names[key] = _split(match[2])
            counts[key] = len(names[key])
    return SparseLayers(
        counts.get("eligible"), counts.get("chosen"), names.get("eligible", ()), names.get("chosen", ())
    )


def built_layers(log: str) -> list[BuiltLayer]:
    """The layers that a build with detailed profiling verbosity lists, in order of execution."""
    parts = [_FIELD.split(line) for line in log.splitlines() if ", LayerType: " in line]
    found = [(_NAME.match(head), dict(zip(rest[::2], rest[1::2], strict=True))) for head, *rest in parts]
    return [_built_layer(match[1], fields) for match, fields in found if match]


def _built_layer(name: str, fields: dict[str, str]) -> BuiltLayer:
    return BuiltLayer(
        name=name,
        kind=fields["LayerType"],
        inputs=tuple(_TYPE.findall(fields.get("Inputs", ""))),
        outputs=tuple(_TYPE.findall(fields.get("Outputs", ""))),
        tactic=fields.get("TacticName", ""),
        onnx_nodes=tuple(_ORIGIN.findall(fields.get("Metadata", ""))),
    )


def problems(log: str, severities: str = "E") -> list[str]:
    """Messages of the given severities, once each, without the CUDA error that follows each where there is no GPU."""
    lines = (line for line in log.splitlines() if line[:1] == "[" and line[2:4] == "] " and line[1] in severities)
    return list(dict.fromkeys(line for line in lines if _NO_GPU_NOISE not in line))


def excerpt(log: str, lines: int = 40) -> list[str]:
    """The lines worth keeping beside the engine: errors, warnings and sparsity, at most the last `lines` of them."""
    worth = set(problems(log, "CEW"))
    return [line for line in log.splitlines() if "(Sparsity)" in line or line in worth][-lines:]


def _split(names: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (names or "").split(",") if name.strip())
