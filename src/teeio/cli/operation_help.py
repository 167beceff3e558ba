"""The operations at the end of `teeio connect --help`, from their table."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from teeio.cli.operation_table import ENTRIES

EXAMPLE = "--operations certificate,session,measurements:each,end"


class CommandWithOperations(TyperCommand):
    """A command whose help ends with the table of operations."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        super().format_help(ctx, formatter)
        Console(highlight=False).print(operations_panel())


def operations_panel() -> Panel:
    """Make the table of operations."""
    grid = Table(box=None, padding=(0, 1), header_style="dim")
    grid.add_column("written", style="bold cyan")
    grid.add_column("session")
    grid.add_column("what it does")
    for entry in ENTRIES.values():
        also = f" (also {entry.also})" if entry.also else ""
        grid.add_row(Text(entry.form), "needed" if entry.in_session else "", Text(entry.meaning + also))
    grid.add_row("", "", "What may travel in a session does so in the one opened last.", style="dim")
    grid.add_row("Example:", "", Text(EXAMPLE, overflow="fold"))
    return Panel(grid, title="Operations", title_align="left", border_style="dim")
