"""`madx inspect RECIPE --groups`: a table of groups of channels, and of the layers that stay whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from madx.pipeline.grouping import Grouping, GroupRow


def print_grouping(found: Grouping) -> None:
    """Tables in a terminal, one line for each fact elsewhere."""
    console = Console(highlight=False, soft_wrap=True)
    if console.is_terminal:
        _tables(found, console)
        return
    for row in found.groups:
        along = f", along with {', '.join(row.along)}" if row.along else ""
        console.print(
            f"{row.removed} of {row.channels} {_unit(row)} go: made by {escape(', '.join(row.makers))}, read by "
            f"{escape(', '.join(row.readers))}{escape(along)}"
        )
    for name, reason in found.whole.items():
        console.print(escape(f"{name or 'the network'} stays whole: {reason}"))


def _unit(row: GroupRow) -> str:
    """What the group is of."""
    return f"heads ({escape(row.heads)})" if row.heads else "channels"


def _tables(found: Grouping, console: Console) -> None:
    groups = Table("made by", "of", "go", "read by", "along with", box=SIMPLE_HEAD, show_edge=False)
    for row in found.groups:
        names = [escape("\n".join(part)) for part in (row.makers, row.readers, row.along)]
        groups.add_row(names[0], f"{row.channels} {_unit(row)}", str(row.removed), names[1], names[2])
    whole = Table("stays whole", "why", box=SIMPLE_HEAD, show_edge=False)
    for name, reason in found.whole.items():
        whole.add_row(escape(name or "the network"), escape(reason))
    for table in (groups, whole):
        if table.row_count:
            console.print(table)
