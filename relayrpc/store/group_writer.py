"""
Group commit: what gathers while one transaction is under way is the next one.

Owns: what waits, and its bounds; each write is answered when it is on the disk. Runs on the loop's
thread. Does not own: the transaction (file.py).
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from relayrpc.limits import MIB, Limits
from relayrpc.store.checks import check_room
from relayrpc.store.file import Committed, StoreFile


__all__ = ["GroupWriter"]

T = TypeVar("T")

_GROUP_COUNT: Final = 1024
"""Writes in one transaction,"""
_GROUP_BYTES: Final = 8 * MIB
"""... and what they write: those behind it shall not wait long."""


@dataclass(slots=True, eq=False)
class _Waiting:
    write: Callable[[StoreFile], object]
    size_bytes: int
    future: asyncio.Future[Any]


class GroupWriter:
    """Writes to a file, one group after the other."""

    def __init__(
        self,
        file: StoreFile,
        executor: Executor,
        *,
        limits: Limits,
        committed: Callable[[Committed], None],
    ) -> None:
        """
        Args:
            file: Where to.
            executor: The one thread of the file.
            limits: How much may wait.
            committed: Called after each transaction, when its writers are answered.
        """
        self._file = file
        self._executor = executor
        self._limits = limits
        self._committed = committed
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        # Of what waits and what is being written.
        self._size_bytes = 0
        # Not set from the first write that waits until none does.
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    def write(
        self,
        write: Callable[[StoreFile], T],
        size_bytes: int = 0,
        *,
        is_bounded: bool = True,
    ) -> asyncio.Future[T]:
        """
        Have something written, together with all that comes in this turn of the loop.

        Args:
            write: Writes it, in a transaction, on the file's thread.
            size_bytes: What it writes.
            is_bounded: False for what is bounded elsewhere, and cannot be refused.

        Returns:
            Done with what `write` returned or raised when that is on the disk, and with StoreError
            when it could not be brought there. Not to be cancelled.

        Raises:
            StoreFullError: Too much waits already.
        """
        size_bytes_new = self._size_bytes + size_bytes
        if is_bounded:
            limits = self._limits
            check_room("writes at a time", len(self._waiting) + 1, limits.store_writes_waiting_max)
            check_room("bytes at a time", size_bytes_new, limits.store_writes_waiting_bytes_max)
        self._size_bytes = size_bytes_new
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append(_Waiting(write, size_bytes, future))
        if self._is_idle.is_set():
            self._is_idle.clear()
            self._loop.call_soon(self._write_group)
        return future

    async def drain(self) -> None:
        """Return when nothing waits any more."""
        await self._is_idle.wait()

    def _write_group(self) -> None:
        group: list[_Waiting] = []
        size_bytes = 0
        while self._waiting and len(group) < _GROUP_COUNT and size_bytes < _GROUP_BYTES:
            group.append(self._waiting.popleft())
            size_bytes += group[-1].size_bytes
        writes = [waiting.write for waiting in group]
        writing = self._loop.run_in_executor(self._executor, self._file.commit, writes)
        writing.add_done_callback(partial(self._group_written, group))

    def _group_written(self, group: list[_Waiting], writing: asyncio.Future[Committed]) -> None:
        error = writing.exception()
        committed = None if error else writing.result()
        results = committed.results if committed else [error] * len(group)
        for waiting, result in zip(group, results, strict=True):
            self._size_bytes -= waiting.size_bytes
            if isinstance(result, BaseException):
                waiting.future.set_exception(_again(result))
            else:
                waiting.future.set_result(result)
        if committed:
            self._committed(committed)
        if self._waiting:
            self._write_group()
        else:
            self._is_idle.set()


def _again(error: BaseException) -> BaseException:
    """Return an error of its own for each who is told of it: it grows wherever it is raised."""
    another = copy.copy(error)
    another.__cause__ = error
    return another
