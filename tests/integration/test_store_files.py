"""
Stores in files. Goal: what was acknowledged is there again, one hub has a file at a time, and what
goes wrong with files and disks is one sentence. Method: real files, opened again, damaged, locked,
and too large for a limit that the system sets.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from relayrpc.errors import LeaseError, RevisionError, StoreError, StoreFullError
from relayrpc.limits import DEFAULT_LIMITS, KIB
from relayrpc.store.backup import back_up
from relayrpc.store.base import Deletion, Entry, Retention
from relayrpc.store.file import StoreFile
from relayrpc.store.sqlite import SQLiteStore


pytestmark = pytest.mark.integration


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hub.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    store = await SQLiteStore.open(path)
    yield store
    await store.aclose()


# --- what is there again ---


async def test_store_opened_again_is_as_it_was(path: Path) -> None:
    store = await SQLiteStore.open(path)
    lease = await store.grant_lease(60)
    ended = await store.grant_lease(60)
    await store.end_lease(ended)
    first = await store.put("a", b"1")
    await store.put("leased", b"", lease_id=lease)
    await store.retain("log", Retention(records_max=2))
    for number in range(3):
        await store.append("log", b"%d" % number)
    last = await store.delete("a")
    await store.aclose()

    store = await SQLiteStore.open(path)
    snapshot = await store.entries()
    assert snapshot.revision == last
    assert snapshot.entries == [Entry("leased", b"", last - 1, lease)]
    async with store.watch(after=first) as changes:
        assert [await anext(changes), await anext(changes)] == [
            Entry("leased", b"", last - 1, lease),
            Deletion("a", last),
        ]
    assert [record.data for record in await store.read("log")] == [b"1", b"2"]
    assert await store.append("log", b"3") == 4
    assert [record.data for record in await store.read("log")] == [b"2", b"3"]
    assert await store.put("a", b"2") == last + 1
    await store.keep_alive(lease)
    with pytest.raises(LeaseError):
        await store.keep_alive(ended)
    assert await store.grant_lease(60) > ended
    await store.end_lease(lease)
    assert await store.keys() == ["a"]
    await store.aclose()


async def test_lease_has_its_time_from_when_the_store_is_opened(path: Path) -> None:
    store = await SQLiteStore.open(path)
    last = await store.put("k", b"", lease_id=await store.grant_lease(1))
    await store.aclose()
    store = await SQLiteStore.open(path)
    assert await store.keys() == ["k"]
    async with store.watch(after=last) as changes, asyncio.timeout(10):
        assert await anext(changes) == Deletion("k", last + 1)
    await store.aclose()


async def test_store_with_more_than_it_may_hold_keeps_it(path: Path) -> None:
    """Limits that were lowered refuse what comes, and delete nothing."""
    store = await SQLiteStore.open(path)
    for key in "abc":
        await store.put(key, bytes(100))
    await store.aclose()
    limits = replace(DEFAULT_LIMITS, store_keys_max=2, store_bytes_max=150)
    store = await SQLiteStore.open(path, limits=limits)
    assert await store.keys() == ["a", "b", "c"]
    with pytest.raises(StoreFullError):
        await store.put("a", bytes(100))
    await store.delete("a")
    await store.delete("b")
    await store.put("d", bytes(40))
    await store.aclose()


async def test_store_is_the_owners_alone(store: SQLiteStore, path: Path) -> None:
    await store.put("k", b"")
    files = await asyncio.to_thread(lambda: [*path.parent.iterdir()])
    assert {item.name: item.stat().st_mode & 0o077 for item in files} == {
        "hub.db": 0, "hub.db-wal": 0, "hub.db-shm": 0, "hub.db-lock": 0
    }  # fmt: skip


def test_what_is_acknowledged_is_synced(path: Path) -> None:
    """That a killed process loses nothing does not show it: the system would write it later."""
    file = StoreFile(path, DEFAULT_LIMITS)
    asked = {
        name: file._connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "fullfsync")
    }
    assert asked == {"journal_mode": "wal", "synchronous": 2, "fullfsync": 1}
    file.close()


# --- one at a time ---


async def test_second_hub_is_refused_and_the_first_goes_on(
    store: SQLiteStore, path: Path, tmp_path: Path
) -> None:
    (tmp_path / "alias.db").symlink_to(path)
    for name in ("hub.db", "alias.db"):
        with pytest.raises(StoreError) as caught:
            await SQLiteStore.open(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name} is open in another hub"
    code = (
        "import asyncio, pathlib, sys; from relayrpc.store.sqlite import SQLiteStore\n"
        "asyncio.run(SQLiteStore.open(pathlib.Path(sys.argv[1])))"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code, str(path)], capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == (
        f"relayrpc.errors.StoreError: {path} is open in another hub"
    )
    assert await store.put("k", b"") == 1
    await store.aclose()
    await (await SQLiteStore.open(path)).aclose()


async def test_store_whose_opening_is_cancelled_is_not_left_open(path: Path) -> None:
    for _ in range(5):
        opening = asyncio.ensure_future(SQLiteStore.open(path))
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    store = None
    async with asyncio.timeout(10):
        while store is None:
            # One of them may be still about to be closed.
            with contextlib.suppress(StoreError):
                store = await SQLiteStore.open(path)
    await store.aclose()


# --- who waits, and who does not ---


async def test_write_whose_caller_is_cancelled_is_stored_or_not_and_the_others_are(
    store: SQLiteStore,
) -> None:
    puts = [asyncio.ensure_future(store.put(f"k/{number}", b"")) for number in range(10)]
    await asyncio.sleep(0)
    puts[3].cancel()
    done = await asyncio.gather(*puts, return_exceptions=True)
    assert [type(item) for item in done].count(int) == 9
    lease = asyncio.ensure_future(store.grant_lease(60))
    await asyncio.sleep(0)
    lease.cancel()
    # Behind both.
    await store.put("last", b"")
    assert {f"k/{number}" for number in range(10) if number != 3} <= set(await store.keys())
    # Nobody was told of the lease, but the store knows it, and counts its time.
    await store.put("k", b"", lease_id=1)


async def test_no_more_writes_wait_than_may(path: Path) -> None:
    limits = replace(
        DEFAULT_LIMITS,
        store_writes_waiting_max=4,
        store_writes_waiting_bytes_max=100,
        store_value_bytes_max=100,
    )
    store = await SQLiteStore.open(path, limits=limits)
    puts = [store.put(f"k/{number}", b"") for number in range(6)]
    done = await asyncio.gather(*puts, return_exceptions=True)
    assert [str(item) for item in done if isinstance(item, StoreFullError)] == [
        "the store is full: no more than 4 writes at a time"
    ] * 2
    done = await asyncio.gather(
        store.put("a", bytes(60)), store.append("log", bytes(41)), return_exceptions=True
    )
    assert str(done[1]) == "the store is full: no more than 100 bytes at a time"
    # What was written counts no more.
    assert await store.append("log", bytes(100)) == 1
    await store.aclose()


async def test_write_that_comes_to_nothing_leaves_its_neighbours_alone(store: SQLiteStore) -> None:
    done = await asyncio.gather(
        store.put("a", b"1"),
        store.put("a", b"2", expected=7),
        store.put("b", b"3"),
        return_exceptions=True,
    )
    assert (done[0], type(done[1]), done[2]) == (1, RevisionError, 2)
    assert [entry.value for entry in (await store.entries()).entries] == [b"1", b"3"]


# --- files that cannot be used ---


def write_garbage(path: Path) -> None:
    path.write_bytes(b"garbage " * 1000)


def write_other_database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE things (x)")


def write_newer_store(path: Path) -> None:
    asyncio.run(make(path))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def write_damaged_store(path: Path) -> None:
    asyncio.run(make(path))
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


def write_truncated_store(path: Path) -> None:
    asyncio.run(make(path))
    path.write_bytes(path.read_bytes()[:10_000])


async def make(path: Path) -> None:
    store = await SQLiteStore.open(path)
    for number in range(50):
        await store.put(f"k/{number}", bytes(1000))
    await store.aclose()


BAD_FILES: list[tuple[Callable[[Path], None], str]] = [
    (write_garbage, "{path} is no SQLite database, or its first page is damaged"),
    (
        write_other_database,
        "{path} is no store of relayrpc, but another program's SQLite database",
    ),
    (
        write_newer_store,
        "{path} has version 99, and this relayrpc knows up to 2: "
        "use the relayrpc that wrote it, or a newer one",
    ),
    (write_damaged_store, "{path} is damaged (SQLITE_CORRUPT); put a backup in its place"),
    (write_truncated_store, "{path} is damaged (SQLITE_CORRUPT); put a backup in its place"),
    (Path.mkdir, "{path} is a folder, and a store is a file"),
]


@pytest.mark.parametrize(("write", "text"), BAD_FILES, ids=[bad[0].__name__ for bad in BAD_FILES])
def test_file_that_cannot_be_used_is_one_sentence(
    write: Callable[[Path], None], text: str, path: Path
) -> None:
    write(path)
    with pytest.raises(StoreError) as caught:
        asyncio.run(SQLiteStore.open(path))
    assert str(caught.value) == text.format(path=path)
    # Nothing is left open: the next one says the same.
    with pytest.raises(StoreError) as caught:
        asyncio.run(SQLiteStore.open(path))
    assert str(caught.value) == text.format(path=path)


async def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "hub.db"
    with pytest.raises(StoreError, match=f"cannot be made: there is no folder {path.parent}"):
        await SQLiteStore.open(path)


@pytest.fixture
def nobodys_folder() -> Iterator[Path]:
    """A folder that the rest of the test may read, and not write to."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        os.seteuid(os.getuid())
        folder.chmod(0o755)


def become_nobody(folder: Path) -> None:
    if os.getuid() == 0:
        os.seteuid(65534)
    else:
        folder.chmod(0o555)


def test_folder_that_is_read_only_is_one_sentence(nobodys_folder: Path) -> None:
    path = nobodys_folder / "hub.db"
    become_nobody(nobodys_folder)
    with pytest.raises(StoreError) as caught:
        asyncio.run(SQLiteStore.open(path))
    assert str(caught.value) == (
        f"{path} cannot be opened: see whether it and its folder may be written to"
    )


# --- disks that fail ---


@contextlib.contextmanager
def no_file_larger_than(size_bytes: int) -> Iterator[None]:
    """As a disk that fails: what would be written behind that fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_store_survives_a_disk_that_fails_for_a_while(store: SQLiteStore, path: Path) -> None:
    assert await store.put("before", b"") == 1
    with no_file_larger_than(64 * KIB):
        done = await asyncio.gather(
            store.put("small", b""),
            store.put("large", bytes(100 * KIB)),
            store.append("log", b""),
            return_exceptions=True,
        )
        assert {type(item) for item in done} == {StoreError}
        assert {str(item) for item in done} == {
            f"the disk of {path} failed (SQLITE_IOERR_WRITE)"
        }
        assert (await store.entries()).entries == [Entry("before", b"", 1)]
    assert await store.put("large", bytes(100 * KIB)) == 2
    assert await store.append("log", b"") == 1
    assert await store.keys() == ["before", "large"]
    assert await store.delete("large") == 3


async def test_lease_whose_end_cannot_be_stored_lives_until_it_can(
    store: SQLiteStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lease = await store.grant_lease(1)
    last = await store.put("k", b"", lease_id=lease)
    await store.put("large", bytes(100 * KIB))
    with no_file_larger_than(1 * KIB):
        with pytest.raises(StoreError, match="the disk of"):
            await store.end_lease(lease)
        assert await store.get("k") == Entry("k", b"", last, lease)
        await store.keep_alive(lease)
    assert f"lease {lease} could not be ended: the disk of {path} failed" in caplog.text
    async with store.watch(after=last + 1) as changes, asyncio.timeout(10):
        assert await anext(changes) == Deletion("k", last + 2)


# --- backups ---


async def test_backup_is_one_moment_of_a_store_that_is_written_to(
    store: SQLiteStore, path: Path, tmp_path: Path
) -> None:
    """Each writer counts up in two keys, the second after the first: they differ by 1 at most."""
    is_over = False

    async def count(writer: int) -> None:
        number = 0
        while not is_over:
            for key in ("first", "second"):
                await store.put(f"{writer}/{key}", b"%d" % number)
            number += 1

    writers = [asyncio.ensure_future(count(writer)) for writer in range(8)]
    for number in range(5):
        before = (await store.entries()).revision
        made = await asyncio.to_thread(back_up, path, tmp_path / f"{number}.db")
        assert before <= made.revision <= (await store.entries()).revision
        copy = await SQLiteStore.open(tmp_path / f"{number}.db")
        snapshot = await copy.entries()
        assert snapshot.revision == made.revision
        values = {entry.key: int(entry.value) for entry in snapshot.entries}
        for writer in range(8):
            first = values.get(f"{writer}/first", -1)
            assert first - values.get(f"{writer}/second", -1) in (0, 1)
        await copy.aclose()
    is_over = True
    await asyncio.gather(*writers)


def test_backup_takes_no_files_place_and_leaves_nothing_behind(
    path: Path, tmp_path: Path
) -> None:
    asyncio.run(make(path))
    for name, write, text in (
        ("garbage", write_garbage, "is no SQLite database"),
        ("other", write_other_database, "is no store of relayrpc"),
        ("empty", Path.touch, "is empty; there is nothing to back up"),
        ("none", lambda _: None, "there is no file"),
    ):
        write(tmp_path / name)
        with pytest.raises(StoreError, match=text):
            back_up(tmp_path / name, tmp_path / "copy.db")
    with pytest.raises(StoreError, match="cannot be made: No such file or directory"):
        back_up(path, tmp_path / "missing" / "copy.db")
    assert back_up(path, tmp_path / "copy.db").revision == 50
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        # Whoever reads it needs no place for a log.
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    before = (tmp_path / "copy.db").read_bytes()
    with pytest.raises(StoreError, match="is there already; a backup takes no file's place"):
        back_up(path, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_bytes() == before
    assert not [item.name for item in tmp_path.iterdir() if item.name.startswith(".backup")]


def test_backup_of_a_damaged_store_is_not_made(path: Path, tmp_path: Path) -> None:
    """A page of values: opening the store reads none of them."""
    asyncio.run(make(path))
    content = bytearray(path.read_bytes())
    # The last page that belongs to a table.
    content[-4096:] = b"\xff" * 4096
    path.write_bytes(content)
    with pytest.raises(StoreError, match="is damaged"):
        back_up(path, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


async def test_backup_that_the_disk_has_no_room_for_is_not_made(
    store: SQLiteStore, path: Path, tmp_path: Path
) -> None:
    await store.put("k", bytes(100 * KIB))
    with no_file_larger_than(64 * KIB), pytest.raises(StoreError) as caught:
        back_up(path, tmp_path / "copy.db")
    assert str(caught.value) == f"the disk of {tmp_path / 'copy.db'} failed (SQLITE_IOERR_WRITE)"
    assert not (tmp_path / "copy.db").exists()
