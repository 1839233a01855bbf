"""
Which host serves a call: registrations by address and service, and the choice among them. Pure.

Owns: the table of announcements. Does not own: links, frames, budgets (forward.py).
Source: LINK.md "Shape"; DESIGN.md "What a caller is told".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from relayrpc.link.call import STATUS_UNAVAILABLE, STATUS_UNIMPLEMENTED
from relayrpc.link.link import LinkState


if TYPE_CHECKING:
    import random

    from relayrpc.link.link import Link


__all__ = ["Registration", "Router", "RoutingRefusal", "check_address"]

_ADDRESS: Final = re.compile(r"[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*")
_ADDRESS_BYTES_MAX: Final = 512


@dataclass(eq=False, slots=True)
class Registration:
    """One announcement of one link."""

    link: Link
    announcement_id: int
    address: str
    """Empty: each service stands at its full name."""
    services: frozenset[str]
    calls_open_count: int = 0
    """Calls handed to the link through this registration and not over."""
    places: list[tuple[str, str]] = field(default_factory=list)
    """The (address, service) pairs it stands at."""


@dataclass(frozen=True, slots=True)
class RoutingRefusal:
    """No host for a call; nothing was executed."""

    status: int
    details: str


def check_address(address: str, *, is_local: bool = False) -> str:
    """
    Say what is wrong with an announced address; empty when nothing is.

    Args:
        address: The path.
        is_local: It is the hub's own host that announces, which has the reserved ones.
    """
    path = address.removeprefix("$") if is_local else address
    if not address or (_ADDRESS.fullmatch(path) and len(path) <= _ADDRESS_BYTES_MAX):
        return ""
    if address.startswith("$"):
        return f"address {address!r} is reserved for the hub"
    return (
        f"address {address[:80]!r} is no path: segments of letters, digits and ._~- "
        f"joined by /, at most {_ADDRESS_BYTES_MAX} bytes"
    )


class Router:
    """All registrations of one hub."""

    def __init__(self, *, random: random.Random) -> None:
        self._random = random
        self._registrations: dict[tuple[Link, int], Registration] = {}
        # In order of registration.
        self._by_place: dict[tuple[str, str], list[Registration]] = {}
        self._services_by_address: dict[str, dict[str, int]] = {}

    @property
    def registrations(self) -> list[Registration]:
        """All of them, oldest first."""
        return list(self._registrations.values())

    def add(self, link: Link, announcement_id: int, address: str, services: frozenset[str]) -> None:
        """Register; the address is already checked and the id is new on its link."""
        registration = Registration(link, announcement_id, address, services)
        self._registrations[link, announcement_id] = registration
        for service in sorted(services):
            place = (address or service, service)
            registration.places.append(place)
            self._by_place.setdefault(place, []).append(registration)
            counts = self._services_by_address.setdefault(place[0], {})
            counts[service] = counts.get(service, 0) + 1

    def remove(self, link: Link, announcement_id: int) -> None:
        """Take one registration out; does nothing when it is not there."""
        registration = self._registrations.pop((link, announcement_id), None)
        if registration is None:
            return
        for place in registration.places:
            hosts = self._by_place[place]
            hosts.remove(registration)
            if not hosts:
                del self._by_place[place]
            address, service = place
            counts = self._services_by_address[address]
            counts[service] -= 1
            if not counts[service]:
                del counts[service]
                if not counts:
                    del self._services_by_address[address]

    def remove_link(self, link: Link) -> None:
        """Take out everything a link announced."""
        for owner, announcement_id in list(self._registrations):
            if owner is link:
                self.remove(link, announcement_id)

    def pick(self, address: str, method: str) -> Registration | RoutingRefusal:
        """
        Choose the host for a call: one with a carrier before a parked one, then the least calls
        open, ties at random.

        Args:
            address: Where the caller calls.
            method: "pkg.Service/Method".
        """
        service = method.partition("/")[0]
        hosts = self._by_place.get((address, service))
        if hosts is None:
            if address in self._services_by_address:
                return RoutingRefusal(
                    STATUS_UNIMPLEMENTED, f"no host at {address!r} serves {service!r}"
                )
            return RoutingRefusal(STATUS_UNAVAILABLE, f"no host listens at {address!r}")
        if len(hosts) == 1:
            return hosts[0]
        best: list[Registration] = []
        best_load = (True, 0)
        for host in hosts:
            load = (host.link.state is not LinkState.OPEN, host.calls_open_count)
            if not best or load < best_load:
                best = [host]
                best_load = load
            elif load == best_load:
                best.append(host)
        return best[0] if len(best) == 1 else self._random.choice(best)
