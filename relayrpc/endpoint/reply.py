"""
Outgoing calls with one response message: collecting it, and awaiting it.

A reply that came whole in the END costs a slice; anything else goes through an inbox made when it
is needed.
Source: link.proto, "A unary call is one frame each way".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final

from relayrpc.endpoint.call_core import CallCore
from relayrpc.endpoint.inbox import Inbox
from relayrpc.errors import FrameTooLargeError
from relayrpc.link.call import (
    STATUS_INTERNAL,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNIMPLEMENTED,
)
from relayrpc.link.messages import LENGTH_BYTES
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.endpoint.channel import Channel


__all__ = ["ReplyCore", "local_end"]

_LOGGER: Final = logging.getLogger("relayrpc")
# Stands for "not deserialized yet"; None is a possible response.
_PENDING: Final = object()


def local_end(status: int, details: str) -> pb.End:
    """Make the end of a call whose response this process cannot take: the handler may have run."""
    return pb.End(status=status, details=details, origin=pb.End.ORIGIN_CALLER)


class ReplyCore(CallCore):
    """Core of a call with one response message."""

    __slots__ = ("_inbox", "_reply", "_response", "_waiter")

    def __init__(self, channel: Channel, deserializer: Callable[[bytes], Any] | None) -> None:
        # As CallCore's, written out: this is the hot path of a unary call.
        self.channel = channel
        self.deserializer = deserializer
        self.call = None
        self.end = None
        self.begin = None
        self.deadline_s = None
        self.is_cancelled = False
        self._watchers = None
        self._callbacks = None
        self.opening = None
        self.kept = None
        self.attempts = None
        # Only for a reply that did not come whole with the end.
        self._inbox: Inbox | None = None
        self._reply = b""
        self._response: Any = _PENDING
        self._waiter: asyncio.Future[None] | None = None

    def data_received(self, data: bytes) -> None:
        """Take a piece of a reply too large for one frame."""
        if self.end is not None:
            return
        if self._inbox is None:
            assert self.call is not None
            self._inbox = self.channel.make_inbox(self.call)
            self.commit()
        try:
            self._inbox.receive(data)
        except FrameTooLargeError as exc:
            self.fail(STATUS_RESOURCE_EXHAUSTED, str(exc))

    @property
    def has_message(self) -> bool:
        """True when response data has arrived."""
        return self._inbox is not None

    def call_ended(self, end: pb.End) -> None:
        """Take the end, and the reply in it."""
        if self.end is not None:
            return
        if not end.status:
            data = end.data
            size = len(data) - LENGTH_BYTES
            if (
                self._inbox is None
                and 0 <= size <= self.channel.message_bytes_max
                and int.from_bytes(data[:LENGTH_BYTES], "big") == size
            ):
                self._reply = data[LENGTH_BYTES:]
            else:
                end = self._gather(end, data)
        elif self.goes_on(end):
            return
        self.finish(end)

    def finish(self, end: pb.End) -> None:
        """Settle the end; wake the one who awaits."""
        # Written out, not by super(): this is the hot path of a unary call.
        self.end = end
        self.call = None
        if self.opening is not None:
            self.commit()
        self.channel.calls.pop(self, None)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self._inbox is not None:
            self._inbox.close()
        if self._watchers is not None or self._callbacks is not None:
            super().finish(end)

    def _gather(self, end: pb.End, data: bytes) -> pb.End:
        """
        Put a reply together of what came before the end and with it; the end to use, another one if
        that fails.
        """
        inbox = self._inbox
        if inbox is None:
            assert self.call is not None
            self._inbox = inbox = self.channel.make_inbox(self.call)
        try:
            if data:
                inbox.receive(data)
        except FrameTooLargeError as exc:
            return local_end(STATUS_RESOURCE_EXHAUSTED, str(exc))
        if inbox.is_truncated:
            return local_end(STATUS_INTERNAL, "the response ends within a message")
        if len(inbox.messages) != 1:
            return local_end(
                STATUS_UNIMPLEMENTED, f"{len(inbox.messages)} messages came where one was expected"
            )
        self._reply = inbox.messages.popleft()
        return end

    def await_response(self) -> Generator[Any, None, Any]:
        """
        Wait for the response; what `await call` does. Cancelling the one who waits cancels the
        call.

        Raises:
            RpcError: The call did not end with OK.
            asyncio.CancelledError: It was cancelled here.
        """
        if self.end is None:
            waiter = self._waiter
            if waiter is None:
                self._waiter = waiter = self.channel.loop.create_future()
            try:
                yield from waiter
            except asyncio.CancelledError:
                self.cancel_here()
                raise
        return self.take_response()

    def take_response(self) -> Any:
        """
        Return the response of a call that is over, deserialized when first asked for.

        Raises:
            RpcError: The call did not end with OK.
        """
        if self._response is _PENDING:
            if self.end.status:  # type: ignore[union-attr]  # set: the call is over
                self.raise_for_end()
            self._deserialize()
        return self._response

    def _deserialize(self) -> None:
        reply, self._reply = self._reply, b""
        if self.deserializer is None:
            self._response = reply
            return
        try:
            self._response = self.deserializer(reply)
        except Exception:
            _LOGGER.exception("response deserializer failed")
            self.end = local_end(STATUS_INTERNAL, "Exception deserializing response!")
            raise self.make_error() from None
