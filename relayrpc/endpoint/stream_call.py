"""
Calls with a response stream as gRPC's objects: unary-stream and stream-stream; and what both
request streams share.

Reading a message that is here already neither suspends nor touches the loop.
Source: grpc.aio.UnaryStreamCall, grpc.aio.StreamStreamCall.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Self

import grpc.aio

from relayrpc.endpoint.call_core import DETAILS_COLLECTED, CallCore, CallMethods
from relayrpc.endpoint.inbox import Inbox
from relayrpc.endpoint.reply import local_end
from relayrpc.endpoint.request_writer import MIXED_STYLES, RequestWriter
from relayrpc.errors import FrameTooLargeError
from relayrpc.link.call import STATUS_INTERNAL, STATUS_RESOURCE_EXHAUSTED
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.endpoint.channel import Channel


__all__ = [
    "StreamCore",
    "StreamRequestMethods",
    "StreamStreamCall",
    "UnaryStreamCall",
    "cancel_collected",
]

_LOGGER: Final = logging.getLogger("relayrpc")


class StreamCore(CallCore):
    """Core of a call with a response stream."""

    __slots__ = ("inbox", "writer")

    def __init__(
        self,
        channel: Channel,
        serializer: Callable[[Any], bytes] | None,
        deserializer: Callable[[bytes], Any] | None,
        *,
        has_request_stream: bool,
    ) -> None:
        super().__init__(channel, deserializer)
        # Made with the first data: nothing is received before.
        self.inbox: Inbox | None = None
        self.writer = RequestWriter(self, serializer) if has_request_stream else None

    def data_received(self, data: bytes) -> None:
        """Take messages and hand them to the one who reads."""
        if self.end is not None:
            return
        inbox = self.inbox
        if inbox is None:
            inbox = self._open_inbox()
        try:
            inbox.receive(data)
        except FrameTooLargeError as exc:
            self.fail(STATUS_RESOURCE_EXHAUSTED, str(exc))

    def _open_inbox(self) -> Inbox:
        assert self.call is not None
        self.inbox = inbox = self.channel.make_inbox(self.call)
        self.commit()
        # Whoever waits for the beginning has it, and a reader now waits at the inbox.
        self._tell_watchers()
        return inbox

    @property
    def has_message(self) -> bool:
        """True when response data has arrived."""
        return self.inbox is not None

    def send_ready(self) -> None:
        """Let waiting writers go on."""
        if self.writer is not None:
            self.writer.wake()

    def opened(self) -> None:
        """Let writers begin."""
        super().opened()
        if self.writer is not None:
            self.writer.opened()

    def call_ended(self, end: pb.End) -> None:
        """Take the last messages and the end; what is here can still be read."""
        if self.end is not None or (end.status and self.goes_on(end)):
            return
        data = end.data
        try:
            if data:
                (self.inbox or self._open_inbox()).receive(data)
            if not end.status and self.inbox is not None and self.inbox.is_truncated:
                end = local_end(STATUS_INTERNAL, "the response stream ends within a message")
        except FrameTooLargeError as exc:
            end = local_end(STATUS_RESOURCE_EXHAUSTED, str(exc))
        self.finish(end)

    def finish(self, end: pb.End) -> None:
        """Settle the end; wake the reader, stop writing."""
        super().finish(end)
        if self.inbox is not None:
            if self.is_cancelled:
                self.inbox.messages.clear()
            self.inbox.close()
        if self.writer is not None:
            self.writer.stop()

    async def next_message(self) -> Any:
        """
        Return the next response, or grpc.aio.EOF after the last one of a call that ended with OK.

        Raises:
            RpcError: After the last response of a call that did not.
            asyncio.CancelledError: The call was cancelled here, or the reading task, and with it
            the call.
        """
        inbox = self.inbox
        while inbox is None or not inbox.messages:
            if self.end is not None:
                self.raise_for_end()
                return grpc.aio.EOF
            try:
                if inbox is None:
                    await self.watch()
                else:
                    await inbox.wait(self.channel.loop)
            except asyncio.CancelledError:
                self.cancel_here()
                raise
            inbox = self.inbox
        data = inbox.take()
        if self.deserializer is None:
            return data
        return self.deserialize(data)

    def deserialize(self, data: bytes) -> Any:
        """Make the program's object; a failure ends the call."""
        assert self.deserializer is not None
        try:
            return self.deserializer(data)
        except Exception:
            _LOGGER.exception("response deserializer failed")
            self.refuse_response()
            raise self.make_error() from None

    def refuse_response(self) -> None:
        """End a call whose response could not be deserialized, or change how it ended."""
        if self.end is None:
            self.fail(STATUS_INTERNAL, "Exception deserializing response!")
        else:
            self.end = local_end(STATUS_INTERNAL, "Exception deserializing response!")


def cancel_collected(core: CallCore) -> None:
    """
    Cancel the call of a public object that is gone; may run on any thread and late in a process's
    life.
    """
    # Not of a call that could not even be started.
    if core.end is None and core in core.channel.calls and not core.channel.loop.is_closed():
        core.channel.loop.call_soon_threadsafe(core.cancel_here, DETAILS_COLLECTED)


class StreamRequestMethods:
    """`write()` and `done_writing()`."""

    __slots__ = ()

    @property
    def _writer(self) -> RequestWriter:
        raise NotImplementedError

    def send_requests(self, requests: AsyncIterable[Any] | Iterable[Any] | None) -> None:
        """Begin to send what an iterator gives; None: the program writes."""
        if requests is not None:
            self._writer.consume(requests)

    async def write(self, request: Any) -> None:
        """Send one message; waits while too much is unsent."""
        writer = self._writer
        writer.require_writing()
        await writer.write(request)

    async def done_writing(self) -> None:
        """Say that no more requests follow. Idempotent."""
        self._writer.require_writing()
        self._writer.half_close()

    @property
    def _done_writing_flag(self) -> bool:
        # Looked at by grpc's interceptor machinery.
        return self._writer.is_half_closed


class _StreamResponseMethods(CallMethods):
    """`async for` and `read()`; not both on one call."""

    __slots__ = ("_is_iterated", "_stream")

    _stream: StreamCore
    # None until the first read decides.
    _is_iterated: bool | None

    @property
    def core(self) -> CallCore:
        return self._stream

    def __aiter__(self) -> Self:
        self._require_style(is_iterated=True)
        return self

    async def __anext__(self) -> Any:
        stream = self._stream
        inbox = stream.inbox
        if inbox is not None and inbox.messages:
            data = inbox.take()
            return data if stream.deserializer is None else stream.deserialize(data)
        message = await stream.next_message()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message

    async def read(self) -> Any:
        """Return the next response, or grpc.aio.EOF after the last one."""
        if self._stream.end is None:
            self._require_style(is_iterated=False)
        return await self._stream.next_message()

    def _require_style(self, *, is_iterated: bool) -> None:
        if self._is_iterated is None:
            self._is_iterated = is_iterated
        elif self._is_iterated is not is_iterated:
            raise grpc.aio.UsageError(MIXED_STYLES)

    def __del__(self) -> None:
        cancel_collected(self._stream)


class UnaryStreamCall(_StreamResponseMethods, grpc.aio.UnaryStreamCall):
    """A unary-stream call; dropping it cancels the call."""

    __slots__ = ()

    def __init__(self, channel: Channel, deserializer: Callable[[bytes], Any] | None) -> None:
        self._is_iterated = None
        self._stream = StreamCore(channel, None, deserializer, has_request_stream=False)


class StreamStreamCall(StreamRequestMethods, _StreamResponseMethods, grpc.aio.StreamStreamCall):
    """A stream-stream call; dropping it cancels the call."""

    __slots__ = ()

    def __init__(
        self,
        channel: Channel,
        serializer: Callable[[Any], bytes] | None,
        deserializer: Callable[[bytes], Any] | None,
    ) -> None:
        self._is_iterated = None
        self._stream = StreamCore(channel, serializer, deserializer, has_request_stream=True)

    @property
    def _writer(self) -> RequestWriter:
        writer = self._stream.writer
        assert writer is not None
        return writer
