"""
What a blocking stub holds for each method: the four callables that start calls.

Requests are serialized, metadata is checked and responses are deserialized on the program's
threads; the channel's thread has the link alone.
Source: grpc.UnaryUnaryMultiCallable and its siblings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from relayrpc.endpoint.call_credentials import find_plugins
from relayrpc.endpoint.metadata import (
    InvocationMetadata,
    MetadataInput,
    MetadataTooLargeError,
    encode_invocation_metadata,
)
from relayrpc.endpoint.multicallable import method_name
from relayrpc.endpoint.sync_call import StreamCall, UnaryCall
from relayrpc.errors import UsageError
from relayrpc.link.call import (
    STATUS_INTERNAL,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAUTHENTICATED,
)
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.endpoint.blocking_channel import BlockingChannel
    from relayrpc.endpoint.sync_core import BlockingCore, SyncReplyCore


__all__ = [
    "StreamStreamMultiCallable",
    "StreamUnaryMultiCallable",
    "UnaryStreamMultiCallable",
    "UnaryUnaryMultiCallable",
]

_LOGGER: Final = logging.getLogger("relayrpc")
_INSECURE: Final = (
    "Established channel does not have a sufficient security level to transfer call credential."
)

Serializer = Callable[[Any], bytes] | None
Deserializer = Callable[[bytes], Any] | None


class _MultiCallable:
    """
    One method of one channel. `compression` is accepted and unused: messages are not compressed on
    a link.
    """

    def __init__(
        self,
        channel: BlockingChannel,
        method: str,
        serializer: Serializer,
        deserializer: Deserializer,
    ) -> None:
        self._channel = channel
        self._method = method_name(method, channel.core.limits.name_bytes_max)
        channel.core.opener.learn(self._method)
        self._serializer = serializer
        self._deserializer = deserializer

    def _open_unary(
        self,
        core: BlockingCore,
        shape: pb.Shape,
        request: Any,
        timeout: float | None,
        metadata: MetadataInput,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
    ) -> None:
        """Start a call with one request, unless something stands in its way and has ended it."""
        if self._serializer is not None:
            try:
                request = self._serializer(request)
            except Exception:
                _LOGGER.exception("request serializer failed")
                core.fail(STATUS_INTERNAL, "Exception serializing request!")
                core.raise_for_end()
        encoded = self._prepare(core, metadata, credentials)
        if core.end is None:
            channel = self._channel
            channel.require_wait(self._method, encoded, request)
            channel.start_call(
                core,
                channel.core.open_unary,
                self._method,
                shape,
                None,
                request,
                timeout,
                encoded,
                credentials,
                wait_for_ready,
            )

    def _open_stream(
        self,
        core: BlockingCore,
        shape: pb.Shape,
        requests: Iterable[Any],
        timeout: float | None,
        metadata: MetadataInput,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
    ) -> None:
        """Start a call whose requests an iterator gives, on a thread of its own."""
        encoded = self._prepare(core, metadata, credentials)
        if core.end is None:
            channel = self._channel
            channel.require_wait(self._method, encoded)
            channel.start_call(
                core,
                channel.core.open_stream,
                self._method,
                shape,
                timeout,
                encoded,
                credentials,
                wait_for_ready,
            )
            opener = channel.core.opener
            core.send_requests(
                requests,
                self._serializer,
                bytes_max=opener.request_bytes_max(self._method),
                is_opened_later=credentials is not None or opener.may_open_later(self._method),
            )

    def _prepare(
        self,
        core: BlockingCore,
        metadata: MetadataInput,
        credentials: grpc.CallCredentials | None,
    ) -> InvocationMetadata | None:
        """
        Encode metadata; what gRPC tells by a status has ended the call.

        Raises:
            TypeError: A value is of the wrong type.
            UsageError: A key of the relay's own, or credentials whose plugin cannot be seen.
        """
        channel = self._channel.core
        try:
            if credentials is not None:
                find_plugins(credentials)
                if not channel.live.url.is_secure:
                    core.fail(STATUS_UNAUTHENTICATED, _INSECURE)
            if not metadata:
                return None
            limit_bytes = channel.limits.metadata_bytes_max
            return encode_invocation_metadata(metadata, limit_bytes=limit_bytes)
        except grpc.aio.InternalError as exc:
            core.fail(STATUS_INTERNAL, str(exc))
        except MetadataTooLargeError as exc:
            core.fail(STATUS_RESOURCE_EXHAUSTED, str(exc))
        except grpc.aio.UsageError as exc:
            raise UsageError(str(exc)) from None
        return None


class _UnaryResponse(_MultiCallable):
    """A method with one response."""

    # One of the two above, and the shape it is for.
    _open: Callable[..., None]
    _shape: pb.Shape

    def _call(self, *arguments: Any) -> SyncReplyCore:
        """Make a call, and wait until it is over."""
        core = self._make_core()
        try:
            self._open(core, self._shape, *arguments)
            core.wait_over()
        except BaseException:
            core.soon(core.cancel_here)
            raise
        return core

    def _make_core(self) -> SyncReplyCore:
        channel = self._channel
        channel.require_open()
        return channel.reply_core(channel.core, channel.portal, self._deserializer)


class _StreamResponse(_MultiCallable):
    """A method with a response stream."""

    # One of the two above, and the shape it is for.
    _open: Callable[..., None]
    _shape: pb.Shape

    def _start(self, *arguments: Any) -> StreamCall:
        channel = self._channel
        channel.require_open()
        core = channel.stream_core(channel.core, channel.portal, self._deserializer)
        call = StreamCall(core)
        self._open(call.core, self._shape, *arguments)
        return call


class UnaryUnaryMultiCallable(_UnaryResponse, grpc.UnaryUnaryMultiCallable):
    """Starts unary-unary calls."""

    _shape = pb.SHAPE_UNARY_UNARY
    _open = _MultiCallable._open_unary

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: MetadataInput = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """
        Call, and wait for the response. An exception of a signal handler, as KeyboardInterrupt,
        cancels the call.
        """
        core = self._call(request, timeout, metadata, credentials, wait_for_ready)
        return core.take_response()

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: MetadataInput = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> tuple[Any, UnaryCall]:
        """As a plain call; returns the call beside the response."""
        core = self._call(request, timeout, metadata, credentials, wait_for_ready)
        return core.take_response(), UnaryCall(core)

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: MetadataInput = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> UnaryCall:
        """Start a call, and return at once; dropping what is returned cancels it."""
        core = self._make_core()
        self._open(
            core, self._shape, request, timeout, metadata, credentials, wait_for_ready
        )
        return UnaryCall(core)


class UnaryStreamMultiCallable(_StreamResponse, grpc.UnaryStreamMultiCallable):
    """Starts unary-stream calls."""

    _shape = pb.SHAPE_UNARY_STREAM
    _open = _MultiCallable._open_unary

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: MetadataInput = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> StreamCall:
        """Start a call, and return at once; dropping what is returned cancels it."""
        return self._start(request, timeout, metadata, credentials, wait_for_ready)


class StreamUnaryMultiCallable(_UnaryResponse, grpc.StreamUnaryMultiCallable):
    """Starts stream-unary calls."""

    _shape = pb.SHAPE_STREAM_UNARY
    _open = _MultiCallable._open_stream

    def __call__(
        self,
        request_iterator: Iterable[Any],
        timeout: float | None = None,
        metadata: MetadataInput = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """
        Call, and wait for the response. An exception of a signal handler, as KeyboardInterrupt,
        cancels the call.
        """
        core = self._call(request_iterator, timeout, metadata, credentials, wait_for_ready)
        return core.take_response()

    def with_call(
        self,
        request_iterator: Iterable[Any],
        timeout: float | None = None,
        metadata: MetadataInput = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> tuple[Any, UnaryCall]:
        """As a plain call; returns the call beside the response."""
        core = self._call(request_iterator, timeout, metadata, credentials, wait_for_ready)
        return core.take_response(), UnaryCall(core)

    def future(
        self,
        request_iterator: Iterable[Any],
        timeout: float | None = None,
        metadata: MetadataInput = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> UnaryCall:
        """Start a call, and return at once; dropping what is returned cancels it."""
        core = self._make_core()
        self._open(
            core, self._shape, request_iterator, timeout, metadata, credentials, wait_for_ready
        )
        return UnaryCall(core)


class StreamStreamMultiCallable(_StreamResponse, grpc.StreamStreamMultiCallable):
    """Starts stream-stream calls."""

    _shape = pb.SHAPE_STREAM_STREAM
    _open = _MultiCallable._open_stream

    def __call__(
        self,
        request_iterator: Iterable[Any],
        timeout: float | None = None,
        metadata: MetadataInput = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> StreamCall:
        """Start a call, and return at once; dropping what is returned cancels it."""
        return self._start(request_iterator, timeout, metadata, credentials, wait_for_ready)
