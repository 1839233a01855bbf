"""
Processes that write to a store until they are killed: forked, so that each starts in milliseconds.

    python -m tests.support.store_nursery

Reads a job a line, a list of JSON: the file, and from which operation each writer goes on. Of each
it writes "pid", then a line for each operation that was acknowledged, and "over" when the process
is gone. What a writer does is known: `keys_after` and `record`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Final

from relayrpc.store.sqlite import SQLiteStore


__all__ = ["KEY_WRITERS", "LOG_WRITERS", "keys_after", "record"]

KEY_WRITERS: Final = 6
LOG_WRITERS: Final = 2
"""The last ones."""

_KEYS_COUNT: Final = 5
# More than a page of the file, and enough of them for the log to be moved into the file often.
_LARGE_BYTES: Final = 60_000


def operation(writer: int, number: int) -> tuple[str, bytes | None]:
    """Return which key a writer's operation changes, and to what; None: it deletes it."""
    key = f"{writer}/{number * 7 // 2 % _KEYS_COUNT}"
    if number % 5 == 3:
        return key, None
    return key, b"%d %d" % (writer, number) + bytes(_LARGE_BYTES if number % 8 == 1 else number)


def keys_after(writer: int, count: int) -> dict[str, bytes]:
    """Return what a writer's keys hold after so many operations."""
    keys: dict[str, bytes] = {}
    for number in range(count):
        key, value = operation(writer, number)
        if value is None:
            keys.pop(key, None)
        else:
            keys[key] = value
    return keys


def record(writer: int, number: int) -> bytes:
    """Return what a writer's operation appends to its log."""
    return b"%d %d" % (writer, number) + bytes(number % 50)


def _say(*words: object) -> None:
    os.write(sys.stdout.fileno(), (" ".join(map(str, words)) + "\n").encode())


async def _change_keys(store: SQLiteStore, writer: int, number: int) -> None:
    while True:
        key, value = operation(writer, number)
        if value is None:
            revision = await store.delete(key)
        else:
            revision = await store.put(key, value)
        _say(writer, number, revision)
        number += 1


async def _append(store: SQLiteStore, writer: int, number: int) -> None:
    while True:
        sequence = await store.append(f"{writer}", record(writer, number))
        _say(writer, number, sequence)
        number += 1


async def _work(path: Path, start: list[int]) -> None:
    store = await SQLiteStore.open(path)
    async with asyncio.TaskGroup() as group:
        for writer, number in enumerate(start):
            works = _change_keys if writer < KEY_WRITERS else _append
            group.create_task(works(store, writer, number))


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            path, start = json.loads(line)
            _say("pid", os.getpid())
            try:
                asyncio.run(_work(Path(path), start))
            finally:
                # What comes here was not killed: its traceback is on standard error.
                sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
                os._exit(1)
        os.waitpid(pid, 0)
        _say("over")


if __name__ == "__main__":
    main()
