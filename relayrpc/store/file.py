"""
An open SQLite file of a store: the lock on it, the connection that writes, and group commit.

Owns: one transaction for many writes, acknowledged when it is on the disk. Synchronous, and after
it was opened for one thread. Does not own: the threads (sqlite.py), the tables (key_tables.py,
log_tables.py).
Source: docs/adr/0018-store.md; https://www.sqlite.org/wal.html.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relayrpc.errors import RelayError, StoreError
from relayrpc.limits import MIB, Limits
from relayrpc.store.faults import faults_of
from relayrpc.store.key_tables import KeyTables, read_leases
from relayrpc.store.log_tables import LogTables
from relayrpc.store.schema import check_is_store, migrate


__all__ = ["Committed", "StoreFile", "Write", "create_private", "open_to_read"]

# Another connection that writes is a mistake; one that reads never locks it out.
_BUSY_S: Final = 5.0
_WAL_BYTES_KEPT: Final = 16 * MIB

Write = Callable[["StoreFile"], object]
"""Does one write within a transaction; returns what its caller is told."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What came of some writes."""

    results: list[object]
    """Of each, in their order: what it returned, or the RelayError that it raised."""
    keys: list[str]
    """That were changed."""
    logs: list[str]
    """That were."""
    revision: int
    """The store's."""


class StoreFile:
    """
    The file, with the only connection that writes to it or moves its log into it.

    Attributes:
        keys: The tables of keys and leases.
        logs: Those of logs.
        leases: Those that were there when it was opened: id and seconds granted.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        """
        Open it; make it where there is none.

        Raises:
            StoreError: It cannot be used, or another process uses it.
        """
        self._path = path
        if path.is_dir():
            raise StoreError(f"{path} is a folder, and a store is a file")
        if not path.parent.is_dir():
            raise StoreError(f"{path} cannot be made: there is no folder {path.parent}")
        # Whatever else it is called: SQLite's own files beside it have this name, too.
        real = path.resolve()
        with contextlib.ExitStack() as undo, faults_of(path):
            self._lock = undo.enter_context(contextlib.closing(_lock(path, real)))
            create_private(real)
            connection = sqlite3.connect(real, timeout=_BUSY_S, isolation_level=None)
            self._connection = undo.enter_context(contextlib.closing(connection))
            self._prepare()
            self.keys = KeyTables(connection, limits)
            self.logs = LogTables(connection, limits)
            # Counts, and so reads, all of them: what is damaged there shows now.
            self.keys.begin()
            self.leases = read_leases(connection)
            undo.pop_all()

    def _prepare(self) -> None:
        execute = self._connection.execute
        check_is_store(self._connection, self._path)
        (mode,) = execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"{self._path} can have no write-ahead log; it needs a local disk")
        # What is acknowledged is on the disk; on macOS, too.
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA fullfsync = ON")
        execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}")
        migrate(self._connection, self._path)

    def commit(self, writes: Sequence[Write]) -> Committed:
        """
        Do writes in one transaction.

        Returns:
            When it is on the disk.

        Raises:
            StoreError: It could not be stored; it may still be there when the file is opened again.
        """
        with faults_of(self._path):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self.keys.begin()
                self.logs.begin()
                results = [self._do(write) for write in writes]
                self.keys.finish()
                self._connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
        return Committed(results, self.keys.changed, self.logs.changed, self.keys.revision)

    def _do(self, write: Write) -> object:
        try:
            return write(self)
        except RelayError as error:
            # It changed nothing; the others go on.
            return error

    def _roll_back(self) -> None:
        self.keys.is_current = False
        # Some errors have ended the transaction already.
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close it and give the lock back; must be called once."""
        try:
            with faults_of(self._path):
                self._connection.close()
        finally:
            self._lock.close()


def create_private(path: Path) -> None:
    """Make an empty file that only its owner may read, where there is none."""
    # SQLite itself says best what stands in the way.
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def open_to_read(path: Path) -> sqlite3.Connection:
    """
    Open a connection that reads, and never moves the log into the file: with one that does, SQLite
    before 3.51.3 could damage it.
    """
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro",
        uri=True,
        timeout=_BUSY_S,
        isolation_level=None,
        # Opened on one thread, for another.
        check_same_thread=False,
    )


def _lock(path: Path, real: Path) -> sqlite3.Connection:
    """
    Lock a file beside it, as SQLite's locks end with their process on every system, and a lock on
    the file itself would lock out those who read.
    """
    beside = real.with_name(f"{real.name}-lock")
    create_private(beside)
    lock = sqlite3.connect(beside, timeout=0, isolation_level=None)
    try:
        # Nothing is ever written to it, so there is nothing to undo.
        lock.execute("PRAGMA journal_mode = OFF")
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        lock.close()
        if error.sqlite_errorname.startswith("SQLITE_BUSY"):
            raise StoreError(f"{path} is open in another hub") from error
        raise
    return lock
