"""Whether a runtime computes in int8 what a file says is int8: by the kernels that it chose, not by what was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from madx.errors import EngineError

if TYPE_CHECKING:
    from madx.deploy.engine import BuiltEngine
    from madx.recipe import EngineConfig


LOW, HIGH = "int8_layers", "float_layers"
"""In the facts of an int8 engine: products that its runtime computes in int8, and the others."""


def require_int8(built: BuiltEngine, config: EngineConfig) -> None:
    """Refuse an engine that the recipe calls int8 and that is float32 for the most part.

    Raises:
        EngineError: its runtime computes fewer of its products in int8 than not, though the file says so: layers that
            need no room for rounding would have int8's.
    """
    if config.precision != "int8" or LOW not in built.facts:
        return
    low, high = built.facts[LOW], built.facts[HIGH]
    if low == 0 or low < high:
        raise EngineError(
            f"{config.name}: the runtime computes {low or 'none'} of the file's {low + high} products in int8, which "
            "is no int8 engine; take precision: fp32 for it, keep fewer layers in float32, or take another version of "
            "the runtime"
        )
