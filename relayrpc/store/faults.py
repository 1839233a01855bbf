"""
What SQLite's errors mean to whoever runs a hub: the one place where they become the relay's.

Owns: the sentences. Does not own: what is done about it.
Source: https://www.sqlite.org/rescode.html.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from relayrpc.errors import StoreError, StoreFullError


__all__ = ["faults_of", "store_error"]

# By the beginning of a name: SQLITE_IOERR_FSYNC is one of SQLITE_IOERR.
_SENTENCES: Final[dict[str, str]] = {
    "SQLITE_BUSY": "{path} is locked by another program",
    "SQLITE_CANTOPEN": "{path} cannot be opened: see whether it and its folder may be written to",
    "SQLITE_CORRUPT": "{path} is damaged ({name}); put a backup in its place",
    "SQLITE_FULL": "there is no room on the disk of {path}",
    "SQLITE_IOERR": "the disk of {path} failed ({name})",
    "SQLITE_NOTADB": "{path} is no SQLite database, or its first page is damaged",
    "SQLITE_READONLY": "{path} cannot be written to: it or its folder is read-only",
}


def store_error(path: Path, error: sqlite3.Error) -> StoreError:
    """Say what happened to a file, in one sentence."""
    name: str = getattr(error, "sqlite_errorname", type(error).__name__)
    for start, sentence in _SENTENCES.items():
        if name.startswith(start):
            kind = StoreFullError if start == "SQLITE_FULL" else StoreError
            return kind(sentence.format(path=path, name=name), sqlite=name)
    return StoreError(f"{path}: {error} ({name})", sqlite=name)


@contextlib.contextmanager
def faults_of(path: Path) -> Iterator[None]:
    """
    Raises:
        StoreError: In place of what SQLite raised inside.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise store_error(path, error) from error
