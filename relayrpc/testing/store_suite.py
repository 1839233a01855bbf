"""
What every store must do, as checks that run on any of them: keys, watches, leases, logs, bounds.

Owns: the checks. Does not own: opening stores; whoever has one brings a function that opens an
empty one. Waits for conditions; the checks of leases that end take as long as the shortest lease.
Source: relayrpc/store/base.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Final

from relayrpc.errors import (
    LeaseError,
    PositionError,
    RevisionError,
    StoreError,
    StoreFullError,
    UsageError,
)
from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.store.base import Change, Deletion, Entry, Retention, Store
from relayrpc.store.feed import Feed


__all__ = ["STORE_CHECKS", "OpenStore", "StoreCheck", "check_store"]

OpenStore = Callable[[Limits], AbstractAsyncContextManager[Store]]
"""Opens a store that is empty, with some limits; it is closed at the end if it is still open."""

StoreCheck = Callable[[OpenStore], Coroutine[Any, Any, None]]

_PATIENCE_S: Final = 10.0
_SHORT_S: Final = 1.0


async def check_store(open_store: OpenStore) -> None:
    """
    Run every check, each on a fresh store.

    Raises:
        AssertionError: If the store breaks a promise of `Store`.
        TimeoutError: If something it owes does not come.
    """
    for check in STORE_CHECKS:
        await check(open_store)


async def _take(feed: Feed[Change], count: int) -> list[Change]:
    async with asyncio.timeout(_PATIENCE_S):
        return [await anext(feed) for _ in range(count)]


async def _refuses(asked: Awaitable[object], error: type[Exception]) -> Exception:
    """Hold the store to an error of exactly this kind, in one line."""
    (refusal,) = await asyncio.gather(asked, return_exceptions=True)
    assert type(refusal) is error, f"{refusal!r}, and no {error.__name__}"
    assert "\n" not in str(refusal)
    return refusal


async def _keeps_values(open_store: OpenStore) -> None:
    async with open_store(DEFAULT_LIMITS) as store:
        assert await store.get("a") is None
        assert (await store.entries()).revision == 0
        first = await store.put("a", b"")
        second = await store.put("a/b.c_d~$-", bytes(range(256)))
        assert 0 < first < second
        assert await store.get("a") == Entry("a", b"", first)
        assert await store.get("a/b.c_d~$-") == Entry("a/b.c_d~$-", bytes(range(256)), second)
        third = await store.put("a", b"other")
        assert third > second
        assert await store.get("a") == Entry("a", b"other", third)
        assert await store.delete("a") > third
        assert await store.get("a") is None
        assert await store.delete("a") == 0


async def _holds_writers_to_revisions(open_store: OpenStore) -> None:
    async with open_store(DEFAULT_LIMITS) as store:
        refusal = await _refuses(store.put("k", b"", expected=7), RevisionError)
        assert isinstance(refusal, StoreError)
        assert refusal.detail == {"key": "k", "expected": 7, "actual": 0}
        first = await store.put("k", b"one", expected=0)
        await _refuses(store.put("k", b"two", expected=0), RevisionError)
        await _refuses(store.put("k", b"two", expected=first + 1), RevisionError)
        await _refuses(store.delete("k", expected=0), RevisionError)
        second = await store.put("k", b"two", expected=first)
        await _refuses(store.delete("k", expected=first), RevisionError)
        assert await store.get("k") == Entry("k", b"two", second)
        third = await store.delete("k", expected=second)
        assert third > second
        assert await store.delete("k", expected=0) == 0
        assert await store.put("k", b"three", expected=0) > third


async def _lets_one_of_many_create(open_store: OpenStore) -> None:
    async with open_store(DEFAULT_LIMITS) as store:
        puts = [store.put("k", b"%d" % number, expected=0) for number in range(50)]
        results = await asyncio.gather(*puts, return_exceptions=True)
        (winner,) = [number for number, result in enumerate(results) if isinstance(result, int)]
        losers = [result for result in results if not isinstance(result, int)]
        assert {type(result) for result in losers} == {RevisionError}
        entry = await store.get("k")
        assert entry == Entry("k", b"%d" % winner, results[winner])  # type: ignore[arg-type]


async def _numbers_writers_apart(open_store: OpenStore) -> None:
    async with open_store(DEFAULT_LIMITS) as store:
        puts = [store.put(f"k/{number % 7}", b"%d" % number) for number in range(200)]
        revisions = await asyncio.gather(*puts)
        assert len(set(revisions)) == 200
        snapshot = await store.entries("k/")
        assert snapshot.revision == max(revisions)
        assert snapshot.entries == [
            Entry(f"k/{number % 7}", b"%d" % number, revisions[number])
            for number in sorted(range(193, 200), key=revisions.__getitem__)
        ]


async def _finds_by_prefix(open_store: OpenStore) -> None:
    async with open_store(DEFAULT_LIMITS) as store:
        for key in ("a/z", "a/b", "ab", "a", "a/b/c", "b/a", "a-/b"):
            await store.put(key, key.encode())
        last = await store.put("a/z", b"again")
        assert await store.keys("a/") == ["a/b", "a/b/c", "a/z"]
        assert await store.keys("a/b/") == ["a/b/c"]
        assert await store.keys("c/") == []
        assert await store.keys() == ["a/b", "ab", "a", "a/b/c", "b/a", "a-/b", "a/z"]
        snapshot = await store.entries("a/")
        assert snapshot.revision == last
        assert [entry.value for entry in snapshot.entries] == [b"a/b", b"a/b/c", b"again"]


async def _refuses_what_is_malformed(open_store: OpenStore) -> None:
    limits = replace(DEFAULT_LIMITS, store_key_bytes_max=20, store_value_bytes_max=100)
    async with open_store(limits) as store:
        for key in ("", "/", "a/", "/a", "a//b", "a b", "a\n", "a\x00", "ä", "a*", "a>", "k" * 21):
            for asked in (
                store.get(key),
                store.put(key, b""),
                store.delete(key),
                store.append(key, b""),
                store.read(key),
                store.retain(key, Retention()),
                store.drop(key),
            ):
                await _refuses(asked, UsageError)
        for prefix in ("a", "/", "a//", "a /", "k" * 21 + "/"):
            await _refuses(store.keys(prefix), UsageError)
            await _refuses(store.entries(prefix), UsageError)
        await _refuses(store.put("k", bytes(101)), UsageError)
        await _refuses(store.append("k", bytes(101)), UsageError)
        low, high = limits.store_lease_s_min, limits.store_lease_s_max
        for lease_s in (0.0, -1.0, low / 2, high + 1, float("nan")):
            await _refuses(store.grant_lease(lease_s), UsageError)
        for retention in (
            Retention(records_max=0),
            Retention(bytes_max=limits.store_log_bytes_max + 1),
            Retention(age_s_max=-1.0),
        ):
            await _refuses(store.retain("k", retention), UsageError)
        await store.put("k" * 20, bytes(100))
        assert (await store.entries()).revision == 1


async def _is_bounded(open_store: OpenStore) -> None:
    limits = replace(
        DEFAULT_LIMITS,
        store_keys_max=3,
        store_bytes_max=100,
        store_leases_max=2,
        store_logs_max=2,
        store_watchers_max=1,
    )
    async with open_store(limits) as store:
        await store.put("a", bytes(99))
        await _refuses(store.put("b", b""), StoreFullError)
        await _refuses(store.put("a", bytes(100)), StoreFullError)
        await store.put("a", bytes(97))
        await store.put("b", b"")
        await store.put("c", b"")
        await _refuses(store.put("d", b""), StoreFullError)
        await store.delete("c")
        await store.put("d", b"")
        leases = [await store.grant_lease(60), await store.grant_lease(60)]
        await _refuses(store.grant_lease(60), StoreFullError)
        await store.end_lease(leases[0])
        await store.grant_lease(60)
        await store.append("x", b"")
        await store.retain("y", Retention(records_max=1))
        await _refuses(store.append("z", b""), StoreFullError)
        await store.drop("x")
        assert await store.append("z", b"") == 1
        async with store.watch(), store.follow("z"):
            for feed in (store.watch(), store.follow("y")):
                await _refuses(feed.__aenter__(), StoreFullError)
        async with store.watch("a/"):
            pass


async def _watcher_gets_what_is_there_and_what_comes(open_store: OpenStore) -> None:
    async with open_store(DEFAULT_LIMITS) as store:
        gone = await store.put("in/gone", b"")
        second = await store.put("in/b", b"b")
        await store.put("out/a", b"")
        third = await store.put("in/a", b"a")
        assert await store.delete("in/gone") > gone
        async with store.watch("in/") as feed:
            assert await _take(feed, 2) == [Entry("in/b", b"b", second), Entry("in/a", b"a", third)]
            coming = asyncio.ensure_future(anext(feed))
            await store.put("out/b", b"")
            await store.put("in", b"")
            last = await store.put("in/c", b"c")
            async with asyncio.timeout(_PATIENCE_S):
                assert await coming == Entry("in/c", b"c", last)
            deletion = await store.delete("in/b")
            assert await _take(feed, 1) == [Deletion("in/b", deletion)]


async def _watcher_goes_on_after_a_revision(open_store: OpenStore) -> None:
    async with open_store(DEFAULT_LIMITS) as store:
        await store.put("a", b"1")
        await store.put("b", b"1")
        snapshot = await store.entries()
        deletion = await store.delete("a")
        put = await store.put("c", b"1")
        async with store.watch(after=snapshot.revision) as feed:
            assert await _take(feed, 2) == [Deletion("a", deletion), Entry("c", b"1", put)]
        async with store.watch(after=put + 1) as feed:
            await _refuses(anext(feed), PositionError)


async def _watcher_that_is_slow_is_told_the_latest(open_store: OpenStore) -> None:
    async with open_store(DEFAULT_LIMITS) as store:
        async with store.watch("k/") as feed:
            first = await store.put("k/a", b"0")
            assert await _take(feed, 1) == [Entry("k/a", b"0", first)]
            told: list[Change] = []
            for number in range(100):
                await store.put(f"k/{number % 3}", b"%d" % number)
            last = await store.delete("k/a")
            async with asyncio.timeout(_PATIENCE_S):
                while not told or told[-1].revision < last:
                    told.append(await anext(feed))
        revisions = [change.revision for change in told]
        assert revisions == sorted(set(revisions))
        # Each key's last word is the last there was.
        latest = {change.key: change for change in told}
        assert latest.pop("k/a") == Deletion("k/a", last)
        assert [*latest.values()] == (await store.entries("k/")).entries


async def _all_that_is_there_is_told(open_store: OpenStore) -> None:
    """More keys and records, and more bytes, than a store would hand over in one piece."""
    async with open_store(DEFAULT_LIMITS) as store:
        large = bytes(DEFAULT_LIMITS.store_value_bytes_max // 2)
        values = [large if number % 500 == 0 else b"" for number in range(2500)]
        await asyncio.gather(
            *(store.put(f"k/{number}", value) for number, value in enumerate(values)),
            *(store.append("log", b"%d" % number) for number in range(2500)),
        )
        revisions = [entry.revision for entry in (await store.entries("k/")).entries]
        async with store.watch("k/") as feed:
            told = await _take(feed, 10)
            # In the middle of what there is.
            last = await store.put("k/new", b"")
            told += await _take(feed, 2491)
        assert [change.revision for change in told] == [*revisions, last]
        async with store.follow("log") as records, asyncio.timeout(_PATIENCE_S):
            sequences = [(await anext(records)).sequence for _ in range(2500)]
        assert sequences == [*range(1, 2501)]


async def _watcher_that_is_too_far_behind_is_told_so(open_store: OpenStore) -> None:
    limits = replace(DEFAULT_LIMITS, store_deletions_max=2)
    async with open_store(limits) as store:
        for key in "abcd":
            await store.put(key, b"")
        before = (await store.entries()).revision
        first = await store.delete("a")
        second = await store.delete("b")
        async with store.watch(after=before) as feed:
            assert await _take(feed, 2) == [Deletion("a", first), Deletion("b", second)]
        third = await store.delete("c")
        async with store.watch(after=before) as feed:
            await _refuses(anext(feed), PositionError)
        async with store.watch(after=first) as feed:
            assert await _take(feed, 2) == [Deletion("b", second), Deletion("c", third)]
        async with store.watch() as feed:
            assert [change.key for change in await _take(feed, 1)] == ["d"]
        # A key that is put again is no deletion to remember.
        await store.put("b", b"")
        await store.delete("d")
        async with store.watch(after=second) as feed:
            assert [change.key for change in await _take(feed, 3)] == ["c", "b", "d"]


async def _lease_deletes_its_keys(open_store: OpenStore) -> None:
    async with open_store(DEFAULT_LIMITS) as store:
        lease = await store.grant_lease(60)
        other = await store.grant_lease(60)
        assert lease != other
        leased = await store.put("a", b"", lease_id=lease)
        assert await store.get("a") == Entry("a", b"", leased, lease)
        await store.put("b", b"", lease_id=lease)
        await store.put("c", b"", lease_id=lease)
        await store.put("d", b"", lease_id=other)
        await store.put("moved", b"", lease_id=lease)
        await store.put("moved", b"", lease_id=other)
        await store.put("freed", b"", lease_id=lease)
        await store.put("freed", b"")
        await store.delete("b")
        before = (await store.entries()).revision
        await store.keep_alive(lease)
        assert (await store.entries()).revision == before
        async with store.watch(after=before) as feed:
            await store.end_lease(lease)
            assert [change.key for change in await _take(feed, 2)] == ["a", "c"]
        assert await store.keys() == ["d", "moved", "freed"]
        await store.end_lease(lease)
        await _refuses(store.keep_alive(lease), LeaseError)
        refusal = await _refuses(store.put("a", b"", lease_id=lease), LeaseError)
        assert isinstance(refusal, LeaseError)
        assert refusal.detail == {"lease_id": lease}
        assert await store.get("a") is None
        await store.keep_alive(other)


async def _lease_ends_by_itself(open_store: OpenStore) -> None:
    async with open_store(DEFAULT_LIMITS) as store:
        lasting = await store.grant_lease(60)
        lease = await store.grant_lease(_SHORT_S)
        await store.put("stays", b"")
        await store.put("lasts", b"", lease_id=lasting)
        await store.put("goes/b", b"", lease_id=lease)
        last = await store.put("goes/a", b"", lease_id=lease)
        await store.keep_alive(lease)
        async with store.watch(after=last) as feed:
            gone = await _take(feed, 2)
        assert [type(change) for change in gone] == [Deletion, Deletion]
        assert [change.key for change in gone] == ["goes/b", "goes/a"]
        assert await store.keys() == ["stays", "lasts"]
        await _refuses(store.keep_alive(lease), LeaseError)
        await _refuses(store.put("k", b"", lease_id=lease), LeaseError)
        await store.keep_alive(lasting)


async def _log_keeps_order(open_store: OpenStore) -> None:
    async with open_store(DEFAULT_LIMITS) as store:
        assert await store.read("log") == []
        appends = [store.append("log", b"%d" % number) for number in range(100)]
        sequences = await asyncio.gather(*appends)
        assert sorted(sequences) == [*range(1, 101)]
        assert await store.append("log/other", b"") == 1
        records = await store.read("log")
        assert [record.sequence for record in records] == [*range(1, 101)]
        for number, sequence in enumerate(sequences):
            assert records[sequence - 1].data == b"%d" % number
        times = [record.time_unix_s for record in records]
        assert times == sorted(times)
        assert await store.read("log", after=98) == records[98:]
        assert await store.read("log", after=100) == []
        await _refuses(store.read("log", after=101), PositionError)
        await _refuses(store.read("none", after=1), PositionError)
        # Keys are one thing and logs another.
        assert await store.keys() == []


async def _log_is_followed(open_store: OpenStore) -> None:
    async with (
        open_store(DEFAULT_LIMITS) as store,
        store.follow("log") as feed,
        asyncio.timeout(_PATIENCE_S),
    ):
        coming = asyncio.ensure_future(anext(feed))
        await store.append("log", b"1")
        assert (await coming).data == b"1"
        for number in range(2, 10):
            await store.append("log", b"%d" % number)
        data = [(await anext(feed)).data for _ in range(8)]
        assert data == [b"%d" % number for number in range(2, 10)]
        async with store.follow("log", after=8) as late:
            assert (await anext(late)).sequence == 9
        await store.drop("log")
        await _refuses(anext(feed), PositionError)


async def _log_forgets_the_oldest(open_store: OpenStore) -> None:
    limits = replace(
        DEFAULT_LIMITS, store_log_records_max=10, store_log_bytes_max=50, store_value_bytes_max=50
    )
    async with open_store(limits) as store:

        async def sequences(after: int = 0) -> list[int]:
            return [record.sequence for record in await store.read("log", after=after)]

        for _ in range(25):
            await store.append("log", b"")
        assert await sequences() == [*range(16, 26)]
        assert await sequences(after=20) == [*range(21, 26)]
        await store.append("log", bytes(40))
        await store.append("log", bytes(11))
        assert await sequences() == [27]
        await store.append("log", bytes(39))
        assert await sequences() == [27, 28]
        await store.retain("log", Retention(bytes_max=49))
        assert await sequences() == [28]
        await _refuses(store.append("log", bytes(50)), UsageError)
        await store.retain("log", Retention(records_max=2))
        await store.append("log", b"")
        await store.append("log", b"")
        assert await sequences() == [29, 30]
        async with store.follow("log", after=1) as feed, asyncio.timeout(_PATIENCE_S):
            assert (await anext(feed)).sequence == 29
        # What went is not there again, and numbers go on.
        await store.retain("log", Retention())
        assert await sequences() == [29, 30]
        assert await store.append("log", b"") == 31
        await store.drop("log")
        assert await sequences() == []
        assert await store.append("log", b"") == 1


async def _close_ends_everything(open_store: OpenStore) -> None:
    async with open_store(DEFAULT_LIMITS) as store:
        lease = await store.grant_lease(60)
        await store.put("k", b"")
        async with store.watch() as watcher, store.follow("log") as follower:
            assert [change.key for change in await _take(watcher, 1)] == ["k"]
            waiting = [asyncio.ensure_future(anext(feed, None)) for feed in (watcher, follower)]
            await asyncio.sleep(0)
            await store.aclose()
            async with asyncio.timeout(_PATIENCE_S):
                assert await asyncio.gather(*waiting) == [None, None]
                assert await anext(watcher, None) is None
        await store.aclose()
        for asked in (
            store.get("k"),
            store.put("k", b""),
            store.delete("k"),
            store.keys(),
            store.entries(),
            store.grant_lease(60),
            store.keep_alive(lease),
            store.end_lease(lease),
            store.append("log", b""),
            store.read("log"),
            store.retain("log", Retention()),
            store.drop("log"),
        ):
            await _refuses(asked, UsageError)


async def _close_lets_writes_finish(open_store: OpenStore) -> None:
    async with open_store(DEFAULT_LIMITS) as store:
        puts = [asyncio.ensure_future(store.put(f"k/{number}", b"")) for number in range(3000)]
        await asyncio.sleep(0)
        await store.aclose()
        assert len(set(await asyncio.gather(*puts))) == 3000


STORE_CHECKS: Final[tuple[StoreCheck, ...]] = (
    _keeps_values,
    _holds_writers_to_revisions,
    _lets_one_of_many_create,
    _numbers_writers_apart,
    _finds_by_prefix,
    _refuses_what_is_malformed,
    _is_bounded,
    _watcher_gets_what_is_there_and_what_comes,
    _watcher_goes_on_after_a_revision,
    _watcher_that_is_slow_is_told_the_latest,
    _all_that_is_there_is_told,
    _watcher_that_is_too_far_behind_is_told_so,
    _lease_deletes_its_keys,
    _lease_ends_by_itself,
    _log_keeps_order,
    _log_is_followed,
    _log_forgets_the_oldest,
    _close_ends_everything,
    _close_lets_writes_finish,
)
