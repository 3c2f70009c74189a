"""What a finding is, and the wording that all findings share. Shares of images are printed in points."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The numbers of one metric, before they meet the bound."""

    estimate: float
    """NaN if there is none."""
    lower: float
    """-inf if the data give no limit."""
    upper: float
    """inf if the data give no limit."""
    evidence: tuple[str, ...]
    method: str = ""
    """What the limits come from."""
    advice: tuple[str, ...] = ()
    """What would decide an undecided gate."""
    more_images: int | None = None
    """About how many further images would decide an undecided gate; None if images do not, or no number would."""
    wanted_pairs: int | None = None
    """About how many block pairs in all would decide an undecided gate on times; None as above."""
    doubts: tuple[str, ...] = ()
    """Reasons why this gate must not pass; it may still fail."""
    void: tuple[str, ...] = ()
    """Reasons why the numbers decide nothing either way."""


def points(share: float) -> str:
    """Shares of images in points, as papers print them."""
    return f"{100 * share:.2f} points"
