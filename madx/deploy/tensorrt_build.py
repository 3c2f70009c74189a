"""The program that builds a TensorRT engine, run as a process of its own: python -m madx.deploy.tensorrt_build.

Polygraphy decides between TensorRT and TensorRT-RTX once, when it is imported, so one process can build for one of
them only; and a builder that crashes must not take madx with it. The process reads `request.json` and `model.onnx`
in the folder that it is given and writes `engine.plan`, `facts.json` and `build.log` there. An error leaves the log
and a non-zero exit code; `madx.deploy.tensorrt` puts both into words.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
REQUEST, MODEL, PLAN, FACTS, LOG = "request.json", "model.onnx", "engine.plan", "facts.json", "build.log"


@dataclass(frozen=True)
class Request:
    """What to build."""

    kind: str
    shape: tuple[int, int, int]
    """(C, H, W) of one image."""
    batch: int
    """Batch that tactics are chosen for."""
    max_batch: int

    def profile(self) -> dict[str, list[int]]:
        """Smallest, optimal and largest input [B, C, H, W]."""
        batches = {"min": 1, "opt": self.batch, "max": self.max_batch}
        return {name: [batch, *self.shape] for name, batch in batches.items()}


class _LogFile(logging.Handler):
    """Writes every message at once, so that a crash of the builder leaves what it said before."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("w", encoding="utf-8", buffering=1)

    def emit(self, record: logging.LogRecord) -> None:
        """Polygraphy's messages start with their severity in brackets already."""
        self._file.write(record.getMessage() + "\n")


def import_builder(kind: str) -> Any:
    """The TensorRT module of `kind`, with Polygraphy told which one it is before it is imported."""
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1" if kind == "tensorrt-rtx" else "0"
    return importlib.import_module(MODULES[kind])


def probe(kind: str) -> dict[str, str]:
    """Versions of the builder and of Polygraphy, or under 'missing' what cannot be imported and why."""
    try:
        trt = import_builder(kind)
        import polygraphy
    except (ImportError, OSError) as error:
        return {"missing": " ".join(str(error).split())}
    return {MODULES[kind]: trt.__version__, "polygraphy": polygraphy.__version__}


def build(folder: Path) -> None:
    """Build what `folder` asks for and leave plan and facts there."""
    given = json.loads((folder / REQUEST).read_text())
    request = Request(**{**given, "shape": tuple(given["shape"])})
    trt = import_builder(request.kind)
    _log_to(folder / LOG)
    started = time.perf_counter()
    plan, settings = _plan(trt, (folder / MODEL).read_bytes(), request)
    facts = {
        **probe(request.kind),
        "build_seconds": time.perf_counter() - started,
        **settings,
        "profile": request.profile(),
    }
    (folder / PLAN).write_bytes(plan)
    (folder / FACTS).write_text(json.dumps(facts))


def _log_to(path: Path) -> None:
    """Send all that Polygraphy and the builder say into a file."""
    from polygraphy.logger import G_LOGGER

    G_LOGGER.use_python_logging_system = True
    G_LOGGER.module_severity = {"": G_LOGGER.EXTRA_VERBOSE}
    logger = logging.getLogger("Polygraphy")
    logger.setLevel(1)
    logger.propagate = False
    logger.addHandler(_LogFile(path))


def _plan(trt: Any, model: bytes, request: Request) -> tuple[bytes, dict[str, Any]]:
    """The serialised engine, and the settings as the builder's own objects report them before the build.

    The network is strongly typed: precision is what the ONNX file says. TensorFloat-32 is off, because it changes the
    logits of a float32 engine and with them its robustness. Sparse weights are allowed always, so that a dense and a
    pruned engine differ in their weights alone.
    """
    from polygraphy.backend.trt import CreateConfig, Profile, engine_bytes_from_network, network_from_onnx_bytes

    builder, network, parser = network_from_onnx_bytes(model, strongly_typed=True)
    shapes = request.profile()
    create = CreateConfig(
        profiles=[Profile().add("input", *(tuple(shapes[name]) for name in ("min", "opt", "max")))],
        sparse_weights=True,
        tf32=False,
        profiling_verbosity=trt.ProfilingVerbosity.DETAILED,
    )
    config = create(builder, network)
    config.clear_flag(trt.BuilderFlag.TF32)
    flags = {
        "sparse_weights": bool(config.get_flag(trt.BuilderFlag.SPARSE_WEIGHTS)),
        "tf32": bool(config.get_flag(trt.BuilderFlag.TF32)),
        "strongly_typed": bool(network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)),
    }
    settings = {"flags": flags, **_choices(config)}
    return bytes(engine_bytes_from_network((builder, network, parser), config=config)), settings


def _choices(config: Any) -> dict[str, Any]:
    """What the builder's configuration says beside its flags; no compute capability is its own default."""
    capabilities = range(getattr(config, "num_compute_capabilities", 0))  # TensorRT-RTX has them
    return {
        "compute_capabilities": [config.get_compute_capability(number).name for number in capabilities],
        "optimisation_level": int(config.builder_optimization_level),
        "profiling_verbosity": config.profiling_verbosity.name.lower(),
    }


def main(arguments: list[str]) -> None:
    """`--probe KIND` prints what is installed as JSON; a folder is built in."""
    if arguments[:1] == ["--probe"]:
        print(json.dumps(probe(arguments[1])))
    else:
        build(Path(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
