"""madx: prune robust image classifiers, deploy them, and prove on the engine what was won and what was kept."""

__version__ = "0.1.0"
