"""
What happens in a hub, told as it happens to whoever keeps count of it: journal, metrics, logs,
spans. Pure.

Owns: the seam, and who listens. Does not own: what listeners make of it (observe/, journal.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final


if TYPE_CHECKING:
    from relayrpc.carrier.base import Carrier
    from relayrpc.errors import CarrierLostError, RelayError
    from relayrpc.hub.routing import Registration
    from relayrpc.link.call import Call
    from relayrpc.link.link import Link
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["HubObserver", "Observers"]


class HubObserver:
    """
    A listener; each method is called where its name says, does nothing unless overridden, must not
    block and must not raise. `Link.is_local` tells links of parts of the hub itself.
    """

    def carrier_refused(self, carrier: Carrier, error: RelayError) -> None:
        """A carrier that opened may neither begin a link nor go on with one."""

    def link_opened(self, link: Link, carrier_kind: str) -> None:
        """A peer opened a link."""

    def link_resumed(self, link: Link, carrier_kind: str) -> None:
        """A link goes on over a new carrier, because it lost one or because it moved."""

    def link_parked(self, link: Link, error: CarrierLostError | None) -> None:
        """A link lost its carrier and waits for the next one; None: the peer closed it."""

    def link_leaving(self, link: Link) -> None:
        """The peer of a link takes no new calls any more."""

    def link_replaced(self, link: Link, older: Link) -> None:
        """A link took the place of the older one of its instance, which is told to have ended."""

    def link_ended(self, link: Link, error: RelayError | None) -> None:
        """A link is over; all that it announced went before. None: it was closed in good order."""

    def host_came(self, registration: Registration) -> None:
        """A host listens."""

    def host_refused(self, link: Link, announce: pb.Announce, reason: str) -> None:
        """A link may not announce this."""

    def host_went(self, registration: Registration) -> None:
        """A host listens no more."""

    def contract_unknown(
        self, link: Link, fingerprint: bytes, services: list[str], reason: str
    ) -> None:
        """
        Descriptors that a host announced are not to be had, or of no use. Whether it serves all the
        same is told by `host_came` and `host_refused`.

        Args:
            link: The host's.
            fingerprint: Of the descriptors.
            services: What they do not define although it was announced with them; empty: they
                cannot be used at all.
            reason: Why not.
        """

    def store_failed(self, reason: str) -> None:
        """Something could not be stored, or read; the hub goes on without."""

    def host_drained(self, registration: Registration) -> None:
        """An operator drained a host, or took that back: see `is_drained`."""

    def call_opened(self, call: Call, opening: pb.Open) -> None:
        """
        A call came in; the frame is what its host will get.

        Args:
            call: The leg that it came on.
            opening: Its OPEN; metadata may be changed.
        """

    def call_dequeued(self, call: Call, waited_s: float) -> None:
        """A call was handed to a host after it had waited in the queue so long."""

    def call_ended(
        self, call: Call, end: pb.End, registration: Registration | None, duration_s: float
    ) -> None:
        """
        A call is over.

        Args:
            call: The leg that it came on.
            end: What its caller is told, or would have been.
            registration: The host that it was last handed to; None: none.
            duration_s: Since its OPEN came to the hub.
        """

    def drain_began(self, timeout_s: float) -> None:
        """The hub stops; calls may go on for so long."""

    def drain_ended(self, calls_open_count: int, links_silent_count: int) -> None:
        """
        The hub has drained, or waits no longer.

        Args:
            calls_open_count: Calls that are cut now.
            links_silent_count: Links without calls whose peers have not answered yet.
        """


_HOOKS: Final = tuple(name for name in vars(HubObserver) if not name.startswith("_"))


class Observers:
    """
    Everyone who listens to one hub. Each hook is a list of the functions that overrode it, so that
    what nobody listens to costs an empty loop.
    """

    def __init__(self) -> None:
        self.carrier_refused: list[Callable[[Carrier, RelayError], None]] = []
        self.link_opened: list[Callable[[Link, str], None]] = []
        self.link_resumed: list[Callable[[Link, str], None]] = []
        self.link_parked: list[Callable[[Link, CarrierLostError | None], None]] = []
        self.link_leaving: list[Callable[[Link], None]] = []
        self.link_replaced: list[Callable[[Link, Link], None]] = []
        self.link_ended: list[Callable[[Link, RelayError | None], None]] = []
        self.host_came: list[Callable[[Registration], None]] = []
        self.host_refused: list[Callable[[Link, pb.Announce, str], None]] = []
        self.host_went: list[Callable[[Registration], None]] = []
        self.contract_unknown: list[Callable[[Link, bytes, list[str], str], None]] = []
        self.store_failed: list[Callable[[str], None]] = []
        self.host_drained: list[Callable[[Registration], None]] = []
        self.call_opened: list[Callable[[Call, pb.Open], None]] = []
        self.call_dequeued: list[Callable[[Call, float], None]] = []
        self.call_ended: list[Callable[[Call, pb.End, Registration | None, float], None]] = []
        self.drain_began: list[Callable[[float], None]] = []
        self.drain_ended: list[Callable[[int, int], None]] = []

    def add(self, observer: HubObserver) -> None:
        """Have one more listen."""
        for name in _HOOKS:
            if getattr(type(observer), name) is not getattr(HubObserver, name):
                getattr(self, name).append(getattr(observer, name))
