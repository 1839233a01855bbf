"""
Simulated carriers with every fault a carrier can have: cut, half delivered, late, silent.

A carrier is two directions. Each takes time (bandwidth, then latency), keeps order, and may be cut
behind any number of delivered batches; each end learns of the end in its own time, or not at all.
Source: relayrpc/carrier/base.py; issue 3, "Simulation".
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from relayrpc.carrier.base import Carrier, CarrierEvents, CarrierKind
from relayrpc.errors import CarrierLostError
from tests.simulation.world import Timer, World


if TYPE_CHECKING:
    import random


__all__ = ["CarrierPair", "FaultPlan", "PathShape", "SimCarrier", "random_fault"]

_UNSENT_BYTES_HIGH: Final = 64 * 1024
_INSTANT_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class PathShape:
    """How fast a carrier is."""

    latency_s: float
    jitter_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """What goes wrong with one carrier, and when; a carrier has one fault at most."""

    kind: str = ""
    """"cut", "stall", "delay", or empty: nothing."""
    from_dialler: bool = True
    """The direction whose batches are counted."""
    after_batches: int = 0
    """It happens when this many batches were delivered that way; 0: by the clock."""
    after_s: float = 0.0
    is_before_delivery: bool = False
    """The batch that is counted is itself lost or late."""
    notice_s: tuple[float, float] = (0.0, 0.0)
    """How long after a cut the dialling and the accepting end learn of it."""
    still_delivered: tuple[int, int] = (0, 0)
    """How many batches in flight still arrive after a cut, from the dialler and to it."""
    lasts_s: float = 0.0
    """A stall or delay ends after this; then everything held up arrives, late."""
    is_size_error: bool = False


def random_fault(random: random.Random) -> FaultPlan:
    """Draw one fault."""
    kind = random.choice(("cut", "cut", "cut", "stall", "delay"))
    by_count = random.random() < 0.6
    return FaultPlan(
        kind=kind,
        from_dialler=random.random() < 0.5,
        after_batches=min(int(random.expovariate(0.2)) + 1, 60) if by_count else 0,
        after_s=0.0 if by_count else random.expovariate(1.0),
        is_before_delivery=random.random() < 0.5,
        notice_s=(_notice(random), _notice(random)),
        still_delivered=(random.choice((0, 0, 1, 2, 9)), random.choice((0, 0, 1, 2, 9))),
        lasts_s=random.choice((0.05, 0.5, 3.0, 30.0)),
        is_size_error=random.random() < 0.05,
    )


def _notice(random: random.Random) -> float:
    return random.choice((0.0, 0.0, 0.001, 0.2, 2.0, 1e9))


class SimCarrier(Carrier):
    """One end; made by `CarrierPair`."""

    kind: ClassVar[CarrierKind] = "memory"

    def __init__(self, pair: CarrierPair, *, is_dialler: bool, peer: str) -> None:
        self.peer = peer
        self.is_secure = False
        self.is_loopback = True
        self.websocket_url = ""
        self.is_writable = True
        self.pair = pair
        self.is_dialler = is_dialler
        self.is_over = False
        self.events: CarrierEvents | None = None

    def start(self, events: CarrierEvents) -> None:
        assert self.events is None
        self.events = events

    def send_nowait(self, batch: bytes) -> None:
        if not self.is_over:
            assert self.is_writable, "the driver sent while the carrier was full"
            self.pair.direction(self).send(batch)

    def close(self) -> None:
        self.pair.close(self)

    def abort(self) -> None:
        self.pair.abort(self)

    # --- what the pair does to it ---

    def end(self, error: CarrierLostError | None) -> None:
        """Tell whoever listens, once."""
        if self.is_over:
            return
        self.is_over = True
        self.is_writable = False
        if self.events is not None:
            self.events.carrier_ended(error)

    def set_writable(self) -> None:
        """Let more be sent."""
        if not self.is_over and not self.is_writable:
            self.is_writable = True
            assert self.events is not None
            self.events.writable()


class _Direction:
    """Batches on their way from one end to the other."""

    def __init__(self, pair: CarrierPair, sender: SimCarrier, receiver: SimCarrier) -> None:
        self.pair = pair
        self.world = pair.world
        self.sender = sender
        self.receiver = receiver
        self.in_flight: deque[tuple[float, float, bytes, Timer]] = deque()
        self.delivered_count = 0
        # When the wire will have taken what was handed over, and when the last batch arrives.
        self.free_at_s = 0.0
        self.arrives_at_s = 0.0
        self.is_stalled = False
        self.extra_s = 0.0
        # Set when the carrier is cut: how many more arrive.
        self.left: int | None = None

    def send(self, batch: bytes) -> None:
        world, shape = self.world, self.pair.shape
        if self.left is not None:
            return
        now_s = world.now_s
        self.free_at_s = max(now_s, self.free_at_s) + len(batch) / shape.bytes_per_s
        unsent = (self.free_at_s - now_s) * shape.bytes_per_s
        if unsent > _UNSENT_BYTES_HIGH or (self.is_stalled and len(self.in_flight) > 8):
            self.sender.is_writable = False
            if not self.is_stalled:
                world.at(self.free_at_s, self.sender.set_writable)
        arrives = self.free_at_s + shape.latency_s + self.extra_s
        if shape.jitter_s:
            arrives += world.random.random() * shape.jitter_s
        self.arrives_at_s = arrives = max(arrives, self.arrives_at_s)
        timer = world.at(arrives, self.arrive)
        self.in_flight.append((now_s, arrives, batch, timer))

    def arrive(self) -> None:
        if self.is_stalled or not self.in_flight or self.in_flight[0][1] > self.world.now_s:
            return
        pair, plan = self.pair, self.pair.plan
        if self.left is not None:
            if not self.left:
                return
            self.left -= 1
        is_counted = (
            plan.after_batches
            and not pair.has_happened
            and plan.from_dialler == self.sender.is_dialler
        )
        at_plan = is_counted and self.delivered_count + 1 == plan.after_batches
        if at_plan and plan.is_before_delivery and self.left is None:
            self.delivered_count += 1
            pair.happen()
            if self.left is None and not self.is_stalled:
                # Only delayed: it arrives, later.
                self.world.call_later(self.extra_s, self.arrive)
                return
            return
        sent_s, _, batch, _ = self.in_flight.popleft()
        self.delivered_count += 1
        to = "dialler" if self.receiver.is_dialler else "hub"
        self.world.note("batch", pair.name, "to", to, len(batch))
        pair.transit_s_max = max(pair.transit_s_max, self.world.now_s - sent_s)
        if not self.receiver.is_over and self.receiver.events is not None:
            self.receiver.events.batch_received(batch)
        if at_plan and not plan.is_before_delivery and self.left is None:
            pair.happen()

    def go_on(self) -> None:
        """End a stall or a delay: what was held up arrives now."""
        self.is_stalled = False
        self.extra_s = 0.0
        for _, arrives_s, _, _ in self.in_flight:
            self.world.at(max(arrives_s, self.world.now_s), self.arrive)
        self.world.call_soon(self.sender.set_writable)


class CarrierPair:
    """Both ends of one carrier, and its fault."""

    def __init__(
        self, world: World, *, name: str, shape: PathShape, plan: FaultPlan, peer: str
    ) -> None:
        """
        Args:
            world: Whose time it takes.
            name: For the trace.
            shape: How fast it is.
            plan: What goes wrong.
            peer: What the accepting end says of the dialler.
        """
        self.world = world
        self.name = name
        self.shape = shape
        self.plan = plan
        self.transit_s_max = 0.0
        self.has_happened = False
        self.is_cut = False
        self.dialler = SimCarrier(self, is_dialler=True, peer="hub")
        self.acceptor = SimCarrier(self, is_dialler=False, peer=peer)
        self._out = _Direction(self, self.dialler, self.acceptor)
        self._back = _Direction(self, self.acceptor, self.dialler)
        if plan.kind and not plan.after_batches:
            world.call_later(plan.after_s, self.happen)

    @property
    def is_over(self) -> bool:
        """True when both ends know."""
        return self.dialler.is_over and self.acceptor.is_over

    def direction(self, sender: SimCarrier) -> _Direction:
        """Return the direction an end sends in."""
        return self._out if sender is self.dialler else self._back

    def happen(self) -> None:
        """Let the planned fault happen; once."""
        if self.has_happened or self.is_over:
            return
        self.has_happened = True
        plan, world = self.plan, self.world
        world.note("fault", self.name, plan.kind)
        world.seen[f"fault {plan.kind}"] += 1
        if plan.kind == "cut":
            self.cut(
                notice_s=plan.notice_s,
                still_delivered=plan.still_delivered,
                is_size_error=plan.is_size_error,
            )
        elif plan.kind == "stall":
            self._out.is_stalled = self._back.is_stalled = True
            world.call_later(plan.lasts_s, self.go_on)
        elif plan.kind == "delay":
            self._out.extra_s = self._back.extra_s = plan.lasts_s
            world.call_later(plan.lasts_s, self.go_on)

    def go_on(self) -> None:
        """End a stall or delay."""
        if not self.is_cut:
            self._out.go_on()
            self._back.go_on()

    def cut(
        self,
        *,
        notice_s: tuple[float, float],
        still_delivered: tuple[int, int],
        is_size_error: bool = False,
    ) -> None:
        """
        Break the connection.

        Args:
            notice_s: When the dialling and the accepting end learn of it.
            still_delivered: Batches in flight that arrive all the same, from and to the dialler.
            is_size_error: The ends are told that a batch was too large.
        """
        if not self.is_cut:
            self.is_cut = True
            self._out.left, self._back.left = still_delivered
            for direction in (self._out, self._back):
                if direction.is_stalled:
                    direction.is_stalled = False
                    for _, arrives_s, _, _ in direction.in_flight:
                        self.world.at(arrives_s, direction.arrive)
        detail = {"size_error": 1} if is_size_error else {}
        self.world.seen["fault size error"] += is_size_error
        for end, after_s in zip((self.dialler, self.acceptor), notice_s, strict=True):
            if after_s < 1e6:
                self.world.call_later(after_s, end.end, CarrierLostError("cut", **detail))

    def abort(self, closer: SimCarrier) -> None:
        """
        Drop the connection; the other end learns of it unless the path is silent, and on a slow one
        what was on its way may still arrive before that.
        """
        other_s = self.shape.latency_s + self._out.extra_s
        if self._out.is_stalled or self.is_cut:
            other_s = 1e9
        self.cut(
            notice_s=(0.0, other_s) if closer is self.dialler else (other_s, 0.0),
            still_delivered=self.plan.still_delivered,
        )

    def close(self, closer: SimCarrier) -> None:
        """End in order: what was handed over still arrives, then both ends are told."""
        if closer.is_over:
            return
        direction = self.direction(closer)
        closer.is_writable = False
        now_s = self.world.now_s
        self.world.at(max(now_s, direction.free_at_s), closer.end, None)
        if not self.is_cut and not direction.is_stalled:
            other = self.acceptor if closer is self.dialler else self.dialler
            end_s = max(now_s + self.shape.latency_s, direction.arrives_at_s)
            self.world.at(end_s, other.end, None)
