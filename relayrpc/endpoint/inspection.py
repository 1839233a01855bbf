"""
Message inspectors: the messages of calls as bytes, with the metadata of their call, which gRPC's
interceptors see as objects, or not at all.

At a host an inspector is an interceptor that reads and writes in the place of the handler's own
functions; at a caller it stands between a stub and its channel. Nothing else of a server or channel
knows of it, and both may be grpcio's own.
Source: WCF's IDispatchMessageInspector and IClientMessageInspector; docs/reference/inspectors.md.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from relayrpc.endpoint.handlers import SHAPES


__all__ = ["InspectedCall", "MessageInspector", "inspect_channel"]

_ChannelT = TypeVar("_ChannelT", grpc.aio.Channel, grpc.Channel)


class InspectedCall:
    """
    The call that messages belong to, the same object for all of them at one end.

    Attributes:
        method: "pkg.Service/Method".
        metadata: The caller's, in order. At a caller a request's inspection may add to it, where
            the method takes one.
        data: For inspectors: what is to be known of a request when its response comes.
    """

    __slots__ = ("data", "metadata", "method")

    def __init__(
        self, method: str | bytes, metadata: Iterable[tuple[str, str | bytes]] | None
    ) -> None:
        path = method.decode() if isinstance(method, bytes) else method
        self.method = path.removeprefix("/")
        self.metadata = [(key, value) for key, value in metadata or ()]
        self.data: dict[str, Any] = {}


class MessageInspector(grpc.ServerInterceptor, grpc.aio.ServerInterceptor):
    """
    Sees, and may change, the bytes of each message; override what is of interest.

    For a host it is one of the server's `interceptors`; for a caller it is given to
    `inspect_channel`. What it raises ends the call as a message that cannot be read or written; but
    a call with one request, at its caller, is not made, and raises it.
    """

    def request(self, call: InspectedCall, data: bytes) -> bytes:
        """Return what a request goes on as: to the host, or at the host to its handler."""
        return data

    def response(self, call: InspectedCall, data: bytes) -> bytes:
        """Return what a response goes on as: to the caller, or at the caller to its program."""
        return data

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Have the handler's messages inspected; of blocking servers and of others."""
        found = continuation(handler_call_details)
        if inspect.isawaitable(found):
            return self._intercept_later(found, handler_call_details)
        return self._inspected(found, handler_call_details)

    async def _intercept_later(
        self, found: Awaitable[grpc.RpcMethodHandler | None], details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        return self._inspected(await found, details)

    def _inspected(
        self, handler: grpc.RpcMethodHandler | None, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        if handler is None:
            return None
        call = InspectedCall(details.method, details.invocation_metadata)
        deserialize = handler.request_deserializer or _as_it_is
        serialize = handler.response_serializer or _as_it_is
        shape, _ = SHAPES[bool(handler.request_streaming), bool(handler.response_streaming)]
        make: Callable[..., grpc.RpcMethodHandler] = getattr(grpc, f"{shape}_rpc_method_handler")
        return make(
            getattr(handler, shape),
            request_deserializer=lambda data: deserialize(self.request(call, data)),
            response_serializer=lambda message: self.response(call, serialize(message)),
        )


def _as_it_is(message: bytes) -> bytes:
    return message


def inspect_channel(channel: _ChannelT, *inspectors: MessageInspector) -> _ChannelT:
    """
    Return a channel for stubs whose messages are inspected, as `grpc.intercept_channel` does it for
    interceptors.

    Args:
        channel: The relay's, a session's, a caller's of a handler, or grpcio's own; blocking or
            not. It goes on working beside what is returned, and closes with it.
        inspectors: In the order in which they see a request; a response they see in the opposite
            one.
    """
    kind: Any = _AsyncChannel if isinstance(channel, grpc.aio.Channel) else _SyncChannel
    inspected: _ChannelT = kind(channel, inspectors)
    return inspected


class _MethodBase:
    """
    What a stub holds for a method. Each call is made by one of grpc's own, which reads and writes
    for that call.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        inspectors: tuple[MessageInspector, ...],
        method: str,
        serializer: Callable[[Any], bytes] | None,
        deserializer: Callable[[bytes], Any] | None,
    ) -> None:
        self._make = make
        self._inspectors = inspectors
        self._method = method
        self._serialize = serializer or _as_it_is
        self._deserialize = deserializer or _as_it_is

    def with_call(self, *arguments: Any, **options: Any) -> Any:
        """Call and wait; the call is returned beside its response."""
        return self.start("with_call", *arguments, **options)

    def future(self, *arguments: Any, **options: Any) -> Any:
        """Start a blocking call without waiting for it."""
        return self.start("future", *arguments, **options)

    def start(self, how: str, *arguments: Any, **options: Any) -> Any:
        """Start a call as grpc's method of that name does it."""
        raise NotImplementedError

    def write(self, call: InspectedCall, request: Any) -> bytes:
        """Make what is sent of a request."""
        data = self._serialize(request)
        for inspector in self._inspectors:
            data = inspector.request(call, data)
        return data

    def read(self, call: InspectedCall, data: bytes) -> Any:
        """Make a response of what has come."""
        for inspector in reversed(self._inspectors):
            data = inspector.response(call, data)
        return self._deserialize(data)


class _Method(_MethodBase):
    """Takes one request."""

    def __call__(self, request: Any, *arguments: Any, **options: Any) -> Any:
        """Start a call."""
        return self.start("__call__", request, *arguments, **options)

    def start(
        self,
        how: str,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        **options: Any,
    ) -> Any:
        """Start a call; its metadata may have more then."""
        call = InspectedCall(self._method, metadata)
        data = self.write(call, request)
        started = self._make(self._method, None, functools.partial(self.read, call))
        return getattr(started, how)(data, timeout=timeout, metadata=call.metadata, **options)


class _StreamMethod(_MethodBase):
    """Takes a stream of requests; its metadata go before any of them."""

    def __call__(self, request_iterator: Any = None, *arguments: Any, **options: Any) -> Any:
        """Start a call; given no requests, they are written."""
        return self.start("__call__", request_iterator, *arguments, **options)

    def start(
        self,
        how: str,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        **options: Any,
    ) -> Any:
        """Start a call."""
        call = InspectedCall(self._method, metadata)
        write, read = (functools.partial(each, call) for each in (self.write, self.read))
        started = self._make(self._method, write, read)
        begin = getattr(started, how)
        return begin(request_iterator, timeout=timeout, metadata=metadata, **options)


class _Inspected:
    """What stubs ask a channel for, and its end."""

    def __init__(self, channel: Any, inspectors: tuple[MessageInspector, ...]) -> None:
        self._channel = channel
        self._inspectors = inspectors

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """Make the callable of a method, "/pkg.Service/Method"."""
        return self._method(_Method, "unary_unary", *arguments, **options)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """Make the callable of a method with a response stream."""
        return self._method(_Method, "unary_stream", *arguments, **options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        """Make the callable of a method with a request stream."""
        return self._method(_StreamMethod, "stream_unary", *arguments, **options)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """Make the callable of a method with streams both ways."""
        return self._method(_StreamMethod, "stream_stream", *arguments, **options)

    def _method(
        self,
        kind: type[_MethodBase],
        shape: str,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> _MethodBase:
        make = getattr(self._channel, shape)
        return kind(make, self._inspectors, method, request_serializer, response_deserializer)


class _AsyncChannel(_Inspected, grpc.aio.Channel):
    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """As the channel behind it."""
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """As the channel behind it."""
        state: grpc.ChannelConnectivity = self._channel.get_state(try_to_connect)
        return state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """As the channel behind it."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """As the channel behind it."""
        await self._channel.channel_ready()


class _SyncChannel(_Inspected, grpc.Channel):
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """As the channel behind it."""
        self._channel.close()

    def subscribe(self, callback: Callable[..., Any], try_to_connect: bool | None = False) -> None:
        """As the channel behind it."""
        self._channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[..., Any]) -> None:
        """As the channel behind it."""
        self._channel.unsubscribe(callback)
