"""
A small stage for named cases: one hub, a host, a caller, and faults put where a case wants them.

Owns: building and finishing such a world. Does not own: the cases (test_cases.py).
"""

from __future__ import annotations

import dataclasses
from collections import deque

from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.link.link import Link
from relayrpc.v1 import link_pb2 as pb
from tests.simulation.carriers import FaultPlan, PathShape
from tests.simulation.invariants import check_at_rest, check_budgets, check_parting
from tests.simulation.ledger import CallRecord, Ledger
from tests.simulation.processes import Network, Peer, SimHub
from tests.simulation.scripts import CallScript
from tests.simulation.world import World


__all__ = ["ADDRESS", "SERVICE", "Stage"]

ADDRESS = "a/b"
SERVICE = "sim.Service"


class Stage:
    """One world with a hub; peers are added by name."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS, *, seed: int = 1) -> None:
        self.limits = limits
        self.world = World(seed)
        self.ledger = Ledger(self.world)
        self.network = network = Network(self.world, self.ledger)
        self.world.checks.append((1, lambda: check_budgets(network)))
        self.shape = PathShape(latency_s=0.01, jitter_s=0.0, bytes_per_s=1e8)
        # The faults of the carriers to come, in the order of their opening; none when used up.
        self.plans: deque[FaultPlan] = deque()
        network.draw_shape = lambda: self.shape
        network.draw_plan = lambda: self.plans.popleft() if self.plans else FaultPlan()
        self.hub: SimHub = network.start_hub(limits)

    def peer(
        self, name: str, *, serves: bool = False, instance: str = "", limits: Limits | None = None
    ) -> Peer:
        """Add a peer and let it link."""
        peer = Peer(
            self.network,
            name=name,
            instance=instance or name,
            limits=limits or self.limits,
            clock_offset_s=17.0 * len(self.network.peers),
        )
        self.network.peers.append(peer)
        if serves:
            peer.services = [(ADDRESS, SERVICE)]
        peer.start()
        self.run(1.0)
        return peer

    def call(self, peer: Peer, **parts: object) -> CallRecord:
        """Open a call; a bidi stream of a few messages unless `parts` say otherwise."""
        script = CallScript(
            call_id=f"{peer.name}-{len(self.ledger.records)}",
            method=f"{SERVICE}/Call",
            address=ADDRESS,
            shape=pb.SHAPE_STREAM_STREAM,
            requests=(10, 2000, 30),
            responses=(10, 0, 3000),
        )
        peer.open_call(dataclasses.replace(script, **parts))  # type: ignore[arg-type]
        return self.ledger.records[script.call_id]

    def hub_link(self, peer: Peer) -> Link:
        """Return the hub's end of a peer's link."""
        assert self.network.hub is not None
        return next(
            link for link in self.network.hub.table.links if link.instance == peer.instance
        )

    def run(self, for_s: float) -> None:
        """Let time pass."""
        self.world.run(until_s=self.world.now_s + for_s)

    def finish(self, for_s: float = 60.0) -> None:
        """Let everything end, and check that it did as it should and left nothing."""
        self.network.free_readers()
        self.run(for_s)
        check_parting(self.network)
        check_at_rest(self.network)
        self.ledger.check_final(transit_s_max=self.network.transit_s())
