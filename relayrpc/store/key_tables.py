"""
Keys and leases of a store, in SQL. Synchronous: it runs on the threads of sqlite.py.

Owns: what is read, and what one write does to the tables. Does not own: transactions, which may
hold many writes (file.py), and when a lease is over (leases.py).
Source: relayrpc/store/base.py, Store; schema.py.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from relayrpc.limits import Limits
from relayrpc.store.base import Change, Deletion, Entry, Snapshot
from relayrpc.store.checks import (
    PAGE_BYTES,
    PAGE_COUNT,
    check_expected,
    check_reached,
    check_remembered,
    check_room,
)


__all__ = [
    "KeyTables",
    "read_changes",
    "read_entry",
    "read_keys",
    "read_leases",
    "read_snapshot",
]

# Keys are ASCII, and "0" is what comes behind "/". The plus signs keep SQLite from going through
# the index of keys, and sorting all that it finds before the first row comes.
_BELOW: Final = "+key >= ? AND +key < ?"


class KeyTables:
    """
    What writes do. Each method decides before it changes anything: one that raises one of the
    relay's errors has changed nothing.

    Attributes:
        changed: Keys that were changed since `begin()`, oldest change first.
        revision: The newest.
        is_current: The counts are those of the tables; False when a transaction came to nothing.
    """

    def __init__(self, connection: sqlite3.Connection, limits: Limits) -> None:
        self.changed: list[str] = []
        self.revision = 0
        self.is_current = False
        self._connection = connection
        self._limits = limits
        self._forgotten = 0
        self._keys_count = 0
        self._size_bytes = 0
        self._deletions_count = 0
        self._leases_count = 0

    def begin(self) -> None:
        """Start to note what changes; in the transaction that changes it."""
        self.changed = []
        if not self.is_current:
            self._count()
            self.is_current = True

    def _count(self) -> None:
        execute = self._connection.execute
        self.revision, self._forgotten = execute("SELECT revision, forgotten FROM state").fetchone()
        self._keys_count, self._size_bytes = execute(
            "SELECT count(*), coalesce(sum(length(key) + length(value)), 0)"
            " FROM entries WHERE value IS NOT NULL"
        ).fetchone()
        (self._deletions_count,) = execute(
            "SELECT count(*) FROM entries WHERE value IS NULL"
        ).fetchone()
        (self._leases_count,) = execute("SELECT count(*) FROM leases").fetchone()

    def finish(self) -> None:
        """Write down what is the whole transaction's."""
        if self.changed:
            self._connection.execute(
                "UPDATE state SET revision = ?, forgotten = ?", (self.revision, self._forgotten)
            )

    def put(self, key: str, value: bytes, expected: int | None, lease_id: int | None) -> int:
        revision, size_bytes = self._find(key)
        check_expected(key, expected, 0 if size_bytes is None else revision)
        added_bytes = len(value)
        if size_bytes is None:
            check_room("keys", self._keys_count + 1, self._limits.store_keys_max)
            added_bytes += len(key)
        else:
            added_bytes -= size_bytes
        check_room("bytes", self._size_bytes + added_bytes, self._limits.store_bytes_max)
        self._size_bytes += added_bytes
        if size_bytes is None:
            self._keys_count += 1
            # A revision without a size is a deletion's.
            self._deletions_count -= revision > 0
        self._write(key, value, lease_id)
        return self.revision

    def delete(self, key: str, expected: int | None) -> int:
        revision, size_bytes = self._find(key)
        check_expected(key, expected, 0 if size_bytes is None else revision)
        if size_bytes is None:
            return 0
        self._delete(key, size_bytes)
        return self.revision

    def grant_lease(self, lease_s: float) -> int:
        check_room("leases", self._leases_count + 1, self._limits.store_leases_max)
        self._leases_count += 1
        insert = "INSERT INTO leases (lease_s) VALUES (?)"
        lease_id = self._connection.execute(insert, (lease_s,)).lastrowid
        assert lease_id is not None
        return lease_id

    def end_lease(self, lease_id: int) -> None:
        keys = self._connection.execute(
            "SELECT key, length(value) FROM entries WHERE lease_id = ? ORDER BY revision",
            (lease_id,),
        ).fetchall()
        for key, size_bytes in keys:
            self._delete(key, size_bytes)
        self._connection.execute("DELETE FROM leases WHERE lease_id = ?", (lease_id,))
        self._leases_count -= 1

    def _find(self, key: str) -> tuple[int, int | None]:
        """Return a key's last revision, 0 without any, and its value's size; None: no value."""
        select = "SELECT revision, length(value) FROM entries WHERE key = ?"
        found: tuple[int, int | None] | None
        found = self._connection.execute(select, (key,)).fetchone()
        return found or (0, None)

    def _delete(self, key: str, size_bytes: int) -> None:
        self._keys_count -= 1
        self._size_bytes -= len(key) + size_bytes
        self._write(key, None, None)
        self._deletions_count += 1
        if self._deletions_count > self._limits.store_deletions_max:
            (self._forgotten,) = self._connection.execute(
                "SELECT min(revision) FROM entries WHERE value IS NULL"
            ).fetchone()
            delete = "DELETE FROM entries WHERE revision = ?"
            self._connection.execute(delete, (self._forgotten,))
            self._deletions_count -= 1

    def _write(self, key: str, value: bytes | None, lease_id: int | None) -> None:
        self.revision += 1
        self.changed.append(key)
        self._connection.execute(
            "REPLACE INTO entries (revision, key, value, lease_id) VALUES (?, ?, ?, ?)",
            (self.revision, key, value, lease_id),
        )


def read_entry(connection: sqlite3.Connection, key: str) -> Entry | None:
    """Return what a key holds."""
    row = connection.execute(
        "SELECT value, revision, lease_id FROM entries WHERE key = ? AND value IS NOT NULL", (key,)
    ).fetchone()
    return Entry(key, *row) if row else None


def read_keys(connection: sqlite3.Connection, prefix: str) -> list[str]:
    """Return the keys below a prefix."""
    rows = connection.execute(
        f"SELECT key FROM entries WHERE value IS NOT NULL AND {_BELOW} ORDER BY revision",  # noqa: S608 # of constants
        _below(prefix),
    )
    return [key for (key,) in rows]


def read_snapshot(connection: sqlite3.Connection, prefix: str) -> Snapshot:
    """Return what is below a prefix; in a transaction."""
    (revision,) = connection.execute("SELECT revision FROM state").fetchone()
    rows = connection.execute(
        "SELECT key, value, revision, lease_id FROM entries"  # noqa: S608 # of constants
        f" WHERE value IS NOT NULL AND {_BELOW} ORDER BY revision",
        _below(prefix),
    )
    return Snapshot(revision, [Entry(*row) for row in rows])


def read_changes(
    connection: sqlite3.Connection, prefix: str, known: int, after: int
) -> tuple[list[Change], int]:
    """
    Return a page of what changed below a prefix; in a transaction.

    Args:
        connection: To the file.
        prefix: Where.
        known: Deletions up to this revision are not told.
        after: The position; changes up to it are not told.

    Returns:
        The changes, and the position behind them.

    Raises:
        PositionError: Changes are not known any more, or not yet.
    """
    deletions_after = max(known, after)
    revision, forgotten = connection.execute("SELECT revision, forgotten FROM state").fetchone()
    check_reached("the store", deletions_after, revision)
    check_remembered(forgotten, deletions_after)
    rows = connection.execute(
        "SELECT key, value, revision, lease_id FROM entries WHERE revision > ?"  # noqa: S608 # of constants
        f" AND (value IS NOT NULL OR revision > ?) AND {_BELOW} ORDER BY revision",
        (after, deletions_after, *_below(prefix)),
    )
    changes: list[Change] = []
    size_bytes = 0
    for key, value, at, lease_id in rows:
        changes.append(Deletion(key, at) if value is None else Entry(key, value, at, lease_id))
        size_bytes += len(value or b"")
        if size_bytes >= PAGE_BYTES or len(changes) == PAGE_COUNT:
            return changes, at
    return changes, revision


def read_leases(connection: sqlite3.Connection) -> list[tuple[int, float]]:
    """Return the id of each lease, and the seconds it was granted."""
    return connection.execute("SELECT lease_id, lease_s FROM leases").fetchall()


def _below(prefix: str) -> tuple[str, str]:
    """Return between which keys those below a prefix are, for `_BELOW`."""
    return (prefix, prefix[:-1] + "0") if prefix else ("", "\x7f")
