"""The errors madx raises on purpose, each with the exit code the command line ends with.

Every message says what was given, what was expected and what to do. The command line prints the message of a
`MadxError` as one clear paragraph without a traceback; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a madx process tells the shell."""

    PASSED = 0
    """Every gate passed, or the command did what was asked."""
    FAILED = 1
    """A gate failed."""
    USAGE = 2
    """A bad recipe, bad input or wrong use."""
    INCONCLUSIVE = 3
    """The evidence decides nothing, or a promised engine is missing."""


class MadxError(Exception):
    """Base of every error that madx raises on purpose."""

    exit_code = ExitCode.USAGE


class RecipeError(MadxError):
    """The recipe cannot be read or asks for something that does not exist."""


class DataError(MadxError):
    """A data set is missing, corrupt, or holds values outside its contract."""


class ModelError(MadxError):
    """A network cannot be built, or weights do not fit it."""


class ArtifactError(MadxError):
    """A run directory or one of its files cannot be read, written or trusted."""


class ExportError(MadxError):
    """The network cannot be exported, or the exported file failed its own check."""


class EngineError(MadxError):
    """An engine that the recipe promises cannot be built or run here."""

    exit_code = ExitCode.INCONCLUSIVE


class RefusedFileError(EngineError):
    """A runtime that works here does not take this file; of one from outside that is bad input."""


class TrainingError(MadxError):
    """Training ended without a usable network: it diverged, or its robustness collapsed."""

    exit_code = ExitCode.INCONCLUSIVE


class DistributedError(MadxError):
    """The processes of one job cannot work together, or one of them is gone."""

    exit_code = ExitCode.INCONCLUSIVE
