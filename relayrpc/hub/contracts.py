"""
Contracts of the hosts at a hub: asks for descriptors that the hub lacks, and finds a service's.

A host is asked over its own link, at the address "$host", by an ordinary call of a part of the hub.
Whatever it answers, its calls go on as before.
Owns: the asking, the checking in steps. Does not own: what is kept and who is asked next
(contract_table.py).
Source: protos/relayrpc/v1/host.proto; docs/adr/0016-contract-fingerprint.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from relayrpc.contract.descriptors import DescriptorSet
from relayrpc.endpoint.channel import Channel
from relayrpc.endpoint.contracts import GET_DESCRIPTOR_SET, HOST_ADDRESS, HOST_SERVICE
from relayrpc.endpoint.rpc_error import RpcError
from relayrpc.errors import ContractError
from relayrpc.hub.contract_table import ContractTable
from relayrpc.hub.local import local_link
from relayrpc.hub.observer import HubObserver
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.v1 import host_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.hub.routing import Registration
    from relayrpc.hub.session import HubSessions
    from relayrpc.link.link import Link


__all__ = ["HubContracts"]

_IDENTITY: Final = "$contracts"
# What stands around a descriptor set in the answer.
_ANSWER_BYTES: Final = 16


class HubContracts(HubObserver):
    """The contracts of one hub; to be added to its observers."""

    def __init__(self, sessions: HubSessions) -> None:
        """
        Args:
            sessions: Of the hub. Its limits' `contract_*` and `contracts_*` count here.
        """
        self._sessions = sessions
        self._limits = limits = sessions.limits
        self._table = ContractTable(limits)
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
        self._workers: set[asyncio.Task[None]] = set()
        # Sets are checked one after the other: each step takes the loop for a while.
        self._checking = asyncio.Lock()
        # Set when something was answered, and replaced then.
        self._news = asyncio.Event()
        self._is_closed = False

    async def aclose(self) -> None:
        """Ask nobody any more. Idempotent."""
        self._is_closed = True
        for worker in self._workers:
            worker.cancel()
        if self._workers:
            await asyncio.wait(self._workers)
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
            versions = self._table.versions(hosts, service)
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
        fault = versions[0].fault or "it does not define the service"
        raise ContractError(f"{text} a contract that cannot be used: {fault}")

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
        descriptors = DescriptorSet(data)
        for _ in descriptors.check(DEFAULT_LIMITS):
            pass
        with suppress(ContractError):
            # Without room it fares as any other.
            self._table.learn(descriptors)

    # --- asking ---

    def host_came(self, registration: Registration) -> None:
        self._table.host_came(registration)
        self._check_services(registration)
        self._start_worker()

    def host_went(self, registration: Registration) -> None:
        self._table.host_went(registration)
        self._tell()

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
        self._news.set()
        self._news = asyncio.Event()

    async def _pull(self, link: Link, fingerprint: bytes) -> None:
        """Ask one host for one set, check what comes, and keep it."""
        fault, is_final = "", False
        try:
            descriptors = await self._ask(link, fingerprint)
            is_final = True
            async with self._checking:
                for _ in descriptors.check(self._limits):
                    await asyncio.sleep(0)
            self._table.keep(link, descriptors)
        except RpcError as error:
            fault = f"{error.code().name}: {error.details()}"
        except ContractError as error:
            fault = str(error)
        if fault:
            self._table.give_up(link, fingerprint, fault, is_final=is_final)
            self._refuse(link, fingerprint, [], fault)
            return
        for each in self._sessions.forwarder.router.of_link(link):
            self._check_services(each)

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

    def _check_services(self, registration: Registration) -> None:
        """Say which services a host announced otherwise than their descriptors have them."""
        wrong: dict[tuple[bytes, str], list[str]] = {}
        for service in registration.announce.services:
            contract = self._table.get(service.fingerprint)
            found = None if contract is None else contract.descriptors
            if found is None:
                continue
            options = found.contracts.get(service.name)
            if options is None:
                reason = "they are not defined there"
            elif options.declared_address != service.default_address:
                reason = "they declare another default address there"
            else:
                continue
            wrong.setdefault((service.fingerprint, reason), []).append(service.name)
        for (fingerprint, reason), names in wrong.items():
            self._refuse(registration.link, fingerprint, names, reason)

    def _refuse(self, link: Link, fingerprint: bytes, services: list[str], reason: str) -> None:
        for observe in self._sessions.observers.contract_refused:
            observe(link, fingerprint, services, reason)
