"""
Links and hosts as the messages of relayrpc.v1.Hub. Pure.

Owns: what is told of them. Does not own: who is told (management.py), what happened (journal.py).
Source: protos/relayrpc/v1/hub.proto.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayrpc.link.link import LinkState
from relayrpc.v1 import hub_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.hub.routing import Registration
    from relayrpc.link.link import Link


__all__ = [
    "PART_BYTES",
    "describe_gone",
    "describe_host",
    "describe_link",
    "describe_state",
    "identify_host",
]

PART_BYTES: Final = 32 * 1024
"""
A part of a long answer is closed once it holds so much: the hub does nothing else while it makes
one.
"""


def describe_link(link: Link, *, carrier: str) -> pb.LinkInfo:
    """
    Describe a link that is not over.

    Args:
        link: One of the hub's.
        carrier: The kind of what it runs over; empty: nothing now.
    """
    return pb.LinkInfo(
        link_id=link.link_id.hex(),
        instance=link.instance,
        identity=link.peer_identity,
        peer=link.peer_address,
        state=_link_state(link),
        carrier=carrier,
        round_trip_us=round((link.round_trip_s or 0.0) * 1e6),
        resumes_count=link.resumed_count,
        wire_version=link.version,
        agent=link.peer_agent,
        calls_open_count=link.calls_open_count,
        held_bytes=link.held_bytes,
        is_local=link.is_local,
    )


def identify_host(registration: Registration) -> pb.HostInfo:
    """Say which announcement is meant, and no more."""
    link = registration.link
    return pb.HostInfo(
        link_id=link.link_id.hex(),
        announcement_id=registration.announce.id,
        instance=link.instance,
        address=registration.announce.address,
    )


def describe_state(registration: Registration) -> pb.HostInfo:
    """Say how an announcement stands now, without its services."""
    info = identify_host(registration)
    info.state = _host_state(registration)
    info.slots = registration.slots
    info.priority = registration.priority
    info.calls_open_count = registration.calls_open_count
    info.is_local = registration.link.is_local
    return info


def describe_host(registration: Registration) -> pb.HostInfo:
    """Describe an announcement as it is now."""
    info = describe_state(registration)
    info.services.extend(registration.announce.services)
    info.labels.update(registration.announce.labels)
    return info


def describe_gone(registration: Registration) -> pb.HostInfo:
    """Say which announcement is meant, and what it was found by."""
    info = identify_host(registration)
    for service in registration.announce.services:
        info.services.add(name=service.name, fingerprint=service.fingerprint)
    info.labels.update(registration.announce.labels)
    return info


def _link_state(link: Link) -> pb.LinkState:
    if link.state is LinkState.PARKED:
        return pb.LINK_STATE_PARKED
    return pb.LINK_STATE_LEAVING if link.is_draining else pb.LINK_STATE_OPEN


def _host_state(registration: Registration) -> pb.HostState:
    link = registration.link
    if registration.is_drained:
        return pb.HOST_STATE_DRAINED
    if link.is_draining:
        return pb.HOST_STATE_LEAVING
    return pb.HOST_STATE_PARKED if link.state is LinkState.PARKED else pb.HOST_STATE_SERVING
