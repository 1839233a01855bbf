"""
The caller's channel: a grpc.aio.Channel whose calls go over one live link.

Owns: starting calls, the life of the channel. Does not own: connecting (live_link.py), what happens
in a call.
Source: grpc.aio.Channel; DESIGN.md decision 10.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Self

import grpc
import grpc.aio

from relayrpc.endpoint.inbox import Assembly, Inbox
from relayrpc.endpoint.metadata import (
    EMPTY,
    InvocationMetadata,
    MetadataInput,
    MetadataTooLargeError,
    Pairs,
    encode_invocation_metadata,
)
from relayrpc.endpoint.multicallable import (
    StreamStreamMultiCallable,
    StreamUnaryMultiCallable,
    UnaryStreamMultiCallable,
    UnaryUnaryMultiCallable,
)
from relayrpc.errors import UsageError
from relayrpc.link.call import (
    STATUS_DEADLINE_EXCEEDED,
    STATUS_INTERNAL,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
)
from relayrpc.link.messages import encode_message
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.trace import Span

    from relayrpc.endpoint.call_core import CallCore
    from relayrpc.endpoint.live_link import LiveLink
    from relayrpc.link.call import Call
    from relayrpc.observe.tracing import Tracing


__all__ = ["NO_CREDENTIALS", "Channel"]

NO_CREDENTIALS: Final = (
    "Call credentials are not supported by a relay's channel; send a token as metadata"
)

_LOGGER: Final = logging.getLogger("relayrpc")
_CLOSED: Final = "Channel is closed."
# 285 years: what is longer, infinity too, waits as long.
_TIMEOUT_S_MAX: Final = 2.0**53 / 1e6
_FORKED: Final = "this channel was made before fork(); a child process needs a channel of its own"
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

    loop: asyncio.AbstractEventLoop
    """Set when the channel is first used."""

    def __init__(
        self,
        live: LiveLink,
        *,
        address: str = "",
        interceptors: Iterable[grpc.aio.ClientInterceptor] = (),
    ) -> None:
        """
        Args:
            live: The link; started by the channel, and closed with it.
            address: Where the calls go; empty: each to its service's default address.
            interceptors: Outermost first; each counts for the shape its class names.

        Raises:
            ValueError: An interceptor of no known kind.
        """
        self.live = live
        self.limits = live.limits
        self.message_bytes_max = live.limits.message_bytes_max
        self.clock: Callable[[], float] = live.now_s
        # Cores of the calls that are not over, in the order of their start.
        self.calls: dict[CallCore, None] = {}
        self._intercepted: weakref.WeakKeyDictionary[grpc.aio.Call, None] = (
            weakref.WeakKeyDictionary()
        )
        self._address = address
        self._assembly = Assembly(live.limits)
        # Set by start() where the process has an OpenTelemetry SDK; else no call has a span.
        self._tracing: Tracing | None = None
        self._interceptors = _sort_interceptors(interceptors)
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
        exc: BaseException | None,
        traceback: TracebackType | None,
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
        self._refusal = _CLOSED
        if self._is_started:
            if grace and self.calls:
                ends = [self.loop.create_task(core.wait_end()) for core in list(self.calls)]
                _, running = await asyncio.wait(ends, timeout=grace)
                for task in running:
                    task.cancel()
            for call in list(self._intercepted):
                call.cancel()
            for core in list(self.calls):
                core.cancel_here()
        await self.live.aclose()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the link's state; READY means that the hub is reached."""
        if try_to_connect and self._refusal is None:
            self.start()
        if self._refusal is _CLOSED:
            return grpc.ChannelConnectivity.SHUTDOWN
        return self.live.state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the state is another one."""
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
            self._tracing = self.live.find_tracing()
            self.live.start()
            self._is_started = True

    def require_open(self) -> None:
        """Raise what a call on a closed channel raises, and start the link."""
        if self._refusal is not None:
            raise grpc.aio.UsageError(self._refusal)
        self.start()

    # --- starting calls ---

    def open_unary(
        self,
        core: CallCore,
        method: str,
        shape: pb.Shape,
        serializer: Callable[[Any], bytes] | None,
        request: Any,
        timeout: float | None,
        metadata: MetadataInput | InvocationMetadata,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
    ) -> None:
        """
        Start a call with one request.

        What the program did wrong raises; what stands in the way of the call ends it.
        """
        if self._refusal is not None or not self._is_started:
            self.require_open()
        try:
            data = request if serializer is None else serializer(request)
        except Exception:
            _LOGGER.exception("request serializer failed")
            core.fail(STATUS_INTERNAL, "Exception serializing request!")
            return
        if (
            metadata
            or credentials is not None
            or timeout is not None
            or self._tracing is not None
        ):
            self._open(
                core,
                method,
                shape,
                encode_message(data),
                True,
                timeout,
                metadata,
                credentials,
                wait_for_ready,
            )
            return
        # The plain case, written out.
        try:
            link = self.live.link
            core.call = link.open_call(
                method,
                self._address,
                shape=shape,
                app=core,
                data=encode_message(data),
                half_close=True,
                wait_for_ready=bool(wait_for_ready),
                now_s=0.0,
            )
        except UsageError as exc:
            core.fail(STATUS_UNAVAILABLE, str(exc))
            return
        self.calls[core] = None
        link.flush_soon()

    def open_stream(
        self,
        core: CallCore,
        method: str,
        shape: pb.Shape,
        timeout: float | None,
        metadata: MetadataInput | InvocationMetadata,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
    ) -> None:
        """Start a call whose requests follow."""
        self.require_open()
        self._open(core, method, shape, b"", False, timeout, metadata, credentials, wait_for_ready)

    def _open(
        self,
        core: CallCore,
        method: str,
        shape: pb.Shape,
        data: bytes,
        half_close: bool,
        timeout: float | None,
        metadata: MetadataInput | InvocationMetadata,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
    ) -> None:
        if credentials is not None:
            raise grpc.aio.UsageError(NO_CREDENTIALS)
        address, instance, sticky_key = self._address, "", ""
        pairs = EMPTY
        if metadata:
            try:
                pairs, relay_keys = encode_invocation_metadata(
                    metadata, limit_bytes=self.limits.metadata_bytes_max
                )
            except MetadataTooLargeError as exc:
                core.fail(STATUS_RESOURCE_EXHAUSTED, str(exc))
                return
            address = relay_keys.address or address
            instance, sticky_key = relay_keys.instance, relay_keys.sticky_key
        now_s = self.clock()
        if timeout is not None:
            core.deadline_s = now_s + min(_TIMEOUT_S_MAX, timeout)
            if timeout <= 0:
                core.fail(STATUS_DEADLINE_EXCEEDED, "Deadline Exceeded")
                return
        if self._tracing is not None:
            pairs = self._trace(self._tracing, core, method, address, pairs)
        try:
            link = self.live.link
            core.call = link.open_call(
                method,
                address,
                shape=shape,
                app=core,
                metadata=pairs,
                deadline_s=core.deadline_s,
                data=data,
                half_close=half_close,
                sticky_key=sticky_key,
                instance=instance,
                wait_for_ready=bool(wait_for_ready),
                now_s=now_s,
            )
        except UsageError as exc:
            core.fail(STATUS_UNAVAILABLE, str(exc))
            return
        self.calls[core] = None
        link.flush_soon()

    def _trace(
        self, tracing: Tracing, core: CallCore, method: str, address: str, pairs: Pairs
    ) -> Pairs:
        """Make the span of a call; returns its metadata with the span's context in it."""
        span = tracing.start_caller_span(method, address)
        core.add_callback(functools.partial(_end_span, tracing, span), core)
        return tracing.carry(span, pairs, limit_bytes=self.limits.metadata_bytes_max)

    def make_inbox(self, call: Call) -> Inbox:
        """Make the inbox of a call's responses; the OPEN gave the first credit."""
        return Inbox(
            call,
            credit_bytes=self.limits.initial_credit_bytes,
            limits=self.limits,
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
        """Refuse everything in a child process: the link's socket is the parent's."""
        self._refusal = _FORKED


_READY: Final = grpc.ChannelConnectivity.READY


def _end_span(tracing: Tracing, span: Span, core: CallCore) -> None:
    outcome = core.outcome()
    tracing.end_span(
        span,
        status=outcome.status,
        is_caller=True,
        origin=outcome.origin,
        may_have_executed=outcome.may_have_executed,
        details=outcome.details,
    )


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
