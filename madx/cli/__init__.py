"""The command line: parse, call the pipeline, show, and map the outcome to an exit code.

Nothing heavy is imported before a command needs it: `madx --help` loads neither torch nor an engine.
"""

from madx.cli.app import app, main

__all__ = ["app", "main"]
