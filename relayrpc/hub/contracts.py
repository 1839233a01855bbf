"""
Contracts of the hosts at a hub: asks for descriptors that the hub lacks, lets hosts register whose
contracts may be served, and finds a service's.

A host is asked over its own link, at the address "$host", by an ordinary call of a part of the hub.
Owns: the asking, the checking in steps, announcements that wait for it. Does not own: what is kept
and who is asked next (contract_table.py), what may be served (registry.py).
Source: protos/relayrpc/v1/host.proto; docs/adr/0016-contract-fingerprint.md,
0021-contract-registry.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf.message import DecodeError

from relayrpc.contract.address import address_of, services_of
from relayrpc.contract.descriptors import DescriptorSet, checked
from relayrpc.endpoint.channel import Channel
from relayrpc.endpoint.contracts import GET_DESCRIPTOR_SET, HOST_ADDRESS, HOST_SERVICE
from relayrpc.endpoint.rpc_error import RpcError
from relayrpc.errors import ContractError
from relayrpc.hub.addresses import AddressEntry, rules_at
from relayrpc.hub.contract_table import Contract, ContractTable, Failure
from relayrpc.hub.local import local_link
from relayrpc.hub.observer import HubObserver
from relayrpc.hub.registry import ContractRegistry
from relayrpc.hub.steps import in_steps
from relayrpc.link.call import STATUS_FAILED_PRECONDITION
from relayrpc.v1 import host_pb2 as pb
from relayrpc.v1 import hub_pb2


if TYPE_CHECKING:
    from relayrpc.hub.routing import Place, Registration
    from relayrpc.hub.session import HubSessions
    from relayrpc.link.link import Link
    from relayrpc.v1 import link_pb2


__all__ = ["HubContracts"]

_IDENTITY: Final = "$contracts"
# What stands around a descriptor set in the answer.
_ANSWER_BYTES: Final = 16
_NOT_DEFINED: Final = "the descriptors do not define it"
_ELSEWHERE: Final = "the descriptors declare another default address"


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An announcement that is not answered yet."""

    announce: link_pb2.Announce
    until_s: float
    """When it is answered, whatever is known by then."""


class HubContracts(HubObserver):
    """
    The contracts of one hub; to be added to its observers, and its gate of announcements.

    Attributes:
        registry: Says what may be served, and remembers it.
        checking: Held by whoever checks or compares descriptors, a step at a time: each takes the
            loop for a while.
    """

    def __init__(
        self,
        sessions: HubSessions,
        *,
        addresses: Mapping[str, AddressEntry] | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            sessions: Of the hub. Its limits' `contract_*` and `contracts_*` count here.
            addresses: What holds at them.
            wall_clock: Seconds since 1970.
        """
        self._sessions = sessions
        self._limits = limits = sessions.limits
        self._table = ContractTable(limits)
        self.registry = ContractRegistry(
            limits=limits,
            router=sessions.forwarder.router,
            rules=lambda address: rules_at(addresses or {}, address),
            kept=self._table.descriptors,
            failed=self._store_failed,
            wall_clock=wall_clock,
        )
        self._channel = Channel(
            local_link(
                sessions,
                identity=_IDENTITY,
                peer="local:hub",
                instance=sessions.table.epoch.hex(),
                limits=replace(
                    limits, message_bytes_max=limits.contract_bytes_max + _ANSWER_BYTES
                ),
            ),
            address=HOST_ADDRESS,
        )
        # Each asks one host after the other.
        self._workers: set[asyncio.Task[None]] = set()
        self.checking = asyncio.Lock()
        # Set when something was answered, and replaced then.
        self._news = asyncio.Event()
        # In the order in which they came.
        self._undecided: dict[tuple[Link, int], _Waiting] = {}
        # Set when one of them may be decided.
        self._may_decide = asyncio.Event()
        # Runs while there are any.
        self._decider: asyncio.Task[None] | None = None
        self._is_closed = False

    async def aclose(self) -> None:
        """Ask nobody any more, and answer no announcement. Idempotent."""
        self._is_closed = True
        tasks = [*self._workers, *([] if self._decider is None else [self._decider])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._channel.close()

    # --- looking in ---

    async def find(self, address: str, service: str) -> DescriptorSet:
        """
        Find the descriptors of a service; waits while none of them is here and a host is asked.
        Hosts that could not give them are asked once more: they may have been away.

        Args:
            address: Where callers call.
            service: Full name.

        Raises:
            ContractError: There are none; the text says why.
        """
        is_last = False
        while True:
            news = self._news
            hosts = self._sessions.forwarder.router.hosts_of(address, service)
            versions = self._versions(hosts, address, service)
            for contract in versions:
                found = contract.descriptors
                if found is not None and service in found.services:
                    return found
            if any(self._table.is_wanted(each.fingerprint) for each in versions):
                await news.wait()
                continue
            failed = [contract for contract in versions if not contract.is_final]
            if is_last or not failed:
                break
            is_last = True
            for contract in failed:
                self._table.want_again(contract)
            self._start_worker()
        if not hosts:
            raise ContractError(f"no host serves {service!r} at {address!r}")
        text = f"the hosts of {service!r} at {address!r} announced"
        if not versions:
            raise ContractError(f"{text} no contract")
        fault = versions[0].fault or _NOT_DEFINED
        raise ContractError(f"{text} a contract that cannot be used: {fault}")

    def _versions(
        self, hosts: Iterable[Registration], address: str, service: str
    ) -> list[Contract]:
        """Return what hosts announced for a service: as they were accepted, the newest first."""
        versions = self._table.versions(hosts, service)
        place = self._sessions.forwarder.router.place_of(address, f"{service}/")
        if place is not None and len(versions) > 1:
            # What none of them was compared with is in the order in which the hub came to know it.
            versions.sort(
                key=lambda each: self.registry.history.rank(place, each.fingerprint), reverse=True
            )
        return versions

    def descriptors(self, fingerprint: bytes) -> DescriptorSet | None:
        """Return descriptors that are in memory; None: they are not."""
        return self._table.descriptors(fingerprint)

    def at(self, address: str) -> Iterable[DescriptorSet]:
        """
        Return the descriptors of what calls to an address can reach, the newest first; empty: of
        all that is served.
        """
        if not address:
            return self._table.newest_first()
        router = self._sessions.forwarder.router
        found: dict[DescriptorSet, int] = {}
        for service in router.services_at(address):
            for contract in self._table.versions(router.hosts_of(address, service), service):
                if contract.descriptors is not None:
                    found[contract.descriptors] = contract.number
        return sorted(found, key=found.__getitem__, reverse=True)

    def learn(self, data: bytes) -> None:
        """Keep a descriptor set of a part of the hub, which need not be asked for it then."""
        descriptors = checked(data)
        with suppress(ContractError):
            # Without room it fares as any other.
            self._table.learn(descriptors)

    # --- who may serve ---

    def may_register(self, link: Link, announce: link_pb2.Announce) -> bool:
        """As AnnouncementGate's: at once where all of it is known, or nothing is to be known."""
        if self._table.announced(link, announce):
            self._start_worker()
        if link.is_local or all(
            self._is_known(place, service.fingerprint, was_accepted=announce.was_accepted)
            for place, service in _contracts(announce)
        ):
            return True
        until_s = self._sessions.clock() + self._limits.contract_decision_timeout_s
        self._undecided[link, announce.id] = _Waiting(announce, until_s)
        self._may_decide.set()
        if (self._decider is None or self._decider.done()) and not self._is_closed:
            self._decider = asyncio.get_running_loop().create_task(self._decide_all())
        return False

    def _is_known(self, place: Place, fingerprint: bytes, *, was_accepted: bool) -> bool:
        history = self.registry.history
        return history.is_accepted(place, fingerprint) or (
            was_accepted
            and self.registry.takes_word(place)
            and not history.is_refused(place, fingerprint)
        )

    def withdrawn(self, link: Link, announcement_id: int) -> bool:
        """As AnnouncementGate's."""
        waiting = self._undecided.pop((link, announcement_id), None)
        if waiting is not None:
            self._table.withdrawn(link, waiting.announce)
        return waiting is not None

    def link_over(self, link: Link) -> None:
        """As AnnouncementGate's."""
        for of_link, announcement_id in list(self._undecided):
            if of_link is link:
                self.withdrawn(link, announcement_id)

    def host_came(self, registration: Registration) -> None:
        self._seen(registration)
        for _, service in _contracts(registration.announce):
            descriptors = self._table.descriptors(service.fingerprint)
            if descriptors is not None:
                self._notice(registration, service, descriptors)

    def host_went(self, registration: Registration) -> None:
        self._seen(registration)
        self._table.withdrawn(registration.link, registration.announce)
        self._tell()

    def _seen(self, registration: Registration) -> None:
        if not registration.link.is_local:
            for place, service in _contracts(registration.announce):
                self.registry.seen(place, service.fingerprint, registration.link.instance)

    async def _decide_all(self) -> None:
        """Decide on announcements, one after the other, until there is none."""
        while self._undecided:
            self._may_decide.clear()
            for key, waiting in list(self._undecided.items()):
                is_late = self._sessions.clock() >= waiting.until_s
                if is_late or not self._table.is_wanted_of(key[0], waiting.announce):
                    await self._decide(key, waiting.announce)
                    # It may be one of a thousand.
                    await asyncio.sleep(0)
            if self._undecided:
                first_s = min(waiting.until_s for waiting in self._undecided.values())
                with suppress(TimeoutError):
                    async with asyncio.timeout(first_s - self._sessions.clock()):
                        await self._may_decide.wait()

    async def _decide(self, key: tuple[Link, int], announce: link_pb2.Announce) -> None:
        link, _ = key
        fault = await self._judge(key, announce)
        if self._undecided.pop(key, None) is None:
            # Withdrawn meanwhile, or its link is over.
            return
        hosts = self._sessions.forwarder.hosts
        if fault:
            self._table.withdrawn(link, announce)
            hosts.refuse(link, announce, status=STATUS_FAILED_PRECONDITION, details=fault)
        else:
            hosts.register(link, announce, now_s=self._sessions.clock())

    async def _judge(self, key: tuple[Link, int], announce: link_pb2.Announce) -> str:
        """Say why a host may not serve what it announced; empty: it may."""
        link, _ = key
        accepted: list[tuple[Place, hub_pb2.ContractVersion, DescriptorSet]] = []
        for place, service in _contracts(announce):
            if self._is_known(place, service.fingerprint, was_accepted=announce.was_accepted):
                continue
            descriptors, fault = self._found(link, service)
            if fault:
                return f"the contract of {place[1]!r} cannot be used: {fault}"
            if descriptors is None:
                continue
            async with self.checking:
                version = await self.registry.judge(place, descriptors)
            if version.verdict == hub_pb2.CONTRACT_VERDICT_REFUSED:
                await self.registry.record(place, version, descriptors, link.instance)
                return version.details
            accepted.append((place, version, descriptors))
        for place, version, descriptors in accepted if key in self._undecided else ():
            await self.registry.record(place, version, descriptors, link.instance)
        return ""

    def _found(
        self, link: Link, service: link_pb2.ServiceDescription
    ) -> tuple[DescriptorSet | None, str]:
        """Return what a host announced, or what is wrong with it; neither: it is not here."""
        contract = self._table.get(service.fingerprint)
        if contract is None:
            return None, ""
        if link in contract.lies:
            return None, contract.lies[link]
        if contract.descriptors is None:
            if not contract.is_broken and not contract.fault:
                timeout_s = self._limits.contract_decision_timeout_s
                fault = f"it was not here within {timeout_s:g} s"
                self._miss(link, service.fingerprint, [], fault)
            return None, contract.fault if contract.is_broken else ""
        is_defined = service.name in contract.descriptors.services
        return contract.descriptors, "" if is_defined else _NOT_DEFINED

    # --- asking ---

    def _start_worker(self) -> None:
        if len(self._workers) < self._limits.contract_pulls_max and not self._is_closed:
            ask = self._table.next_ask()
            if ask is not None:
                worker = asyncio.get_running_loop().create_task(self._work(*ask))
                self._workers.add(worker)
                worker.add_done_callback(self._workers.discard)

    async def _work(self, link: Link, fingerprint: bytes) -> None:
        """Ask for what is lacking until there is nothing."""
        ask: tuple[Link, bytes] | None = (link, fingerprint)
        while ask is not None:
            await self._pull(*ask)
            self._tell()
            ask = self._table.next_ask()

    def _tell(self) -> None:
        self._may_decide.set()
        self._news.set()
        self._news = asyncio.Event()

    async def _pull(self, link: Link, fingerprint: bytes) -> None:
        """Get one set, from the store or a host, check what comes, and keep it."""
        failure = Failure.AWAY
        try:
            descriptors = await self.registry.stored(fingerprint)
            if descriptors is None:
                failure = Failure.LIE
                descriptors = await self._ask(link, fingerprint)
            failure = Failure.BROKEN
            async with self.checking:
                await in_steps(descriptors.check(self._limits))
            failure = Failure.NO_ROOM
            self._table.keep(link, descriptors)
        except RpcError as error:
            fault = f"{error.code().name}: {error.details()}"
            # What ends here is too large for this end; else the host did not answer.
            is_here = (
                error.origin == "caller" and error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            )
            self._give_up(link, fingerprint, failure if is_here else Failure.AWAY, fault)
        except ContractError as error:
            self._give_up(link, fingerprint, failure, str(error))
        else:
            await self._record_served(descriptors)

    def _give_up(self, link: Link, fingerprint: bytes, failure: Failure, fault: str) -> None:
        self._table.give_up(link, fingerprint, failure, fault)
        self._miss(link, fingerprint, [], fault)

    async def _record_served(self, descriptors: DescriptorSet) -> None:
        """Remember a version that is served already, as its hosts had been accepted before."""
        contract = self._table.get(descriptors.fingerprint)
        router = self._sessions.forwarder.router
        for link in [] if contract is None else list(contract.links):
            for registration in [] if link.is_local else router.of_link(link):
                for place, service in _contracts(registration.announce):
                    if service.fingerprint != descriptors.fingerprint:
                        continue
                    self._notice(registration, service, descriptors)
                    if (
                        service.name in descriptors.services
                        and not self.registry.history.is_accepted(place, service.fingerprint)
                    ):
                        await self.registry.record_served(place, descriptors, link.instance)

    async def _ask(self, link: Link, fingerprint: bytes) -> DescriptorSet:
        router = self._sessions.forwarder.router
        registration = router.add_unannounced(link, HOST_ADDRESS, HOST_SERVICE)
        try:
            answer = await self._channel.unary_unary(f"/{GET_DESCRIPTOR_SET}")(
                pb.GetDescriptorSetRequest(fingerprint=fingerprint).SerializeToString(),
                timeout=self._limits.contract_pull_timeout_s,
                metadata=(("relay-instance", link.instance),),
                wait_for_ready=True,
            )
        finally:
            router.remove_unannounced(registration)
        try:
            descriptors = DescriptorSet(
                pb.GetDescriptorSetResponse.FromString(answer).descriptor_set
            )
        except DecodeError as error:
            raise ContractError("the host's answer does not parse") from error
        if descriptors.fingerprint != fingerprint:
            raise ContractError(
                f"the host's descriptors have the fingerprint {descriptors.fingerprint.hex()}"
            )
        return descriptors

    def _notice(
        self,
        registration: Registration,
        service: link_pb2.ServiceDescription,
        descriptors: DescriptorSet,
    ) -> None:
        """
        Hold a service that is served to what its contract says, and say in what it was announced
        otherwise.
        """
        options = descriptors.contracts.get(service.name)
        link = registration.link
        if options is None:
            self._miss(link, service.fingerprint, [service.name], _NOT_DEFINED)
            return
        if options.declared_address != service.default_address:
            self._miss(link, service.fingerprint, [service.name], _ELSEWHERE)
        for name, operation in options.operations.items():
            if operation.maximum_timeout_s is not None:
                method = f"{service.name}/{name}"
                registration.timeouts_max_s[method] = operation.maximum_timeout_s

    def _miss(self, link: Link, fingerprint: bytes, services: list[str], reason: str) -> None:
        for observe in self._sessions.observers.contract_unknown:
            observe(link, fingerprint, services, reason)

    def _store_failed(self, reason: str) -> None:
        for observe in self._sessions.observers.store_failed:
            observe(reason)


def _contracts(
    announce: link_pb2.Announce,
) -> Iterator[tuple[Place, link_pb2.ServiceDescription]]:
    """Yield the services of an announcement that have a fingerprint, and where they are served."""
    for service in services_of(announce):
        if service.fingerprint:
            yield (address_of(announce.address, service), service.name), service
