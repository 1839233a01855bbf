"""
The numbered batches of one link: what was sent and not acknowledged, what was received, what to
send again. Pure.

Owns: numbers, acknowledgement, the unacknowledged window. Does not own: carriers and attempts
(link.py).
Source: LINK.md "Batches and acknowledgement"; link.proto, Batch.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from relayrpc.errors import ProtocolError
from relayrpc.link.flow import PathEstimator


if TYPE_CHECKING:
    from relayrpc.limits import Limits


__all__ = ["BatchLog", "KeptBatch"]


class KeptBatch:
    """One batch that was given to a carrier and is not acknowledged."""

    __slots__ = ("data", "delivered_bytes", "is_sent_again", "number", "sent_at_s")

    def __init__(self, number: int, data: bytes, sent_at_s: float, delivered_bytes: int) -> None:
        self.number = number
        self.data = data
        self.sent_at_s = sent_at_s
        # What had been acknowledged in all when this batch went out: the base of a rate sample.
        self.delivered_bytes = delivered_bytes
        self.is_sent_again = False


class BatchLog:
    """Numbering and keeping, both directions."""

    __slots__ = (
        "_ack_after_batches",
        "_ack_after_bytes",
        "_ack_after_s",
        "_acknowledged_bytes",
        "_again",
        "_is_again_missing",
        "_kept",
        "_unacked_batches",
        "_unacked_bytes",
        "ack_due_s",
        "acknowledged_number",
        "kept_bytes",
        "path",
        "received_number",
        "sent_number",
    )

    def __init__(self, limits: Limits) -> None:
        self._ack_after_batches = limits.ack_after_batches
        self._ack_after_bytes = limits.ack_after_bytes
        self._ack_after_s = limits.ack_after_s
        self.path = PathEstimator(
            window_bytes=limits.unacknowledged_bytes_min,
            window_bytes_max=limits.unacknowledged_bytes_max,
        )
        self.sent_number = 0
        self.acknowledged_number = 0
        self.received_number = 0
        self.kept_bytes = 0
        # Oldest first; numbers acknowledged_number + 1 .. sent_number without a gap.
        self._kept: deque[KeptBatch] = deque()
        # After a resume: what of `_kept` has not been given to the new carrier yet.
        self._again: deque[KeptBatch] = deque()
        # The peer has received none of `_again`; else it may have, on the carrier before.
        self._is_again_missing = True
        self._acknowledged_bytes = 0
        # Received and not acknowledged to the peer.
        self._unacked_batches = 0
        self._unacked_bytes = 0
        # When an ack must go out alone; None: nothing to acknowledge. 0.0: at once.
        self.ack_due_s: float | None = None

    # --- sending ---

    @property
    def has_batches_again(self) -> bool:
        """True while batches from before a resume wait to be sent again, before new ones."""
        return bool(self._again)

    def is_full(self) -> bool:
        """True when the unacknowledged window is used up."""
        return self.kept_bytes >= self.path.window_bytes

    def add(self, data: bytes, *, now_s: float) -> None:
        """Keep an encoded batch; its number is `sent_number + 1`."""
        self.sent_number += 1
        self._kept.append(KeptBatch(self.sent_number, data, now_s, self._acknowledged_bytes))
        self.kept_bytes += len(data)

    def next_again(self) -> KeptBatch:
        """Take the next batch to be sent again; only while `has_batches_again`."""
        batch = self._again.popleft()
        batch.is_sent_again = True
        return batch

    def was_given(self, number: int) -> bool:
        """
        Say whether the peer may hold batch `number`: it was given to a carrier, and no resume has
        shown the contrary.
        """
        is_known = self._again and self._is_again_missing
        return number < (self._again[0].number if is_known else self.sent_number + 1)

    def batches_not_given(self) -> list[bytes]:
        """Return the batches that the peer is known not to hold, in order."""
        return [batch.data for batch in self._again] if self._is_again_missing else []

    def first_kept(self) -> KeptBatch | None:
        """Return the oldest batch that is not acknowledged."""
        return self._kept[0] if self._kept else None

    # --- acknowledgement from the peer ---

    def acknowledge(self, number: int, *, now_s: float) -> None:
        """
        Drop what the peer has received.

        Raises:
            ProtocolError: It acknowledges what was never sent.
        """
        if number <= self.acknowledged_number:
            return
        if number > self.sent_number:
            raise ProtocolError(
                f"ack of batch {number}, but only {self.sent_number} were sent",
                number=number,
                sent=self.sent_number,
            )
        kept = self._kept
        batch = kept[0]
        while kept and kept[0].number <= number:
            batch = kept.popleft()
            size = len(batch.data)
            self.kept_bytes -= size
            self._acknowledged_bytes += size
        again = self._again
        while again and again[0].number <= number:
            again.popleft()
        self.acknowledged_number = number
        if not batch.is_sent_again:
            took_s = now_s - batch.sent_at_s
            self.path.add_round_trip(took_s, now_s=now_s)
            self.path.add_delivery(self._acknowledged_bytes - batch.delivered_bytes, took_s=took_s)

    def resume(self, received_number: int, *, now_s: float, is_final: bool = True) -> bool:
        """
        Take up on a new carrier: what the peer has not received is to be sent again.

        Args:
            received_number: The last batch the peer says it has received.
            now_s: Monotonic seconds.
            is_final: It takes no more from older carriers; else it may yet receive what is on its
                way on one of them.

        Returns:
            False when the peer asks for a batch that is no longer held, or claims one that was
            never sent; nothing changed.
        """
        if not self.acknowledged_number <= received_number <= self.sent_number:
            return False
        for batch in self._kept:
            # Its round trip says nothing about the path.
            batch.is_sent_again = True
        self.acknowledge(received_number, now_s=now_s)
        self._again = deque(self._kept)
        self._is_again_missing = is_final
        return True

    # --- acknowledgement to the peer ---

    def receive(self, number: int, size_bytes: int, *, now_s: float) -> bool:
        """
        Take the number of a received batch.

        Returns:
            True when it is the next one; False for a duplicate, which must be dropped.

        Raises:
            ProtocolError: It leaves a gap.
        """
        if number != self.received_number + 1:
            if number <= self.received_number:
                self.ack_due_s = 0.0
                return False
            raise ProtocolError(
                f"batch {number} after {self.received_number}",
                number=number,
                received=self.received_number,
            )
        self.received_number = number
        self._unacked_batches += 1
        self._unacked_bytes += size_bytes
        if (
            self._unacked_bytes >= self._ack_after_bytes
            or self._unacked_batches >= self._ack_after_batches
        ):
            self.ack_due_s = 0.0
        elif self.ack_due_s is None:
            self.ack_due_s = now_s + self._ack_after_s
        return True

    def ack_to_send(self) -> int:
        """Return the number to put into an outgoing batch's ack; counts as said."""
        self._unacked_batches = 0
        self._unacked_bytes = 0
        self.ack_due_s = None
        return self.received_number
