"""
The cores of blocking calls: the async ones with a bell for the threads that wait.

The link tells a core what happens, on the loop; threads look at it, and have the loop do what
changes it.
Source: call_core.py; handover.py.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from relayrpc.endpoint.call_core import CallCore
from relayrpc.endpoint.handover import Bell
from relayrpc.endpoint.reply import ReplyCore
from relayrpc.endpoint.stream_call import StreamCore
from relayrpc.endpoint.sync_error import RpcError, make_sync_rpc_error
from relayrpc.endpoint.thread_io import Receiver, Sender
from relayrpc.link.call import (
    STATUS_CANCELLED,
    STATUS_INTERNAL,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNKNOWN,
)
from relayrpc.link.messages import MessageTooLargeError
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.endpoint.channel import Channel
    from relayrpc.endpoint.portal import Portal


__all__ = ["BlockingCore", "SyncReplyCore", "SyncStreamCore"]

_LOGGER: Final = logging.getLogger("relayrpc")
_REQUESTS_THREAD: Final = "relayrpc requests"


class _CallBell(Bell):
    """What the threads that wait for one call share."""

    __slots__ = ("failure",)

    def __init__(self) -> None:
        super().__init__()
        # Why the call could not be opened, where that is no status.
        self.failure: Exception | None = None


class BlockingCore(CallCore):
    """What both kinds of cores add."""

    __slots__ = ()

    portal: Portal
    bell: _CallBell

    # --- on the loop ---

    def begin_received(self, begin: pb.Begin) -> None:
        """Keep the initial metadata, and tell who waits for it."""
        super().begin_received(begin)
        self.bell.ring()

    def data_received(self, data: bytes) -> None:
        """Take response bytes, and tell who waits for them."""
        super().data_received(data)
        self.bell.ring()

    def send_ready(self) -> None:
        """Let the thread that sends go on."""
        self.bell.ring()

    def finish(self, end: pb.End) -> None:
        """Settle the end, and tell who waits."""
        super().finish(end)
        self.bell.ring()

    def refuse(self, failure: Exception) -> None:
        """End a call that was not opened; who waits for it gets `failure`."""
        self.bell.failure = failure
        self.fail(STATUS_INTERNAL, str(failure))

    def fail_running(self, status: int, details: str) -> None:
        """End the call from this side, unless it is over."""
        if self.end is None:
            self.fail(status, details)

    def abandon(self, details: str) -> None:
        """End the call in the child of a fork: the link is the parent's, and is left alone."""
        self.call = None
        self._callbacks = None
        self.finish(
            pb.End(status=STATUS_CANCELLED, details=details, origin=pb.End.ORIGIN_CALLER)
        )

    def call_back(self, function: Callable[[], object]) -> None:
        """Have a function of the program's called after the end."""
        if self.end is not None:
            self.portal.call_back(function)
        else:
            self.add_callback(self.portal.call_back, function)

    def opened(self) -> None:
        """Let requests be sent: the call had to wait."""
        super().opened()
        self.bell.ring()

    # --- on any thread ---

    def wait_for(self, is_so: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """
        Wait until `is_so()`, as at the bell; False when `timeout_s` passed before. Where the call
        may come back to the handler that waits, others have their turns with its object meanwhile.
        """
        turn = self.channel.find_turn()
        if turn is None or is_so():
            return self._wait(is_so, timeout_s)
        with turn.given_way_on_thread():
            return self._wait(is_so, timeout_s)

    def _wait(self, is_so: Callable[[], bool], timeout_s: float | None) -> bool:
        return self.bell.wait_for(is_so, timeout_s)

    def wait_over(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; False when `timeout_s` passed before."""
        return self.end is not None or self.wait_for(self._is_over, timeout_s)

    def _is_over(self) -> bool:
        return self.end is not None

    def make_error(self) -> RpcError:
        """Make the exception of a call that did not end with OK."""
        return make_sync_rpc_error(self.outcome(), self.received_metadata())

    def raise_for_end(self) -> None:
        """Raise what tells about an end that is not OK."""
        if self.bell.failure is not None:
            raise self.bell.failure
        assert self.end is not None
        if self.end.status:
            raise self.make_error()

    def on_loop(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Do something on the loop, and wait for it; in the child of a fork there is none."""
        if self.portal.is_forked:
            return None
        return self.portal.handover.call(function, *arguments)

    def soon(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Have something done on the loop; in the child of a fork there is none."""
        if not self.portal.is_forked:
            self.portal.handover.submit(function, *arguments)

    def send_requests(
        self, requests: Iterable[Any], serializer: Any, *, bytes_max: int, is_opened_later: bool
    ) -> None:
        """
        Begin to send what an iterator gives, on a thread of its own.

        Args:
            requests: The iterator.
            serializer: None: bytes are sent as they are.
            bytes_max: The largest request.
            is_opened_later: The call may wait, for its credentials or its session, and the requests
                wait for the call.
        """
        if is_opened_later:
            # Behind the job that opens the call, if nothing keeps it from that.
            self.soon(self.bell.ring)
        sender = Sender(
            self,
            handover=self.portal.handover,
            bell=self.bell,
            high_bytes=self.channel.limits.send_queue_bytes_high,
            bytes_max=bytes_max,
        )
        threading.Thread(
            target=self._consume,
            args=(requests, serializer, sender, is_opened_later),
            name=_REQUESTS_THREAD,
            daemon=True,
        ).start()

    def _is_opened(self) -> bool:
        return self.call is not None or self.end is not None

    def _consume(
        self,
        requests: Iterable[Any],
        serializer: Callable[[Any], bytes] | None,
        sender: Sender,
        is_opened_later: bool,
    ) -> None:
        if is_opened_later:
            self.bell.wait_for(self._is_opened)
        status, details = STATUS_UNKNOWN, "Exception iterating requests!"
        try:
            iterator = iter(requests)
            while True:
                status, details = STATUS_UNKNOWN, "Exception iterating requests!"
                try:
                    request = next(iterator)
                except StopIteration:
                    break
                status, details = STATUS_INTERNAL, "Exception serializing request!"
                data = request if serializer is None else serializer(request)
                if not sender.send(data):
                    return
        except MessageTooLargeError as exc:
            self.soon(self.fail_running, STATUS_RESOURCE_EXHAUSTED, str(exc))
        except BaseException:
            # Whatever leaves the iterator: nobody would end the call.
            if not self.is_over:
                _LOGGER.exception(details)
            self.soon(self.fail_running, status, details)
        else:
            self.soon(self.half_close)


class SyncReplyCore(BlockingCore, ReplyCore):
    """Core of a blocking call with one response message."""

    __slots__ = ("bell", "portal")

    def __init__(
        self, channel: Channel, portal: Portal, deserializer: Callable[[bytes], Any] | None
    ) -> None:
        ReplyCore.__init__(self, channel, deserializer)
        self.portal = portal
        self.bell = _CallBell()

    def settle(self) -> None:
        """Deserialize the response of a call that is over; where that fails, its end changes."""
        assert self.end is not None
        if not self.end.status:
            with contextlib.suppress(RpcError):
                self.take_response()


class SyncStreamCore(BlockingCore, StreamCore):
    """Core of a blocking call with a response stream."""

    __slots__ = ("bell", "portal", "receiver")

    def __init__(
        self, channel: Channel, portal: Portal, deserializer: Callable[[bytes], Any] | None
    ) -> None:
        StreamCore.__init__(self, channel, None, deserializer, has_request_stream=False)
        self.portal = portal
        self.bell = _CallBell()
        self.receiver = Receiver(self, handover=portal.handover, bell=self)

    def next_response(self) -> Any:
        """
        Wait for the next response.

        Raises:
            StopIteration: There are no more, and the call ended with OK.
            RpcError: The call ended with another status.
        """
        data = self.receiver.take()
        if data is None:
            self.raise_for_end()
            raise StopIteration
        return data if self.deserializer is None else self.deserialize(data)

    def refuse_response(self) -> None:
        """As StreamCore's, from any thread."""
        self.on_loop(super().refuse_response)
