"""
The caller's channel: a grpc.aio.Channel whose calls go over one live link.

Owns: the life of the channel. Does not own: connecting (live_link.py), starting calls
(call_opener.py), what happens in one.
Source: grpc.aio.Channel; DESIGN.md decision 10.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Self

import grpc
import grpc.aio

from relayrpc.endpoint.call_opener import CallOpener
from relayrpc.endpoint.inbox import Assembly, Inbox
from relayrpc.endpoint.multicallable import (
    StreamStreamMultiCallable,
    StreamUnaryMultiCallable,
    UnaryStreamMultiCallable,
    UnaryUnaryMultiCallable,
)
from relayrpc.endpoint.options import EndpointOptions
from relayrpc.endpoint.stream_call import StreamStreamCall, UnaryStreamCall
from relayrpc.endpoint.turn_calls import heed_turns
from relayrpc.endpoint.unary_call import StreamUnaryCall, UnaryUnaryCall
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from types import TracebackType

    from relayrpc.endpoint.anchor import Anchor
    from relayrpc.endpoint.attempts import Retries
    from relayrpc.endpoint.call_core import CallCore
    from relayrpc.endpoint.callbacks import CallbackServer
    from relayrpc.endpoint.live_link import LiveLink
    from relayrpc.endpoint.session import Session
    from relayrpc.endpoint.turns import Turn
    from relayrpc.link.call import Call


__all__ = ["Channel"]

_CLOSED: Final = "Channel is closed."
_FORKED: Final = "this channel was used before fork(); a child process needs a channel of its own"
_INTERCEPTOR_KINDS: Final = (
    grpc.aio.UnaryUnaryClientInterceptor,
    grpc.aio.UnaryStreamClientInterceptor,
    grpc.aio.StreamUnaryClientInterceptor,
    grpc.aio.StreamStreamClientInterceptor,
)
_channels: Final[weakref.WeakSet[Channel]] = weakref.WeakSet()


class Channel(grpc.aio.Channel):
    """
    Calls through a hub. Made by `relayrpc.aio.channel()`; belongs to the loop on which it is first
    used.

    It connects with its first call, or when `get_state(try_to_connect=True)` or `channel_ready()`
    asks for it.
    """

    unary_unary_call: type[UnaryUnaryCall] = UnaryUnaryCall
    unary_stream_call: type[UnaryStreamCall] = UnaryStreamCall
    stream_unary_call: type[StreamUnaryCall] = StreamUnaryCall
    stream_stream_call: type[StreamStreamCall] = StreamStreamCall
    cancel_reason = pb.Cancel.REASON_CANCELLED
    """What hosts are told of calls that are cancelled here."""
    loop: asyncio.AbstractEventLoop
    """Set when the channel is first used."""

    def __init__(
        self,
        live: LiveLink,
        *,
        address: str = "",
        interceptors: Iterable[grpc.aio.ClientInterceptor] = (),
        options: EndpointOptions | None = None,
        call_credentials: grpc.CallCredentials | None = None,
        retries: Retries | None = None,
        callbacks: CallbackServer | None = None,
        anchor: Anchor | None = None,
        checks_contracts: bool = False,
        owns_link: bool = True,
        is_traced: bool = True,
        reads_contracts: bool = False,
        bounds_timeouts: bool = False,
    ) -> None:
        """
        Args:
            live: The link; started by the channel.
            address: Where the calls go; empty: each to its service's default address.
            interceptors: Outermost first; each counts for the shape its class names.
            options: gRPC's, as read; its limits are the link's.
            call_credentials: For every call, before its own.
            retries: Decides which failed calls are made again; None: none is.
            callbacks: Serves the calls that hosts make back; None: the link's own.
            anchor: What every call belongs to; None: nothing.
            checks_contracts: The hub is asked whether what generated code declares fits what hosts
                serve.
            owns_link: The link is closed with the channel.
            is_traced: Its calls have spans, where there is tracing.
            reads_contracts: What generated code declares here holds: default addresses, one-way
                calls, default timeouts; else the hub says which addresses there are.
            bounds_timeouts: So do maximum timeouts, of calls that no hub bounds.

        Raises:
            ValueError: An interceptor of no known kind.
            UsageError: The credentials cannot be used.
        """
        self.live = live
        self.limits = live.limits
        # Started, and not refused.
        self.is_open = False
        self.clock: Callable[[], float] = live.now_s
        self.retries = retries
        # Cores of the calls that are not over, in the order of their start.
        self.calls: dict[CallCore, None] = {}
        self._intercepted: weakref.WeakKeyDictionary[grpc.aio.Call, None] = (
            weakref.WeakKeyDictionary()
        )
        self._assembly = Assembly(live.limits)
        self.address = address
        self.reads_contracts = reads_contracts
        self.options = options or EndpointOptions(live.limits)
        self.call_credentials = call_credentials
        self.opener = CallOpener(
            self,
            address=address,
            options=self.options,
            credentials=call_credentials,
            anchor=anchor,
            reads_contracts=reads_contracts,
            bounds_timeouts=bounds_timeouts,
            checks_contracts=checks_contracts,
        )
        # Those that nobody refers to any more have no calls.
        self.sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self.callbacks = callbacks
        self._owns_link = owns_link
        self._is_traced = is_traced
        # What a unary reply is compared with first; a method may have a bound of its own.
        self.message_bytes_max = self.opener.response_bytes_max()
        # A step less for every call.
        self.open_unary = self.opener.open_unary
        self.open_stream = self.opener.open_stream
        if callbacks is not None:
            heed_turns(self, callbacks)
        self.interceptors = tuple(interceptors)
        self._interceptors = _sort_interceptors(self.interceptors)
        # Why no call may be started now; None: one may.
        self._refusal: str | None = None
        self._is_started = False
        _channels.add(self)

    # --- what generated stubs use ---

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnaryMultiCallable:
        """Make the callable of a method, "/pkg.Service/Method"."""
        return UnaryUnaryMultiCallable(
            self, method, request_serializer, response_deserializer, self._interceptors[0]
        )

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryStreamMultiCallable:
        """Make the callable of a method with a response stream."""
        return UnaryStreamMultiCallable(
            self, method, request_serializer, response_deserializer, self._interceptors[1]
        )

    def stream_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> StreamUnaryMultiCallable:
        """Make the callable of a method with a request stream."""
        return StreamUnaryMultiCallable(
            self, method, request_serializer, response_deserializer, self._interceptors[2]
        )

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> StreamStreamMultiCallable:
        """Make the callable of a method with streams both ways."""
        return StreamStreamMultiCallable(
            self, method, request_serializer, response_deserializer, self._interceptors[3]
        )

    # --- life ---

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """
        Refuse new calls, wait up to `grace` seconds for those that run, cancel the rest, and end
        the link. Idempotent.

        Raises:
            ValueError: `grace` is negative.
        """
        if grace is not None and grace < 0:
            raise ValueError(f"grace must be non-negative, got {grace}.")
        if self._refusal is _FORKED:
            # What there is to close is the parent's.
            return
        self.refuse_calls()
        if self._is_started:
            closing = []
            if grace:
                closing = [self.loop.create_task(each.close(grace)) for each in self.sessions]
                await self._calls_over(grace)
            for session in list(self.sessions):
                session.abort()
            await self.end_calls(None)
            if closing:
                await asyncio.wait(closing)
        self.opener.close()
        if self.callbacks is not None:
            await self.callbacks.end()
        if self._owns_link:
            await self.live.aclose()

    def session(self) -> Session:
        """
        Make a channel whose calls all go to the one host that takes the first of them, until it is
        closed or the host is lost.
        """
        # Which is a channel itself.
        from relayrpc.endpoint.session import Session

        session = Session(self)
        self.sessions.add(session)
        return session

    def find_turn(self) -> Turn | None:
        """Return the turn of the handler that a call may come back to; None: there is none."""
        return None

    def serves(self, service: str) -> bool:
        """Say whether hosts that are called may call a service back, by its full name."""
        return self.callbacks is not None and self.callbacks.serves(service)

    def open_calls(self) -> list[CallCore]:
        """Return the cores of the calls that are not over; sessions behind the calls in them."""
        return [*(core for session in self.sessions for core in session.calls), *self.calls]

    async def end_calls(self, grace: float | None) -> None:
        """Wait up to `grace` seconds for the calls that run, and cancel the rest."""
        if grace:
            await self._calls_over(grace)
        for call in list(self._intercepted):
            call.cancel()
        for core in list(self.calls):
            core.cancel_here()

    async def _calls_over(self, timeout_s: float) -> None:
        """Wait until the calls are over, those too that interceptors have yet to start."""
        waits = [core.wait_end() for core in self.calls]
        waits += [_settled(call) for call in self._intercepted if not call.done()]
        ends = [self.loop.create_task(wait) for wait in waits]
        try:
            if ends:
                await asyncio.wait(ends, timeout=timeout_s)
        finally:
            for end in ends:
                end.cancel()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the link's state; READY means that the hub is reached."""
        if try_to_connect and self._refusal is None:
            self.start()
        if self._refusal is _CLOSED:
            return grpc.ChannelConnectivity.SHUTDOWN
        return self.live.state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """
        Wait until the state is another one.

        Raises:
            UsageError: The channel is closed already.
        """
        if self._refusal is not None:
            raise grpc.aio.UsageError(self._refusal)
        loop = asyncio.get_running_loop()
        while self.get_state() is last_observed_state:
            changed: asyncio.Future[None] = loop.create_future()
            await self._wait_changed(changed)

    async def channel_ready(self) -> None:
        """Wait until the hub is reached, however long it takes."""
        while (state := self.get_state(try_to_connect=True)) is not _READY:
            self.require_open()
            await self.wait_for_state_change(state)

    async def wait_for_hub(self, core: CallCore) -> None:
        """Wait until the hub is reached or the call is over."""
        while core.end is None and self.live.state is not _READY:
            await self._wait_changed(core.watch())

    async def _wait_changed(self, changed: asyncio.Future[None]) -> None:
        """Wait for a future, or a change of the link's state."""

        def state_changed(_: grpc.ChannelConnectivity) -> None:
            if not changed.done():
                changed.set_result(None)

        self.live.add_state_callback(state_changed)
        try:
            await changed
        finally:
            self.live.remove_state_callback(state_changed)

    def start(self) -> None:
        """Begin to connect; idempotent. Needs a running loop."""
        if not self._is_started:
            self.loop = asyncio.get_running_loop()
            self.opener.start(self.live.find_tracing() if self._is_traced else None)
            if self.callbacks is not None:
                self.callbacks.begin()
            self.live.start()
            self._is_started = self.is_open = True

    def require_open(self) -> None:
        """Raise what a call on a closed channel raises, and start the link."""
        if self._refusal is not None:
            raise grpc.aio.UsageError(self._refusal)
        self.start()

    def refuse_calls(self) -> None:
        """Take no new calls; those that run go on. Idempotent."""
        self._refuse(_CLOSED)

    def _refuse(self, why: str) -> None:
        self._refusal = why
        self.is_open = False

    def make_inbox(self, call: Call) -> Inbox:
        """Make the inbox of a call's responses; the OPEN gave the first credit."""
        return Inbox(
            call,
            credit_bytes=self.limits.initial_credit_bytes,
            limits=self.opener.response_limits(call.method),
            assembly=self._assembly,
            clock=self.clock,
        )

    # --- interceptors ---

    def track_intercepted(self, call: grpc.aio.Call) -> None:
        """
        Remember a call that interceptors may not have started yet, to cancel it when the channel
        closes.
        """
        self._intercepted[call] = None

    def plain_unary_unary(self, *arguments: Any) -> UnaryUnaryMultiCallable:
        """As `unary_unary`, behind the interceptors."""
        return UnaryUnaryMultiCallable(self, *arguments)

    def plain_unary_stream(self, *arguments: Any) -> UnaryStreamMultiCallable:
        """As `unary_stream`, behind the interceptors."""
        return UnaryStreamMultiCallable(self, *arguments)

    def plain_stream_unary(self, *arguments: Any) -> StreamUnaryMultiCallable:
        """As `stream_unary`, behind the interceptors."""
        return StreamUnaryMultiCallable(self, *arguments)

    def plain_stream_stream(self, *arguments: Any) -> StreamStreamMultiCallable:
        """As `stream_stream`, behind the interceptors."""
        return StreamStreamMultiCallable(self, *arguments)

    def refuse_after_fork(self) -> None:
        """Refuse everything in a child process: a link that was started is the parent's."""
        if self._is_started:
            self._refuse(_FORKED)


_READY: Final = grpc.ChannelConnectivity.READY


async def _settled(call: grpc.aio.Call) -> None:
    """Wait for the end of a call, if its interceptors let it come to one."""
    with contextlib.suppress(Exception):
        await call.code()


def _sort_interceptors(
    interceptors: Iterable[grpc.aio.ClientInterceptor],
) -> tuple[tuple[grpc.aio.ClientInterceptor, ...], ...]:
    sorted_out: tuple[list[grpc.aio.ClientInterceptor], ...] = ([], [], [], [])
    for interceptor in interceptors:
        for place, kind in enumerate(_INTERCEPTOR_KINDS):
            if isinstance(interceptor, kind):
                sorted_out[place].append(interceptor)
                break
        else:
            names = " or ".join(kind.__name__ for kind in _INTERCEPTOR_KINDS)
            raise ValueError(f"Interceptor {interceptor} must be {names}.")
    return tuple(tuple(kept) for kept in sorted_out)


def _forked() -> None:
    for channel in list(_channels):
        channel.refuse_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
