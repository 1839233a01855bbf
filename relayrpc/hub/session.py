"""
The hub's asynchronous half: carriers in, links driven, drain. What is decided is decided in
links.py, forward.py and what that builds on.

Owns: one driver per link, handshakes in progress, the drain. Does not own: ports (server.py and the
doors). Runs on any event loop and
any carrier, a simulated one included.
Source: LINK.md "Resume, takeover, expiry"; DESIGN.md decision 7.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from relayrpc.carrier.driver import LinkDriver, Traffic
from relayrpc.errors import AbuseError, ProtocolError
from relayrpc.hub.forward import Forwarder
from relayrpc.hub.links import LinkTable, Refused
from relayrpc.hub.routing import Router
from relayrpc.link.events import LinkEnded
from relayrpc.link.frames import encode_unnumbered
from relayrpc.link.link import LinkState
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    import random

    from relayrpc.carrier.base import Carrier, CarrierEvents, CarrierKind
    from relayrpc.errors import CarrierLostError, RelayError
    from relayrpc.hub.checks import RequestChecks
    from relayrpc.limits import Limits
    from relayrpc.link.events import Event
    from relayrpc.link.link import Link


__all__ = ["HubSessions"]

# Close has left by then, or will never arrive.
_CLOSE_TIMEOUT_S: Final = 1.0
_LOGGER: Final = logging.getLogger("relayrpc.hub")


class HubSessions:
    """Every link of a hub, from the moment its carrier is open."""

    def __init__(
        self,
        *,
        limits: Limits,
        clock: Callable[[], float],
        random: random.Random,
        token_bytes: Callable[[int], bytes],
    ) -> None:
        """
        Args:
            limits: The hub's bounds.
            clock: Monotonic seconds.
            random: Breaks ties between hosts.
            token_bytes: Source of link ids and secrets.
        """
        self.limits = limits
        self.table = LinkTable(limits=limits, token_bytes=token_bytes)
        self.forwarder = Forwarder(Router(random=random), limits=limits)
        self.observers = self.forwarder.observers
        self.traffic: dict[CarrierKind, Traffic] = {}
        """What passed over the carriers of each kind since the start."""
        self.clock = clock
        self._drivers: dict[Link, LinkDriver] = {}
        # Of links that are over, while their last carriers end.
        self._ending: dict[Link, LinkDriver] = {}
        self._handshakes: dict[_Handshake, None] = {}
        # Set while the hub drains, and completed when nothing is left to wait for.
        self._drained: asyncio.Event | None = None
        self._drain_until_s = 0.0
        # Due when the first call that waits for a host has waited enough, and when that is: kept
        # apart, as uvloop's handle of what is due at once does not say.
        self._queue_timer: asyncio.TimerHandle | None = None
        self._queue_due_s = 0.0
        # Requests are checked in the next turn.
        self._is_check_due = False

    @property
    def handshakes_count(self) -> int:
        """Carriers whose first batch has not come yet."""
        return len(self._handshakes)

    def driver(self, link: Link) -> LinkDriver:
        """Return the driver of a link that is not over."""
        return self._drivers[link]

    @property
    def is_draining(self) -> bool:
        """True once drain() was called."""
        return self._drained is not None

    def accept(self, carrier: Carrier, *, local_identity: str = "") -> None:
        """
        Take an open carrier; a door calls this.

        Args:
            carrier: Not started yet.
            local_identity: Who is at its other end, when that is the hub itself (local.py).
        """
        handshake = _Handshake(self, carrier, local_identity)
        if len(self._handshakes) >= self.limits.handshakes_open_max:
            error = AbuseError("too many handshakes are open; try later")
            self.refused(carrier, error)
            handshake.refuse(error)
            return
        self._handshakes[handshake] = None
        handshake.start()

    # --- what handshakes and drivers report ---

    def handshake_over(self, handshake: _Handshake) -> None:
        """Forget a handshake that is done or failed."""
        self._handshakes.pop(handshake, None)

    def refused(self, carrier: Carrier, error: RelayError) -> None:
        """Tell who listens that a carrier was refused."""
        for observe in self.observers.carrier_refused:
            observe(carrier, error)

    def first_batch(
        self, carrier: Carrier, batch: bytes, local_identity: str
    ) -> CarrierEvents | Refused:
        """Decide on a carrier's first batch; returns who gets its further events."""
        now_s = self.clock()
        decision = self.table.first_batch(
            batch,
            peer=carrier.peer,
            websocket_url=carrier.websocket_url,
            now_s=now_s,
            local_identity=local_identity,
        )
        if isinstance(decision, Refused):
            return decision
        link = decision.link
        if decision.is_new:
            self._drivers[link] = LinkDriver(
                link,
                loop=asyncio.get_running_loop(),
                clock=self.clock,
                events_received=functools.partial(self._events_received, link),
                carrier_ended=functools.partial(self._carrier_ended, link),
                flushed=self._flushed,
                traffic=self.traffic,
            )
            for observe in self.observers.link_opened:
                observe(link, carrier.kind)
            if self._drained is not None:
                link.go_away(reason="the hub stops", time_left_s=self._drain_until_s - now_s)
        else:
            for observe in self.observers.link_resumed:
                observe(link, carrier.kind)
            self.forwarder.hosts.link_opened(link, now_s=now_s)
        driver = self._drivers[link]
        return driver.adopt(carrier, decision.attempt)

    def _events_received(self, link: Link, events: list[Event]) -> None:
        now_s = self.clock()
        try:
            is_alive = self.forwarder.handle(link, events, now_s=now_s)
        except Exception:
            # What is left of the events is lost: the link must not go on as if nothing were.
            _LOGGER.exception("a link is ended: what came by it could not be handled")
            link.close(code=pb.Close.CODE_SHUTDOWN, reason="the hub failed to handle what came")
            link.flush_soon()
            return
        if self.table.has_newcomers:
            self._take_over(link, now_s)
        if len(self.forwarder.queue):
            self._watch_queue(now_s)
        if not is_alive:
            self.table.remove(link)
            driver = self._drivers.pop(link, None)
            if driver is not None and driver.carriers_count:
                self._ending[link] = driver
            self._check_drained()
            ended = events[-1]
            assert isinstance(ended, LinkEnded)
            for observe in self.observers.link_ended:
                observe(link, ended.error)

    def _take_over(self, link: Link, now_s: float) -> None:
        older = self.table.heard_of(link, now_s=now_s)
        if older is not None:
            for observe in self.observers.link_replaced:
                observe(link, older)
            self._settle(older)

    def _watch_queue(self, now_s: float) -> None:
        """Have calls that wait for a host looked at when one of them has waited enough."""
        end_s = self.forwarder.queue.next_end_s()
        if end_s is None:
            return
        if self._queue_timer is not None:
            if self._queue_due_s <= end_s:
                return
            self._queue_timer.cancel()
        self._queue_due_s = end_s
        loop = asyncio.get_running_loop()
        self._queue_timer = loop.call_later(max(0.0, end_s - now_s), self._queue_due)

    def _queue_due(self) -> None:
        self._queue_timer = None
        now_s = self.clock()
        self.forwarder.expire_queued(now_s=now_s)
        self._watch_queue(now_s)

    def check_requests(self, checks: RequestChecks) -> None:
        """Have requests checked before hosts are given them; before the first carrier comes."""
        self.forwarder.checks = checks
        checks.woken = self._check_soon

    def _check_soon(self) -> None:
        if not self._is_check_due:
            self._is_check_due = True
            asyncio.get_running_loop().call_soon(self._check)

    def _check(self) -> None:
        self._is_check_due = False
        now_s = self.clock()
        if self.forwarder.check_some(now_s=now_s):
            self._check_soon()
        if len(self.forwarder.queue):
            self._watch_queue(now_s)

    def _settle(self, link: Link) -> None:
        """See to the events and the Close of a link that was ended from outside its driver."""
        events = link.events_received()
        if events:
            self._events_received(link, events)
        link.flush_soon()

    def _carrier_ended(
        self, link: Link, _carrier: Carrier, error: CarrierLostError | None
    ) -> None:
        ending = self._ending.get(link)
        if ending is not None and not ending.carriers_count:
            del self._ending[link]
        if link.state is LinkState.PARKED:
            for observe in self.observers.link_parked:
                observe(link, error)
            now_s = self.clock()
            self.forwarder.hosts.link_parked(link, now_s=now_s)
            self._watch_queue(now_s)
        for heavy in self.table.links_to_expire():
            heavy.close(code=pb.Close.CODE_LIMIT, reason="parked links keep too much")
            self._settle(heavy)

    def _flushed(self) -> None:
        if self.forwarder.starved_count:
            self.forwarder.serve_starved()
        self._check_drained()

    def _check_drained(self) -> None:
        if self._drained is not None and all(link.is_idle for link in self.table.links):
            self._drained.set()

    # --- the end ---

    async def drain(self) -> None:
        """
        Tell every peer to go elsewhere, wait for running calls up to Limits.drain_timeout_s, end
        those that are left, then close all links.

        Idempotent; cancelling it leaves the links to aclose().
        """
        timeout_s = self.limits.drain_timeout_s
        self._drained = asyncio.Event()
        self._drain_until_s = self.clock() + timeout_s
        for observe in self.observers.drain_began:
            observe(timeout_s)
        for link in self.table.links:
            link.go_away(reason="the hub stops", time_left_s=timeout_s)
            self._settle(link)
        self.forwarder.drain(now_s=self.clock())
        self._check_drained()
        try:
            async with asyncio.timeout(timeout_s):
                await self._drained.wait()
        except TimeoutError:
            pass
        finally:
            self._drain_over()
        if not self._drained.is_set():
            await self._end_calls(f"the hub stopped, {timeout_s:g} s after it began to drain")
        await self.aclose()

    def _drain_over(self) -> None:
        links = self.table.links
        calls_open_count = sum(link.peer_calls_count for link in links)
        silent_count = sum(not link.calls_open_count and not link.is_idle for link in links)
        for observe in self.observers.drain_ended:
            observe(calls_open_count, silent_count)

    async def _end_calls(self, details: str) -> None:
        """Tell callers and hosts how their calls end, as far as they can be reached at once."""
        for link in self.table.links:
            self.forwarder.end_calls(link, details, now_s=self.clock())
        assert self._drained is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._drained.wait()

    async def aclose(self) -> None:
        """Close every link now; returns when the carriers are over. Idempotent."""
        if self._queue_timer is not None:
            self._queue_timer.cancel()
        for handshake in list(self._handshakes):
            handshake.refuse(AbuseError("the hub stops"))
        for link in self.table.links:
            link.close(code=pb.Close.CODE_SHUTDOWN, reason="the hub stopped")
            self._settle(link)
        # One-way calls wait still: they are the hub's own, and lost with it.
        self.forwarder.drain(now_s=self.clock())
        await asyncio.gather(
            *[
                driver.carriers_over(timeout_s=_CLOSE_TIMEOUT_S)
                for driver in self._ending.values()
            ]
        )


class _Handshake:
    """
    A carrier whose first batch has not come; afterwards it hands the carrier's events on to its
    link's driver.
    """

    def __init__(self, sessions: HubSessions, carrier: Carrier, local_identity: str) -> None:
        self._sessions = sessions
        self._carrier = carrier
        self._local_identity = local_identity
        self._ride: CarrierEvents | None = None
        self._is_over = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Wait for the first batch, for a bounded time."""
        self._timer = asyncio.get_running_loop().call_later(
            self._sessions.limits.handshake_timeout_s, self._carrier.abort
        )
        self._carrier.start(self)

    def refuse(self, error: ProtocolError) -> None:
        """Say why not, and close."""
        close = pb.Close(code=pb.Close.Code.Name(error.close_code), reason=str(error))
        self._finish(encode_unnumbered(pb.Frame(close=close)))

    def _finish(self, batch: bytes) -> None:
        self._over()
        if self._timer is None:
            self._carrier.start(self)
        if self._carrier.is_writable:
            self._carrier.send_nowait(batch)
        self._carrier.close()

    def _over(self) -> None:
        self._is_over = True
        self._sessions.handshake_over(self)
        if self._timer is not None:
            self._timer.cancel()

    def batch_received(self, batch: bytes) -> None:
        if self._ride is not None:
            self._ride.batch_received(batch)
            return
        if self._is_over:
            return
        decision = self._sessions.first_batch(self._carrier, batch, self._local_identity)
        if isinstance(decision, Refused):
            self._sessions.refused(self._carrier, decision.error)
            self._finish(decision.batch)
            return
        self._over()
        self._ride = decision

    def writable(self) -> None:
        if self._ride is not None:
            self._ride.writable()

    def carrier_ended(self, error: CarrierLostError | None) -> None:
        if self._ride is not None:
            self._ride.carrier_ended(error)
        elif not self._is_over:
            self._over()
