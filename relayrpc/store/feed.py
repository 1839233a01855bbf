"""
Watching and following: an iterator that remembers how far it has come and fetches what is behind.

Owns: who listens, and waking them. Keeps nothing for them, so a slow one costs what a fast one
does. Does not own: what is behind a position (the stores).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from relayrpc.errors import StoreFullError, UsageError


if TYPE_CHECKING:
    from relayrpc.limits import Limits


__all__ = ["Feed", "Feeds"]

T = TypeVar("T")

Fetch = Callable[[int], Awaitable[tuple[Sequence[T], int]]]
"""Position -> what comes behind it, as much as makes a page, and the position behind that."""


class Feeds:
    """The open feeds of one kind."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._is_closed = False
        self._open: dict[Feed[Any], None] = {}

    def wake(self, names: Iterable[str]) -> None:
        """Have those look again that are at a name that changed, or above it."""
        for feed in [*self._open]:
            if any(name.startswith(feed.prefix) for name in names):
                feed.wake()

    def close(self) -> None:
        """End all, and those that are opened later."""
        self._is_closed = True
        for feed in [*self._open]:
            feed.wake()

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def add(self, feed: Feed[Any]) -> None:
        """
        Raises:
            StoreFullError: There are as many as may be.
        """
        if len(self._open) >= self._limits.store_watchers_max:
            count = self._limits.store_watchers_max
            raise StoreFullError(f"{count} watch the store already", limit=count)
        self._open[feed] = None

    def discard(self, feed: Feed[Any]) -> None:
        self._open.pop(feed, None)


class Feed(Generic[T]):
    """
    What changes in a store, for one who listens. An async context manager, and an async iterator
    within it; not for two tasks at once.
    """

    def __init__(self, feeds: Feeds, prefix: str, fetch: Fetch[T], *, after: int) -> None:
        """
        Args:
            feeds: Where it is while it is open.
            prefix: Of the names whose changes concern it.
            fetch: Finds what is behind a position.
            after: The position it starts at.
        """
        self.prefix = prefix
        self._feeds = feeds
        self._fetch = fetch
        self._after = after
        self._page: deque[T] = deque()
        self._changed = asyncio.Event()
        self._is_open = False

    def wake(self) -> None:
        """Look again: something may have changed."""
        self._changed.set()

    async def __aenter__(self) -> Self:
        self._feeds.add(self)
        self._is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_open = False
        self._feeds.discard(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if not self._is_open:
            raise UsageError("a watch is used inside `async with`")
        while not self._page:
            if self._feeds.is_closed:
                raise StopAsyncIteration
            # Before fetching: what changes meanwhile sets it again.
            self._changed.clear()
            page, self._after = await self._fetch(self._after)
            self._page.extend(page)
            if not page:
                await self._changed.wait()
        return self._page.popleft()
