"""The ordered stages of a run: what each reads and writes, when it is up to date, and how a killed one continues.

Only this room writes the run directory: a stage here opens files, calls the rooms below, and writes what they return.
"""

from madx.pipeline.context import Context
from madx.pipeline.given import Given
from madx.pipeline.stages import STAGES, Stage, StageReport, run_stages, stage_named

__all__ = ["STAGES", "Context", "Given", "Stage", "StageReport", "run_stages", "stage_named"]
