"""What every statistic asks of its arguments, said in one voice."""

from __future__ import annotations

from madx.errors import MadxError


def check_confidence(confidence: float) -> None:
    """Refuse a confidence outside (0.5, 1).

    Raises:
        MadxError: if it is not; 95 instead of 0.95 is the usual slip.
    """
    if not 0.5 < confidence < 1:
        raise MadxError(f"the confidence is {confidence:g}; expected a share between 0.5 and 1, for example 0.95")


def check_count(count: int, total: int, name: str) -> None:
    """Refuse a count that is not between 0 and `total`, or a total below 1.

    Raises:
        MadxError: naming the count.
    """
    if total < 1:
        raise MadxError(f"{name} is counted among {total} images; expected at least one image")
    if not 0 <= count <= total:
        raise MadxError(f"{name} is {count}; expected a count between 0 and {total}")
