"""
The order in which the handlers of a session's calls begin: that in which the calls were made.

A call has its place from its OPEN on, before interceptors see it, and gives it on when its handler
is called, or when it is over without. Handlers that have begun run side by side. Whoever waits for
a throttle, a service object or a turn with it has come first: nobody holds one of these and waits
for its place, so that no two calls wait for each other.
Owns: the places of one session. Does not own: running handlers (dispatch.py, plain_call.py).
Source: docs/reference/sessions.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final


if TYPE_CHECKING:
    import grpc

    from relayrpc.endpoint.handlers import MethodEntry
    from relayrpc.endpoint.handover import Handover


__all__ = ["Order", "Place"]

# A thread that is about to call a handler has called it then.
_LOOK_AGAIN_S: Final = 0.001
# What a thread makes of a place. The loop sees the first one while the thread tells it.
_BEGINNING: Final = 1
_BEGUN: Final = 2


class Order:
    """The places of one session's calls. Everything runs on the server's loop."""

    __slots__ = ("_loop", "places")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Those that were not given on, and those whose handlers began on threads.
        self.places: dict[Place, bool] = {}

    def enter(self) -> Place:
        """Take the last place."""
        place = Place(self, is_first=not self.places)
        self.places[place] = True
        return place

    def look(self) -> None:
        """Tell the place that is the first one now."""
        places = self.places
        while places:
            first = next(iter(places))
            if first.thread_state == _BEGUN:
                del places[first]
                continue
            if first.thread_state == _BEGINNING:
                self._loop.call_later(_LOOK_AGAIN_S, self.look)
            else:
                first.told()
            return

    def look_soon(self) -> None:
        """As `look()`, when the handler that is called now has run up to its first `await`."""
        if self.places and next(iter(self.places)).is_awaited and not self._loop.is_closed():
            self._loop.call_soon(self.look)

    def make_future(self) -> asyncio.Future[None]:
        """Make one for a task that waits."""
        return self._loop.create_future()


class Place:
    """
    One call's.

    Attributes:
        is_first: The handlers of all calls before have begun, or those calls are over, and the loop
            has seen it; or it was given on. It stays so. For any thread.
        inner: What the server's interceptors were given to go on with, and the entry that it stands
            for: where they give something else, that has the handler called. None: nothing.
        thread_state: What the thread that runs the handler has said.
    """

    __slots__ = ("_callback", "_order", "inner", "is_first", "thread_state")

    def __init__(self, order: Order, *, is_first: bool) -> None:
        self._order = order
        self._callback: Callable[[], object] | None = None
        self.is_first = is_first
        self.inner: tuple[grpc.RpcMethodHandler, MethodEntry] | None = None
        self.thread_state = 0

    @property
    def is_awaited(self) -> bool:
        """True while somebody waits for it to be the first."""
        return self._callback is not None

    def comes_first(self) -> bool:
        """Look whether it is the first one."""
        if not self.is_first:
            self._order.look()
        return self.is_first

    async def wait(self) -> None:
        """Wait until it is the first one."""
        future = self._order.make_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        self.when_first(wake)
        await future

    def when_first(self, callback: Callable[[], object]) -> None:
        """Have a callback called when it is the first one: here, or later."""
        if self.is_first:
            callback()
            return
        self._callback = callback
        self._order.look()

    def told(self) -> None:
        """Take note of being the first."""
        self.is_first = True
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def give(self) -> None:
        """Give it on: the handler is called now, with no `await` before, or never. Idempotent."""
        if self._order.places.pop(self, False):
            self.is_first = True
            self._callback = None
            self._order.look_soon()

    def give_on_thread(self, handover: Handover) -> None:
        """Give it on, on a thread that calls the handler next."""
        # Where somebody comes behind it after this, the loop sees what is said here.
        self.thread_state = _BEGINNING
        if len(self._order.places) > 1:
            # The loop's thread may get ahead of this one here, and is not to go on yet.
            handover.submit(self._order.look)
        self.thread_state = _BEGUN
