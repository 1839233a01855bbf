"""
What a stub holds for each method: the four callables that start calls.

Source: grpc.aio.UnaryUnaryMultiCallable and its siblings.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from relayrpc.endpoint.intercepted_call import (
    InterceptedStreamStreamCall,
    InterceptedStreamUnaryCall,
    InterceptedUnaryStreamCall,
    InterceptedUnaryUnaryCall,
)
from relayrpc.errors import ConfigError
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.endpoint.channel import Channel
    from relayrpc.endpoint.metadata import MetadataInput


__all__ = [
    "MultiCallable",
    "StreamStreamMultiCallable",
    "StreamUnaryMultiCallable",
    "UnaryStreamMultiCallable",
    "UnaryUnaryMultiCallable",
    "method_name",
]

Serializer = Callable[[Any], bytes] | None
Deserializer = Callable[[bytes], Any] | None
Requests = AsyncIterable[Any] | Iterable[Any]


class MultiCallable:
    """
    One method of one channel. `compression` is accepted and unused: messages are not compressed on
    a link.
    """

    def __init__(
        self,
        channel: Channel,
        method: str,
        serializer: Serializer,
        deserializer: Deserializer,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    ) -> None:
        self._channel = channel
        self._method = method_name(method, channel.limits.name_bytes_max)
        channel.opener.learn(self._method)
        self._serializer = serializer
        self._deserializer = deserializer
        self._interceptors = interceptors
        # What is not to be dropped before this.
        self.keeps: object = None

    def _intercept(
        self,
        kind: Callable[..., Any],
        request: Any,
        timeout: float | None,
        metadata: MetadataInput,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
    ) -> Any:
        self._channel.require_open()
        call = kind(
            self._interceptors,
            request,
            timeout,
            metadata if isinstance(metadata, grpc.aio.Metadata) else _make_metadata(metadata),
            credentials,
            wait_for_ready,
            self._channel,
            f"/{self._method}".encode(),
            self._serializer,
            self._deserializer,
            self._channel.loop,
        )
        self._channel.track_intercepted(call)
        return call


class UnaryUnaryMultiCallable(MultiCallable, grpc.aio.UnaryUnaryMultiCallable):
    """Starts unary-unary calls."""

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: MetadataInput = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.UnaryUnaryCall:
        """Start a call; it runs whether awaited or not."""
        if self._interceptors:
            return self._intercept(
                InterceptedUnaryUnaryCall, request, timeout, metadata, credentials, wait_for_ready
            )
        channel = self._channel
        call = channel.unary_unary_call(channel, self._deserializer)
        channel.open_unary(
            call,
            self._method,
            pb.SHAPE_UNARY_UNARY,
            self._serializer,
            request,
            timeout,
            metadata,
            credentials,
            wait_for_ready,
        )
        return call


class UnaryStreamMultiCallable(MultiCallable, grpc.aio.UnaryStreamMultiCallable):
    """Starts unary-stream calls."""

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: MetadataInput = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.UnaryStreamCall:
        """Start a call."""
        if self._interceptors:
            return self._intercept(
                InterceptedUnaryStreamCall, request, timeout, metadata, credentials, wait_for_ready
            )
        channel = self._channel
        call = channel.unary_stream_call(channel, self._deserializer)
        channel.open_unary(
            call.core,
            self._method,
            pb.SHAPE_UNARY_STREAM,
            self._serializer,
            request,
            timeout,
            metadata,
            credentials,
            wait_for_ready,
        )
        return call


class StreamUnaryMultiCallable(MultiCallable, grpc.aio.StreamUnaryMultiCallable):
    """Starts stream-unary calls."""

    def __call__(
        self,
        request_iterator: Requests | None = None,
        timeout: float | None = None,
        metadata: MetadataInput = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.StreamUnaryCall:
        """Start a call; without an iterator the program writes."""
        if self._interceptors:
            return self._intercept(
                InterceptedStreamUnaryCall,
                request_iterator,
                timeout,
                metadata,
                credentials,
                wait_for_ready,
            )
        channel = self._channel
        call = channel.stream_unary_call(channel, self._serializer, self._deserializer)
        channel.open_stream(
            call.core,
            self._method,
            pb.SHAPE_STREAM_UNARY,
            timeout,
            metadata,
            credentials,
            wait_for_ready,
        )
        call.send_requests(request_iterator)
        return call


class StreamStreamMultiCallable(MultiCallable, grpc.aio.StreamStreamMultiCallable):
    """Starts stream-stream calls."""

    def __call__(
        self,
        request_iterator: Requests | None = None,
        timeout: float | None = None,
        metadata: MetadataInput = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.StreamStreamCall:
        """Start a call; without an iterator the program writes."""
        if self._interceptors:
            return self._intercept(
                InterceptedStreamStreamCall,
                request_iterator,
                timeout,
                metadata,
                credentials,
                wait_for_ready,
            )
        channel = self._channel
        call = channel.stream_stream_call(channel, self._serializer, self._deserializer)
        channel.open_stream(
            call.core,
            self._method,
            pb.SHAPE_STREAM_STREAM,
            timeout,
            metadata,
            credentials,
            wait_for_ready,
        )
        call.send_requests(request_iterator)
        return call


def method_name(method: str | bytes, bytes_max: int) -> str:
    """
    Return "pkg.Service/Method" of what gRPC's channels take, "/pkg.Service/Method".

    Raises:
        ConfigError: No link can carry it.
    """
    name = (method.decode() if isinstance(method, bytes) else method).removeprefix("/")
    size = len(name.encode())
    if not 0 < size <= bytes_max:
        raise ConfigError(
            f'a method of {size} bytes cannot be called; write "/pkg.Service/Method", '
            f"in at most {bytes_max} bytes"
        )
    return name


def _make_metadata(metadata: MetadataInput) -> grpc.aio.Metadata:
    return grpc.aio.Metadata(*(metadata or ()))
