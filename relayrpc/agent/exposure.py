"""
One backend at one address: waits for it, serves what it serves, and leaves routing while it cannot
take calls.

Owns: the life of one exposed backend. Does not own: forwarding (forward.py), which backends there
are (agent.py).
Source: docs/howto/expose-an-existing-server.md.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol

import grpc
import grpc.aio

from relayrpc.agent.contract import BackendContract, pull_contract, read_contract
from relayrpc.agent.forward import forwarding_handler
from relayrpc.agent.health import watch_health
from relayrpc.endpoint.live_link import LiveLink
from relayrpc.endpoint.server import Server
from relayrpc.errors import ConnectError, RelayError
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.agent.backend import Backend
    from relayrpc.limits import Limits


__all__ = ["Exposure", "Report"]


class Report(Protocol):
    """Takes a line for a person."""

    def __call__(self, line: str, *, is_trouble: bool = False) -> None:
        """
        Args:
            line: One sentence.
            is_trouble: Something is not as it should be.
        """


# What servers have beside their own services; without an address they would be mixed up at the hub.
_INFRASTRUCTURE: Final = "grpc."


class Exposure:
    """
    A backend as a host.

    Attributes:
        backend: What is exposed.
    """

    def __init__(
        self, backend: Backend, *, limits: Limits, report: Report, must_be_there: bool = False
    ) -> None:
        """
        Args:
            backend: What to expose; its check() has passed.
            limits: Of this process.
            report: Is told when it serves, and when not.
            must_be_there: run() fails where the backend or the hub cannot be reached at once.

        Raises:
            ConfigError: A file of the backend's cannot be used.
        """
        self.backend = backend
        self._limits = limits
        self._report = report
        self._must_be_there = must_be_there
        self._given = None if backend.descriptors is None else read_contract(backend.descriptors)
        self._urls = backend.urls
        self._address = self._urls[0].address
        self._channel = backend.open_channel(limits)
        self._contract: BackendContract | None = None
        self._server: Server | None = None
        # With a contract of before; they finish their calls.
        self._leaving: dict[asyncio.Task[None], Server] = {}
        self._is_serving = False
        # Each waits for the end of a server's link.
        self._links: set[asyncio.Task[None]] = set()
        # Why a hub has ended a link for good.
        self._lost: asyncio.Future[RelayError] = asyncio.get_running_loop().create_future()
        self.settled = asyncio.Event()
        """Set when the backend was in routing for the first time, or will never be."""

    async def run(self) -> None:
        """
        Expose the backend until cancelled; stop() is to be called then.

        Raises:
            RelayError: It cannot be exposed: there is no contract, or the hub said no.
        """
        watching = asyncio.get_running_loop().create_task(self._watch())
        try:
            await asyncio.wait((watching, self._lost), return_when=asyncio.FIRST_COMPLETED)
            if self._lost.done():
                raise self._lost.result()
            watching.result()
        finally:
            watching.cancel()
            await asyncio.wait((watching,))
            self.settled.set()

    async def _watch(self) -> None:
        told = None
        async for fault in watch_health(self._channel, self.backend, self._limits):
            if not fault:
                fault = await self._enter()
            if not fault:
                told = None
                continue
            if self._server is None and self._must_be_there:
                raise ConnectError(f"{self.backend} cannot be exposed: {fault}")
            was_serving, self._is_serving = self._is_serving, False
            if was_serving and self._server is not None:
                await self._server.withdraw()
            if fault != told:
                told = fault
                what = "left routing until it is back" if was_serving else "waiting for it"
                self._report(f"{self.backend}: {fault}; {what}", is_trouble=True)

    async def stop(self, grace: float | None) -> None:
        """Leave routing, let running calls finish for `grace` seconds, end the rest. Idempotent."""
        servers = [*self._leaving.values()]
        if self._server is not None:
            servers.append(self._server)
        await asyncio.gather(*(server.stop(grace) for server in servers))
        await asyncio.gather(*self._links)
        await self._channel.close()

    async def _enter(self) -> str:
        """
        Go into routing, where it is not, with the contract of now: what answers may be another
        process than before.

        Returns:
            What kept it out; empty: it is in.
        """
        try:
            contract = await self._find_contract()
        except grpc.aio.AioRpcError as error:
            return str(error.details() or error.code().name)
        except RelayError as error:
            if self._server is None:
                raise
            return str(error)
        is_same = contract == self._contract
        if is_same and self._is_serving:
            return ""
        if is_same and self._server is not None:
            await self._server.announce()
        else:
            await self._serve(contract)
        self._is_serving = True
        self.settled.set()
        count = len(contract.services)
        where = self._address or "its services' default addresses"
        self._report(f"{self.backend} at {where}, {count} service{'s' if count != 1 else ''}")
        return ""

    async def _find_contract(self) -> BackendContract:
        backend = self.backend
        contract = self._given or await pull_contract(self._channel, self._limits)
        if contract is None:
            if not backend.services:
                raise RelayError(
                    f"{backend} has no reflection: give its contract with --descriptors FILE "
                    "(protoc --descriptor_set_out=FILE --include_imports), or name its services "
                    "with --service NAME"
                )
            contract = BackendContract({})
        if backend.services:
            return contract.only(backend.services)
        if not self._address:
            contract = contract.only(
                name for name in contract.services if not name.startswith(_INFRASTRUCTURE)
            )
        if not contract.services:
            raise RelayError(f"{backend} serves nothing that could be exposed")
        return contract

    async def _serve(self, contract: BackendContract) -> None:
        old = self._server
        server = self._make_server(contract)
        await server.start()
        self._server, self._contract = server, contract
        loop = asyncio.get_running_loop()
        link = loop.create_task(self._await_link(server))
        self._links.add(link)
        link.add_done_callback(self._links.discard)
        if old is not None:
            task = loop.create_task(old.stop(self._limits.drain_timeout_s))
            self._leaving[task] = old
            task.add_done_callback(self._leaving.pop)

    async def _await_link(self, server: Server) -> None:
        try:
            await server.wait_for_termination()
        except RelayError as error:
            if not self._lost.done():
                self._lost.set_result(error)

    def _make_server(self, contract: BackendContract) -> Server:
        backend = self.backend
        make_live = functools.partial(
            LiveLink,
            self._urls,
            limits=self._limits,
            tls=backend.hub_tls,
            keep_trying=not self._must_be_there,
        )
        return Server(
            make_live,
            address=self._address,
            handlers=[self._handlers(name, methods) for name, methods in contract.services.items()],
            slots=backend.slots,
            priority=backend.priority,
            labels=backend.labels,
            descriptor_pool=contract.make_pool(),
            # Messages are passed on as they are.
            validate=False,
        )

    def _handlers(self, service: str, methods: Mapping[str, int]) -> grpc.GenericRpcHandler:
        if not methods:
            return _UnknownMethods(self._channel, service)
        return grpc.method_handlers_generic_handler(
            service,
            {
                method: forwarding_handler(self._channel, f"/{service}/{method}", shape)
                for method, shape in methods.items()
            },
        )


class _UnknownMethods(grpc.ServiceRpcHandler):  # type: ignore[misc]  # grpcio ships no types
    """A service of which only the name is known."""

    def __init__(self, channel: grpc.aio.Channel, service: str) -> None:
        self._channel = channel
        self._service = service

    def service_name(self) -> str:
        """Return its full name."""
        return self._service

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Return what forwards a method, whichever it is."""
        return forwarding_handler(self._channel, details.method, pb.SHAPE_UNKNOWN)
