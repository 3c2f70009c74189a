"""What a metric's function says of the measurements: estimate, one-sided limits, and reasons to distrust them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The numbers of one metric, before they meet the bound."""

    estimate: float
    lower: float
    """-inf if the data give no limit."""
    upper: float
    """inf if the data give no limit."""
    evidence: tuple[str, ...]
    advice: tuple[str, ...] = ()
    """What would decide an undecided gate."""
    doubts: tuple[str, ...] = ()
    """Reasons why this gate must not pass; it may still fail."""
    void: tuple[str, ...] = ()
    """Reasons why the numbers decide nothing either way."""
