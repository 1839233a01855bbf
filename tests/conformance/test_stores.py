"""Every store passes the one suite, and leaves no task, thread or file handle behind."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from relayrpc.limits import Limits
from relayrpc.store.memory import MemoryStore
from relayrpc.testing import STORE_CHECKS, run_virtual
from relayrpc.testing.store_suite import StoreCheck


@contextlib.asynccontextmanager
async def open_memory_store(limits: Limits) -> AsyncIterator[MemoryStore]:
    store = MemoryStore(limits=limits)
    yield store
    await store.aclose()


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__.strip("_"))
def test_memory_store_passes(check: StoreCheck) -> None:
    """In virtual time: nothing in it depends on anything else."""
    run_virtual(lambda: check(open_memory_store))
