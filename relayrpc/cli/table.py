"""
Output: tables, drawn where a person looks and plain columns where a program reads.

Owns: layout. Does not own: what is in them. Text of peers is shown as text: nothing in it can move
a cursor.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import typer


__all__ = ["as_text", "print_table"]


def as_text(value: str) -> str:
    """Replace what a terminal might act on."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in value)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """
    Print rows below their headings.

    On a terminal, lines are folded to its width; else columns are parted by two spaces, and an
    empty cell is "-", so that every row has as many words as there are columns, unless a cell has
    spaces.
    """
    cells = [[as_text(cell) or "-" for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(headings, cells)
        return
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    for row in (headings, *cells):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo(line.rstrip())


def _draw(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])
    Console().print(table)
