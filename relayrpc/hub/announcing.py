"""
What hosts may announce. Pure.

Owns: the form of an announcement, and what whoever decides on it has to say. Does not own: what
becomes of it (hosts.py, routing.py), who decides (contracts.py).
Source: protos/relayrpc/v1/link.proto, Announce.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from relayrpc.contract.address import check_address
from relayrpc.contract.fingerprint import FINGERPRINT_BYTES
from relayrpc.contract.labels import label_fault


if TYPE_CHECKING:
    from relayrpc.link.link import Link
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["AnnouncementGate", "announcement_fault"]

_SERVICES_MAX: Final = 256
_METHODS_MAX: Final = 4096
# Empty: the host knows no descriptors.
_FINGERPRINT_SIZES: Final = (0, FINGERPRINT_BYTES)


class AnnouncementGate(Protocol):
    """Who decides on announcements of the right form."""

    def may_register(self, link: Link, announce: pb.Announce) -> bool:
        """
        Say whether a host gets calls at once. Else it waits until `HostDesk.register()` or
        `HostDesk.refuse()` is called for it, or `withdrawn()`.
        """

    def withdrawn(self, link: Link, announcement_id: int) -> bool:
        """Take note that an announcement is taken back; False: it was not waiting."""

    def link_over(self, link: Link) -> None:
        """Take note that nothing of a link waits any more."""


def announcement_fault(announce: pb.Announce, *, is_local: bool) -> str:
    """
    Say why nobody may be registered by an announcement; empty: the hub may decide.

    Args:
        announce: As it came.
        is_local: It is the hub's own host that announces, which has the reserved addresses.
    """
    services = announce.services
    if not services:
        return "an announcement without services"
    methods_count = sum(len(service.methods) for service in services)
    if len(services) > _SERVICES_MAX or methods_count > _METHODS_MAX:
        return f"an announcement of more than {_SERVICES_MAX} services or {_METHODS_MAX} methods"
    if not all(service.name for service in services):
        return "a service without a name"
    if any(len(service.fingerprint) not in _FINGERPRINT_SIZES for service in services):
        return f"a fingerprint that has not {FINGERPRINT_BYTES} bytes"
    fault = check_address(announce.address, is_local=is_local)
    for service in services:
        fault = fault or check_address(service.default_address)
    return fault or label_fault(announce.labels)
