"""
The messages of one call, sent and taken by a thread that is not the loop's.

What is sent goes to the loop without waiting, until too much is unsent; what arrives is taken
without the loop, which hears of it where credit is due.
Source: LINK.md "Credit, budget, fairness"; handover.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from relayrpc.limits import MESSAGE_BYTES_UNLIMITED
from relayrpc.link.messages import LENGTH_BYTES, encode_message


if TYPE_CHECKING:
    from collections.abc import Callable

    from relayrpc.endpoint.handover import Bell, Handover
    from relayrpc.endpoint.inbox import Inbox
    from relayrpc.link.call import Call


__all__ = ["Receiver", "Sender"]


class _SendingSide(Protocol):
    """One end of a call, as a thread sees it that sends; only the loop's thread changes it."""

    call: Call | None
    """None before it is opened and after its end."""

    @property
    def is_over(self) -> bool:
        """True once the call has ended."""

    def send_bytes(self, data: bytes) -> None:
        """Send an encoded message; on the loop's thread."""


class _ReceivingSide(Protocol):
    """One end of a call, as a thread sees it that receives."""

    inbox: Inbox | None
    """None before the first message."""

    @property
    def is_over(self) -> bool:
        """True once the call has ended."""


class _Waiting(Protocol):
    """How a thread waits: as at a Bell."""

    def wait_for(self, is_so: Callable[[], bool]) -> bool:
        """Wait until `is_so()`."""


class Sender:
    """Sends the messages of one call. One thread at a time."""

    __slots__ = (
        "_bell",
        "_bytes_max",
        "_handed_bytes",
        "_handover",
        "_high_bytes",
        "_is_caught_up",
        "_side",
    )

    def __init__(
        self,
        side: _SendingSide,
        *,
        handover: Handover,
        bell: Bell,
        high_bytes: int,
        bytes_max: int = MESSAGE_BYTES_UNLIMITED,
    ) -> None:
        """
        Args:
            side: Whose messages.
            handover: To the loop.
            bell: Rung when the link says SendReady, and when the call is over.
            high_bytes: With more than this unsent, send() waits.
            bytes_max: The largest message.
        """
        self._side = side
        self._handover = handover
        self._bell = bell
        self._high_bytes = high_bytes
        self._bytes_max = bytes_max
        # Handed over since the loop was last known to have come to all of it.
        self._handed_bytes = 0
        self._is_caught_up = True

    def send(self, message: bytes) -> bool:
        """
        Send one message; False when the call is over, and nothing is sent any more.

        Raises:
            MessageTooLargeError: Nothing is sent.
        """
        data = encode_message(message, self._bytes_max)
        self._handover.submit(self._side.send_bytes, data)
        self._handed_bytes += len(data)
        # On its own thread the loop cannot wait for itself.
        if (
            self._handed_bytes + self._unsent_bytes() > self._high_bytes
            and not self._handover.is_own_thread
        ):
            self._handed_bytes = 0
            self._is_caught_up = False
            self._handover.submit(self._catch_up)
            self._bell.wait_for(self._may_go_on)
        return not self._side.is_over

    def _unsent_bytes(self) -> int:
        call = self._side.call
        return 0 if call is None else call.unsent_bytes

    def _catch_up(self) -> None:
        self._is_caught_up = True
        self._bell.ring()

    def _may_go_on(self) -> bool:
        return self._side.is_over or (
            self._is_caught_up and self._unsent_bytes() <= self._high_bytes
        )


class Receiver:
    """Takes the messages of one call. One thread at a time."""

    __slots__ = ("_bell", "_handover", "_side", "_taken_bytes")

    def __init__(self, side: _ReceivingSide, *, handover: Handover, bell: _Waiting) -> None:
        """
        Args:
            side: Whose messages.
            handover: To the loop.
            bell: Rung whenever messages came, or no more will.
        """
        self._side = side
        self._handover = handover
        self._bell = bell
        # Taken, and not counted by the inbox yet.
        self._taken_bytes = 0

    def take(self) -> bytes | None:
        """Wait for the next message and take it; None when no more come."""
        while True:
            # In this order: what comes last comes before it is said that no more does.
            is_last = self._is_last()
            inbox = self._side.inbox
            if inbox is not None and (data := inbox.take_on_thread()) is not None:
                self._count(inbox, len(data) + LENGTH_BYTES)
                return data
            if is_last:
                return None
            self._bell.wait_for(self._has_news)

    def _count(self, inbox: Inbox, size_bytes: int) -> None:
        self._taken_bytes += size_bytes
        if inbox.is_count_due(self._taken_bytes):
            taken_bytes, self._taken_bytes = self._taken_bytes, 0
            self._handover.submit(inbox.count_taken, taken_bytes)

    def _is_last(self) -> bool:
        inbox = self._side.inbox
        return self._side.is_over if inbox is None else inbox.is_over

    def _has_news(self) -> bool:
        inbox = self._side.inbox
        return self._is_last() or (inbox is not None and bool(inbox.messages))
