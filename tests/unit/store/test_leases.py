"""When leases are over. Goal: not early, not late. Method: times as arguments, then a loop's."""

from __future__ import annotations

import asyncio

import pytest

from relayrpc.errors import LeaseError
from relayrpc.store.base import Deletion
from relayrpc.store.leases import Leases, LeaseTimer
from relayrpc.store.memory import MemoryStore
from relayrpc.testing import run_virtual


def test_lease_is_over_at_its_deadline_and_not_before() -> None:
    leases = Leases()
    leases.add(1, 10.0, now_s=100.0)
    assert leases.next_deadline_s() == 110.0
    assert leases.expired(now_s=109.9) == []
    assert leases.expired(now_s=110.0) == [1]
    assert leases.remove(1) == 10.0
    assert leases.next_deadline_s() is None
    with pytest.raises(LeaseError, match="lease 1 is over"):
        leases.check(1)


def test_lease_kept_alive_has_its_whole_time_again() -> None:
    leases = Leases()
    leases.add(1, 10.0, now_s=100.0)
    leases.keep_alive(1, now_s=109.0)
    assert leases.expired(now_s=118.9) == []
    assert leases.expired(now_s=119.0) == [1]
    leases.remove(1)
    with pytest.raises(LeaseError):
        leases.keep_alive(1, now_s=119.0)


def test_leases_are_over_in_the_order_of_their_deadlines() -> None:
    leases = Leases()
    for lease_id, lease_s in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 9.0)):
        leases.add(lease_id, lease_s, now_s=0.0)
    assert leases.remove(3) == 2.0
    assert leases.remove(3) is None
    assert leases.next_deadline_s() == 1.0
    assert leases.expired(now_s=5.0) == [2, 1]
    assert len(leases) == 3


def test_store_deletes_at_the_moment_a_lease_is_over() -> None:
    """One of 3 s that is kept alive every 2 s, and one that is not."""

    async def lives() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        store = MemoryStore()
        start_s = loop.time()
        gone = []
        kept, lost = await store.grant_lease(3), await store.grant_lease(3)
        await store.put("lost", b"", lease_id=lost)
        last = await store.put("kept", b"", lease_id=kept)
        for index in range(1, 5):
            loop.call_later(2 * index, asyncio.ensure_future, store.keep_alive(kept))
        async with store.watch(after=last) as changes:
            async for change in changes:
                assert isinstance(change, Deletion)
                gone.append((change.key, loop.time() - start_s))
                if len(gone) == 2:
                    break
        await store.aclose()
        return gone

    assert run_virtual(lives) == [("lost", pytest.approx(3)), ("kept", pytest.approx(11))]


def test_closed_timer_calls_nobody() -> None:
    """A lease may come when it is closed: a file's writer was still busy with it."""

    async def closed() -> None:
        timer = LeaseTimer(lambda lease_id: None)
        timer.add(1, 3)
        timer.close()
        timer.add(2, 3)
        assert not asyncio.get_running_loop().timers()  # type: ignore[attr-defined]

    run_virtual(closed)
