"""
The second ring's network: what dialling leads to, and everything that can happen to a connection.

Each connection is a pair of memory carriers with a faulty one around each end, so that the ends may
see different things: one may still believe in a carrier that the other has given up. A hub is what
`relayrpc hub` runs behind its doors.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import zlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from relayrpc.carrier.faulty import FaultyCarrier
from relayrpc.carrier.memory import memory_pair
from relayrpc.endpoint.dialler import Dialling
from relayrpc.errors import CarrierLostError, ConnectError
from relayrpc.hub.contracts import HubContracts
from relayrpc.hub.journal import Journal
from relayrpc.hub.log import HubLog
from relayrpc.hub.metrics import HubMetrics
from relayrpc.hub.observer import HubObserver
from relayrpc.hub.session import HubSessions
from relayrpc.v1 import hub_pb2
from tests.simulation.ring2_calls import NOBODY_ANSWERS
from tests.simulation.ring2_rules import make_checks


if TYPE_CHECKING:
    from relayrpc.carrier.base import Carrier
    from relayrpc.carrier.url import RelayURL
    from relayrpc.limits import Limits
    from relayrpc.link.call import Call
    from relayrpc.testing.virtual_time import VirtualLoop
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["Books", "Connection", "HubSessions", "Network", "Trace"]

_LINES_KEPT: Final = 4000
_NEVER: Final = 10**9
_WEBSOCKET_URL: Final = "ws://hub:7351/relayrpc.v1.Link/Connect"


class Books(HubObserver):
    """What a hub counts and notes, and beside it what came in: in the end both are the same."""

    def __init__(self, hub: HubSessions, loop: VirtualLoop) -> None:
        self.metrics = HubMetrics(hub)
        self.journal = Journal(
            epoch=hub.table.epoch,
            limits=hub.limits,
            hosts_of=hub.forwarder.router.of_link,
            wall_clock=hub.clock,
        )
        log = HubLog(limits=hub.limits, clock=hub.clock, call_later=loop.call_later)
        self.opened_count = 0
        hub.observers.add(self)
        hub.observers.add(self.metrics)
        hub.observers.add(self.journal)
        hub.observers.add(log)

    def call_opened(self, call: Call, opening: pb.Open) -> None:
        self.opened_count += 1

    def check(self) -> None:
        """Assert that nothing is open: each call ended once, and each link."""
        lines = self.metrics.render().decode().splitlines()
        ended_count = sum(
            int(line.rpartition(" ")[2])
            for line in lines
            if line.startswith("relayrpc_calls_total{")
        )
        assert ended_count == self.opened_count, f"{ended_count} of {self.opened_count} ended"
        open_links = [line for line in lines if line.startswith("relayrpc_links{")]
        assert not open_links, open_links
        assert "relayrpc_links_parked 0" in lines
        self._check_journal()

    def _check_journal(self) -> None:
        """Assert that each host that went had come, and that none is left."""
        events = self.journal.after(self.journal.epoch, 0, bytes_max=_NEVER)
        assert events is not None
        there: set[tuple[str, int]] = set()
        for event in events:
            host = (event.host.link_id, event.host.announcement_id)
            if event.kind == hub_pb2.HostEvent.KIND_CAME:
                assert host not in there, f"came twice: {event}"
                there.add(host)
            elif event.kind == hub_pb2.HostEvent.KIND_WENT:
                assert host in there, f"went, and was not there: {event}"
                there.remove(host)
        assert not there, there


class Trace:
    """Everything that happened, in order: its hash, its last lines, and how often it happened."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._hash = hashlib.blake2b(digest_size=16)
        self.lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self.seen: Counter[str] = Counter()

    def add(self, what: str, *, is_shown: bool = True) -> None:
        line = f"{self._loop.time():.6f} {what}"
        self._hash.update(line.encode())
        if is_shown:
            self.lines.append(line)

    def count(self, what: str) -> None:
        self.seen[what] += 1

    def digest(self) -> str:
        return self._hash.hexdigest()


class _End(FaultyCarrier):
    """One end of a connection; writes into the trace what passes it and how it ends."""

    trace: Trace
    name: str

    def send_nowait(self, batch: bytes) -> None:
        self.trace.add(f"{self.name} {len(batch)} {zlib.crc32(batch)}", is_shown=False)
        super().send_nowait(batch)

    def carrier_ended(self, error: CarrierLostError | None) -> None:
        self.trace.add(f"{self.name} is over: {error}")
        super().carrier_ended(error)


class Connection:
    """Both ends of what one dialling made."""

    def __init__(self, party: str, near: _End, far: _End) -> None:
        self.party = party
        self.near = near
        self.far = far

    @property
    def is_over(self) -> bool:
        return self.near.is_over and self.far.is_over

    def heal(self) -> None:
        """Nothing is held back or delayed from now on."""
        for end in (self.near, self.far):
            end.delay(0.0)
            end.cut_after(_NEVER, direction="outgoing", is_delivered=True)
            end.cut_after(_NEVER, direction="incoming", is_delivered=True)
            end.resume()

    def vanish(self) -> None:
        """Nothing passes any more, and neither end is told."""
        self.near.stall()
        self.far.stall()


class Network:
    """All connections of one simulated world, and the hub they lead to."""

    def __init__(
        self,
        loop: VirtualLoop,
        rng: random.Random,
        *,
        limits: Limits,
        delay_s_max: float,
        observer: HubObserver | None = None,
    ) -> None:
        self.loop = loop
        # Of every hub.
        self._observer = observer
        self.rng = rng
        self.limits = limits
        self.delay_s_max = delay_s_max
        self.trace = Trace(loop)
        self.connections: list[Connection] = []
        # The hub that answers now; None while none does.
        self.hub: HubSessions | None = None
        self.hubs: list[HubSessions] = []
        # What the hub that answers now knows of its hosts' services.
        self.contracts: HubContracts | None = None
        # Of each of them, in that order.
        self.books: list[Books] = []
        # Parties whose dialling fails.
        self.unreachable: set[str] = set()
        # Chance that a dialling fails, or takes long.
        self.dial_fault_chance = 0.0
        self.dials_count = 0
        self._timers: list[asyncio.TimerHandle] = []

    # --- hubs ---

    def start_hub(self) -> HubSessions:
        """Start another hub process; new connections lead to it."""
        self.hub = HubSessions(
            limits=self.limits,
            clock=self.loop.time,
            random=random.Random(self.rng.getrandbits(32)),
            token_bytes=random.Random(self.rng.getrandbits(32)).randbytes,
        )
        self.hubs.append(self.hub)
        self.books.append(Books(self.hub, self.loop))
        if self._observer is not None:
            self.hub.observers.add(self._observer)
        self.contracts = HubContracts(self.hub, wall_clock=self.loop.time)
        self.hub.observers.add(self.contracts)
        self.hub.forwarder.hosts.gate = self.contracts
        self.hub.check_requests(make_checks(self.limits, self.contracts.descriptors))
        self.trace.add(f"hub {len(self.hubs)} starts")
        return self.hub

    async def kill_hub(self) -> None:
        """End the hub process without a word to anybody."""
        assert self.hub is not None
        self.trace.add("the hub is killed")
        self.trace.count("hub killed")
        for connection in list(self.connections):
            connection.far.cut()
        await self._end_hub(self.hub.aclose)

    async def close_hub(self) -> None:
        """Stop the hub at once; whoever is linked is told."""
        assert self.hub is not None
        await self._end_hub(self.hub.aclose)

    async def drain_hub(self) -> None:
        """Stop the hub in order; whoever dials meanwhile needs another one."""
        assert self.hub is not None
        self.trace.add("the hub drains")
        await self._end_hub(self.hub.drain)
        self.trace.add("a hub has drained")
        self.trace.count("hub drained")

    async def _end_hub(self, end: Callable[[], Awaitable[None]]) -> None:
        contracts, self.contracts, self.hub = self.contracts, None, None
        assert contracts is not None
        await contracts.aclose()
        await end()

    # --- dialling ---

    def dialling(self, party: str) -> Dialling:
        """What a live link of this party takes from its surroundings."""

        async def dial(url: RelayURL, *, kind: str, **_: object) -> Carrier:
            return await self._dial(party, is_first_door=kind == "grpc")

        async def dial_websocket_url(url: str, **_: object) -> Carrier:
            assert url == _WEBSOCKET_URL
            return await self._dial(party, is_first_door=False)

        rng = random.Random(self.rng.getrandbits(32))
        return Dialling(
            dial=dial,
            dial_websocket_url=dial_websocket_url,
            clock=self.loop.time,
            random=rng,
            token_hex=lambda count: rng.randbytes(count).hex(),
        )

    async def _dial(self, party: str, *, is_first_door: bool) -> Carrier:
        await asyncio.sleep(self.rng.uniform(0.0, self.delay_s_max))
        is_faulty = self.rng.random() < self.dial_fault_chance
        if is_faulty and self.rng.random() < 0.3:
            await asyncio.sleep(self.limits.connect_timeout_s)
        if is_faulty or self.hub is None or party in self.unreachable:
            self.trace.add(f"{party} dials in vain")
            self.trace.count("dialled in vain")
            raise ConnectError(NOBODY_ANSWERS)
        self.dials_count += 1
        name = f"{party}#{self.dials_count}"
        inner = memory_pair(limits=self.limits, schedule=self.loop.call_soon)
        inner[1].websocket_url = _WEBSOCKET_URL if is_first_door else ""
        near, far = (
            _End(end, rng=self.rng, call_later=self.loop.call_later) for end in inner
        )
        for end, sign in ((near, ">"), (far, "<")):
            end.trace = self.trace
            end.name = name + sign
        if self.delay_s_max:
            delay_s = self.rng.uniform(0.0, self.delay_s_max)
            jitter_s = self.rng.choice((0.0, delay_s))
            near.delay(delay_s, jitter_s=jitter_s)
        self.trace.add(f"{name} is open")
        self.trace.count("connection opened")
        self.connections = [each for each in self.connections if not each.is_over]
        self.connections.append(Connection(party, near, far))
        self.hub.accept(far)
        return near

    # --- faults ---

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Let something happen after a while, unless all is healed before."""
        self._timers.append(self.loop.call_later(delay_s, action))

    def live_connections(self, party: str | None = None) -> list[Connection]:
        """The connections that are not over at both ends, oldest first."""
        self.connections = [each for each in self.connections if not each.is_over]
        return [each for each in self.connections if party is None or each.party == party]

    def break_one(self) -> None:
        """Let something happen to a connection, or to one end of it."""
        live = self.live_connections()
        if not live:
            return
        rng = self.rng
        connection = rng.choice(live)
        end: FaultyCarrier = rng.choice((connection.near, connection.far))
        name = connection.near.name
        fault = rng.randrange(8)
        self.trace.count("connection broken, delayed or stalled")
        match fault:
            case 0:
                self.trace.add(f"{name} is cut")
                end.cut()
            case 1 | 2:
                count = rng.randint(1, 6)
                is_outgoing = rng.random() < 0.5
                is_delivered = rng.random() < 0.5
                self.trace.add(f"{name} will be cut after {count}")
                end.cut_after(
                    count,
                    direction="outgoing" if is_outgoing else "incoming",
                    is_delivered=is_delivered,
                )
            case 3 | 4:
                delay_s = rng.uniform(0.0, 4 * self.delay_s_max + 0.01)
                self.trace.add(f"{name} slows down to {delay_s:.3f} s")
                end.delay(delay_s, jitter_s=rng.choice((0.0, delay_s)))
            case 5:
                self.trace.add(f"{name} stalls one way for good")
                end.stall([rng.choice(("outgoing", "incoming"))])
            case 6:
                self.trace.add(f"{name} vanishes")
                connection.vanish()
            case _:
                pause_s = rng.uniform(0.0, 3 * self.limits.keepalive_interval_s)
                self.trace.add(f"{name} stalls for {pause_s:.3f} s")
                end.stall()
                self.later(pause_s, end.resume)

    def heal(self) -> None:
        """From now on everything works."""
        self.trace.add("everything is healed")
        self.delay_s_max = 0.0
        self.dial_fault_chance = 0.0
        self.unreachable.clear()
        for timer in self._timers:
            timer.cancel()
        for connection in self.live_connections():
            connection.heal()
