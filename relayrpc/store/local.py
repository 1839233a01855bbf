"""
What stores of one process share: whom to tell of changes, when leases are over, and what is said of
names.

Owns: watching and following, as pages that a store finds behind a position; the time of leases.
Does not own: finding them, and everything else (memory.py, sqlite.py).
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from functools import partial

from relayrpc.errors import UsageError
from relayrpc.limits import Limits
from relayrpc.store.base import Change, Record, Store
from relayrpc.store.checks import check_lease, check_name, check_prefix
from relayrpc.store.feed import Feed, Feeds
from relayrpc.store.leases import LeaseTimer


__all__ = ["LocalStore"]


class LocalStore(Store):
    """A store without a network."""

    def __init__(self, limits: Limits, wall_clock: Callable[[], float], *, revision: int) -> None:
        self._limits = limits
        self._wall_clock = wall_clock
        # The newest that somebody was told.
        self._revision = revision
        self._is_closed = False
        self._watchers = Feeds(limits)
        self._followers = Feeds(limits)
        self._leases = LeaseTimer(self._end_lease)

    def watch(self, prefix: str = "", *, after: int | None = None) -> Feed[Change]:
        self._check_prefix(prefix)
        known = self._revision if after is None else after
        fetch = partial(self._changes, prefix, known)
        return Feed(self._watchers, prefix, fetch, after=0 if after is None else after)

    async def read(self, log: str, *, after: int = 0) -> list[Record]:
        self._check_name(log)
        return await self._records(log, after)

    def follow(self, log: str, *, after: int = 0) -> Feed[Record]:
        self._check_name(log)

        async def fetch(position: int) -> tuple[list[Record], int]:
            records = await self._records(log, position)
            return records, records[-1].sequence if records else position

        return Feed(self._followers, log, fetch, after=after)

    async def grant_lease(self, lease_s: float) -> int:
        self._check_open()
        check_lease(lease_s, self._limits)
        return await self._grant_lease(lease_s)

    async def keep_alive(self, lease_id: int) -> None:
        self._check_open()
        self._leases.keep_alive(lease_id)

    async def end_lease(self, lease_id: int) -> None:
        self._check_open()
        ending = self._end_lease(lease_id)
        if ending is not None:
            await asyncio.shield(ending)

    @abstractmethod
    async def _changes(self, prefix: str, known: int, after: int) -> tuple[list[Change], int]:
        """
        Find a page of changes.

        Args:
            prefix: Where.
            known: Deletions up to this revision are not told.
            after: The position; changes up to it are not told.

        Returns:
            The changes, in the order of revisions, and the position behind them.

        Raises:
            PositionError: Changes are not known any more, or not yet.
        """

    @abstractmethod
    async def _records(self, log: str, after: int) -> list[Record]:
        """Find a page of a log, as `read` does."""

    @abstractmethod
    async def _grant_lease(self, lease_s: float) -> int:
        """Make a lease, as `grant_lease` does, and have `_leases` count its time."""

    @abstractmethod
    def _end_lease(self, lease_id: int) -> asyncio.Future[None] | None:
        """
        End a lease, and have `_leases` count it no more.

        Returns:
            What is done when that is stored; None: it is done, or was over.
        """

    def _shut(self) -> None:
        """Be closed, for everybody but those who close it."""
        self._is_closed = True
        self._leases.close()
        self._watchers.close()
        self._followers.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise UsageError("the store is closed")

    def _check_name(self, name: str) -> None:
        self._check_open()
        check_name(name, self._limits)

    def _check_prefix(self, prefix: str) -> None:
        self._check_open()
        check_prefix(prefix, self._limits)
