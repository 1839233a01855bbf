"""
Which host serves a call: registrations by address and service, and the choice among them. Pure.

Owns: the table of announcements. Does not own: links, frames, budgets, where a call goes when
there is none (placing.py), calls that wait (queue.py).
Source: LINK.md "Shape"; DESIGN.md "What a caller is told".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from relayrpc.contract.address import ADDRESS_BYTES_MAX, address_of, services_of
from relayrpc.link.call import (
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
    STATUS_UNIMPLEMENTED,
)
from relayrpc.link.link import LinkState
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    import random

    from relayrpc.link.link import Link


__all__ = [
    "Lack",
    "Place",
    "Registration",
    "Router",
    "RoutingRefusal",
]

Place = tuple[str, str]
"""Where hosts stand: (address, service)."""


@dataclass(eq=False, slots=True)
class Registration:
    """One announcement of one link."""

    link: Link
    announce: pb.Announce
    slots: int
    """Calls at once that its host wants at most; 0: as many as the link takes."""
    priority: int
    """Hosts of the lowest number get the calls; the others stand by."""
    calls_open_count: int = 0
    """Calls handed to the link through this registration and not over."""
    is_drained: bool = False
    """An operator wants it to get no new calls."""
    places: list[Place] = field(default_factory=list)
    timeouts_max_s: dict[str, float] = field(default_factory=dict)
    """How long calls may take by the contract, whatever callers say: "pkg.Service/Method" -> s."""

    @property
    def has_free_slot(self) -> bool:
        """True while its host wants another call."""
        return not self.slots or self.calls_open_count < self.slots


class Lack(Enum):
    """Why there is no host for a call now."""

    ABSENT = auto()
    """Nobody listens."""
    LEAVING = auto()
    """Those who listen take no new calls any more."""
    PARKED = auto()
    """Those who listen have lost their connections, and may be back."""
    BUSY = auto()
    """Those who listen have no free slot."""
    FULL = auto()
    """The links of those who listen take no more calls."""
    UNSERVED = auto()
    """Hosts listen at the address, and none of them serves the service."""


@dataclass(frozen=True, slots=True)
class RoutingRefusal:
    """No host for a call now; nothing was executed."""

    status: int
    details: str
    lack: Lack
    place: Place
    """Where a host would have to come; the address as called where nobody listens."""


@dataclass(eq=False, slots=True)
class _Standing:
    """Who stands at one place."""

    place: Place
    hosts: list[Registration] = field(default_factory=list)
    """In order of registration."""
    shapes: dict[str, int] = field(default_factory=dict)
    """pb.Shape by full method name; unknown where hosts contradict each other."""


class Router:
    """All registrations of one hub."""

    def __init__(self, *, random: random.Random) -> None:
        self._random = random
        self._by_link: dict[Link, dict[int, Registration]] = {}
        self._by_place: dict[Place, _Standing] = {}
        # How many registrations say so of each service, last the one that came last.
        self._default_addresses: dict[str, dict[str, int]] = {}
        # How many registrations stand there for each service.
        self._services_by_address: dict[str, dict[str, int]] = {}

    @property
    def registrations(self) -> list[Registration]:
        """All of them, link by link."""
        return [entry for entries in self._by_link.values() for entry in entries.values()]

    def of_link(self, link: Link) -> list[Registration]:
        """Return the registrations of one link, oldest first."""
        return list(self._by_link.get(link, {}).values())

    def add(self, link: Link, announce: pb.Announce) -> Registration:
        """Register; the address is already checked and the id is new on its link."""
        registration = self._stand(link, announce)
        self._by_link.setdefault(link, {})[announce.id] = registration
        for address, service in registration.places:
            counts = self._services_by_address.setdefault(address, {})
            counts[service] = counts.get(service, 0) + 1
        for service, address in _declared_addresses(announce):
            counts = self._default_addresses.setdefault(service, {})
            counts[address] = counts.pop(address, 0) + 1
        return registration

    def add_unannounced(self, link: Link, address: str, service: str) -> Registration:
        """
        Let calls reach what a host serves without announcing it, until `remove_unannounced()`; it
        is in no list of registrations.
        """
        return self._stand(
            link, pb.Announce(address=address, services=[pb.ServiceDescription(name=service)])
        )

    def remove_unannounced(self, registration: Registration) -> None:
        """Undo `add_unannounced()`."""
        self._leave(registration)

    def _stand(self, link: Link, announce: pb.Announce) -> Registration:
        registration = Registration(link, announce, announce.slots, announce.priority)
        for service in services_of(announce):
            name = service.name
            place = (address_of(announce.address, service), name)
            registration.places.append(place)
            standing = self._by_place.setdefault(place, _Standing(place))
            standing.hosts.append(registration)
            for method in service.methods:
                full_name = f"{name}/{method.name}"
                known = standing.shapes.setdefault(full_name, method.shape)
                if known != method.shape:
                    standing.shapes[full_name] = pb.SHAPE_UNKNOWN
        return registration

    def remove(self, link: Link, announcement_id: int) -> Registration | None:
        """Take one registration out and return it; None when it is not there."""
        of_link = self._by_link.get(link, {})
        registration = of_link.pop(announcement_id, None)
        if registration is None:
            return None
        if not of_link:
            del self._by_link[link]
        self._leave(registration)
        for address, service in registration.places:
            counts = self._services_by_address[address]
            counts[service] -= 1
            if not counts[service]:
                del counts[service]
                if not counts:
                    del self._services_by_address[address]
        for service, address in _declared_addresses(registration.announce):
            counts = self._default_addresses[service]
            counts[address] -= 1
            if not counts[address]:
                del counts[address]
                if not counts:
                    del self._default_addresses[service]
        return registration

    def _leave(self, registration: Registration) -> None:
        for place in registration.places:
            hosts = self._by_place[place].hosts
            hosts.remove(registration)
            if not hosts:
                del self._by_place[place]

    def remove_link(self, link: Link) -> list[Registration]:
        """Take out everything a link announced, and return it."""
        registrations = self.of_link(link)
        for registration in registrations:
            self.remove(link, registration.announce.id)
        return registrations

    def shape(self, address: str, method: str) -> int:
        """
        Return the shape that hosts announced for a method, as pb.Shape; SHAPE_UNKNOWN when nobody
        did.

        Args:
            address: Where the caller calls.
            method: "pkg.Service/Method".
        """
        standing = self._standing(address, method.partition("/")[0])
        return pb.SHAPE_UNKNOWN if standing is None else standing.shapes.get(method, 0)

    def place_of(self, address: str, method: str) -> Place | None:
        """
        Find where the hosts of a call stand; None when nobody listens.

        Args:
            address: Where the caller calls.
            method: "pkg.Service/Method".
        """
        standing = self._standing(address, method.partition("/")[0])
        return None if standing is None else standing.place

    def hosts_of(self, address: str, service: str) -> list[Registration]:
        """Return the hosts that stand where calls of a service go; empty: nobody listens."""
        standing = self._standing(address, service)
        return [] if standing is None else list(standing.hosts)

    def services_at(self, address: str) -> set[str]:
        """Return the services that calls to an address can reach; empty: all that are served."""
        if not address:
            return set().union(*self._services_by_address.values())
        found = (self._services_by_address.get(prefix, {}) for prefix in _prefixes(address))
        return set().union(*found)

    def is_served(self, address: str, service: str) -> bool | None:
        """Say whether a host takes calls of a service; None: none listens for it at all."""
        standing = self._standing(address, service)
        if standing is None:
            return None
        return any(
            host.link.state is LinkState.OPEN and not host.link.is_draining and not host.is_drained
            for host in standing.hosts
        )

    def pick(
        self, address: str, method: str, *, instance: str = "", sticky_key: str = ""
    ) -> Registration | RoutingRefusal:
        """
        Choose the host for a call: of those with a carrier and a free slot, at the longest prefix
        of the address, the first in priority, then the one with the least calls open, ties at
        random.

        Args:
            address: Where the caller calls.
            method: "pkg.Service/Method".
            instance: The only host instance that will do; empty: any.
            sticky_key: Calls with the same key get the same host while it is there, whatever its
                load; a host that comes or goes changes the host of as few keys as possible.
        """
        service = method.partition("/")[0]
        standing = self._standing(address, service)
        if standing is None:
            return self._nobody(address, service)
        hosts = standing.hosts
        if len(hosts) == 1 and not instance and _takes_calls(hosts[0]) and hosts[0].has_free_slot:
            return hosts[0]
        if instance:
            hosts = [host for host in hosts if host.link.instance == instance]
        best = _best(hosts, is_load_ignored=bool(sticky_key))
        if not best:
            lacks = {_lack(host) for host in hosts}
            lack = next((each for each in _LACKS if each in lacks), Lack.ABSENT)
            return _no_host(lack, address, instance, standing.place)
        if len(best) == 1:
            choice = best[0]
        elif sticky_key:
            choice = max(best, key=lambda host: _affinity(sticky_key, host.link.instance))
        else:
            choice = self._random.choice(best)
        if choice.slots and not choice.has_free_slot:
            return _no_host(Lack.BUSY, address, instance, standing.place)
        return choice

    def registration_at(
        self, registration: Registration, address: str, method: str
    ) -> Registration | None:
        """
        Return the registration by which the link of another one serves a method; None: by none.

        Args:
            registration: Of the link; serves on for its running calls when it is withdrawn.
            address: Where the caller calls.
            method: "pkg.Service/Method".
        """
        service = method.partition("/")[0]
        if (address, service) in registration.places:
            return registration
        link = registration.link
        for host in self.hosts_of(address, service):
            if host.link is link:
                return host
        if self._by_link.get(link, {}).get(registration.announce.id) is registration:
            # Calls of the address go to others.
            return None
        # It is withdrawn, and served what was called by a path below its own, or by no path.
        prefixes = set(_prefixes(address))
        is_served = any(
            name == service and (place in prefixes or address == service)
            for place, name in registration.places
        )
        return registration if is_served else None

    def _standing(self, address: str, service: str) -> _Standing | None:
        """Find who stands at the longest prefix of an address; None: nobody does."""
        by_place = self._by_place
        standing = by_place.get((address, service))
        if standing is None:
            for prefix in _prefixes(address):
                standing = by_place.get((prefix, service))
                if standing is not None:
                    break
        if standing is None and address == service:
            default = self._default_address(service)
            if default != service:
                standing = self._standing(default, service)
        return standing

    def _default_address(self, service: str) -> str:
        """Return where calls go that name a service's full name and no other address."""
        return next(reversed(self._default_addresses.get(service, {})), service)

    def _nobody(self, address: str, service: str) -> RoutingRefusal:
        if address == service:
            address = self._default_address(service)
        place = (address, service)
        if any(prefix in self._services_by_address for prefix in _prefixes(address)):
            return RoutingRefusal(
                STATUS_UNIMPLEMENTED,
                f"no host at {address!r} serves {service!r}",
                Lack.UNSERVED,
                place,
            )
        return _no_host(Lack.ABSENT, address, "", place)


def _declared_addresses(announce: pb.Announce) -> Iterator[tuple[str, str]]:
    """Yield the services of an announcement that have a default address, with it."""
    for service in services_of(announce):
        if service.default_address:
            yield service.name, service.default_address


# More calls than any host has open.
_FULL: Final = 2**62

# Those that say more come first.
_LACKS: Final = {
    Lack.BUSY: "every slot of the hosts at {} is taken",
    Lack.FULL: "the host at {} has too many calls open",
    Lack.PARKED: "the host at {} lost its connection and has not come back",
    Lack.LEAVING: "the host at {} is going away",
    Lack.ABSENT: "no host listens at {}",
}


def _no_host(lack: Lack, address: str, instance: str, place: Place) -> RoutingRefusal:
    where = f"{address!r} with instance {instance!r}" if instance else repr(address)
    status = STATUS_RESOURCE_EXHAUSTED if lack is Lack.FULL else STATUS_UNAVAILABLE
    return RoutingRefusal(status, _LACKS[lack].format(where), lack, place)


def _best(hosts: Iterable[Registration], *, is_load_ignored: bool) -> list[Registration]:
    """Return those of the hosts that take calls that come first, if only when they have a slot."""
    best: list[Registration] = []
    best_priority = best_load = 0
    for host in hosts:
        if not _takes_calls(host):
            continue
        priority = host.priority
        load = 0
        if not is_load_ignored:
            load = host.calls_open_count
            if host.slots and load >= host.slots:
                # A full host counts for its priority: a standby is for the loss of a host.
                load = _FULL
        if not best or priority < best_priority or (priority == best_priority and load < best_load):
            best = [host]
            best_priority, best_load = priority, load
        elif priority == best_priority and load == best_load:
            best.append(host)
    return best


def _takes_calls(host: Registration) -> bool:
    link = host.link
    return (
        link.state is LinkState.OPEN
        and not link.is_draining
        and not host.is_drained
        and link.has_room_for_call
    )


def _lack(host: Registration) -> Lack:
    """Say why a host that takes no calls does not."""
    link = host.link
    if link.is_draining or host.is_drained:
        return Lack.LEAVING
    if link.state is LinkState.OPEN:
        return Lack.FULL
    return Lack.PARKED if link.state is LinkState.PARKED else Lack.ABSENT


def _prefixes(address: str) -> Iterator[str]:
    """Yield the address and the paths above it, longest first; none of what is too long for one."""
    if len(address) > ADDRESS_BYTES_MAX:
        # A plain gRPC client or a health check may name anything, and each step copies the rest.
        return
    while address:
        yield address
        address = address.rpartition("/")[0]


def _affinity(key: str, instance: str) -> bytes:
    """Rank an instance for a key: rendezvous hashing."""
    return hashlib.blake2b(f"{key}\0{instance}".encode(), digest_size=8).digest()
