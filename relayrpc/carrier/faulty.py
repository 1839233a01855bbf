"""
A carrier that breaks on request: wraps any other and cuts, delays or stalls it.

Has no clock and no randomness but those it is given, so a simulation replays it exactly. What it
holds back is bounded as far as it is outgoing; what came in is bounded by the link's own windows.
Source: DESIGN.md decision 6.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import ClassVar, Final, Literal, Protocol

from relayrpc.carrier.base import Carrier, CarrierEvents, CarrierKind
from relayrpc.errors import CarrierLostError
from relayrpc.limits import KIB


__all__ = ["Direction", "FaultyCarrier"]

Direction = Literal["outgoing", "incoming"]
"""As this end sees it."""

_BOTH: Final[tuple[Direction, ...]] = ("outgoing", "incoming")
_UNSENT_BYTES_HIGH: Final = 64 * KIB
_CLOSE_TIMEOUT_S: Final = 5.0


class _Timer(Protocol):
    def cancel(self) -> object: ...


class _CallLater(Protocol):
    def __call__(self, delay_s: float, callback: Callable[[], None], /) -> _Timer: ...


class FaultyCarrier(Carrier):
    """Hands on what the wrapped carrier does, until told to do worse."""

    kind: ClassVar[CarrierKind] = "memory"

    def __init__(self, inner: Carrier, *, rng: random.Random, call_later: _CallLater) -> None:
        """
        Wrap a carrier that was not started.

        Args:
            inner: The carrier; this one owns it from now on.
            rng: Source of jitter.
            call_later: Runs a function after some seconds: `loop.call_later`.
        """
        self._inner = inner
        self.kind = inner.kind  # type: ignore[misc] # of the instance here, of the class elsewhere
        self.peer = inner.peer
        self.is_secure = inner.is_secure
        self.is_loopback = inner.is_loopback
        self.websocket_url = inner.websocket_url
        self.is_writable = inner.is_writable
        self._call_later = call_later
        self._events: CarrierEvents | None = None
        self._is_closing = False
        self._is_over = False
        self._is_inner_over = False
        self._inner_error: CarrierLostError | None = None
        # Runs while a carrier that was closed has not ended.
        self._close_timer: _Timer | None = None
        self._lanes: dict[Direction, _Lane] = {
            direction: _Lane(rng=rng, call_later=call_later, cut=self.cut) for direction in _BOTH
        }
        self._lanes["outgoing"].can_pass = lambda: self._inner.is_writable
        self._lanes["outgoing"].passed_late = self._tell_writable

    @property
    def is_over(self) -> bool:
        """True when nothing passes any more; the listener may not have been told yet."""
        # One that was never started tells nobody of its end.
        return self._is_inner_over or (self._is_closing and self._events is None)

    # --- faults ---

    def cut(self) -> None:
        """Drop the connection now, and what is held with it. Both ends find out."""
        for lane in self._lanes.values():
            lane.clear()
        self._inner.abort()
        if self._is_inner_over and not self._is_over:
            # Its end was among what was held.
            self._call_later(0.0, partial(self._end, self._inner_error))

    def cut_after(self, batch_count: int, *, direction: Direction, is_delivered: bool) -> None:
        """
        Cut at the nth batch from now.

        Args:
            batch_count: From 1.
            direction: Whose batches count.
            is_delivered: Whether that batch still arrives.
        """
        assert batch_count >= 1
        self._lanes[direction].cut_after(batch_count, is_delivered=is_delivered)

    def delay(
        self, delay_s: float, *, jitter_s: float = 0.0, directions: Iterable[Direction] = _BOTH
    ) -> None:
        """Hand on everything this much later from now on, in order; 0 ends it."""
        for direction in directions:
            self._lanes[direction].delay(delay_s, jitter_s)

    def stall(self, directions: Iterable[Direction] = _BOTH) -> None:
        """
        Hold everything back and report nothing, an end neither, as a network that drops packets
        does.
        """
        for direction in directions:
            self._lanes[direction].is_stalled = True

    def resume(self, directions: Iterable[Direction] = _BOTH) -> None:
        """Hand on what was stalled, and go on."""
        for direction in directions:
            self._lanes[direction].resume()
        self._tell_writable()

    # --- Carrier ---

    def start(self, events: CarrierEvents) -> None:
        assert self._events is None, "a carrier is started once"
        self._events = events
        self._inner.start(self)

    def send_nowait(self, batch: bytes) -> None:
        if self._is_closing or self._is_over:
            return
        lane = self._lanes["outgoing"]
        lane.put(partial(self._inner.send_nowait, batch), size_bytes=len(batch))
        self.is_writable = self._is_free()

    def close(self) -> None:
        if self._is_closing or self._is_over:
            return
        self._is_closing = True
        self.is_writable = False
        self._lanes["incoming"].clear()
        self._lanes["outgoing"].put(self._inner.close)
        self._close_timer = self._call_later(_CLOSE_TIMEOUT_S, self._give_up)

    def abort(self) -> None:
        if self._is_over:
            return
        self._is_closing = True
        self.is_writable = False
        self.cut()

    def _give_up(self) -> None:
        if not self._is_over:
            self.cut()

    # --- CarrierEvents, of the wrapped one ---

    def batch_received(self, batch: bytes) -> None:
        if not self._is_closing:
            lane = self._lanes["incoming"]
            lane.put(partial(self._deliver, batch), size_bytes=len(batch))

    def writable(self) -> None:
        self._lanes["outgoing"].pass_on()
        self._tell_writable()

    def carrier_ended(self, error: CarrierLostError | None) -> None:
        self._is_inner_over = True
        self._inner_error = error
        self.is_writable = False
        self._lanes["outgoing"].clear()
        self._lanes["incoming"].put(partial(self._end, error))

    def _deliver(self, batch: bytes) -> None:
        assert self._events is not None
        if not self._is_closing:
            self._events.batch_received(batch)

    def _end(self, error: CarrierLostError | None) -> None:
        if self._is_over:
            return
        assert self._events is not None
        self._is_over = True
        if self._close_timer is not None:
            self._close_timer.cancel()
        self._events.carrier_ended(error)

    def _is_free(self) -> bool:
        return self._inner.is_writable and self._lanes["outgoing"].held_bytes <= _UNSENT_BYTES_HIGH

    def _tell_writable(self) -> None:
        if self.is_writable or self._is_closing or self._is_over or not self._is_free():
            return
        self.is_writable = True
        if self._events is not None:
            self._events.writable()


class _Lane:
    """One direction: what is held back, in order, and when it may go."""

    def __init__(
        self, *, rng: random.Random, call_later: _CallLater, cut: Callable[[], None]
    ) -> None:
        self._rng = rng
        self._call_later = call_later
        self._cut = cut
        self.can_pass: Callable[[], bool] = lambda: True
        self.passed_late: Callable[[], None] = lambda: None
        self.is_stalled = False
        self.held_bytes = 0
        self._held: deque[tuple[Callable[[], None], int]] = deque()
        # How many of the held have waited long enough.
        self._due_count = 0
        # Timers of what was dropped count for nothing.
        self._generation = 0
        self._delay_s = 0.0
        self._jitter_s = 0.0
        # Batches until the cut; None when none is planned.
        self._cut_in: int | None = None
        self._is_cut_delivered = False

    def delay(self, delay_s: float, jitter_s: float) -> None:
        self._delay_s, self._jitter_s = delay_s, jitter_s

    def cut_after(self, batch_count: int, *, is_delivered: bool) -> None:
        self._cut_in, self._is_cut_delivered = batch_count, is_delivered

    def put(self, action: Callable[[], None], *, size_bytes: int = 0) -> None:
        """Do it in its turn; anything with a size is a batch."""
        self._held.append((action, size_bytes))
        self.held_bytes += size_bytes
        if self._delay_s or self._jitter_s:
            delay_s = self._delay_s + self._rng.uniform(0.0, self._jitter_s)
            self._call_later(delay_s, partial(self._due, self._generation))
        else:
            # Behind delayed ones it waits for their timers: the count only says how many, the queue
            # says which.
            self._due_count += 1
            self.pass_on()

    def pass_on(self) -> None:
        while self._due_count and self._held and not self.is_stalled:
            action, size_bytes = self._held[0]
            if size_bytes and not self.can_pass():
                return
            self._held.popleft()
            self._due_count -= 1
            self.held_bytes -= size_bytes
            if size_bytes and self._cut_in is not None and self._is_cut_by(action):
                return
            action()

    def resume(self) -> None:
        self.is_stalled = False
        self.pass_on()

    def clear(self) -> None:
        """Drop what is held, and stop stalling and planning."""
        self._held.clear()
        self.held_bytes = 0
        self._due_count = 0
        self._generation += 1
        self.is_stalled = False
        self._cut_in = None

    def _due(self, generation: int) -> None:
        if generation == self._generation:
            self._due_count += 1
            self.pass_on()
            self.passed_late()

    def _is_cut_by(self, action: Callable[[], None]) -> bool:
        assert self._cut_in is not None
        self._cut_in -= 1
        if self._cut_in:
            return False
        if self._is_cut_delivered:
            action()
        self._cut()
        return True
