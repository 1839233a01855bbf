"""
What a store is: keys with values, revisions, watches and leases, and logs that are appended to.

Owns: the interface and its values, nothing else. It holds no more than SQLite and NATS JetStream
both give, so that a hub alone and hubs together run the same code.
Source: docs/reference/store.md; docs/adr/0018-store.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from relayrpc.store.feed import Feed


__all__ = ["Change", "Deletion", "Entry", "Record", "Retention", "Snapshot", "Store"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A key and what it holds."""

    key: str
    value: bytes
    revision: int
    """Of the put that made it, above 0."""
    lease_id: int | None = None
    """Of the lease it ends with; None: it stays until it is deleted."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """A key that is gone: somebody deleted it, or its lease is over."""

    key: str
    revision: int


Change = Entry | Deletion
"""What a watcher is told of a key."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was there at one moment."""

    revision: int
    """The store's; watching after it misses nothing. 0 in a store that was never written to."""
    entries: list[Entry]
    """In the order of their revisions."""


@dataclass(frozen=True, slots=True)
class Record:
    """What was appended to a log."""

    sequence: int
    """Its number in the log: the first has 1, the next one more."""
    time_unix_s: float
    """When it was appended, seconds since 1970 by the store's clock."""
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """
    How much of a log is kept; the oldest records go first. None: as much as `Limits` allows.

    No value may be below 1 or above that limit.
    """

    records_max: int | None = None
    bytes_max: int | None = None
    """Of data; what is around it is not counted."""
    age_s_max: float | None = None
    """Seconds since a record was appended."""


class Store(ABC):
    """
    One store, open. All methods are for the event loop that opened it.

    Keys and the names of logs are paths: segments of letters, digits and `._~$-` joined by "/", in
    all at most `Limits.store_key_bytes_max` bytes. A prefix is "" for everything, or such a path
    with "/" behind it.

    Each change of a key has a revision of its own, above all before it; revisions may leave numbers
    out and never come again. What a method has returned for is stored, as far as the store's kind
    stores at all; of a method that raised `StoreError` itself, or was cancelled, it is not known
    whether it took effect. Whoever was told a revision reads it, or a later one.

    Every method raises:
        UsageError: A key, value or number is not of the form above, or the store is closed; nothing
            changed.
        StoreError: What is below failed: a disk, a network.
    """

    # --- keys ---

    @abstractmethod
    async def get(self, key: str) -> Entry | None:
        """Return what a key holds; None: nothing."""

    @abstractmethod
    async def put(
        self, key: str, value: bytes, *, expected: int | None = None, lease_id: int | None = None
    ) -> int:
        """
        Have a key hold a value.

        Args:
            key: The key.
            value: At most `Limits.store_value_bytes_max` bytes.
            expected: The key's revision now; 0: it holds nothing. None: whatever it holds.
            lease_id: Of the lease it ends with; None: with none, whatever it was before.

        Returns:
            The new revision.

        Raises:
            RevisionError: The key is at another revision; nothing changed.
            LeaseError: The lease is over; nothing changed.
            StoreFullError: There is no room; nothing changed.
        """

    @abstractmethod
    async def delete(self, key: str, *, expected: int | None = None) -> int:
        """
        Have a key hold nothing.

        Args:
            key: The key.
            expected: As in `put`.

        Returns:
            The revision of the deletion; 0: it held nothing, and nothing changed.

        Raises:
            RevisionError: The key is at another revision; nothing changed.
        """

    @abstractmethod
    async def keys(self, prefix: str = "") -> list[str]:
        """Return the keys below a prefix, in the order of their revisions."""

    @abstractmethod
    async def entries(self, prefix: str = "") -> Snapshot:
        """Return all that is below a prefix, as it was at one moment."""

    @abstractmethod
    def watch(self, prefix: str = "", *, after: int | None = None) -> Feed[Change]:
        """
        Tell what changes below a prefix, in the order of revisions:

            async with store.watch("contracts/") as changes:
                async for change in changes: ...

        Nothing is kept for a watcher: it is told the latest of each key that it was not told yet,
        so one that is slow misses values in between, and never the last one. The loop ends when the
        store is closed.

        Args:
            prefix: Where.
            after: The revision that is known, of a snapshot or of the last change. None: none is;
                what is there now comes first.

        Raises:
            StoreFullError: On entering, if `Limits.store_watchers_max` watch already.
            PositionError: In the loop, if changes since are no longer known: more keys than
                `Limits.store_deletions_max` were deleted, or the store is an older one. Start anew
                from a snapshot.
        """

    # --- leases ---

    @abstractmethod
    async def grant_lease(self, lease_s: float) -> int:
        """
        Make a lease: keys that are put with it go when it is over.

        Time is counted by the store, and only while it is open: a lease that was there when the
        store was closed, or lost, has its whole time again from when it is opened.

        Args:
            lease_s: How long it lives without being kept alive, from `Limits.store_lease_s_min`
                to `Limits.store_lease_s_max` seconds; a store may round up to whole ones.

        Returns:
            Its id, above 0, which no other lease of the store has or had.

        Raises:
            StoreFullError: There are `Limits.store_leases_max` already.
        """

    @abstractmethod
    async def keep_alive(self, lease_id: int) -> None:
        """
        Give a lease its whole time again; changes no revision.

        Raises:
            LeaseError: It is over.
        """

    @abstractmethod
    async def end_lease(self, lease_id: int) -> None:
        """Delete the keys of a lease and the lease; one that is over stays so."""

    # --- logs ---

    @abstractmethod
    async def append(self, log: str, data: bytes) -> int:
        """
        Put a record at the end of a log, which comes to be by that.

        Args:
            log: Its name.
            data: At most `Limits.store_value_bytes_max` bytes, and what the log retains.

        Returns:
            The record's sequence.

        Raises:
            UsageError: It is larger than all that the log keeps.
            StoreFullError: There is no room for one more log, or on the disk.
        """

    @abstractmethod
    async def read(self, log: str, *, after: int = 0) -> list[Record]:
        """
        Return the records of a log behind one, oldest first: as many as make a page, and at least
        one where there is any. Those that are no longer kept are passed over.

        Args:
            log: Its name; one that nothing was appended to is empty.
            after: The sequence that is known; 0: none.

        Raises:
            PositionError: The log has not come that far; it is another one.
        """

    @abstractmethod
    def follow(self, log: str, *, after: int = 0) -> Feed[Record]:
        """
        Tell the records of a log behind one, and then those that come, oldest first. Used as
        `watch` is, and ends and raises as it does.

        Args:
            log: Its name; nothing needs to have been appended to it yet.
            after: As in `read`.
        """

    @abstractmethod
    async def retain(self, log: str, retention: Retention) -> None:
        """
        Say how much of a log is kept from now on; what is beyond goes.

        Raises:
            StoreFullError: As in `append`, which also has the log come to be.
        """

    @abstractmethod
    async def drop(self, log: str) -> None:
        """Delete a log; one that is appended to again counts from 1."""

    # --- its end ---

    @abstractmethod
    async def aclose(self) -> None:
        """
        Let what was asked for finish, end watches, and close; a second call does nothing. Leases
        stay.
        """
