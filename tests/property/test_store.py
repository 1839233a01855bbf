"""
A store in a file against a model of it. Goal: it does what it says, whatever came before, and a
file that is opened again is as it was.

Method: a state machine over one store with bounds so narrow that all of them are met; the model is
a few dicts. After each step all that can be read is compared, and what a watch would tell after
each of the latest revisions.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from relayrpc.errors import LeaseError, PositionError, RevisionError, StoreFullError, UsageError
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.store.base import Change, Deletion, Entry, Retention
from relayrpc.store.sqlite import SQLiteStore


pytestmark = pytest.mark.timeout(60)

LIMITS = replace(
    DEFAULT_LIMITS,
    store_value_bytes_max=50,
    store_keys_max=5,
    store_bytes_max=150,
    store_deletions_max=3,
    store_leases_max=3,
    store_logs_max=2,
    store_log_records_max=4,
    store_log_bytes_max=80,
    store_log_age_s_max=1000.0,
)
KEYS = st.sampled_from(["a", "a/b", "a/c", "b", "b/a", "c", "a-"])
LOGS = st.sampled_from(["a", "a/b", "b"])
VALUES = st.integers(0, 50).map(bytes)


@dataclass
class Log:
    last: int = 0
    records: list[tuple[int, float, bytes]] = field(default_factory=list)
    retention: Retention = field(default_factory=Retention)

    def trim(self, now_s: float) -> None:
        records_max = self.retention.records_max or 4
        age_s_max = self.retention.age_s_max or 1000
        del self.records[: max(0, len(self.records) - records_max)]
        while sum(len(data) for _, _, data in self.records) > self.bytes_max:
            del self.records[0]
        while self.records and self.records[0][1] < now_s - age_s_max:
            del self.records[0]

    @property
    def bytes_max(self) -> int:
        return self.retention.bytes_max or 80


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "store.db"
        self.runner = asyncio.Runner()
        self.now_s = 1e9
        self.store = self.opened(self.path)
        self.revision = 0
        self.forgotten = 0
        self.entries: dict[str, Entry] = {}
        self.deletions: dict[str, int] = {}
        self.leases: set[int] = set()
        self.leases_seen: set[int] = set()
        self.logs: dict[str, Log] = {}

    def opened(self, path: Path) -> SQLiteStore:
        opening = SQLiteStore.open(path, limits=LIMITS, wall_clock=lambda: self.now_s)
        return self.runner.run(opening)

    def run(self, asked: Coroutine[Any, Any, Any]) -> Any:
        """Return what comes of it; an error's kind."""

        async def outcome() -> Any:
            try:
                return await asked
            except Exception as error:
                return type(error)

        return self.runner.run(outcome())

    def teardown(self) -> None:
        self.runner.run(self.store.aclose())
        self.runner.close()
        shutil.rmtree(self.folder)

    # --- what the model says ---

    def size_bytes(self) -> int:
        return sum(len(key) + len(entry.value) for key, entry in self.entries.items())

    def put_into_model(
        self, key: str, value: bytes, expected: int | None, lease_id: int | None
    ) -> int | type[Exception]:
        if lease_id is not None and lease_id not in self.leases:
            return LeaseError
        before = self.entries.get(key)
        if expected is not None and expected != (before.revision if before else 0):
            return RevisionError
        size_bytes = self.size_bytes() + len(value)
        size_bytes += -len(before.value) if before else len(key)
        if size_bytes > 150 or len(self.entries) + (before is None) > 5:
            return StoreFullError
        self.revision += 1
        self.deletions.pop(key, None)
        self.entries[key] = Entry(key, value, self.revision, lease_id)
        return self.revision

    def delete_from_model(self, key: str, expected: int | None) -> int | type[Exception]:
        before = self.entries.get(key)
        if expected is not None and expected != (before.revision if before else 0):
            return RevisionError
        if before is None:
            return 0
        del self.entries[key]
        self.revision += 1
        self.deletions[key] = self.revision
        if len(self.deletions) > 3:
            oldest = min(self.deletions, key=self.deletions.__getitem__)
            self.forgotten = self.deletions.pop(oldest)
        return self.revision

    def changes_after(self, after: int) -> list[Change]:
        changes: list[Change] = [Deletion(key, at) for key, at in self.deletions.items()]
        changes += self.entries.values()
        return sorted(
            (change for change in changes if change.revision > after),
            key=lambda change: change.revision,
        )

    # --- what is done ---

    def expected_of(self, key: str, kind: str) -> int | None:
        before = self.entries.get(key)
        revision = before.revision if before else 0
        return {"any": None, "right": revision, "new": 0, "wrong": revision + 1}[kind]

    EXPECTED = st.sampled_from(["any", "right", "new", "wrong"])

    @rule(key=KEYS, value=VALUES, kind=EXPECTED, lease=st.none() | st.integers(0, 4))
    def put(self, key: str, value: bytes, kind: str, lease: int | None) -> None:
        lease_id = None if lease is None else lease + max(self.leases_seen, default=2) - 2
        expected = self.expected_of(key, kind)
        done = self.run(self.store.put(key, value, expected=expected, lease_id=lease_id))
        assert done == self.put_into_model(key, value, expected, lease_id)

    @rule(key=KEYS, kind=EXPECTED)
    def delete(self, key: str, kind: str) -> None:
        expected = self.expected_of(key, kind)
        done = self.run(self.store.delete(key, expected=expected))
        assert done == self.delete_from_model(key, expected)

    @rule(
        writes=st.lists(st.tuples(KEYS, st.none() | VALUES, st.none() | st.just(0)), max_size=12)
    )
    def write_many_at_once(self, writes: list[tuple[str, bytes | None, int | None]]) -> None:
        """One transaction, in which some come to nothing."""

        async def write() -> list[Any]:
            asked = [
                self.store.delete(key, expected=expected)
                if value is None
                else self.store.put(key, value, expected=expected)
                for key, value, expected in writes
            ]
            return await asyncio.gather(*asked, return_exceptions=True)

        done = [item if isinstance(item, int) else type(item) for item in self.run(write())]
        assert done == [
            self.delete_from_model(key, expected)
            if value is None
            else self.put_into_model(key, value, expected, None)
            for key, value, expected in writes
        ]

    @rule()
    def grant_lease(self) -> None:
        lease_id = self.run(self.store.grant_lease(1000))
        if len(self.leases) == 3:
            assert lease_id is StoreFullError
        else:
            assert lease_id > max(self.leases_seen, default=0)
            self.leases.add(lease_id)
            self.leases_seen.add(lease_id)

    @rule(index=st.integers(0, 2))
    def end_lease(self, index: int) -> None:
        if not self.leases_seen:
            return
        lease_id = sorted(self.leases_seen)[-1 - index % len(self.leases_seen)]
        assert self.run(self.store.end_lease(lease_id)) is None
        self.leases.discard(lease_id)
        gone = [entry for entry in self.entries.values() if entry.lease_id == lease_id]
        for entry in sorted(gone, key=lambda entry: entry.revision):
            self.delete_from_model(entry.key, None)
        assert self.run(self.store.keep_alive(lease_id)) is LeaseError

    @rule(name=LOGS, data=VALUES)
    def append(self, name: str, data: bytes) -> None:
        done = self.run(self.store.append(name, data))
        log = self.logs.get(name, Log())
        if len(data) > log.bytes_max:
            assert done is UsageError
        elif name not in self.logs and len(self.logs) == 2:
            assert done is StoreFullError
        else:
            self.logs[name] = log
            log.last += 1
            log.records.append((log.last, self.now_s, data))
            assert done == log.last

    @rule(
        name=LOGS,
        records_max=st.none() | st.integers(1, 4),
        bytes_max=st.none() | st.integers(1, 80),
        age_s_max=st.none() | st.integers(1, 1000),
    )
    def retain(self, name: str, **bounds: int | None) -> None:
        retention = Retention(**bounds)
        done = self.run(self.store.retain(name, retention))
        if name not in self.logs and len(self.logs) == 2:
            assert done is StoreFullError
        else:
            assert done is None
            self.logs.setdefault(name, Log()).retention = retention

    @rule(name=LOGS)
    def drop(self, name: str) -> None:
        assert self.run(self.store.drop(name)) is None
        self.logs.pop(name, None)

    @rule(seconds=st.integers(1, 500))
    def time_passes(self, seconds: int) -> None:
        self.now_s += seconds

    @rule()
    def open_again(self) -> None:
        self.runner.run(self.store.aclose())
        self.store = self.opened(self.path)

    @rule()
    def open_what_a_killed_process_leaves(self) -> None:
        copies = self.folder / "copies"
        copies.mkdir()
        for name in ("store.db", "store.db-wal"):
            shutil.copy(self.folder / name, copies / name)
        self.runner.run(self.store.aclose())
        for name in ("store.db", "store.db-wal"):
            shutil.move(copies / name, self.folder / name)
        copies.rmdir()
        self.store = self.opened(self.path)

    # --- what is seen ---

    @invariant()
    def keys_are_as_in_the_model(self) -> None:
        expected = [change for change in self.changes_after(0) if isinstance(change, Entry)]
        snapshot = self.run(self.store.entries())
        assert (snapshot.revision, snapshot.entries) == (self.revision, expected)
        below = [entry for entry in expected if entry.key.startswith("a/")]
        assert self.run(self.store.entries("a/")).entries == below
        assert self.run(self.store.keys("a/")) == [entry.key for entry in below]
        assert self.run(self.store.get("a")) == self.entries.get("a")

    @invariant()
    def watchers_are_told_what_they_missed(self) -> None:
        for after in range(max(0, self.revision - 5), self.revision):
            changes = self.changes_after(after)
            told = self.run(self.told(after, len(changes)))
            assert told == (PositionError if after < self.forgotten else changes)
        assert self.run(self.told(self.revision + 1, 1)) is PositionError

    async def told(self, after: int, count: int) -> list[Change]:
        async with self.store.watch(after=after) as feed:
            return [await anext(feed) for _ in range(count)]

    @invariant()
    def logs_are_as_in_the_model(self) -> None:
        for name in ("a", "a/b", "b"):
            log = self.logs.get(name, Log())
            log.trim(self.now_s)
            for after in range(max(0, log.last - 5), log.last + 1):
                records = self.run(self.store.read(name, after=after))
                seen = [(item.sequence, item.time_unix_s, item.data) for item in records]
                assert seen == [item for item in log.records if item[0] > after]
            assert self.run(self.store.read(name, after=log.last + 1)) is PositionError


TestStore = StoreMachine.TestCase
# Without shrinking, as each step waits for a disk: it would take minutes.
TestStore.settings = settings(
    max_examples=12, stateful_step_count=40, phases=[Phase.reuse, Phase.generate]
)
