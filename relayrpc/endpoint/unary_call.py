"""
Calls with one response message as gRPC's objects: unary-unary and stream-unary.

Source: grpc.aio.UnaryUnaryCall, grpc.aio.StreamUnaryCall.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import grpc.aio

from relayrpc.endpoint.call_core import CallCore, CallMethods
from relayrpc.endpoint.reply import ReplyCore
from relayrpc.endpoint.request_writer import RequestWriter
from relayrpc.endpoint.stream_call import StreamRequestMethods, cancel_collected


if TYPE_CHECKING:
    from relayrpc.endpoint.channel import Channel
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["StreamUnaryCall", "UnaryUnaryCall"]


class UnaryUnaryCall(CallMethods, ReplyCore, grpc.aio.UnaryUnaryCall):
    """
    A unary-unary call: core and public object in one.

    Dropping it does not cancel the call; cancelling the task that awaits it does.
    """

    __slots__ = ()

    @property
    def core(self) -> CallCore:
        return self

    __await__ = ReplyCore.await_response


class _StreamUnaryCore(ReplyCore):
    """Core of a stream-unary call."""

    __slots__ = ("writer",)

    def __init__(
        self,
        channel: Channel,
        serializer: Callable[[Any], bytes] | None,
        deserializer: Callable[[bytes], Any] | None,
    ) -> None:
        super().__init__(channel, deserializer)
        self.writer = RequestWriter(self, serializer)

    def send_ready(self) -> None:
        """Let waiting writers go on."""
        self.writer.wake()

    def opened(self) -> None:
        """Let writers begin."""
        super().opened()
        self.writer.opened()

    def finish(self, end: pb.End) -> None:
        """Settle the end; nothing more is written."""
        super().finish(end)
        self.writer.stop()


class StreamUnaryCall(StreamRequestMethods, CallMethods, grpc.aio.StreamUnaryCall):
    """A stream-unary call; dropping it cancels the call."""

    __slots__ = ("_reply",)

    def __init__(
        self,
        channel: Channel,
        serializer: Callable[[Any], bytes] | None,
        deserializer: Callable[[bytes], Any] | None,
    ) -> None:
        self._reply = _StreamUnaryCore(channel, serializer, deserializer)

    @property
    def core(self) -> CallCore:
        return self._reply

    @property
    def _writer(self) -> RequestWriter:
        return self._reply.writer

    def __await__(self) -> Generator[Any, None, Any]:
        return (yield from self._reply.await_response())

    def __del__(self) -> None:
        cancel_collected(self._reply)
