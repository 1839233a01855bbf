"""
`relayrpc store`: what operators do with a hub's store. Owns: the commands.

Does not own: what a store is (store/).
Source: docs/reference/cli.md, "relayrpc store backup".
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


__all__ = ["store"]

store = typer.Typer(help="Look after the file of a hub's store.", no_args_is_help=True)


@store.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The store's file.")],
    destination: Annotated[
        Path, typer.Argument(metavar="DEST", help="Where the copy goes; no file may be there.")
    ],
) -> None:
    """
    Copy a store to a file, also while a hub has it open.

    \b
    Example:
      relayrpc store backup hub.db backups/hub-2026-03-01.db

    \b
    Exit codes:
      0  copied and checked; one line that says what
      1  there is no store at FILE, it is damaged, or DEST cannot be written or is there already
      2  a flag cannot be used
    """
    from relayrpc.store.backup import back_up

    made = back_up(file, destination)
    typer.echo(f"{destination}: revision {made.revision}, {made.size_bytes} bytes")


@store.callback()
def _group() -> None:
    """A group even while it has one command."""
