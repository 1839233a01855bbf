"""
A store that lasts as long as its process. Owns: the tables, as they are in memory.

Everything happens at once, on the loop's thread, and by the loop's time, so that it runs in a
simulation. It keeps no promise of durability; all the others it does.
Source: relayrpc/store/base.py.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.store.base import Change, Deletion, Entry, Record, Retention, Snapshot
from relayrpc.store.checks import (
    bounds_of,
    check_expected,
    check_reached,
    check_record,
    check_remembered,
    check_retention,
    check_room,
    check_value,
)
from relayrpc.store.local import LocalStore


__all__ = ["MemoryStore"]


@dataclass(slots=True)
class _Log:
    retention: Retention = field(default_factory=Retention)
    last: int = 0
    """Sequence of the newest record there ever was."""
    size_bytes: int = 0
    records: deque[Record] = field(default_factory=deque)
    """Without gaps, up to `last`."""


class MemoryStore(LocalStore):
    """
    A store in memory; needs a running loop to be made.

    Nobody waits in it: what a method does is done at once, and cancelling changes nothing.
    """

    def __init__(
        self, *, limits: Limits = DEFAULT_LIMITS, wall_clock: Callable[[], float] = time.time
    ) -> None:
        """
        Args:
            limits: How much it may hold.
            wall_clock: Seconds since 1970; what records are dated by.
        """
        super().__init__(limits, wall_clock, revision=0)
        # Both in the order of revisions, the newest last.
        self._entries: dict[str, Entry] = {}
        self._deletions: dict[str, int] = {}
        # Of the newest deletion that is no longer remembered.
        self._forgotten = 0
        self._size_bytes = 0
        self._lease_id = 0
        # Lease -> its keys.
        self._leased: dict[int, set[str]] = {}
        self._logs: dict[str, _Log] = {}

    # --- keys ---

    async def get(self, key: str) -> Entry | None:
        self._check_name(key)
        return self._entries.get(key)

    async def put(
        self, key: str, value: bytes, *, expected: int | None = None, lease_id: int | None = None
    ) -> int:
        self._check_name(key)
        check_value(value, self._limits)
        if lease_id is not None:
            self._leases.check(lease_id)
        before = self._entries.get(key)
        check_expected(key, expected, before.revision if before else 0)
        size_bytes = self._size_bytes + len(key) + len(value)
        if before:
            size_bytes -= len(key) + len(before.value)
        else:
            check_room("keys", len(self._entries) + 1, self._limits.store_keys_max)
        check_room("bytes", size_bytes, self._limits.store_bytes_max)
        self._remove(key)
        self._revision += 1
        self._size_bytes = size_bytes
        self._entries[key] = Entry(key, bytes(value), self._revision, lease_id)
        if lease_id is not None:
            self._leased[lease_id].add(key)
        self._watchers.wake([key])
        return self._revision

    async def delete(self, key: str, *, expected: int | None = None) -> int:
        self._check_name(key)
        before = self._entries.get(key)
        check_expected(key, expected, before.revision if before else 0)
        if before is None:
            return 0
        self._delete(key)
        self._watchers.wake([key])
        return self._revision

    async def keys(self, prefix: str = "") -> list[str]:
        self._check_prefix(prefix)
        return [key for key in self._entries if key.startswith(prefix)]

    async def entries(self, prefix: str = "") -> Snapshot:
        self._check_prefix(prefix)
        found = [entry for key, entry in self._entries.items() if key.startswith(prefix)]
        return Snapshot(self._revision, found)

    async def _changes(self, prefix: str, known: int, after: int) -> tuple[list[Change], int]:
        deletions_after = max(known, after)
        check_reached("the store", deletions_after, self._revision)
        check_remembered(self._forgotten, deletions_after)
        found: list[Change] = []
        for entry in reversed(self._entries.values()):
            if entry.revision <= after:
                break
            if entry.key.startswith(prefix):
                found.append(entry)
        for key, revision in reversed(self._deletions.items()):
            if revision <= deletions_after:
                break
            if key.startswith(prefix):
                found.append(Deletion(key, revision))
        return sorted(found, key=lambda change: change.revision), self._revision

    # --- leases ---

    async def _grant_lease(self, lease_s: float) -> int:
        check_room("leases", len(self._leases) + 1, self._limits.store_leases_max)
        self._lease_id += 1
        self._leased[self._lease_id] = set()
        self._leases.add(self._lease_id, lease_s)
        return self._lease_id

    def _end_lease(self, lease_id: int) -> None:
        if self._leases.remove(lease_id) is None:
            return
        keys = sorted(self._leased[lease_id], key=lambda key: self._entries[key].revision)
        for key in keys:
            self._delete(key)
        del self._leased[lease_id]
        self._watchers.wake(keys)

    # --- logs ---

    async def append(self, log: str, data: bytes) -> int:
        self._check_name(log)
        check_value(data, self._limits)
        known = self._logs.get(log)
        check_record(data, bounds_of(known.retention if known else Retention(), self._limits))
        kept = self._log(log)
        kept.last += 1
        kept.size_bytes += len(data)
        kept.records.append(Record(kept.last, self._wall_clock(), bytes(data)))
        self._trim(kept)
        self._followers.wake([log])
        return kept.last

    async def _records(self, log: str, after: int) -> list[Record]:
        kept = self._logs.get(log, _Log())
        check_reached(f"the log {log!r}", after, kept.last)
        self._trim(kept)
        first = kept.last - len(kept.records)
        return list(islice(kept.records, max(0, after - first), None))

    async def retain(self, log: str, retention: Retention) -> None:
        self._check_name(log)
        check_retention(retention, self._limits)
        kept = self._log(log)
        # By what was said before: what is hidden for its age does not come again.
        self._trim(kept)
        kept.retention = retention
        self._trim(kept)

    async def drop(self, log: str) -> None:
        self._check_name(log)
        self._logs.pop(log, None)
        self._followers.wake([log])

    def _log(self, name: str) -> _Log:
        if name not in self._logs:
            check_room("logs", len(self._logs) + 1, self._limits.store_logs_max)
            self._logs[name] = _Log()
        return self._logs[name]

    def _trim(self, log: _Log) -> None:
        bounds = bounds_of(log.retention, self._limits)
        oldest_unix_s = self._wall_clock() - bounds.age_s_max
        while log.records and (
            len(log.records) > bounds.records_max
            or log.size_bytes > bounds.bytes_max
            or log.records[0].time_unix_s < oldest_unix_s
        ):
            log.size_bytes -= len(log.records.popleft().data)

    # --- its end ---

    async def aclose(self) -> None:
        self._shut()

    # --- what all of it stands on ---

    def _delete(self, key: str) -> None:
        entry = self._entries[key]
        self._size_bytes -= len(key) + len(entry.value)
        self._remove(key)
        self._revision += 1
        self._deletions[key] = self._revision
        if len(self._deletions) > self._limits.store_deletions_max:
            self._forgotten = self._deletions.pop(next(iter(self._deletions)))

    def _remove(self, key: str) -> None:
        """Forget what was said of a key."""
        entry = self._entries.pop(key, None)
        self._deletions.pop(key, None)
        if entry and entry.lease_id is not None:
            self._leased[entry.lease_id].discard(key)
