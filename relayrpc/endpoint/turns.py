"""
Whose turn it is with a service object: one handler at a time, in the order of the calls.

Owns: the turns of one object, and giving one up while its handler waits on a callback. Does not
own: which object a call gets (instances.py).
Source: WCF's ConcurrencyMode; docs/reference/instances.md.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from relayrpc.errors import UsageError


if TYPE_CHECKING:
    from relayrpc.endpoint.server import Server


__all__ = ["Turn", "Turns", "current_turn"]


class Turns:
    """The turns of one object. Everything runs on the server's loop."""

    def __init__(self) -> None:
        self._holder: Turn | None = None
        self._waiting: deque[tuple[Turn, asyncio.Future[None]]] = deque()

    async def take(self, turn: Turn, *, is_first: bool = False) -> None:
        """
        Wait for a turn.

        Args:
            turn: Whose.
            is_first: Before all others that wait.
        """
        if self._holder is None:
            self._holder = turn
            return
        entry = turn, asyncio.get_running_loop().create_future()
        if is_first:
            self._waiting.appendleft(entry)
        else:
            self._waiting.append(entry)
        try:
            await entry[1]
        except asyncio.CancelledError:
            if self._holder is turn:
                # It came in the same turn of the loop.
                self.give(turn)
            elif entry in self._waiting:
                # Else it was passed over in the same turn of the loop.
                self._waiting.remove(entry)
            raise

    def give(self, turn: Turn) -> None:
        """Let the next one have its turn; no-op for one who has none."""
        if self._holder is not turn:
            return
        self._holder = None
        while self._waiting:
            following, future = self._waiting.popleft()
            if not future.done():
                self._holder = following
                future.set_result(None)
                return

    def is_held_by(self, turn: Turn) -> bool:
        """Say whether it is somebody's turn."""
        return self._holder is turn


class Turn:
    """One handler's, from its start to its return."""

    def __init__(
        self, turns: Turns, server: Server, method: str, *, is_reentrant: bool
    ) -> None:
        """
        Args:
            turns: Of the object.
            server: That the handler is of.
            method: What the handler serves, for errors.
            is_reentrant: Others have turns while it waits on a call that may come back.
        """
        self._turns = turns
        self.server = server
        self._method = method
        self._is_reentrant = is_reentrant
        self._is_over = False
        # Calls that the handler waits on.
        self._waits_count = 0
        # Done when it is its turn again, after those; None: it gave none up.
        self._again: asyncio.Future[None] | None = None
        # One of those is taking it back, for all.
        self._is_taking_back = False

    def end(self) -> None:
        """The handler has returned."""
        self._is_over = True
        self._turns.give(self)

    def require_wait(self) -> None:
        """
        Raise UsageError where the handler could only wait for itself.

        Whoever it calls may have to call this object to answer, and would wait for the handler,
        which waits for the answer.
        """
        if not self._is_reentrant and self._turns.is_held_by(self):
            raise UsageError(
                f"{self._method} would deadlock: it holds its service object while it waits on who "
                "may have to call it; declare the class with concurrency='reentrant' or 'multiple'"
            )

    @contextlib.asynccontextmanager
    async def given_way(self) -> AsyncIterator[None]:
        """Let others have their turns inside the block; it is this one's again behind it."""
        if not self.gives_way:
            yield
            return
        self.give_way()
        try:
            yield
        finally:
            await self.take_back()

    @contextlib.contextmanager
    def given_way_on_thread(self) -> Iterator[None]:
        """As `given_way()`, of a plain handler on its thread."""
        if not self.gives_way:
            yield
            return
        portal = self.server.portal
        # What takes it back comes to the loop behind this.
        portal.handover.submit(self.give_way)
        try:
            yield
        finally:
            portal.run(self.take_back())

    @property
    def gives_way(self) -> bool:
        """True if others may have their turns while the handler waits."""
        return self._is_reentrant and not self._is_over

    def give_way(self) -> None:
        """Let others have their turns until `take_back()`, which is to follow."""
        self._waits_count += 1
        if self._again is None or self._again.done():
            self._again = asyncio.get_running_loop().create_future()
            self._turns.give(self)

    async def take_back(self) -> None:
        """
        Wait until it is this one's turn again, also when cancelled: the handler's code runs in its
        turns alone, and raises CancelledError then.
        """
        again = self._again
        assert again is not None
        cancelled: asyncio.CancelledError | None = None
        self._waits_count -= 1
        if not (self._waits_count or self._is_taking_back or again.done()):
            # The last of the handler's own that waits takes it for all.
            self._is_taking_back = True
            while not self._is_over:
                try:
                    await self._turns.take(self, is_first=True)
                    break
                except asyncio.CancelledError as error:
                    cancelled = error
            self._is_taking_back = False
            if self._is_over or self._waits_count:
                # A wait that began meanwhile is for others' turns too: its end takes this one's.
                self._turns.give(self)
            if self._is_over or not self._waits_count:
                again.set_result(None)
        while not again.done():
            try:
                await asyncio.shield(again)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled


current_turn: Final[ContextVar[Turn | None]] = ContextVar("relayrpc_turn", default=None)
"""The turn of the handler that runs; None: it needs none."""

