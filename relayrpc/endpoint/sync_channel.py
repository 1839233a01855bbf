"""
The blocking channel: a grpc.Channel whose calls go over an async channel on a thread of its own.

Owns: what runs on which thread, connectivity subscriptions, the life of both. Does not own: calls
(sync_call.py), what starts them (sync_multicallable.py), the link.
Source: grpc.Channel; docs/adr/0006-blocking-portal.md.
"""

from __future__ import annotations

import contextvars
import functools
import logging
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Self

import grpc
import grpc.aio

from relayrpc.endpoint.portal import Portal
from relayrpc.endpoint.sync_multicallable import (
    StreamStreamMultiCallable,
    StreamUnaryMultiCallable,
    UnaryStreamMultiCallable,
    UnaryUnaryMultiCallable,
)
from relayrpc.errors import UsageError
from relayrpc.link.call import STATUS_CANCELLED


if TYPE_CHECKING:
    from types import TracebackType

    from relayrpc.endpoint.channel import Channel as AsyncChannel
    from relayrpc.endpoint.sync_core import BlockingCore


__all__ = ["Channel"]

_LOGGER: Final = logging.getLogger("relayrpc")
_CLOSED: Final = "Cannot invoke RPC on closed channel!"
_FORKED: Final = (
    "Cannot invoke RPC on closed channel! It was used before fork(); "
    "a child process needs a channel of its own."
)
_CHANNEL_CLOSED: Final = "Channel closed!"


class Channel(grpc.Channel):
    """
    Calls through a hub, from any thread. Made by `relayrpc.channel()`.

    It starts a thread and connects with its first call, or when `subscribe()` asks for it. Close
    it, or drop it and everything made by it.
    """

    def __init__(self, core: AsyncChannel) -> None:
        """
        Args:
            core: Used on this channel's thread alone, and closed with it.
        """
        self.core = core
        self.portal = Portal(
            "relayrpc channel",
            farewell=functools.partial(_close, core),
            forked=functools.partial(_abandon_calls, core),
        )
        self._subscriptions = _Subscriptions(core, self.portal)
        # Where the process makes spans, a call's is below the span that is current for its caller.
        self._is_traced = False
        self._is_closed = False
        weakref.finalize(self, self.portal.shut_down_soon).atexit = False

    # --- what generated stubs use ---

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnaryMultiCallable:
        """Make the callable of a method, "/pkg.Service/Method"."""
        return UnaryUnaryMultiCallable(self, method, request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryStreamMultiCallable:
        """Make the callable of a method with a response stream."""
        return UnaryStreamMultiCallable(self, method, request_serializer, response_deserializer)

    def stream_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> StreamUnaryMultiCallable:
        """Make the callable of a method with a request stream."""
        return StreamUnaryMultiCallable(self, method, request_serializer, response_deserializer)

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> StreamStreamMultiCallable:
        """Make the callable of a method with streams both ways."""
        return StreamStreamMultiCallable(self, method, request_serializer, response_deserializer)

    # --- life ---

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """
        Refuse new calls, cancel those that run, end the link and the channel's threads. Idempotent;
        may be called from any thread but the channel's own.
        """
        self.portal.require_other_thread()
        self._is_closed = True
        self._subscriptions.clear()
        self.portal.shut_down()

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

    # --- starting calls ---

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
            raise ValueError(_CLOSED)
        if not portal.is_started:
            self._is_traced = self.core.live.find_tracing() is not None
            portal.start()
            if not portal.is_started:
                # Closed in this moment.
                raise ValueError(_CLOSED)
        portal.require_other_thread()

    def start_call(
        self, core: BlockingCore, open_call: Callable[..., None], *arguments: Any
    ) -> None:
        """Have `open_call(core, *arguments)` open a call soon, on the channel's thread."""
        handover = self.portal.handover
        if handover.backlog_count > self.core.limits.calls_open_max:
            # Whoever starts calls faster than they can be opened waits here.
            handover.call(_nothing)
        if self._is_traced:
            run = contextvars.copy_context().run
            handover.submit(run, _open, core, open_call, arguments)
        else:
            handover.submit(_open, core, open_call, arguments)


class _Subscriptions:
    """Who wants to know how the link is."""

    def __init__(self, core: AsyncChannel, portal: Portal) -> None:
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
    for call in list(core.calls):
        call.fail(STATUS_CANCELLED, _CHANNEL_CLOSED)
    await core.close()


def _abandon_calls(core: AsyncChannel) -> None:
    for call in list(core.calls):
        call.abandon(_FORKED)  # type: ignore[attr-defined]  # a BlockingCore, as all of this channel


def _open(
    core: BlockingCore, open_call: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    """Open a call; what stands in the way of that is for the thread that waits for it."""
    try:
        open_call(core, *arguments)
    except grpc.aio.UsageError as exc:
        is_closed = core.channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
        # Closed since the program called.
        core.refuse(ValueError(_CLOSED) if is_closed else UsageError(str(exc)))
    except Exception as exc:
        core.refuse(exc)


def _nothing() -> None:
    """Be waited for."""
