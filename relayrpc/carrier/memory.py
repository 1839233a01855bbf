"""
Two carriers joined in memory, for simulation and in-process links: no socket, no clock, no
randomness.

Every delivery goes through the scheduler that is given, so whoever owns that owns the order of
everything. It behaves as the other carriers do, and the same conformance suite says so.
Source: DESIGN.md decision 6.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import ClassVar, Final

from relayrpc.carrier.base import Carrier, CarrierEvents, CarrierKind
from relayrpc.errors import CarrierLostError
from relayrpc.limits import KIB, Limits


__all__ = ["MemoryCarrier", "memory_pair"]

_UNSENT_BYTES_HIGH: Final = 64 * KIB
_UNSENT_BYTES_LOW: Final = 16 * KIB


def memory_pair(
    *, limits: Limits, schedule: Callable[[Callable[[], None]], object]
) -> tuple[MemoryCarrier, MemoryCarrier]:
    """
    Two ends of one pipe.

    Args:
        limits: `batch_bytes_max` is the size beyond which a batch ends the pipe.
        schedule: Runs a function soon, later than now and in the order of the calls:
            `loop.call_soon`.
    """
    left = MemoryCarrier("memory:1", limits=limits, schedule=schedule)
    right = MemoryCarrier("memory:2", limits=limits, schedule=schedule)
    left.join(right)
    right.join(left)
    return left, right


class MemoryCarrier(Carrier):
    """One end; made by `memory_pair`."""

    kind: ClassVar[CarrierKind] = "memory"
    is_secure = False
    is_loopback = True
    websocket_url = ""

    def __init__(
        self, name: str, *, limits: Limits, schedule: Callable[[Callable[[], None]], object]
    ) -> None:
        self.peer = "memory:?"
        self.is_writable = True
        self._name = name
        self._limits = limits
        self._schedule = schedule
        self._other: MemoryCarrier | None = None
        self._events: CarrierEvents | None = None
        # Batches on the way to this end, bounded by the other's is_writable.
        self._inbox: deque[bytes] = deque()
        self._inbox_bytes = 0
        self._is_delivery_due = False
        # No batch is taken any more, and none handed on after an end of our own.
        self._is_closing = False
        # Nothing follows what is in the inbox but the end.
        self._is_ending = False
        self._is_over = False
        self._end_error: CarrierLostError | None = None

    def join(self, other: MemoryCarrier) -> None:
        """Name the other end; once, before anything else."""
        self._other = other
        self.peer = other._name

    def start(self, events: CarrierEvents) -> None:
        assert self._events is None, "a carrier is started once"
        self._events = events
        if self._is_over:
            self._schedule(lambda: events.carrier_ended(self._end_error))
        else:
            self._deliver()

    def send_nowait(self, batch: bytes) -> None:
        if self._is_closing:
            return
        assert self._other is not None
        if len(batch) > self._limits.batch_bytes_max:
            self._end_soon(_too_large(self.peer), discard=True)
            self._other._end_soon(_too_large(self._name), discard=False)
            return
        self._other._take(bytes(batch))
        if self._other._inbox_bytes > _UNSENT_BYTES_HIGH:
            self.is_writable = False

    def close(self) -> None:
        if self._is_closing:
            return
        assert self._other is not None
        self._end_soon(None, discard=True)
        self._other._end_soon(None, discard=False)

    def abort(self) -> None:
        if self._is_closing:
            return
        assert self._other is not None
        lost = CarrierLostError(f"the pipe with {self.peer} was dropped here")
        self._end_soon(lost, discard=True)
        lost = CarrierLostError(f"lost the pipe with {self._name}")
        self._other._end_soon(lost, discard=True)

    def _take(self, batch: bytes) -> None:
        self._inbox.append(batch)
        self._inbox_bytes += len(batch)
        self._deliver_soon()

    def _end_soon(self, error: CarrierLostError | None, *, discard: bool) -> None:
        """End; what is in the inbox is delivered first, or dropped."""
        if discard:
            self._inbox.clear()
            self._inbox_bytes = 0
        self._is_closing = True
        self.is_writable = False
        if not self._is_ending:
            self._is_ending = True
            self._end_error = error
            self._deliver_soon()

    def _deliver_soon(self) -> None:
        if not self._is_delivery_due:
            self._is_delivery_due = True
            self._schedule(self._delivery_due)

    def _delivery_due(self) -> None:
        self._is_delivery_due = False
        self._deliver()

    def _deliver(self) -> None:
        # Before start() batches wait, and hold up the sender; an end does not.
        if self._events is not None:
            # What listeners send in answer comes back in a turn of its own.
            for _ in range(len(self._inbox)):
                if not self._inbox:
                    break
                batch = self._inbox.popleft()
                self._inbox_bytes -= len(batch)
                self._events.batch_received(batch)
            self._release_sender()
        elif self._inbox:
            return
        if self._is_ending and not self._inbox and not self._is_over:
            self._is_over = True
            if self._events is not None:
                self._events.carrier_ended(self._end_error)

    def _release_sender(self) -> None:
        sender = self._other
        assert sender is not None
        if sender.is_writable or sender._is_closing or self._inbox_bytes > _UNSENT_BYTES_LOW:
            return
        sender.is_writable = True
        if sender._events is not None:
            sender._events.writable()


def _too_large(peer: str) -> CarrierLostError:
    return CarrierLostError(f"a batch was too large for the pipe with {peer}", size_error=1)
