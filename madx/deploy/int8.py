"""Whether a runtime computes in int8 what a file says is int8: by the kernels that it chose, not by what was asked."""

from __future__ import annotations

from typing import Any

from madx.errors import EngineError


def int8_layers(low: int, float_layers: int, name: str) -> dict[str, Any]:
    """What the record of an int8 engine says of its convolutions and matrix products.

    Args:
        low: those that the runtime computes in int8.
        float_layers: those that it does not.
        name: of the engine.

    Raises:
        EngineError: none of them runs in int8.
    """
    if not low:
        raise EngineError(
            f"{name}: the runtime computes none of the file's {float_layers} products in int8, though the file says "
            "so; take precision: fp32 for this engine, or another version of the runtime"
        )
    return {"int8_layers": low, "float_layers": float_layers}
