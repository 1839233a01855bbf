"""
Ring 1: the pure core. One hub (and those before and after it), hosts and callers with real Links,
over faulty carriers, everything drawn from one seed.

Owns: the drawing of a world and its course: faults, then healing, then rest. Does not own: what is
checked (ledger.py, invariants.py). Source: issue 3, "Simulation"; DESIGN.md decision 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayrpc.limits import KIB, Limits
from relayrpc.link.call import STATUS_INTERNAL
from relayrpc.link.link import LinkState
from tests.simulation.apps import CallerApp
from tests.simulation.carriers import FaultPlan, PathShape, random_fault
from tests.simulation.invariants import (
    check_at_rest,
    check_budgets,
    check_closed,
    check_parting,
)
from tests.simulation.ledger import Ledger
from tests.simulation.processes import Network, Peer
from tests.simulation.scripts import random_script
from tests.simulation.world import World


if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.simulation.ledger import CallRecord


__all__ = ["Ring1", "run_seed", "run_world"]

_SERVICE: Final = "sim.Service"
_ADDRESSES: Final = ("a/b", "a/c", "")
_BUDGETS_EVERY: Final = 24
_GRACE_S: Final = 60.0
_SLICE_S: Final = 0.25


def run_seed(seed: int) -> None:
    """
    Run one world.

    Raises:
        SimulationFailure: A promise was broken.
    """
    run_world(seed)


def run_world(seed: int) -> World:
    """Run one world and return it, for its trace and its counts."""
    ring = Ring1(seed)
    ring.run()
    return ring.world


class Ring1:
    """One world of ring 1."""

    def __init__(self, seed: int) -> None:
        self.world = world = World(seed)
        self.random = world.random
        self.ledger = Ledger(world)
        self.network = network = Network(world, self.ledger)
        world.checks.append((_BUDGETS_EVERY, lambda: check_budgets(network)))
        draw = self.random
        # What all processes agree on: the wire's own bounds, and the smallest initial credit.
        self._names_max = draw.choice((1, 2, 1024))
        self._small_bytes = draw.choice((64, 512, 4 * KIB))
        self._times = _draw_times(draw)
        self.size_scale = self._small_bytes * draw.choice((1, 4, 16))
        self.fault_rate = draw.choice((0.0, 0.3, 0.6, 0.9))
        self.faults_until_s = world.now_s + draw.choice((2.0, 6.0, 15.0))
        network.draw_shape = lambda: _draw_shape(draw)
        network.draw_plan = self._draw_plan
        network.start_hub(self.draw_limits())
        for index in range(draw.choice((1, 1, 2, 3))):
            host = self.add_peer(f"host{index}")
            host.services = [
                (address, _SERVICE)
                for address in _ADDRESSES
                if address == _ADDRESSES[0] or draw.random() < 0.5
            ]
        for index in range(draw.choice((1, 2, 3))):
            caller = self.add_peer(f"caller{index}")
            if draw.random() < 0.15:
                caller.services = [(_ADDRESSES[0], _SERVICE)]

    # --- drawing ---

    def draw_limits(self) -> Limits:
        """Draw one process's limits, small enough to be reached."""
        draw, small = self.random, self._small_bytes
        initial = small * draw.choice((1, 4, 16))
        calls = draw.choice((6, 30, 100))
        return Limits(
            batch_bytes_max=draw.choice((64 * KIB, 100 * KIB, 256 * KIB)),
            batch_bytes_target=draw.choice((KIB, 8 * KIB, 64 * KIB)),
            fragment_bytes_max=draw.choice((256, 4 * KIB, 64 * KIB)),
            small_bytes_max=small,
            names_max=self._names_max,
            calls_open_max=calls,
            initial_credit_bytes=initial,
            window_bytes_max=initial * draw.choice((1, 8, 64)),
            link_budget_bytes=4 * calls * draw.choice((KIB, 4 * KIB)),
            unacknowledged_bytes_min=draw.choice((2 * KIB, 32 * KIB, 512 * KIB)),
            unacknowledged_bytes_max=512 * KIB,
            control_reserve_bytes=draw.choice((2 * KIB, 1024 * KIB)),
            send_queue_bytes_high=initial,
            ack_after_batches=draw.choice((1, 4, 32)),
            ack_after_bytes=draw.choice((4 * KIB, 64 * KIB)),
            handshakes_open_max=draw.choice((1, 3, 1024)),
            parked_bytes_max=draw.choice((64 * KIB, 256 * 1024 * KIB)),
            parked_identity_bytes_max=draw.choice((16 * KIB, 64 * 1024 * KIB)),
            **self._times,
        )

    def add_peer(self, name: str, *, instance: str | None = None) -> Peer:
        """Make a process; not started yet."""
        peer = Peer(
            self.network,
            name=name,
            instance=instance or name,
            limits=self.draw_limits(),
            clock_offset_s=self.random.uniform(0, 1e5),
        )
        self.network.peers.append(peer)
        return peer

    def _draw_plan(self) -> FaultPlan:
        is_over = self.world.now_s >= self.faults_until_s
        if is_over or self.random.random() >= self.fault_rate:
            return FaultPlan()
        return random_fault(self.random)

    # --- the course ---

    def run(self) -> None:
        """Let it happen: faults, healing, rest, the end."""
        self._schedule()
        world, network = self.world, self.network
        world.run(until_s=self.faults_until_s)
        self._heal()
        grace_s = _GRACE_S + 4 * self._times["keepalive_interval_s"]
        self.run_until(self._are_free_calls_over, grace_s, "calls do not end after healing")
        network.free_readers()
        self._cancel_hopeless()
        self.run_until(
            self._is_all_over, grace_s, "calls do not end after readers were let go"
        )
        world.run(until_s=world.now_s + 2.0)
        self.run_until(self._is_at_rest, grace_s, "links do not come to rest")
        check_parting(network)
        check_at_rest(network)
        self._check_credit()
        self.ledger.check_final(transit_s_max=network.transit_s())
        for peer in network.peers:
            if not peer.is_dead and not peer.is_final:
                peer.close()
        # The end of a slow carrier comes late, that of a stalled one shows by its silence; then
        # the resume window begins.
        slowest_s = 2 * network.transit_s() + 2 * self._times["keepalive_interval_s"]
        world.run(until_s=world.now_s + 5.0 + slowest_s + self._times["resume_window_s"])
        check_closed(network)

    def run_until(self, condition: Callable[[], bool], grace_s: float, text: str) -> None:
        """Go on until something is true; meanwhile something must move within a time."""
        world = self.world
        until_s = world.now_s + grace_s
        moved_bytes = 0
        while not condition():
            now_bytes = sum(app.reader.received_bytes for app in self.network.apps)
            if now_bytes != moved_bytes:
                moved_bytes = now_bytes
                until_s = world.now_s + grace_s
            if world.now_s >= until_s:
                open_calls = [
                    call_id
                    for call_id, record in self.ledger.records.items()
                    if not record.is_over or not all(h.is_over for h in record.handlings)
                ]
                world.fail("progress", f"{text}: {' '.join(open_calls[:8])}")
            world.run(until_s=world.now_s + _SLICE_S)

    def _check_credit(self) -> None:
        """A call lost for overdrawn credit ends INTERNAL, and nothing else here does."""
        for call_id, record in self.ledger.records.items():
            if record.outcome is not None and record.outcome.status == STATUS_INTERNAL:
                self.world.fail("credit", f"{call_id}: {record.outcome.details}")

    def _are_free_calls_over(self) -> bool:
        return not self.ledger.open_count or all(
            record.is_over or record.script.is_stuck or self._is_hopeless(record)
            for record in self.ledger.records.values()
        )

    def _is_hopeless(self, record: CallRecord) -> bool:
        """A call that waits for a host to come, where none will."""
        script = record.script
        service = script.method.partition("/")[0]
        return (
            script.wait_for_ready
            and not record.handlings
            and not any(
                not peer.is_dead
                and not peer.is_final
                and (script.address, service) in [(at or name, name) for at, name in peer.services]
                for peer in self.network.peers
            )
        )

    def _cancel_hopeless(self) -> None:
        """Their callers lose patience."""
        for app in self.network.apps:
            if isinstance(app, CallerApp) and not app.is_over and self._is_hopeless(app.record):
                self.world.seen["waited for nobody"] += 1
                app.cancel()

    def _is_all_over(self) -> bool:
        return not self.ledger.open_count and all(
            handling.is_over
            for record in self.ledger.records.values()
            for handling in record.handlings
        )

    def _is_at_rest(self) -> bool:
        """Nothing in flight: every live link has a carrier, and both ends have said all."""
        return all(
            peer.is_dead
            or peer.is_final
            or (peer.link.state is LinkState.OPEN and peer.link.is_idle)
            for peer in self.network.peers
        ) and all(
            hub.is_dead or link.state != LinkState.OPEN or link.is_idle
            for hub in self.network.hubs
            for link in hub.table.links
        )

    def _schedule(self) -> None:
        world, draw, network = self.world, self.random, self.network
        start_s = world.now_s
        for peer in list(network.peers):
            peer.start(after_s=draw.choice((0.0, 0.0, 0.3)))
        callers = [peer for peer in network.peers if peer.name.startswith("caller")]
        if draw.random() < 0.2:
            # Duplex: a host calls too.
            callers.append(network.peers[0])
        length_s = self.faults_until_s - start_s
        count = draw.choice((4, 10, 25, 50))
        burst_s = 0.0
        for index in range(count):
            if draw.random() < 0.4:
                burst_s = draw.random() * length_s
            caller = draw.choice(callers)
            address = draw.choice(_ADDRESSES) if draw.random() < 0.3 else _ADDRESSES[0]
            script = random_script(
                draw,
                f"{caller.name}-{index}",
                address=address or _SERVICE,
                service=_SERVICE if draw.random() < 0.97 else "sim.Unknown",
                size_scale=self.size_scale,
            )
            world.at(start_s + 0.001 + burst_s, caller.open_call, script)
        for action in self._draw_actions():
            world.at(start_s + draw.random() * length_s, action)

    def _draw_actions(self) -> list[Callable[[], None]]:
        draw = self.random
        actions: list[Callable[[], None]] = []
        if self.fault_rate and draw.random() < 0.5:
            actions += [self._offline] * draw.choice((1, 2))
        if draw.random() < 0.4:
            actions += [self._move] * draw.choice((1, 5, 20))
        if self.fault_rate and draw.random() < 0.2:
            actions.append(self._restart_hub)
        if draw.random() < 0.15:
            actions.append(self._drain_hub)
        if draw.random() < 0.15:
            actions.append(self._take_over)
        if draw.random() < 0.15:
            actions.append(self._withdraw)
        return actions

    def _alive(self) -> list[Peer]:
        return [
            peer
            for peer in self.network.peers
            if not peer.is_dead and not peer.is_final and peer.links_count
        ]

    def _offline(self) -> None:
        peer = self.random.choice(self._alive())
        peer.is_offline = True
        if peer.pair is not None:
            peer.pair.cut(
                notice_s=(self.random.choice((0.0, 0.5)), self.random.choice((0.0, 0.5, 1e9))),
                still_delivered=(0, 1),
            )
        window_s = self._times["resume_window_s"]
        lasts_s = self.random.choice((0.1, 1.0, 0.9 * window_s, 1.5 * window_s))
        self.world.note("offline", peer.name, lasts_s)
        self.world.seen["offline"] += 1
        self.world.call_later(lasts_s, self._online, peer)

    def _online(self, peer: Peer) -> None:
        peer.is_offline = False

    def _move(self) -> None:
        self.random.choice(self._alive()).move()

    def _restart_hub(self) -> None:
        self.world.seen["hub restarted"] += 1
        old = self.network.hub
        if old is not None:
            old.die()
        self.network.hub = None
        self.world.call_later(
            self.random.choice((0.0, 0.2, 1.0)), self.network.start_hub, self.draw_limits()
        )

    def _drain_hub(self) -> None:
        old = self.network.hub
        if old is not None:
            self.world.seen["hub drained"] += 1
            self.network.start_hub(self.draw_limits())
            old.drain()

    def _take_over(self) -> None:
        """A host is restarted with its instance id, or a clone of it comes while it lives."""
        hosts = [peer for peer in self._alive() if peer.name.startswith("host")]
        if not hosts:
            return
        old = self.random.choice(hosts)
        if self.random.random() < 0.6:
            old.die()
        new = self.add_peer(f"{old.name}'", instance=old.instance)
        new.services = list(old.services)
        new.start(after_s=self.random.choice((0.0, 0.3)))

    def _withdraw(self) -> None:
        self.world.seen["withdraw"] += 1
        self.random.choice(self._alive()).withdraw()

    def _heal(self) -> None:
        """From now on nothing goes wrong any more."""
        world, network = self.world, self.network
        world.note("heals")
        if network.hub is None:
            network.start_hub(self.draw_limits())
        for peer in network.peers:
            peer.is_offline = False
        for pair in list(network.pairs):
            if pair.plan.kind and not pair.is_over:
                # What had or was still to have a fault ends now, one way or the other.
                pair.has_happened = True
                pair.go_on()
                if pair.is_cut or self.random.random() < 0.5:
                    pair.cut(notice_s=(0.0, 0.0), still_delivered=(1, 1))


def _draw_times(random: random.Random) -> dict[str, float]:
    return {
        "keepalive_interval_s": random.choice((1.0, 10.0)),
        "resume_window_s": random.choice((2.0, 30.0)),
        "handshake_timeout_s": random.choice((2.0, 10.0)),
        "drain_timeout_s": random.choice((1.0, 30.0)),
    }


def _draw_shape(random: random.Random) -> PathShape:
    return PathShape(
        latency_s=random.choice((0.0, 0.0005, 0.02, 0.1)),
        jitter_s=random.choice((0.0, 0.0, 0.01)),
        bytes_per_s=random.choice((1e5, 1e6, 1e8)),
    )
