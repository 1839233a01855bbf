"""
A store in an SQLite file. Owns: which thread does what, and what is told when it is done.

One thread writes, one reads, and the loop's own touches no file. Does not own: transactions
(group_writer.py, file.py), SQL (key_tables.py, log_tables.py).
Source: relayrpc/store/base.py; docs/adr/0018-store.md.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, Self, TypeVar

from relayrpc.errors import StoreError
from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.store.base import Change, Entry, Record, Retention, Snapshot
from relayrpc.store.checks import check_retention, check_value
from relayrpc.store.faults import faults_of
from relayrpc.store.file import Committed, StoreFile, open_to_read
from relayrpc.store.group_writer import GroupWriter
from relayrpc.store.key_tables import read_changes, read_entry, read_keys, read_snapshot
from relayrpc.store.local import LocalStore
from relayrpc.store.log_tables import read_records


if TYPE_CHECKING:
    import sqlite3


__all__ = ["SQLiteStore"]

P = ParamSpec("P")
T = TypeVar("T")

_LOGGER: Final = logging.getLogger("relayrpc.store")


class SQLiteStore(LocalStore):
    """
    A store in a file, which outlives the process; opened by `open()`.

    What was acknowledged survives the end of the process, and of the machine as far as its disk
    keeps what it says it has written.
    """

    def __init__(
        self,
        file: StoreFile,
        reading: sqlite3.Connection,
        writer: ThreadPoolExecutor,
        *,
        path: Path,
        limits: Limits,
        wall_clock: Callable[[], float],
    ) -> None:
        """Takes what `open()` has opened."""
        super().__init__(limits, wall_clock, revision=file.keys.revision)
        self._path = path
        self._loop = asyncio.get_running_loop()
        # The file is the writer's own, the connection the reader's.
        self._file = file
        self._writer = writer
        self._reading = reading
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="relayrpc-store-reader")
        self._groups = GroupWriter(file, writer, limits=limits, committed=self._committed)
        self._closing: asyncio.Task[None] | None = None
        for lease_id, lease_s in file.leases:
            self._leases.add(lease_id, lease_s)

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        limits: Limits = DEFAULT_LIMITS,
        wall_clock: Callable[[], float] = time.time,
    ) -> Self:
        """
        Open a file; make it where there is none, and bring an older one to this version.

        Args:
            path: The file, on a local disk; SQLite puts three more beside it.
            limits: How much it may hold. One that holds more already keeps it.
            wall_clock: Seconds since 1970; what records are dated by.

        Raises:
            StoreError: It cannot be used, it is no store or a newer relayrpc's, or a hub uses it.
        """
        writer = ThreadPoolExecutor(1, thread_name_prefix="relayrpc-store-writer")
        opening = writer.submit(_open, path, limits)
        try:
            file, reading = await asyncio.wrap_future(opening)
        except BaseException:
            # It may be open, or about to be, when nobody waits for it any more.
            writer.submit(_abandon, opening)
            writer.shutdown(wait=False)
            raise
        return cls(file, reading, writer, path=path, limits=limits, wall_clock=wall_clock)

    # --- keys ---

    async def get(self, key: str) -> Entry | None:
        self._check_name(key)
        return await self._read(read_entry, key)

    async def put(
        self, key: str, value: bytes, *, expected: int | None = None, lease_id: int | None = None
    ) -> int:
        self._check_name(key)
        check_value(value, self._limits)
        if lease_id is not None:
            # Should it end now, that is written behind this.
            self._leases.check(lease_id)
        value = bytes(value)
        return await self._write(
            lambda file: file.keys.put(key, value, expected, lease_id), len(value)
        )

    async def delete(self, key: str, *, expected: int | None = None) -> int:
        self._check_name(key)
        return await self._write(lambda file: file.keys.delete(key, expected))

    async def keys(self, prefix: str = "") -> list[str]:
        self._check_prefix(prefix)
        return await self._read(read_keys, prefix)

    async def entries(self, prefix: str = "") -> Snapshot:
        self._check_prefix(prefix)
        return await self._read(read_snapshot, prefix)

    async def _changes(self, prefix: str, known: int, after: int) -> tuple[list[Change], int]:
        return await self._read(read_changes, prefix, known, after)

    # --- leases ---

    async def _grant_lease(self, lease_s: float) -> int:
        granting = self._groups.write(lambda file: file.keys.grant_lease(lease_s))

        def granted(_: asyncio.Future[int]) -> None:
            if granting.exception() is None:
                self._leases.add(granting.result(), lease_s)

        # Whether or not anybody still waits for it.
        granting.add_done_callback(granted)
        return await asyncio.shield(granting)

    def _end_lease(self, lease_id: int) -> asyncio.Future[None] | None:
        lease_s = self._leases.remove(lease_id)
        if lease_s is None:
            return None
        ending = self._groups.write(lambda file: file.keys.end_lease(lease_id), is_bounded=False)

        def ended(_: asyncio.Future[None]) -> None:
            error = ending.exception()
            if error is not None:
                # Its keys are still there: it ends when it can be stored.
                _LOGGER.warning("lease %d could not be ended: %s", lease_id, error)
                self._leases.add(lease_id, lease_s)

        ending.add_done_callback(ended)
        return ending

    # --- logs ---

    async def append(self, log: str, data: bytes) -> int:
        self._check_name(log)
        check_value(data, self._limits)
        data, now_unix_s = bytes(data), self._wall_clock()
        return await self._write(
            lambda file: file.logs.append(log, data, time_unix_s=now_unix_s), len(data)
        )

    async def _records(self, log: str, after: int) -> list[Record]:
        limits, now_unix_s = self._limits, self._wall_clock()
        return await self._read(read_records, log, after, limits=limits, now_unix_s=now_unix_s)

    async def retain(self, log: str, retention: Retention) -> None:
        self._check_name(log)
        check_retention(retention, self._limits)
        now_unix_s = self._wall_clock()
        await self._write(lambda file: file.logs.retain(log, retention, time_unix_s=now_unix_s))

    async def drop(self, log: str) -> None:
        self._check_name(log)
        await self._write(lambda file: file.logs.drop(log))

    # --- its end ---

    async def aclose(self) -> None:
        if self._closing is None:
            self._shut()
            self._closing = self._loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._groups.drain()
        try:
            # Behind what is still being read.
            await self._loop.run_in_executor(self._reader, self._reading.close)
            await self._loop.run_in_executor(self._writer, self._file.close)
        finally:
            self._reader.shutdown()
            self._writer.shutdown()

    # --- its threads ---

    async def _write(self, write: Callable[[StoreFile], T], size_bytes: int = 0) -> T:
        # It is done whether or not anybody still waits for it.
        return await asyncio.shield(self._groups.write(write, size_bytes))

    def _committed(self, committed: Committed) -> None:
        self._revision = committed.revision
        self._watchers.wake(committed.keys)
        self._followers.wake(committed.logs)

    async def _read(
        self,
        read: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        work = partial(_read, self._path, self._reading, read, *args, **kwargs)
        return await self._loop.run_in_executor(self._reader, work)


def _open(path: Path, limits: Limits) -> tuple[StoreFile, sqlite3.Connection]:
    file = StoreFile(path, limits)
    try:
        with faults_of(path):
            return file, open_to_read(path)
    except StoreError:
        file.close()
        raise


def _abandon(opening: Future[tuple[StoreFile, sqlite3.Connection]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        file, reading = opening.result()
        reading.close()
        file.close()


def _read(
    path: Path,
    connection: sqlite3.Connection,
    read: Callable[Concatenate[sqlite3.Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Read what was there at one moment."""
    with faults_of(path):
        connection.execute("BEGIN")
        try:
            return read(connection, *args, **kwargs)
        finally:
            # An error may have ended it.
            if connection.in_transaction:
                connection.execute("COMMIT")
