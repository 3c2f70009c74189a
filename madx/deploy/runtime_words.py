"""What runtimes say when they refuse a file, in words that say what to do.

Their own text names source files and status codes. It stays the cause of the error that madx raises, and `-v` shows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_Row = tuple[str, Callable[[re.Match[str]], str]]
_KINDS = {"tensor(double)": "float64", "tensor(bfloat16)": "bfloat16", "tensor(float16)": "float16"}
_FLOAT32 = "convert the file to float32, or build another kind of engine"


def _no_kernel(found: re.Match[str]) -> str:
    return f"this runtime cannot compute {found['op']} (node {found['node']}) in the type the file asks for; {_FLOAT32}"


def _unsound(told: str) -> Callable[[re.Match[str]], str]:
    """Of a graph that no runtime could compute; names come from what was found."""
    return lambda found: (
        f"{told.format(**found.groupdict())}, so the file is damaged or was changed by hand; export it again"
    )


def _no_fit(found: re.Match[str]) -> str:
    return (
        f"its node {found['node']} is given tensors of shapes that do not go together: the file was made for images of "
        "another size, number of channels or layout (verify.input: {layout: NHWC}), or takes one number of images "
        "alone (verify.input: {batch: 1}, or what it was exported with)"
    )


_ROWS: tuple[_Row, ...] = (
    (r"Could not find an implementation for (?P<op>\w+)\(\d+\) node with name '(?P<node>[^']*)'", _no_kernel),
    (
        r"(?:Fatal error: |No Op registered for )(?P<op>[\w.]+(?::[\w.]+)*?)(?:\(-?\d+\)| with domain_version)",
        lambda found: (
            f"this runtime has no operator {found['op'].replace(':', '::')}; rewrite that part of the network with "
            "standard operators, or put the operator into the file as a function"
        ),
    ),
    (
        r"No conversion rule found for operations: (?P<op>[\w.:]+(?:, [\w.:]+)*)",
        lambda found: (
            f"OpenVINO has no operator {found['op'].strip()}; rewrite that part of the network with standard ones, or "
            "build another kind of engine"
        ),
    ),
    (
        r"Conversion is failed for: (?P<op>\w+)-\d+",
        lambda found: (
            f"OpenVINO cannot read its {found['op']}; build another kind of engine, or export without {found['op']}"
        ),
    ),
    (
        r"Unsupported model IR version: (?P<given>\d+), max supported IR version: (?P<most>\d+)",
        lambda found: (
            f"the file has IR version {found['given']} and this runtime reads up to {found['most']}; export it with an "
            "older IR version (onnx.helper.make_model(..., ir_version=...)), or update the runtime"
        ),
    ),
    (
        r"(?:till opset|support for domain \S+ is till opset) (?P<most>\d+)",
        lambda found: (
            f"the file's operator set is newer than this runtime's ({found['most']}); export it with an older "
            "opset_version"
        ),
    ),
    (
        r"Type Error: Type '(?P<kind>[^']*)' of input parameter \((?P<name>[^)]*)\) of operator \((?P<op>\w+)\)",
        lambda found: (
            f"{found['op']} does not take {_KINDS.get(found['kind'], found['kind'])} ({found['name']}); {_FLOAT32}"
        ),
    ),
    (
        r"Cannot parse data from external tensors.* for tensor: (?P<name>\S+)",
        lambda found: (
            f"{found['name']} shapes other tensors and lies in external data, where this runtime does not look for it; "
            "save only large weights there (onnx.save_model(..., size_threshold=1024))"
        ),
    ),
    (
        r"Got invalid dimensions for input: (?P<name>\S+) for the following indices(?P<told>.*?)Please fix",
        lambda found: (
            f"the input {found['name']} has another shape ({' '.join(found['told'].split())}); name the batch and the "
            "layout that the file takes in verify.input"
        ),
    ),
    (
        r"(?P<op>Reshape) node(?:\.| with name) *(?:Name:)?'(?P<node>[^']*)'",
        lambda found: (
            f"its node {found['node']} knows one shape alone (a Reshape with a fixed batch or size); export "
            "it with a dynamic batch, or name the batch that it takes: verify.input: {batch: 1}"
        ),
    ),
    (
        r"running \w+ node\. Name:'(?P<node>[^']*)'.*"
        r"(?:Input channels C is not equal|broadcast|must match|[Dd]imensions?.* mismatch|do(?:es)? not match|"
        r"cannot be split|out of bounds)",
        _no_fit,
    ),
    (
        r"doesn't support (?P<op>\w+) operation with dynamic rank",
        lambda found: (
            f"its {found['op']} leaves open how many dimensions its output has, which OpenVINO must know: name its "
            "axes, export with a fixed batch, or build another kind of engine"
        ),
    ),
    (r"Missing model IR version", _unsound("it does not say its IR version")),
    (r"Missing opset in the model", _unsound("it does not say its operator set")),
    (r"No opset import for domain '(?P<name>[^']*)'", _unsound("it does not import the operators of {name!r}")),
    (r"Invalid tensor data type", _unsound("it leaves the type of a tensor open")),
    (r"Graph output \((?P<name>[^)]*)\) does not exist", _unsound("no node makes its output {name!r}")),
    (r"graph is not acyclic", _unsound("its nodes wait for each other in a circle")),
    (r"Duplicate definition of name \((?P<name>[^)]*)\)", _unsound("two of its nodes make {name!r}")),
    (r"Node input '(?P<name>[^']*)' is not a graph input", _unsound("a node reads {name!r}, which nothing makes")),
    (r"Unrecognized attribute: (?P<name>\w+) for operator (?P<op>\w+)", _unsound("{op} has no attribute {name!r}")),
    (r"Error Node ?\((?P<name>[^)]*)\) with schema.* has (?:in|out)put size", _unsound("{name} lacks an input")),
    (r"Node \((?P<name>[^)]*)\).*\[(?:Type|Shape)InferenceError\]", _unsound("{name} is given what it cannot take")),
    (
        r"(?:[Ff]ailed to allocate memory|bad_alloc|out of memory)",
        lambda _: "the memory of this machine is not enough for it; use smaller batches, or another machine",
    ),
)
_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |Exception from ")
_PLACES = re.compile(
    r"\S*(?:/|\\)\S+\.(?:cc|cpp|h|hpp):\d+:? *|\bonnxruntime::\S+(?: \w+)*\([^)]*\) *|Load model from \S+ failed: *"
)
_SHOWN = 200


def explain(text: object) -> str:
    """What a runtime's message (or exception) means and what to do about it, in one sentence without its full stop."""
    said = " ".join(str(text).split())
    for pattern, told in _ROWS:
        if found := re.search(pattern, said):
            return told(found)
    bare = " ".join(_PLACES.sub("", _STATUS.sub("", said)).split()) or "it gives no reason"
    return (
        f"its reason is {bare[:_SHOWN]!r} (-v shows all of it); export the file again, with another version of the "
        "exporter, or build another kind of engine"
    )
