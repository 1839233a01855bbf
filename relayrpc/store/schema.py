"""
The form of a store's SQLite file, and how older files come to it.

Owns: the tables, their version, and that a file is a store's. A migration that has been released is
never changed; the next one is added. Does not own: what is read and written (key_tables.py,
log_tables.py).
Source: docs/reference/store.md "The file"; docs/adr/0018-store.md.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from relayrpc.errors import StoreError


__all__ = ["APPLICATION_ID", "MIGRATIONS", "Migration", "check_is_store", "migrate"]

APPLICATION_ID: Final = 0x52_6C_79_31
"""Stands in the header of every store: "Rly1"."""

Migration = Sequence[str]
"""Statements that bring a file from one version to the next."""

MIGRATIONS: Final[Sequence[Migration]] = (
    (
        # `revision`: the newest; `forgotten`: of the newest deletion that is not remembered.
        "CREATE TABLE state (revision INTEGER NOT NULL, forgotten INTEGER NOT NULL)",
        "INSERT INTO state VALUES (0, 0)",
        # AUTOINCREMENT: the id of a lease that is over comes never again.
        "CREATE TABLE leases (lease_id INTEGER PRIMARY KEY AUTOINCREMENT, lease_s REAL NOT NULL)",
        # The last change of each key. No value: it was deleted.
        "CREATE TABLE entries (revision INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE,"
        " value BLOB, lease_id INTEGER)",
        "CREATE INDEX leased ON entries (lease_id) WHERE lease_id IS NOT NULL",
        "CREATE INDEX deletions ON entries (revision) WHERE value IS NULL",
    ),
    (
        # `first` is one more than `last` where no record is kept. NULL: as much as limits allow.
        "CREATE TABLE logs (log_id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,"
        " first INTEGER NOT NULL, last INTEGER NOT NULL, size_bytes INTEGER NOT NULL,"
        " records_max INTEGER, bytes_max INTEGER, age_s_max REAL)",
        "CREATE TABLE records (log_id INTEGER NOT NULL, sequence INTEGER NOT NULL,"
        " time_unix_s REAL NOT NULL, data BLOB NOT NULL, PRIMARY KEY (log_id, sequence))",
    ),
)
"""The first makes version 1 of a new file."""


def check_is_store(connection: sqlite3.Connection, path: Path) -> int:
    """
    Read what a file is.

    Returns:
        Its version; 0: it is new, there is nothing in it.

    Raises:
        StoreError: It is another program's.
        sqlite3.Error: It cannot be read.
    """
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables_count,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application_id != APPLICATION_ID and (application_id or version or tables_count):
        raise StoreError(f"{path} is no store of relayrpc, but another program's SQLite database")
    return int(version)


def migrate(
    connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration] = MIGRATIONS
) -> None:
    """
    Bring a file to the newest version, each step in one transaction.

    Args:
        connection: To the file; without transactions of its own making.
        path: What the file is called.
        migrations: The steps from an empty file.

    Raises:
        StoreError: It is another program's, or a newer relayrpc's; nothing changed.
        sqlite3.Error: A step failed; the file is as it was before that step.
    """
    version = check_is_store(connection, path)
    newest = len(migrations)
    if version > newest:
        raise StoreError(
            f"{path} has version {version}, and this relayrpc knows up to {newest}: "
            "use the relayrpc that wrote it, or a newer one"
        )
    for number, statements in enumerate(migrations[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
