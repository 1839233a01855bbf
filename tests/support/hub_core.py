"""
A hub's pure core with peers around it, for tests: no carriers, no clock, batches moved by hand.

`HubCore.peer()` makes the handshake; `settle()` moves batches until nobody has anything to say.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from relayrpc.hub.forward import Forwarder
from relayrpc.hub.links import Accepted, LinkTable
from relayrpc.hub.routing import Router
from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.link.events import Event
from relayrpc.link.link import Link
from relayrpc.v1 import link_pb2 as pb


__all__ = ["SERVICE", "CorePeer", "HubCore"]

SERVICE = "test.Service"


class CorePeer:
    """A dialling link, the hub's end of it, and every event it had."""

    def __init__(self, link: Link, hub_link: Link) -> None:
        self.link = link
        self.hub_link = hub_link
        self.events: list[Event] = []
        # What to do with each event as it comes.
        self.on_event: Callable[[Event], None] = lambda event: None
        # False: the hub's end cannot send to it; its carrier is stuck.
        self.takes = True

    def of(self, kind: type[Event]) -> list[Event]:
        """Return its events of one kind."""
        return [event for event in self.events if type(event) is kind]


class HubCore:
    """One hub."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self.now_s = 100.0
        self.table = LinkTable(limits=limits, token_bytes=random.Random(1).randbytes)
        self.forwarder = Forwarder(Router(random=random.Random(1)), limits=limits)
        self.peers: list[CorePeer] = []

    def peer(
        self,
        instance: str,
        *,
        address: str | None = None,
        limits: Limits | None = None,
        slots: int = 0,
        priority: int = 0,
    ) -> CorePeer:
        """Link a peer; with an address it serves SERVICE there."""
        link = Link(
            is_dialler=True, limits=limits or self.limits, instance=instance, now_s=self.now_s
        )
        attempt = link.carrier_opened(now_s=self.now_s)
        hello = link.batch_to_send(attempt=attempt, now_s=self.now_s)
        assert hello is not None
        decision = self.table.first_batch(
            hello, peer=f"test:{instance}", websocket_url="", now_s=self.now_s
        )
        assert isinstance(decision, Accepted), decision
        peer = CorePeer(link, decision.link)
        self.peers.append(peer)
        if address is not None:
            services = [pb.ServiceDescription(name=SERVICE)]
            link.announce(1, address, services, slots=slots, priority=priority)
        self.settle()
        return peer

    def park(self, peer: CorePeer) -> None:
        """A peer loses its connection."""
        for link in (peer.link, peer.hub_link):
            link.carrier_lost(link.attempt, now_s=self.now_s)
        peer.takes = False
        self.forwarder.hosts.link_parked(peer.hub_link, now_s=self.now_s)

    def resume(self, peer: CorePeer) -> None:
        """A peer has a connection again."""
        attempt = peer.link.carrier_opened(now_s=self.now_s)
        resume = peer.link.batch_to_send(attempt=attempt, now_s=self.now_s)
        assert resume is not None
        decision = self.table.first_batch(
            resume, peer=f"test:{peer.link.instance}", websocket_url="", now_s=self.now_s
        )
        assert isinstance(decision, Accepted), decision
        welcome = peer.hub_link.batch_to_send(attempt=attempt, now_s=self.now_s)
        assert welcome is not None
        peer.link.receive_batch(welcome, attempt=attempt, now_s=self.now_s)
        peer.takes = True
        self.forwarder.hosts.link_opened(peer.hub_link, now_s=self.now_s)

    def open(self, peer: CorePeer, address: str, **options: object) -> object:
        """Open a call of a peer; nothing moves yet."""
        return peer.link.open_call(
            f"{SERVICE}/Call",
            address,
            shape=pb.SHAPE_STREAM_STREAM,
            app=None,
            now_s=self.now_s,
            **options,  # type: ignore[arg-type]
        )

    def to_hub(self, peer: CorePeer) -> bool:
        """Move what a peer has to say, and have the hub act; True when there was anything."""
        link, hub_link = peer.link, peer.hub_link
        has_moved = False
        while (batch := link.batch_to_send(attempt=link.attempt, now_s=self.now_s)) is not None:
            has_moved = True
            hub_link.receive_batch(batch, attempt=hub_link.attempt, now_s=self.now_s)
        events = hub_link.events_received()
        if events:
            self.forwarder.handle(hub_link, events, now_s=self.now_s)
        return has_moved

    def to_peer(self, peer: CorePeer) -> bool:
        """Move what the hub has to say to a peer; True when there was anything."""
        link, hub_link = peer.link, peer.hub_link
        has_moved = False
        attempt = hub_link.attempt
        while (batch := hub_link.batch_to_send(attempt=attempt, now_s=self.now_s)) is not None:
            has_moved = True
            link.receive_batch(batch, attempt=attempt, now_s=self.now_s)
        for event in link.events_received():
            peer.events.append(event)
            peer.on_event(event)
        return has_moved

    def settle(self) -> None:
        """Move everything until nothing moves."""
        has_moved = True
        while has_moved:
            has_moved = False
            for peer in self.peers:
                has_moved |= self.to_hub(peer)
                if peer.takes:
                    has_moved |= self.to_peer(peer)
            self.forwarder.serve_starved()
