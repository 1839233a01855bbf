"""
What becomes of hosts, and of the calls that wait for them: hosts come and go, are drained, and lose
their carriers. Pure: no I/O, no clock, no tasks.

Owns: an announcement from its frame to its answer; when the calls that wait are looked at for it.
Does not own: what may be announced, and the gate (announcing.py), the table of hosts (routing.py),
where a call goes then (placing.py).
Source: protos/relayrpc/v1/link.proto, Announce; LINK.md "Resume, takeover, expiry".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayrpc.hub.announcing import announcement_fault
from relayrpc.link.call import STATUS_CANCELLED, STATUS_INVALID_ARGUMENT


if TYPE_CHECKING:
    from relayrpc.hub.announcing import AnnouncementGate
    from relayrpc.hub.placing import CallPlacer
    from relayrpc.hub.routing import Registration
    from relayrpc.link.link import Link
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["HostDesk"]


class HostDesk:
    """
    All hosts of one hub.

    Attributes:
        gate: Decides on announcements; None: they are registered as they come.
    """

    def __init__(self, placer: CallPlacer) -> None:
        """
        Args:
            placer: Has the table of hosts, and the calls that wait for them.
        """
        self.gate: AnnouncementGate | None = None
        self._placer = placer

    # --- announcements ---

    def announced(self, link: Link, announce: pb.Announce) -> None:
        """Register a host, or refuse it, or have it wait at the gate."""
        fault = announcement_fault(announce, is_local=link.is_local)
        if fault:
            self._refuse(link, announce, STATUS_INVALID_ARGUMENT, fault)
        elif self.gate is None or self.gate.may_register(link, announce):
            self._register(link, announce)

    def register(self, link: Link, announce: pb.Announce, *, now_s: float) -> None:
        """Give calls to a host that waited at the gate; its link is not over."""
        self._placer.now_s = now_s
        self._register(link, announce)
        link.flush_soon()

    def refuse(self, link: Link, announce: pb.Announce, *, status: int, details: str) -> None:
        """Give no calls to a host that waited at the gate; its link is not over."""
        self._refuse(link, announce, status, details)
        link.flush_soon()

    def _register(self, link: Link, announce: pb.Announce) -> None:
        registration = self._placer.router.add(link, announce)
        link.answer_announce(announce.id)
        for observe in self._placer.observers.host_came:
            observe(registration)
        self._placer.serve(registration.places)

    def _refuse(self, link: Link, announce: pb.Announce, status: int, details: str) -> None:
        link.answer_announce(announce.id, status=status, details=details)
        for observe in self._placer.observers.host_refused:
            observe(link, announce, details)

    def withdrawn(self, link: Link, announcement_id: int) -> None:
        """Give a host no more calls; running ones go on."""
        registration = self._placer.router.remove(link, announcement_id)
        if registration is not None:
            self._placer.take_back_waiting(link, registration)
        elif self.gate is None or not self.gate.withdrawn(link, announcement_id):
            return
        # Whatever is still handed to the host is in a batch before this answer.
        link.answer_announce(announcement_id, status=STATUS_CANCELLED, details="withdrawn")
        if registration is not None:
            self._gone(registration)

    def _gone(self, registration: Registration) -> None:
        for observe in self._placer.observers.host_went:
            observe(registration)
        self._placer.serve(registration.places)

    # --- links of hosts ---

    def link_opened(self, link: Link, *, now_s: float) -> None:
        """A link has a carrier again: calls that waited for its host go on."""
        self._placer.now_s = now_s
        for registration in self._placer.router.of_link(link):
            self._placer.serve(registration.places)

    def link_parked(self, link: Link, *, now_s: float) -> None:
        """A link lost its carrier: calls that never left by it may go to another host."""
        self._placer.now_s = now_s
        self._look_elsewhere(link)

    def link_leaving(self, link: Link) -> None:
        """The peer of a link goes away: it gets no new calls."""
        for observe in self._placer.observers.link_leaving:
            observe(link)
        self._look_elsewhere(link)

    def link_over(self, link: Link) -> None:
        """A link has ended: its hosts are gone."""
        if self.gate is not None:
            self.gate.link_over(link)
        for registration in self._placer.router.remove_link(link):
            self._gone(registration)

    def _look_elsewhere(self, link: Link) -> None:
        """Choose again for the calls that wait for a link's hosts, or to leave by it."""
        self._placer.take_back_waiting(link, None)
        for registration in self._placer.router.of_link(link):
            self._placer.serve(registration.places)

    # --- the operator ---

    def set_drained(self, registration: Registration, *, is_drained: bool, now_s: float) -> None:
        """Give a host no new calls, or give it some again; running ones go on."""
        self._placer.now_s = now_s
        registration.is_drained = is_drained
        for observe in self._placer.observers.host_drained:
            observe(registration)
        if is_drained:
            self._placer.take_back_waiting(registration.link, registration)
        self._placer.serve(registration.places)
