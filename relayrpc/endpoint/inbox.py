"""
The receiving side of one call's messages: put together, counted against the window, and kept until
somebody reads.

Bytes count as consumed when their message is handed over, or at once while they belong to a message
that is still being put together and no complete one waits: a message may be larger than any window,
but an idle reader stops the sender.
Source: LINK.md "Credit, budget, fairness"; link/flow.py.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from grpc.aio import UsageError

from relayrpc.errors import FrameTooLargeError
from relayrpc.link.flow import ReceiveWindow
from relayrpc.link.messages import LENGTH_BYTES, MessageReader


if TYPE_CHECKING:
    from relayrpc.limits import Limits
    from relayrpc.link.call import Call


__all__ = ["Assembly", "Inbox"]


class Assembly:
    """What all messages that one endpoint is putting together may take."""

    __slots__ = ("declared_bytes", "limit_bytes")

    def __init__(self, limits: Limits) -> None:
        self.limit_bytes = limits.assembly_bytes_max
        self.declared_bytes = 0


class Inbox:
    """Messages of one direction of one call. The messages in `messages` are whole and in order."""

    __slots__ = (
        "_assembly",
        "_call",
        "_clock",
        "_declared_bytes",
        "_pending_bytes",
        "_prepaid_bytes",
        "_reader",
        "_waiter",
        "_window",
        "is_over",
        "messages",
        "settle_bytes",
        "taken_bytes",
    )

    def __init__(
        self,
        call: Call,
        *,
        credit_bytes: int,
        limits: Limits,
        assembly: Assembly,
        clock: Callable[[], float],
    ) -> None:
        """
        Args:
            call: Its link is told of credit.
            credit_bytes: What the sender already has.
            limits: The endpoint's.
            assembly: Shared by the endpoint's calls.
            clock: Monotonic seconds.
        """
        self.messages: deque[bytes] = deque()
        # No more messages will come: half closed, or the call ended.
        self.is_over = False
        # Bytes of messages handed over and not settled; a reader adds to it and calls settle() from
        # `settle_bytes` on.
        self.taken_bytes = 0
        self.settle_bytes = limits.initial_credit_bytes // 4
        # Received, not settled: handed over, waiting, or of the message being put together.
        self._pending_bytes = 0
        # Of the message being put together, or that is first in `messages`: what was settled before
        # it was complete.
        self._prepaid_bytes = 0
        self._declared_bytes = 0
        # None once the call is over: nothing is granted any more.
        self._call: Call | None = call
        self._assembly = assembly
        self._clock = clock
        self._reader = MessageReader(limits.message_bytes_max)
        self._window = ReceiveWindow(
            credit_bytes=credit_bytes,
            window_bytes=limits.initial_credit_bytes,
            window_bytes_max=limits.window_bytes_max,
        )
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_truncated(self) -> bool:
        """True when the stream stopped within a message."""
        return not self._reader.is_idle

    def receive(self, data: bytes) -> None:
        """
        Take bytes that arrived.

        Raises:
            FrameTooLargeError: A message over the limit, or too much in assembly; the call must
                end.
        """
        self._window.received(len(data), now_s=self._clock())
        self._pending_bytes += len(data)
        messages = self._reader.receive_data(data)
        declared = self._reader.declared_bytes
        if declared != self._declared_bytes:
            self._assemble(declared)
        if messages:
            self.messages.extend(messages)
            self.wake()
        elif not self.messages and self._pending_bytes >= self.settle_bytes:
            self.settle()

    def start(self) -> None:
        """Grant the first window to a sender that has none yet."""
        self._grant(0)

    def take(self) -> bytes:
        """Take the first message; only while there is one."""
        data = self.messages.popleft()
        self.taken_bytes += len(data) + LENGTH_BYTES
        settle_bytes = self.settle_bytes
        if self.taken_bytes >= settle_bytes or (
            # The rest of a large message may wait for the credit of what has come of it.
            not self.messages and self._pending_bytes >= settle_bytes
        ):
            self.settle()
        return data

    def take_on_thread(self) -> bytes | None:
        """
        Take the first message, on any thread; None when there is none. It must be counted with
        `count_taken`.
        """
        try:
            return self.messages.popleft()
        except IndexError:
            return None

    def is_count_due(self, taken_bytes: int) -> bool:
        """Say, on any thread, whether what a thread took should be counted now."""
        settle_bytes = self.settle_bytes
        return not self.is_over and (
            taken_bytes >= settle_bytes
            or (not self.messages and self._pending_bytes >= settle_bytes)
        )

    def count_taken(self, taken_bytes: int) -> None:
        """Count messages that a thread took; with LENGTH_BYTES for each."""
        self.taken_bytes += taken_bytes
        self.settle()

    def settle(self) -> None:
        """Count what was handed over as consumed, and grant what is due."""
        if self.messages:
            # The message that was in part settled before is among those taken, or else it is still
            # the first one.
            consumed = min(max(0, self.taken_bytes - self._prepaid_bytes), self._pending_bytes)
            self._prepaid_bytes = max(0, self._prepaid_bytes - self.taken_bytes)
        else:
            consumed = self._pending_bytes
            self._prepaid_bytes += consumed - self.taken_bytes
        self.taken_bytes = 0
        self._pending_bytes -= consumed
        self._grant(consumed)

    async def wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """
        Wait for a message or the end; the caller looks again afterwards.

        Raises:
            UsageError: Somebody else waits already.
        """
        if self._waiter is not None:
            raise UsageError("another read is waiting on this call; reads must follow one another")
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        """Let the one who waits look again."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def end(self) -> None:
        """Note that no more messages come; those here can still be taken. Idempotent."""
        self.is_over = True
        self.wake()

    def close(self) -> None:
        """
        Note that the call is over: nothing is granted any more, what was half put together is
        dropped. Idempotent.
        """
        self._call = None
        self._assembly.declared_bytes -= self._declared_bytes
        self._declared_bytes = 0
        self.end()

    def _grant(self, consumed_bytes: int) -> None:
        call = self._call
        if call is None:
            return
        credit = self._window.consumed(consumed_bytes, now_s=self._clock())
        if credit:
            call.link.grant(call, credit)
            call.link.flush_soon()

    def _assemble(self, declared_bytes: int) -> None:
        assembly = self._assembly
        assembly.declared_bytes += declared_bytes - self._declared_bytes
        self._declared_bytes = declared_bytes
        if assembly.declared_bytes > assembly.limit_bytes:
            raise FrameTooLargeError(
                f"messages of {assembly.declared_bytes} bytes are being received, "
                f"over {assembly.limit_bytes} bytes",
                size_bytes=assembly.declared_bytes,
                limit_bytes=assembly.limit_bytes,
            )
