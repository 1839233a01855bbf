"""
The blocking channels that programs make: with a link, on a thread of their own, and on the link of
a blocking server.

Owns: what runs on which thread, connectivity subscriptions, the life of these. Does not own:
starting calls (blocking_channel.py), calls (sync_call.py), the link.
Source: grpc.Channel; docs/adr/0006-blocking-portal.md.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Self

import grpc

from relayrpc.endpoint.blocking_channel import CLOSED, BlockingChannel
from relayrpc.endpoint.portal import PortalThread
from relayrpc.endpoint.sync_core import BlockingCore
from relayrpc.endpoint.sync_session import Session
from relayrpc.errors import UsageError
from relayrpc.link.call import STATUS_CANCELLED


if TYPE_CHECKING:
    from types import TracebackType

    from relayrpc.endpoint.channel import Channel as AsyncChannel


__all__ = ["Channel", "LinkedChannel", "ServerChannel", "abandon_calls"]

_FORKED: Final = (
    f"{CLOSED} It was used before fork(); a child process needs a channel of its own."
)
_CHANNEL_CLOSED: Final = "Channel closed!"


class LinkedChannel(BlockingChannel):
    """What both have: sessions, and telling how the link is."""

    def __init__(self, core: AsyncChannel, portal: PortalThread) -> None:
        super().__init__(core, portal)
        self._subscriptions = _Subscriptions(core, portal)
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def session(self) -> Session:
        """
        Make a channel whose calls all go to the one host that takes the first of them, until it is
        closed or the host is lost.

        Raises:
            ValueError: The channel is closed.
        """
        self.require_open()
        return Session(self, self.portal.handover.call(self.core.session))

    def subscribe(
        self,
        callback: Callable[[grpc.ChannelConnectivity], None],
        try_to_connect: bool | None = False,
    ) -> None:
        """
        Have `callback(state)` called with the state of the link now and whenever it changes; READY
        means that the hub is reached.

        Raises:
            ValueError: The channel is closed.
        """
        self.require_open()
        self._subscriptions.add(callback, try_to_connect=bool(try_to_connect))

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Undo subscribe(); no-op when it is not there."""
        self._subscriptions.remove(callback)


class Channel(LinkedChannel):
    """
    Calls through a hub, from any thread. Made by `relayrpc.channel()`.

    It starts a thread and connects with its first call, or when `subscribe()` asks for it. Close
    it, or drop it and everything made by it.
    """

    portal: PortalThread

    def __init__(self, core: AsyncChannel) -> None:
        """
        Args:
            core: Used on this channel's thread alone, and closed with it.
        """
        portal = PortalThread(
            "relayrpc channel",
            farewell=functools.partial(_close, core),
            forked=functools.partial(abandon_calls, core),
        )
        super().__init__(core, portal)
        if core.callbacks is not None:
            core.callbacks.portal = portal
        weakref.finalize(self, portal.shut_down_soon).atexit = False

    def close(self) -> None:
        """
        Refuse new calls, cancel those that run, end the link and the channel's threads. Idempotent;
        may be called from any thread but the channel's own.
        """
        self.portal.require_other_thread()
        self._is_closed = True
        self._subscriptions.clear()
        self.portal.shut_down()

    def require_open(self) -> None:
        """
        Start the channel's thread, if that was not done.

        Raises:
            ValueError: The channel is closed.
            UsageError: This is the channel's own thread.
        """
        portal = self.portal
        if portal.is_forked:
            raise ValueError(_FORKED)
        if self._is_closed:
            raise ValueError(CLOSED)
        if not portal.is_started:
            self.is_traced = self.core.live.find_tracing() is not None
            portal.start()
            if not portal.is_started:
                # Closed in this moment.
                raise ValueError(CLOSED)
        portal.require_other_thread()


class ServerChannel(LinkedChannel):
    """
    Calls over the link of a blocking server, from any thread. Made by `Server.channel()`, and of
    use while the server runs.
    """

    def close(self) -> None:
        """Refuse new calls and cancel those that run; the server's link stays. Idempotent."""
        self._is_closed = True
        self._subscriptions.clear()
        if self.portal.is_started and not self.portal.is_forked:
            # The server may end meanwhile, and the calls with it.
            with contextlib.suppress(concurrent.futures.CancelledError):
                self.portal.run(_close(self.core))

    def require_open(self) -> None:
        """
        See that calls may start.

        Raises:
            ValueError: The channel is closed.
            UsageError: The server was not started, or this is its own thread.
        """
        if self.portal.is_forked:
            raise ValueError(_FORKED)
        if self._is_closed:
            raise ValueError(CLOSED)
        if not self.portal.is_started:
            raise UsageError("the channel is on the link of a server; start the server first")
        self.is_traced = self.core.live.find_tracing() is not None
        self.portal.require_other_thread()


class _Subscriptions:
    """Who wants to know how the link is."""

    def __init__(self, core: AsyncChannel, portal: PortalThread) -> None:
        self._core = core
        self._portal = portal
        # Guards the list; nothing of the program's is called under it.
        self._lock = threading.Lock()
        self._live: list[_Subscription] = []
        self._is_listening = False

    def add(
        self, callback: Callable[[grpc.ChannelConnectivity], None], *, try_to_connect: bool
    ) -> None:
        subscription = _Subscription(callback)
        with self._lock:
            self._live.append(subscription)
        self._portal.handover.submit(self._begin, subscription, try_to_connect)

    def remove(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        with self._lock:
            for subscription in self._live:
                if subscription.callback == callback:
                    subscription.is_live = False
                    self._live.remove(subscription)
                    break

    def clear(self) -> None:
        with self._lock:
            for subscription in self._live:
                subscription.is_live = False
            self._live.clear()

    def _begin(self, subscription: _Subscription, try_to_connect: bool) -> None:
        if not self._is_listening:
            self._is_listening = True
            self._core.live.add_state_callback(self._state_changed)
        state = self._core.get_state(try_to_connect)
        self._portal.call_back(subscription.tell, state)

    def _state_changed(self, state: grpc.ChannelConnectivity) -> None:
        with self._lock:
            live = list(self._live)
        for subscription in live:
            self._portal.call_back(subscription.tell, state)


class _Subscription:
    """One subscribe()."""

    __slots__ = ("_told", "callback", "is_live")

    def __init__(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        self.callback = callback
        self.is_live = True
        self._told: grpc.ChannelConnectivity | None = None

    def tell(self, state: grpc.ChannelConnectivity) -> None:
        if self.is_live and state is not self._told:
            self._told = state
            self.callback(state)


async def _close(core: AsyncChannel) -> None:
    for call in core.open_calls():
        call.fail(STATUS_CANCELLED, _CHANNEL_CLOSED)
    await core.close()


def abandon_calls(core: AsyncChannel) -> None:
    """Take note of being in the child of a fork, where nobody will tell how its calls end."""
    for call in core.open_calls():
        # The calls that sessions are nobody waits for.
        if isinstance(call, BlockingCore):
            call.abandon(_FORKED)
    for session in core.sessions:
        session.abandon(_FORKED)
