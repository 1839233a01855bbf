"""
What is said of SQLite's errors. Goal: a sentence that says what to do, for each that operators
meet. Method: SQLite is brought to make each.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from relayrpc.errors import StoreError, StoreFullError
from relayrpc.store.faults import faults_of


def connect(path: Path, query: str = "", **options: float) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}{query}", uri=True, isolation_level=None, **options)


def fill(path: Path) -> sqlite3.Connection:
    connection = connect(path)
    connection.execute("CREATE TABLE t (value)")
    connection.execute("INSERT INTO t VALUES (zeroblob(20000))")
    return connection


def no_database(path: Path) -> None:
    path.write_bytes(b"no database " * 100)
    with contextlib.closing(connect(path)) as connection:
        connection.execute("SELECT * FROM t")


def full(path: Path) -> None:
    with contextlib.closing(fill(path)) as connection:
        connection.execute("PRAGMA max_page_count = 8")
        connection.execute("INSERT INTO t VALUES (zeroblob(20000))")


def read_only(path: Path) -> None:
    fill(path).close()
    with contextlib.closing(connect(path, "?mode=ro")) as connection:
        connection.execute("DELETE FROM t")


def not_opened(path: Path) -> None:
    connect(path / "nowhere").close()


def locked(path: Path) -> None:
    with (
        contextlib.closing(fill(path)) as holder,
        contextlib.closing(connect(path, timeout=0)) as connection,
    ):
        holder.execute("BEGIN EXCLUSIVE")
        connection.execute("DELETE FROM t")


def damaged(path: Path) -> None:
    fill(path).close()
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 30_000)
    with contextlib.closing(connect(path)) as connection:
        connection.execute("SELECT * FROM t").fetchall()


def a_mistake_of_ours(path: Path) -> None:
    with contextlib.closing(fill(path)) as connection:
        connection.execute("SELECT * FROM nowhere")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (no_database, "x.db is no SQLite database, or its first page is damaged"),
        (full, "there is no room on the disk of x.db"),
        (read_only, "x.db cannot be written to: it or its folder is read-only"),
        (
            not_opened,
            "x.db cannot be opened: see whether it and its folder may be written to",
        ),
        (locked, "x.db is locked by another program"),
        (damaged, "x.db is damaged (SQLITE_CORRUPT); put a backup in its place"),
        (a_mistake_of_ours, "x.db: no such table: nowhere (SQLITE_ERROR)"),
    ],
)
def test_error_is_one_sentence(make: Callable[[Path], None], text: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught, faults_of(Path("x.db")):
        make(tmp_path / "file.db")
    assert str(caught.value) == text
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    assert isinstance(caught.value, StoreFullError) == (make is full)
