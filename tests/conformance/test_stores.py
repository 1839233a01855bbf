"""Every store passes the one suite, and leaves no task, thread or file handle behind."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from relayrpc.limits import Limits
from relayrpc.store.memory import MemoryStore
from relayrpc.store.sqlite import SQLiteStore
from relayrpc.testing import STORE_CHECKS, run_virtual
from relayrpc.testing.store_suite import StoreCheck


LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@contextlib.asynccontextmanager
async def open_memory_store(limits: Limits) -> AsyncIterator[MemoryStore]:
    store = MemoryStore(limits=limits)
    yield store
    await store.aclose()


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__.strip("_"))
def test_memory_store_passes(check: StoreCheck) -> None:
    """In virtual time: nothing in it depends on anything else."""
    run_virtual(lambda: check(open_memory_store))


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__.strip("_"))
@pytest.mark.parametrize("loop", LOOPS)
def test_sqlite_store_passes(loop: str, check: StoreCheck, tmp_path: Path) -> None:
    @contextlib.asynccontextmanager
    async def open_store(limits: Limits) -> AsyncIterator[SQLiteStore]:
        store = await SQLiteStore.open(tmp_path / "store.db", limits=limits)
        yield store
        await store.aclose()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(check(open_store))
    # Other tests' threads come and go.
    assert not [item for item in threading.enumerate() if item.name.startswith("relayrpc-store")]
    # SQLite leaves its log behind when a connection was not closed.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store.db", "store.db-lock"]
