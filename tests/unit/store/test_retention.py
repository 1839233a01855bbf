"""
How old the records of a log get. Goal: none that was too old once is seen again.

Method: each store on a clock that the test sets. Counts and bytes are in the suite of every store.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from relayrpc.store.base import Retention, Store
from relayrpc.store.memory import MemoryStore
from relayrpc.store.sqlite import SQLiteStore


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_records_are_kept_as_long_as_the_log_retains(kind: str, tmp_path: Path) -> None:
    now_s = 1e9
    store = await opened(kind, tmp_path, lambda: now_s)
    for _ in range(2):
        await store.append("log", b"")
        now_s += 100
    await store.retain("log", Retention(age_s_max=150))
    assert [record.time_unix_s for record in await store.read("log")] == [1e9 + 100]
    now_s += 50
    assert [record.sequence for record in await store.read("log")] == [2]
    now_s += 1
    # Nobody has looked, or appended, since it became too old.
    await store.retain("log", Retention())
    assert await store.read("log") == []
    assert await store.append("log", b"") == 3
    await store.aclose()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_no_record_is_kept_for_longer_than_the_limit(kind: str, tmp_path: Path) -> None:
    now_s = 1e9
    store = await opened(kind, tmp_path, lambda: now_s)
    await store.append("log", b"")
    now_s += 604_800
    assert len(await store.read("log")) == 1
    now_s += 1
    assert await store.read("log") == []
    await store.aclose()


async def opened(kind: str, folder: Path, wall_clock: Callable[[], float]) -> Store:
    if kind == "memory":
        return MemoryStore(wall_clock=wall_clock)
    return await SQLiteStore.open(folder / "x.db", wall_clock=wall_clock)
