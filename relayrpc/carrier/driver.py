"""
The one driver: pumps a Link over whatever carrier it has.

Batches are handled where they arrive and sent once per turn of the loop, while the carrier takes
them. There is no task,
queue or future per batch; there is one timer per link. Owns no policy: who dials, accepts or gives
up is the business of
endpoint/live_link.py and hub/server.py.
Source: LINK.md "Speed: the mechanism".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from relayrpc.link.link import LinkState


if TYPE_CHECKING:
    import asyncio

    from relayrpc.carrier.base import Carrier, CarrierKind
    from relayrpc.errors import CarrierLostError
    from relayrpc.link.events import Event
    from relayrpc.link.link import Link


__all__ = ["LinkDriver", "Traffic"]

_FAREWELL_TIMEOUT_S: Final = 5.0


class Traffic:
    """What passed over some carriers, a carrier's first batch on a hub not counted."""

    __slots__ = ("received_bytes", "received_count", "sent_bytes", "sent_count")

    def __init__(self) -> None:
        self.received_bytes = 0
        self.received_count = 0
        """Batches."""
        self.sent_bytes = 0
        self.sent_count = 0
        """Batches."""


class LinkDriver:
    """
    One link and its carriers: the current one and, while the link resumes or moves, the next.

    Everything runs on the loop's thread.
    """

    __slots__ = (
        "_can_send",
        "_carrier_ended",
        "_clock",
        "_events_received",
        "_farewell_timer",
        "_flushed",
        "_is_flush_due",
        "_loop",
        "_rides",
        "_timer",
        "_timer_due_s",
        "_traffic",
        "_waiters",
        "link",
    )

    def __init__(
        self,
        link: Link,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        events_received: Callable[[list[Event]], None],
        carrier_ended: Callable[[Carrier, CarrierLostError | None], None],
        flushed: Callable[[], None] | None = None,
        traffic: dict[CarrierKind, Traffic] | None = None,
    ) -> None:
        """
        Args:
            link: The link; its `flush_soon` is set.
            loop: The running loop.
            clock: Monotonic seconds, the same for all links of a process.
            events_received: Acts on the link's events; must not raise.
            carrier_ended: Told when a carrier of this link is over, current or not.
            flushed: Called after something was sent: budget may have come free.
            traffic: Where to count what passes; links of one process may share it. None: nobody
                asks.
        """
        self.link = link
        self._loop = loop
        self._clock = clock
        self._events_received = events_received
        self._carrier_ended = carrier_ended
        self._flushed = flushed
        self._traffic: dict[CarrierKind, Traffic] = {} if traffic is None else traffic
        self._rides: list[_Ride] = []
        self._is_flush_due = False
        # The carrier in use took everything there was to send.
        self._can_send = True
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_s = 0.0
        # Runs while the link is over and its last batch waits for the carrier to take it.
        self._farewell_timer: asyncio.TimerHandle | None = None
        # Completed when the last carrier is over.
        self._waiters: list[asyncio.Future[None]] = []
        link.flush_soon = self.flush_soon

    @property
    def carrier(self) -> Carrier | None:
        """The carrier in use; None while there is none."""
        for ride in self._rides:
            if ride.attempt == self.link.attempt and self.link.state is LinkState.OPEN:
                return ride.carrier
        return None

    @property
    def carriers_count(self) -> int:
        """Carriers held now: 0, 1, or 2 while the link moves."""
        return len(self._rides)

    def attach(self, carrier: Carrier, attempt: int) -> None:
        """Take a new carrier; the link has already said which attempt it is."""
        ride = _Ride(self, carrier, attempt)
        self._rides.append(ride)
        self.flush_soon()
        carrier.start(ride)

    def adopt(self, carrier: Carrier, attempt: int) -> _Ride:
        """Take a carrier that is started already; its events are to go to what is returned."""
        ride = _Ride(self, carrier, attempt)
        self._rides.append(ride)
        self.flush_soon()
        return ride

    def has_attempt(self, attempt: int) -> bool:
        """True while the carrier of this attempt is held."""
        return any(ride.attempt == attempt for ride in self._rides)

    def drop(self, attempt: int) -> None:
        """Give up the carrier of this attempt; no-op when it is gone."""
        for ride in list(self._rides):
            if ride.attempt == attempt:
                ride.give_up()

    def flush_soon(self) -> None:
        """Send what is due at the end of this turn of the loop; cheap and idempotent."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)
        elif self.link.has_full_batch():
            # The peer can begin with these while this process makes more.
            self._pump(self._clock())

    async def carriers_over(self, *, timeout_s: float) -> None:
        """
        Wait until the carriers of a link that has ended are over.

        Args:
            timeout_s: Those that take longer to end in order are dropped.
        """
        timer = self._loop.call_later(timeout_s, self._abort_carriers)
        try:
            while self._rides:
                waiter: asyncio.Future[None] = self._loop.create_future()
                self._waiters.append(waiter)
                await waiter
        finally:
            timer.cancel()

    # --- inside ---

    def _stop(self) -> None:
        """Close carriers and timer of a link that is over; what a carrier was handed goes out."""
        link = self.link
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for ride in list(self._rides):
            if (
                ride.attempt == link.attempt
                and link.has_farewell
                and not ride.carrier.is_writable
                and not ride.is_closing
            ):
                # The peer must be told that it is over, or it keeps the link for a resume.
                if self._farewell_timer is None:
                    self._farewell_timer = self._loop.call_later(
                        _FAREWELL_TIMEOUT_S, self._abort_carriers
                    )
                continue
            ride.is_closing = True
            ride.carrier.close()

    def _abort_carriers(self) -> None:
        for ride in list(self._rides):
            ride.carrier.abort()

    def _ride_over(self, ride: _Ride) -> None:
        self._rides.remove(ride)
        if not self._rides and self._farewell_timer is not None:
            self._farewell_timer.cancel()
        if not self._rides and self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _flush(self) -> None:
        self._is_flush_due = False
        link = self.link
        now_s = self._clock()
        self._pump(now_s)
        if len(self._rides) > 1:
            for ride in list(self._rides):
                if ride.attempt < link.attempt:
                    # Overtaken by a newer carrier: what it still delivers would be dropped.
                    ride.carrier.close()
        self._deliver()
        if self._flushed is not None:
            self._flushed()
        if link.state is LinkState.CLOSED:
            self._stop()
        else:
            self._set_timer(now_s)

    def _pump(self, now_s: float) -> None:
        """Send while carriers take it."""
        link = self.link
        for ride in self._rides:
            carrier = ride.carrier
            while carrier.is_writable:
                batch = link.batch_to_send(attempt=ride.attempt, now_s=now_s)
                if batch is None:
                    break
                carrier.send_nowait(batch)
                ride.traffic.sent_count += 1
                ride.traffic.sent_bytes += len(batch)
            if ride.attempt == link.attempt:
                self._can_send = carrier.is_writable

    def _deliver(self) -> bool:
        """Hand the link's events on; False when there were none."""
        events = self.link.events_received()
        if not events:
            return False
        self._events_received(events)
        return True

    def _set_timer(self, now_s: float) -> None:
        due_s = self.link.next_deadline_s(can_send=self._can_send)
        if due_s is None:
            return
        if self._timer is not None:
            if self._timer_due_s <= due_s:
                # It fires early, and is then set anew: cheaper than moving it with every batch.
                return
            self._timer.cancel()
        self._timer_due_s = due_s
        self._timer = self._loop.call_later(max(0.0, due_s - now_s), self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        now_s = self._clock()
        if now_s < self._timer_due_s:
            # The loop's clock runs ahead of ours by less than its resolution.
            now_s = self._timer_due_s
        if self.link.handle_timeout(now_s=now_s):
            self.drop(self.link.attempt)
        self._deliver()
        self.flush_soon()


class _Ride:
    """One carrier in the service of one link."""

    __slots__ = ("_driver", "attempt", "carrier", "is_closing", "traffic")

    def __init__(self, driver: LinkDriver, carrier: Carrier, attempt: int) -> None:
        self._driver = driver
        self.carrier = carrier
        self.attempt = attempt
        self.traffic = driver._traffic.setdefault(carrier.kind, Traffic())
        # Closed here, because the link is over.
        self.is_closing = False

    def batch_received(self, batch: bytes) -> None:
        driver = self._driver
        link = driver.link
        self.traffic.received_count += 1
        self.traffic.received_bytes += len(batch)
        now_s = driver._clock()
        link.receive_batch(batch, attempt=self.attempt, now_s=now_s)
        is_answered_soon = driver._deliver() and not link.is_hub
        if driver._is_flush_due:
            return
        # What the events woke runs next: a flush that is due right behind it takes the answers
        # along. A hub has acted on them already, on other links.
        if is_answered_soon or link.is_flush_due(now_s=now_s):
            driver.flush_soon()
        else:
            # Mostly nothing is due but an ack in a while.
            driver._set_timer(now_s)

    def writable(self) -> None:
        self._driver._flush()

    def carrier_ended(self, error: CarrierLostError | None) -> None:
        driver = self._driver
        if self not in driver._rides:
            return
        driver._ride_over(self)
        driver.link.carrier_lost(
            self.attempt,
            now_s=driver._clock(),
            is_size_error=error is not None and bool(error.detail.get("size_error")),
        )
        driver._deliver()
        driver._carrier_ended(self.carrier, error)
        driver.flush_soon()

    def give_up(self) -> None:
        """Drop a carrier whose peer is silent, without waiting for its end."""
        self.carrier.abort()
        self.carrier_ended(None)
