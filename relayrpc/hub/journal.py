"""
What changed at a hub, numbered, as far back as memory is given to it. Pure.

Owns: the events, their numbers, and how many of them are kept. Does not own: who is told and how
(management.py).
Source: protos/relayrpc/v1/hub.proto, Watch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Final

from relayrpc.hub.describe import describe_gone, describe_host, identify_host
from relayrpc.hub.observer import HubObserver
from relayrpc.v1 import hub_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.errors import CarrierLostError, RelayError
    from relayrpc.hub.routing import Registration
    from relayrpc.limits import Limits
    from relayrpc.link.link import Link


__all__ = ["Journal"]

_Kind: Final = pb.HostEvent


class Journal(HubObserver):
    """
    The latest events of one run of a hub; those of the hub's own parts are left out.

    Attributes:
        epoch: Of the run, in hexadecimal digits; numbers count within it.
        number: Of the last event; 0 before the first.
        listeners: Called after each event; must not raise.
    """

    def __init__(
        self,
        *,
        epoch: bytes,
        limits: Limits,
        hosts_of: Callable[[Link], list[Registration]],
        wall_clock: Callable[[], float],
    ) -> None:
        """
        Args:
            epoch: Of the run.
            limits: How many events, and how large, are kept.
            hosts_of: What a link has announced now.
            wall_clock: Seconds since 1970.
        """
        self.epoch = epoch.hex()
        self.number = 0
        self.listeners: dict[Callable[[], None], None] = {}
        self._limits = limits
        self._hosts_of = hosts_of
        self._wall_clock = wall_clock
        self._events: deque[pb.HostEvent] = deque()
        self._sizes_bytes: deque[int] = deque()
        self._kept_bytes = 0
        # Links of hosts that were said to be parked.
        self._parked: set[Link] = set()

    def after(self, epoch: str, number: int, *, bytes_max: int) -> list[pb.HostEvent] | None:
        """
        Return the events behind one, oldest first, up to so many bytes but at least one of them;
        empty: there is none yet.

        Args:
            epoch: Of the run that the number is of.
            number: Of the last event that is known; 0: of none.
            bytes_max: What the events returned may add up to.

        Returns:
            None when that cannot be told: another run, a number that was not reached, or events
            that are no longer kept.
        """
        kept_count = len(self._events)
        skipped_count = number - (self.number - kept_count)
        if epoch != self.epoch or not 0 <= skipped_count <= kept_count:
            return None
        events: list[pb.HostEvent] = []
        total_bytes = 0
        for event, size_bytes in zip(
            islice(self._events, skipped_count, None),
            islice(self._sizes_bytes, skipped_count, None),
            strict=True,
        ):
            total_bytes += size_bytes
            if events and total_bytes > bytes_max:
                break
            events.append(event)
        return events

    # --- what is noted ---

    def host_came(self, registration: Registration) -> None:
        if not registration.link.is_local:
            self._note(_Kind.KIND_CAME, describe_host(registration))

    def host_went(self, registration: Registration) -> None:
        if not registration.link.is_local:
            self._note(_Kind.KIND_WENT, describe_gone(registration))

    def host_drained(self, registration: Registration) -> None:
        kind = _Kind.KIND_DRAINED if registration.is_drained else _Kind.KIND_UNDRAINED
        self._note(kind, identify_host(registration))

    def link_parked(self, link: Link, error: CarrierLostError | None = None) -> None:
        if link not in self._parked and self._is_host(link):
            self._parked.add(link)
            self._note_link(_Kind.KIND_PARKED, link)

    def link_resumed(self, link: Link, carrier_kind: str) -> None:
        # Else it moved, or it serves nothing.
        if link in self._parked:
            self._parked.remove(link)
            self._note_link(_Kind.KIND_RETURNED, link)

    def link_leaving(self, link: Link) -> None:
        if self._is_host(link):
            self._note_link(_Kind.KIND_LEAVING, link)

    def link_ended(self, link: Link, error: RelayError | None) -> None:
        self._parked.discard(link)

    def _is_host(self, link: Link) -> bool:
        return not link.is_local and bool(self._hosts_of(link))

    def _note_link(self, kind: pb.HostEvent.Kind, link: Link) -> None:
        self._note(kind, pb.HostInfo(link_id=link.link_id.hex(), instance=link.instance))

    def _note(self, kind: pb.HostEvent.Kind, host: pb.HostInfo) -> None:
        self.number += 1
        event = pb.HostEvent(
            number=self.number,
            kind=kind,
            time_unix_ms=max(0, round(self._wall_clock() * 1000)),
            host=host,
        )
        size_bytes = event.ByteSize()
        self._events.append(event)
        self._sizes_bytes.append(size_bytes)
        self._kept_bytes += size_bytes
        limits = self._limits
        while (
            len(self._events) > limits.journal_events_max
            or self._kept_bytes > limits.journal_bytes_max
        ):
            self._events.popleft()
            self._kept_bytes -= self._sizes_bytes.popleft()
        for listener in self.listeners:
            listener()
