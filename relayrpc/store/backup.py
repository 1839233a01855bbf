"""
A copy of a store's file, made while a hub has it open.

Owns: that the copy is whole, checked, and never takes the place of another file. Synchronous: in a
program with a loop, call it in a thread. Does not own: when, where to, and how many are kept.
Source: docs/reference/cli.md, "relayrpc store backup"; https://www.sqlite.org/backup.html.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path

from relayrpc.errors import StoreError
from relayrpc.store.faults import faults_of
from relayrpc.store.file import create_private, open_to_read
from relayrpc.store.schema import check_is_store


__all__ = ["Backup", "back_up"]


@dataclass(frozen=True, slots=True)
class Backup:
    """What a copy has in it."""

    revision: int
    """The store's at the moment of the copy."""
    size_bytes: int
    """Of the copy."""


def back_up(source: Path, destination: Path) -> Backup:
    """
    Copy a store as it is at one moment. Writers and readers of it go on meanwhile; what they write
    stays in its log until the copy is made.

    Args:
        source: The store's file.
        destination: Where the copy will be: one file, that a hub can open. It appears when it is
            whole and checked.

    Raises:
        StoreError: The source cannot be read, is damaged or no store; the destination is there
            already or cannot be written. Nothing is left behind.
    """
    if not source.is_file():
        raise StoreError(f"there is no file {source}")
    if destination.exists():
        raise StoreError(f"{destination} is there already; a backup takes no file's place")
    try:
        # Beside it, so that it can be moved there.
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=destination.parent) as folder:
            part = Path(folder) / destination.name
            create_private(part)
            revision = _copy(source, part, destination)
            size_bytes = part.stat().st_size
            part.replace(destination)
        _sync(destination.parent)
    except OSError as error:
        raise StoreError(f"{destination} cannot be made: {error.strerror}") from error
    return Backup(revision, size_bytes)


def _copy(source: Path, part: Path, destination: Path) -> int:
    """Copy all of it in one step, which is one moment; returns the revision."""
    with (
        contextlib.closing(open_to_read(source)) as reading,
        contextlib.closing(sqlite3.connect(part, isolation_level=None)) as copy,
    ):
        with faults_of(source):
            if not check_is_store(reading, source):
                raise StoreError(f"{source} is empty; there is nothing to back up")
        with faults_of(destination):
            reading.backup(copy)
            # Then it can be read where no log can be put beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
        with faults_of(source):
            (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise StoreError(f"{source} is damaged, and its copy was not kept: {verdict}")
            (revision,) = copy.execute("SELECT revision FROM state").fetchone()
    return int(revision)


def _sync(folder: Path) -> None:
    """Have the name of a new file on the disk, as SQLite has had its pages; not on Windows."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
