"""
How older files become new ones. Goal: nothing is lost, nothing is half done, and nobody else's file
is touched. Method: files of each version that was released, and migrations that fail.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayrpc.errors import StoreError
from relayrpc.store.base import Deletion, Entry
from relayrpc.store.schema import APPLICATION_ID, MIGRATIONS, migrate
from relayrpc.store.sqlite import SQLiteStore


FILES = Path(__file__).resolve().parents[2] / "conformance" / "stores"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def form(connection: sqlite3.Connection) -> list[str]:
    return [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master ORDER BY name")]


def version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def test_there_is_a_file_of_each_older_version() -> None:
    assert sorted(path.name for path in FILES.glob("*.db")) == [
        f"version-{number}.db" for number in range(1, len(MIGRATIONS))
    ]


@pytest.mark.parametrize("old", sorted(FILES.glob("*.db")), ids=lambda path: path.stem)
def test_older_file_gets_the_form_of_a_new_one(
    old: Path, path: Path, connection: sqlite3.Connection
) -> None:
    shutil.copy(old, path)
    assert f"version-{version(connection)}" == old.stem
    migrate(connection, path)
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as new:
        migrate(new, path)
        assert form(connection) == form(new)
        assert version(connection) == version(new) == len(MIGRATIONS)


async def test_file_of_version_1_keeps_what_is_in_it(path: Path) -> None:
    """Two contracts, one of them changed; a lease that is over and one with a key; deletions."""
    shutil.copy(FILES / "version-1.db", path)
    store = await SQLiteStore.open(path)
    billing = Entry("contracts/contoso/billing", b"\x00\xff", 2)
    presence = Entry("presence/hub-1", b"here", 3, lease_id=2)
    orders = Entry("contracts/contoso/orders", b"v2", 10)
    assert (await store.entries()).entries == [billing, presence, orders]
    async with store.watch(after=7) as changes:
        told = [await anext(changes) for _ in range(3)]
    assert told == [Deletion("gone/1", 8), Deletion("gone/2", 9), orders]
    await store.keep_alive(2)
    assert await store.grant_lease(60) == 3
    assert await store.put("k", b"") == 11
    assert await store.append("log", b"") == 1
    await store.aclose()


def test_newer_file_is_refused_and_left_alone(path: Path, connection: sqlite3.Connection) -> None:
    migrate(connection, path, [*MIGRATIONS, ["CREATE TABLE later (x)"]])
    before = path.read_bytes()
    with pytest.raises(StoreError) as caught:
        migrate(connection, path)
    newest = len(MIGRATIONS)
    assert str(caught.value) == (
        f"{path} has version {newest + 1}, and this relayrpc knows up to {newest}: "
        "use the relayrpc that wrote it, or a newer one"
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE t (x)", "PRAGMA user_version = 1", "PRAGMA application_id = 7"]
)
def test_other_programs_file_is_refused_and_left_alone(
    statement: str, path: Path, connection: sqlite3.Connection
) -> None:
    connection.execute(statement)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="is no store of relayrpc, but another program's"):
        migrate(connection, path)
    assert path.read_bytes() == before


def test_step_that_fails_is_undone_and_the_steps_before_it_stay(
    path: Path, connection: sqlite3.Connection
) -> None:
    steps = [
        ["CREATE TABLE one (x)"],
        ["CREATE TABLE two (x)", "INSERT INTO two VALUES (1)", "INSERT INTO nowhere VALUES (1)"],
    ]
    with pytest.raises(sqlite3.OperationalError, match="no such table: nowhere"):
        migrate(connection, path, steps)
    assert (version(connection), form(connection)) == (1, ["CREATE TABLE one (x)"])
    assert not connection.in_transaction
    steps[1].pop()
    migrate(connection, path, steps)
    assert version(connection) == 2
    assert connection.execute("SELECT count(*) FROM two").fetchone() == (1,)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
