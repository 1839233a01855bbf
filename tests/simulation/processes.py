"""
The simulated processes: peers that dial (hosts, callers, both) and hubs that accept.

Owns: when to dial, to resume, to move and to give up, in the manner of endpoint/live_link.py and
hub/session.py, but on virtual time and without a task; the Link, LinkDriver, LinkTable, Forwarder
and Router inside are the real ones. Does not own: what the applications do (apps.py).
Source: LINK.md "Resume, takeover, expiry".
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from relayrpc.carrier.driver import LinkDriver
from relayrpc.errors import ProtocolError
from relayrpc.hub.forward import Forwarder
from relayrpc.hub.links import LinkTable, Refused
from relayrpc.hub.routing import Router
from relayrpc.link.call import STATUS_DEADLINE_EXCEEDED, make_end
from relayrpc.link.events import (
    AnnouncedReceived,
    BeginReceived,
    CallEnded,
    CallOpened,
    CallReturned,
    DataReceived,
    DeadlinePassed,
    Event,
    GoingAwayReceived,
    HalfCloseReceived,
    LinkEnded,
    SendReady,
    WelcomeReceived,
)
from relayrpc.link.frames import encode_unnumbered
from relayrpc.link.link import Link, LinkState
from relayrpc.v1 import link_pb2 as pb
from tests.simulation.apps import CallerApp, HostApp, identity_of
from tests.simulation.carriers import CarrierPair, FaultPlan, PathShape, SimCarrier
from tests.simulation.ledger import Handling
from tests.simulation.scripts import IDENTITY_KEY


if TYPE_CHECKING:
    from relayrpc.carrier.base import Carrier, CarrierEvents
    from relayrpc.errors import CarrierLostError
    from relayrpc.limits import Limits
    from relayrpc.link.call import Call
    from tests.simulation.ledger import Ledger
    from tests.simulation.scripts import CallScript
    from tests.simulation.world import World


__all__ = ["Network", "Peer", "SimHub"]

_BACKOFF_S_MAX: Final = 2.0
# What a hub answers that has too many handshakes open, or stops.
_BUSY: Final = encode_unnumbered(
    pb.Frame(close=pb.Close(code=pb.Close.CODE_LIMIT, reason="the hub is busy"))
)


class Network:
    """The hubs one can reach, and what the ways to them are like."""

    def __init__(self, world: World, ledger: Ledger) -> None:
        self.world = world
        self.ledger = ledger
        # Where new carriers go; None while no hub listens.
        self.hub: SimHub | None = None
        # Every hub that was, for the checks.
        self.hubs: list[SimHub] = []
        self.peers: list[Peer] = []
        self.pairs: list[CarrierPair] = []
        self.apps: list[CallerApp | HostApp] = []
        self.are_readers_free = False
        self.transit_s_max = 0.0
        self.draw_shape: Callable[[], PathShape] = lambda: PathShape(0.001, 0.0, 1e8)
        self.draw_plan: Callable[[], FaultPlan] = FaultPlan

    def start_hub(self, limits: Limits) -> SimHub:
        """Start a hub; new carriers go to it from now on."""
        hub = SimHub(self, limits, name=f"hub{len(self.hubs)}")
        self.hub = hub
        self.hubs.append(hub)
        return hub

    def free_readers(self) -> None:
        """Let those go on who were to be stuck."""
        self.are_readers_free = True
        for app in self.apps:
            if not app.is_over:
                app.reader.read()

    def connect(self, peer: Peer) -> SimCarrier | None:
        """Open a carrier for a peer; None when the hub cannot be reached."""
        hub = self.hub
        if hub is None or peer.is_offline:
            return None
        pair = CarrierPair(
            self.world,
            name=f"{peer.name}#{peer.carriers_count}",
            shape=self.draw_shape(),
            plan=self.draw_plan(),
            peer=peer.name,
        )
        peer.carriers_count += 1
        # Those that are over are kept for their transit times only.
        for old in [pair for pair in self.pairs if pair.is_over]:
            self.transit_s_max = max(self.transit_s_max, old.transit_s_max)
            self.pairs.remove(old)
        self.pairs.append(pair)
        peer.pair = pair
        hub.pairs.append(pair)
        hub.accept(pair.acceptor)
        return pair.dialler

    def transit_s(self) -> float:
        """Return the longest that any batch was on its way."""
        return max([self.transit_s_max, *(pair.transit_s_max for pair in self.pairs)])


class Peer:
    """One process that dials: a host, a caller, or both."""

    def __init__(
        self, network: Network, *, name: str, instance: str, limits: Limits, clock_offset_s: float
    ) -> None:
        self.network = network
        self.world = network.world
        self.ledger = network.ledger
        self.name = name
        self.instance = instance
        self.limits = limits
        self._clock_offset_s = clock_offset_s
        self.services: list[tuple[str, str]] = []
        """The (address, service) pairs it serves."""
        self.is_offline = False
        self.is_dead = False
        self.is_final = False
        self.carriers_count = 0
        self.links_count = 0
        self.pair: CarrierPair | None = None
        self.link: Link = None  # type: ignore[assignment]  # start() sets it
        self.driver: LinkDriver = None  # type: ignore[assignment]
        self.link_key = ""
        self.draining: dict[Link, LinkDriver] = {}
        self.link_keys: dict[Link, str] = {}
        self._pending: int | None = None
        self._is_dial_due = False
        self._backoff_s = 0.0
        self._error = "not connected yet"
        self._announcement_id = 0
        self.accepted_count = 0
        # Counts the lists of events that were acted on.
        self.turn = 0

    @property
    def are_readers_free(self) -> bool:
        """True once readers that the script made stuck may go on."""
        return self.network.are_readers_free

    def clock(self) -> float:
        """Monotonic seconds of this process: no two processes agree on them."""
        return self.world.now_s + self._clock_offset_s

    # --- life ---

    def start(self, *, after_s: float = 0.0) -> None:
        """Begin to connect; calls may be opened at once."""
        self._new_link()
        self._is_dial_due = True
        self.world.call_later(after_s, self._dial)

    def die(self) -> None:
        """Stop without a word, as a killed process."""
        self.is_dead = True
        self.world.note("dies", self.name)
        for driver in [*self.draining.values(), self.driver]:
            for ride in list(driver._rides):
                pair = ride.carrier.pair  # type: ignore[attr-defined]  # a SimCarrier
                pair.abort(pair.dialler)
        for record in self.ledger.records.values():
            if record.caller == self.instance and record.link_key in self.link_keys.values():
                self.ledger.caller_died(record)
            for handling in record.handlings:
                if handling.link_key in self.link_keys.values() and not handling.is_over:
                    handling.is_dead = True

    def close(self) -> None:
        """End in order."""
        self.is_final = True
        for link, driver in [*self.draining.items(), (self.link, self.driver)]:
            link.close()
            driver.flush_soon()

    def move(self) -> None:
        """Open a second carrier and go over to it."""
        if self.link.state is LinkState.OPEN and self._pending is None and not self.is_dead:
            self.world.seen["move"] += 1
            self._dial()

    def withdraw(self) -> None:
        """Take every announcement back."""
        self.services = []
        for announcement_id in range(1, self._announcement_id + 1):
            self.link.withdraw(announcement_id)
        self.link.flush_soon()

    # --- calls ---

    def open_call(self, script: CallScript) -> None:
        """Open a call as its script says."""
        if self.is_dead or self.is_final:
            return
        now_s = self.world.now_s
        deadline_s = None
        if script.deadline_after_s is not None:
            deadline_s = now_s + script.deadline_after_s
        record = self.ledger.opened(
            script, caller=self.instance, link_key=self.link_key, deadline_s=deadline_s
        )
        app = CallerApp(self, record)
        self.network.apps.append(app)
        data, is_all = app.first_data()
        app.call = self.link.open_call(
            script.method,
            script.address,
            shape=script.shape,
            app=app,
            metadata=[(IDENTITY_KEY, script.call_id.encode())],
            deadline_s=None if deadline_s is None else deadline_s + self._clock_offset_s,
            data=data,
            half_close=is_all,
            order_key=script.order_key,
            wait_for_ready=script.wait_for_ready,
            credit_bytes=app.credit_bytes,
            now_s=self.clock(),
        )
        app.opened()
        self.link.flush_soon()
        if script.cancel_after_s is not None:
            self.world.call_later(script.cancel_after_s, self._cancel, app)

    def _cancel(self, app: CallerApp) -> None:
        if not self.is_dead:
            app.cancel()

    def _call_opened(self, link: Link, event: CallOpened) -> None:
        opening, call = event.frame.open, event.call
        call_id = identity_of(opening)
        deadline_s = None
        if call.deadline_s is not None:
            deadline_s = call.deadline_s - self._clock_offset_s
        handling = Handling(self.name, self.link_keys[link], self.world.now_s, deadline_s)
        record = self.ledger.started(call_id, handling)
        call.app = app = HostApp(self, call, record, handling)
        self.network.apps.append(app)
        app.start(opening)

    # --- dialling ---

    def _new_link(self) -> None:
        if self.link is not None and not self.link.is_closed:
            self.draining[self.link] = self.driver
        self.link = link = Link(
            is_dialler=True, limits=self.limits, instance=self.instance, now_s=self.clock()
        )
        self.link_key = f"{self.name}/{self.links_count}"
        self.link_keys[link] = self.link_key
        self.links_count += 1
        self._pending = None
        self.driver = LinkDriver(
            link,
            loop=self.world,  # type: ignore[arg-type]  # what it needs of a loop: soon and later
            clock=self.clock,
            events_received=functools.partial(self._events_received, link),
            carrier_ended=functools.partial(self._carrier_ended, link),
            flushed=functools.partial(self._flushed, link),
        )

    def _dial_soon(self) -> None:
        if not self._is_dial_due and not self.is_dead and not self.is_final:
            self._is_dial_due = True
            self.world.call_later(self._backoff_s * self.world.random.uniform(0.8, 1.2), self._dial)

    def _dial(self) -> None:
        self._is_dial_due = False
        link = self.link
        if self.is_dead or self.is_final or link.is_closed or self._pending is not None:
            return
        carrier = self.network.connect(self)
        if carrier is None:
            self._failed("the hub cannot be reached")
            return
        attempt = link.carrier_opened(now_s=self.clock())
        self.world.note("dial", self.name, self.link_key, attempt)
        self._pending = attempt
        self.driver.attach(carrier, attempt)
        self.world.call_later(
            self.limits.handshake_timeout_s, self._handshake_timed_out, link, attempt
        )

    def _handshake_timed_out(self, link: Link, attempt: int) -> None:
        if link is self.link and self._pending == attempt and not self.is_dead:
            self.world.seen["handshake timed out"] += 1
            self.driver.drop(attempt)

    def _failed(self, error: str) -> None:
        self._error = error
        self._backoff_s = min(max(self._backoff_s * 1.6, 0.05), _BACKOFF_S_MAX)
        self._fail_waiting(self.link)
        if self.link.state is not LinkState.OPEN:
            self._dial_soon()

    def _fail_waiting(self, link: Link) -> None:
        if link.state is LinkState.CONNECTING:
            link.fail_waiting(self._error)
            self._settle(link)

    def _settle(self, link: Link) -> None:
        events = link.events_received()
        if events:
            self._events_received(link, events)
        link.flush_soon()

    # --- what the driver reports ---

    def _flushed(self, link: Link) -> None:
        if self.is_dead:
            return
        if link in self.draining and link.is_draining and link.is_idle:
            link.close()
            self._settle(link)

    def _carrier_ended(self, link: Link, carrier: Carrier, error: CarrierLostError | None) -> None:
        if link is not self.link or self.is_dead:
            return
        if self._pending is not None and not self.driver.has_attempt(self._pending):
            self._pending = None
            self._failed("the carrier was lost in the handshake")
        if link.state is LinkState.PARKED and self._pending is None:
            self._dial_soon()

    def _events_received(self, link: Link, events: list[Event]) -> None:
        if self.is_dead:
            return
        self.turn += 1
        for event in events:
            app = getattr(getattr(event, "call", None), "app", None)
            if app is None or app.over_turn != self.turn:
                self._handle(link, event)
            # Else: received together with what made the application end or cancel its call.

    def _handle(self, link: Link, event: Event) -> None:
        match event:
            case CallEnded(call=call, frame=frame):
                call.app.call_ended(frame.end)
            case DataReceived(call=call, data=data):
                call.app.data_received(data)
            case CallOpened():
                self._call_opened(link, event)
            case HalfCloseReceived(call=call):
                call.app.half_close_received()
            case BeginReceived(call=call, frame=frame):
                call.app.begin_received(frame.begin)
            case SendReady(call=call):
                if not call.is_ended:
                    call.app.send_ready()
            case DeadlinePassed(call=call):
                end = make_end(
                    STATUS_DEADLINE_EXCEEDED, "Deadline Exceeded", origin=pb.End.ORIGIN_HOST
                )
                app = call.app
                link.forward_end(call, end, discard=True)
                app.call_ended(end.end)
            case WelcomeReceived(is_resumed=is_resumed):
                self._welcomed(link, is_resumed=is_resumed)
            case AnnouncedReceived(announced=announced):
                self.accepted_count += not announced.status
            case GoingAwayReceived():
                self.world.seen["going away"] += 1
                if link is self.link:
                    self._new_link()
                    self._dial_soon()
            case LinkEnded(error=error):
                self._link_ended(link, error)

    def _welcomed(self, link: Link, *, is_resumed: bool) -> None:
        self.world.note("welcome", self.link_keys[link], "resumed" if is_resumed else "new")
        self.world.seen["resumed" if is_resumed else "linked"] += 1
        if link is self.link:
            self._pending = None
            self._backoff_s = 0.0
        if not is_resumed:
            for address, service in self.services:
                self._announcement_id += 1
                link.announce(
                    self._announcement_id, address, [pb.ServiceDescription(name=service)]
                )
            link.flush_soon()

    def _link_ended(self, link: Link, error: Exception | None) -> None:
        self.world.note("link ended", self.link_keys[link], str(error))
        _check_error(self.world, self.link_keys[link], error)
        self.draining.pop(link, None)
        self.world.seen["link ended"] += 1
        if link is self.link and not self.is_final:
            detail: Any = getattr(error, "detail", {})
            if detail.get("code") in (pb.Close.CODE_REPLACED, pb.Close.CODE_REFUSED):
                self.is_final = True
                self.world.seen["replaced"] += 1
                return
            if error is not None:
                self._error = str(error)
            self._new_link()
            self._dial_soon()


class SimHub:
    """One run of a hub."""

    def __init__(self, network: Network, limits: Limits, *, name: str) -> None:
        self.network = network
        self.world = network.world
        self.limits = limits
        self.name = name
        self.table = LinkTable(limits=limits, token_bytes=self.world.token_bytes)
        self.forwarder = Forwarder(
            Router(random=random.Random(self.world.random.random())), limits=limits
        )
        self.drivers: dict[Link, LinkDriver] = {}
        self.is_dead = False
        self._clock_offset_s = self.world.random.uniform(0, 1e5)
        self._drain_until_s: float | None = None
        self._is_closed = False
        # Carriers whose first batch has not come.
        self.handshakes: dict[_Handshake, None] = {}
        self.pairs: list[CarrierPair] = []
        self._is_queue_due = False
        # Legs that are over, to see that nothing more is said of them.
        self._over: set[Call] = set()

    def clock(self) -> float:
        """Monotonic seconds of this process."""
        return self.world.now_s + self._clock_offset_s

    def accept(self, carrier: SimCarrier) -> None:
        """Take an open carrier."""
        handshake = _Handshake(self, carrier)
        carrier.start(handshake)
        if self._is_closed or len(self.handshakes) >= self.limits.handshakes_open_max:
            self.world.seen["refused: too many handshakes"] += 1
            handshake.refuse(_BUSY)
            return
        self.handshakes[handshake] = None

    def first_batch(self, carrier: SimCarrier, batch: bytes) -> CarrierEvents | Refused:
        """Decide on a carrier's first batch."""
        now_s = self.clock()
        decision = self.table.first_batch(batch, peer=carrier.peer, websocket_url="", now_s=now_s)
        if isinstance(decision, Refused):
            self.world.note("refused", carrier.pair.name, str(decision.error))
            self.world.seen[f"refused: {str(decision.error)[:40]}"] += 1
            return decision
        link = decision.link
        if decision.is_new:
            self.drivers[link] = LinkDriver(
                link,
                loop=self.world,  # type: ignore[arg-type]
                clock=self.clock,
                events_received=functools.partial(self._events_received, link),
                carrier_ended=functools.partial(self._carrier_ended, link),
                flushed=self._flushed,
            )
            if self._drain_until_s is not None:
                link.go_away(reason="the hub stops", time_left_s=self._drain_until_s - now_s)
        else:
            self.forwarder.hosts.link_opened(link, now_s=now_s)
        return self.drivers[link].adopt(carrier, decision.attempt)

    def drain(self) -> None:
        """Say GoingAway on every link; the peers finish their calls here."""
        self._drain_until_s = self.clock() + self.limits.drain_timeout_s
        self.world.note("drains", self.name)
        for link in self.table.links:
            link.go_away(reason="the hub stops", time_left_s=self.limits.drain_timeout_s)
            self._settle(link)
        self.world.call_later(self.limits.drain_timeout_s, self.close)

    def close(self) -> None:
        """End every link now, and every handshake."""
        self._is_closed = True
        for handshake in list(self.handshakes):
            handshake.refuse(_BUSY)
        for link in self.table.links:
            link.close(code=pb.Close.CODE_SHUTDOWN, reason="the hub stopped")
            self._settle(link)

    def die(self) -> None:
        """Stop without a word, as a killed process."""
        self.is_dead = True
        self.world.note("dies", self.name)
        for pair in self.pairs:
            if not pair.is_over:
                pair.abort(pair.acceptor)

    # --- what handshakes and drivers report ---

    def _events_received(self, link: Link, events: list[Event]) -> None:
        if self.is_dead:
            return
        self._check_events(events)
        now_s = self.clock()
        is_alive = self.forwarder.handle(link, events, now_s=now_s)
        older = self.table.heard_of(link, now_s=now_s)
        if older is not None:
            self.world.seen["takeover"] += 1
            self._settle(older)
        self._watch_queue()
        if not is_alive:
            self.table.remove(link)
            self.drivers.pop(link, None)

    def _check_events(self, events: list[Event]) -> None:
        world, over = self.world, self._over
        for event in events:
            call = getattr(event, "call", None)
            if call is None:
                if isinstance(event, LinkEnded):
                    _check_error(world, self.name, event.error)
                continue
            if call in over and not isinstance(event, SendReady):
                world.fail("hub-ends-once", f"{self.name}: {type(event).__name__} after the end")
            if isinstance(event, (CallEnded, CallReturned)):
                over.add(call)

    def _settle(self, link: Link) -> None:
        events = link.events_received()
        if events:
            self._events_received(link, events)
        link.flush_soon()

    def _watch_queue(self) -> None:
        end_s = self.forwarder.queue.next_end_s()
        if end_s is not None and not self._is_queue_due:
            self.world.seen["waits for a parked host"] += 1
            self._is_queue_due = True
            self.world.call_later(max(0.0, end_s - self.clock()), self._queue_due)

    def _queue_due(self) -> None:
        self._is_queue_due = False
        if not self.is_dead:
            self.forwarder.expire_queued(now_s=self.clock())
            self._watch_queue()

    def _carrier_ended(
        self, link: Link, carrier: Carrier, error: CarrierLostError | None
    ) -> None:
        if self.is_dead:
            return
        if link.state is LinkState.PARKED:
            self.forwarder.hosts.link_parked(link, now_s=self.clock())
            self._watch_queue()
        for heavy in self.table.links_to_expire():
            self.world.seen["expired for its weight"] += 1
            heavy.close(code=pb.Close.CODE_LIMIT, reason="parked links keep too much")
            self._settle(heavy)

    def _flushed(self) -> None:
        if self.forwarder.starved_count:
            self.world.seen["starved"] += 1
            self.forwarder.serve_starved()


def _check_error(world: World, name: str, error: Exception | None) -> None:
    """Peers that keep to the rules never see a protocol error."""
    if isinstance(error, ProtocolError):
        if "too large for the carrier" in str(error) and world.seen["fault size error"] > 1:
            world.seen["ended by size errors"] += 1
            return
        world.fail("protocol", f"{name} ended a link: {error}")


class _Handshake:
    """A carrier whose first batch has not come; then it hands on."""

    def __init__(self, hub: SimHub, carrier: SimCarrier) -> None:
        self._hub = hub
        self._carrier = carrier
        self._ride: CarrierEvents | None = None
        self._is_over = False
        hub.world.call_later(hub.limits.handshake_timeout_s, self._timed_out)

    def refuse(self, batch: bytes) -> None:
        """Say why not, and close."""
        self._hub.handshakes.pop(self, None)
        self._is_over = True
        self._carrier.send_nowait(batch)
        self._carrier.close()

    def _timed_out(self) -> None:
        if self._ride is None and not self._is_over:
            self._carrier.abort()

    def batch_received(self, batch: bytes) -> None:
        if self._hub.is_dead or self._is_over:
            return
        if self._ride is not None:
            self._ride.batch_received(batch)
            return
        self._hub.handshakes.pop(self, None)
        decision = self._hub.first_batch(self._carrier, batch)
        if isinstance(decision, Refused):
            self.refuse(decision.batch)
        else:
            self._ride = decision

    def writable(self) -> None:
        if self._ride is not None and not self._hub.is_dead:
            self._ride.writable()

    def carrier_ended(self, error: CarrierLostError | None) -> None:
        if self._ride is not None and not self._hub.is_dead:
            self._ride.carrier_ended(error)
        else:
            self._is_over = True
            self._hub.handshakes.pop(self, None)
