"""The recipe: everything a run depends on, as frozen pydantic models, one per stage.

Whatever can be wrong in a recipe is found while it is read; no stage finds a typing error an hour later. Paths are
relative to the recipe file. Images are float32 in [0, 1] and every eps is in that unit.
"""

from madx.recipe.data import DataConfig
from madx.recipe.engines import ENGINE_KINDS, EngineKind
from madx.recipe.feeding import InputConfig, OutputConfig
from madx.recipe.gates import GateConfig, LatencyConfig
from madx.recipe.metrics import METRICS, Metric, about
from madx.recipe.models import (
    CRITERION_NAMES,
    SUITE_NAMES,
    CalibrationConfig,
    EngineConfig,
    ExportConfig,
    LearningConfig,
    ModelConfig,
    PruneConfig,
    Recipe,
    VerifyConfig,
)
from madx.recipe.reading import (
    canonical_json,
    load_recipe,
    load_written,
    parse_recipe,
    recipe_schema,
    require_network,
    resolve_paths,
)
from madx.recipe.template import commented_recipe, recipe_text
from madx.recipe.threat import AttackConfig, ThreatConfig
from madx.recipe.training import FinetuneConfig, LoopConfig, TrainConfig
from madx.recipe.values import radius

__all__ = [
    "CRITERION_NAMES",
    "ENGINE_KINDS",
    "METRICS",
    "SUITE_NAMES",
    "AttackConfig",
    "CalibrationConfig",
    "DataConfig",
    "EngineConfig",
    "EngineKind",
    "ExportConfig",
    "FinetuneConfig",
    "GateConfig",
    "InputConfig",
    "LatencyConfig",
    "LearningConfig",
    "LoopConfig",
    "Metric",
    "ModelConfig",
    "OutputConfig",
    "PruneConfig",
    "Recipe",
    "ThreatConfig",
    "TrainConfig",
    "VerifyConfig",
    "about",
    "canonical_json",
    "commented_recipe",
    "load_recipe",
    "load_written",
    "parse_recipe",
    "radius",
    "recipe_schema",
    "recipe_text",
    "require_network",
    "resolve_paths",
]
