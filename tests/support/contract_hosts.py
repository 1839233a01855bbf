"""Hosts of contracts made for tests, and what a hub says of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto

import relayrpc.aio
from relayrpc.contract.fingerprint import fingerprint_of
from relayrpc.endpoint.contracts import HostContracts
from relayrpc.hub.server import Hub
from relayrpc.link.call import Call
from relayrpc.v1 import hub_pb2, link_pb2
from tests.support.contracts import make_pool


__all__ = ["Liar", "ask_contract", "get_contract", "serving_contract"]


async def _echo(request: bytes, _context: Any) -> bytes:
    return request


async def _echo_stream(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    yield request


async def _last(requests: AsyncIterator[bytes], _context: Any) -> bytes:
    last = b""
    async for request in requests:
        last = request
    return last


async def _echo_each(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


# By whether requests and responses are streams.
_HANDLERS = {
    (False, False): (grpc.unary_unary_rpc_method_handler, _echo),
    (False, True): (grpc.unary_stream_rpc_method_handler, _echo_stream),
    (True, False): (grpc.stream_unary_rpc_method_handler, _last),
    (True, True): (grpc.stream_stream_rpc_method_handler, _echo_each),
}


class Liar(HostContracts):
    """Announces what it is told, and answers the hub as it is told."""

    def __init__(
        self, fingerprint: bytes, answer: Callable[[Liar, Call, link_pb2.Open], None]
    ) -> None:
        super().__init__()
        self.fingerprint = fingerprint
        self.asked_count = 0
        self._answer = answer

    def add_to(self, services: Any, pool: Any, limits: Any) -> None:
        for service in services:
            service.fingerprint = self.fingerprint

    def answer(self, call: Call, opening: link_pb2.Open) -> None:
        self.asked_count += 1
        self._answer(self, call, opening)

    def give(self, call: Call, opening: link_pb2.Open, data: bytes) -> None:
        """Answer with a descriptor set, whatever was asked for."""
        self._sets = {self.fingerprint: data}
        super().answer(call, opening)

    @classmethod
    def of(cls, data: bytes) -> Liar:
        """Make one that announces a set by its right name, and gives it."""
        return cls(
            fingerprint_of(data), lambda liar, call, opening: liar.give(call, opening, data)
        )


@contextlib.asynccontextmanager
async def serving_contract(
    url: str,
    *files: FileDescriptorProto,
    contracts: HostContracts | None = None,
    behavior: Callable[[bytes, Any], Any] | None = None,
    **options: Any,
) -> AsyncIterator[relayrpc.aio.Server]:
    """
    Serve the services of some files.

    Args:
        url: Where.
        files: Each behind what it imports.
        contracts: What is said of them; None: the truth.
        behavior: Of every method; None: it gives back what it gets.
        options: For relayrpc.aio.server().
    """
    server = relayrpc.aio.server(url, descriptor_pool=make_pool(*files), **options)
    for file in files:
        for service in file.service:
            handlers = {}
            for method in service.method:
                make, default = _HANDLERS[method.client_streaming, method.server_streaming]
                handlers[method.name] = make(behavior or default)
            name = f"{file.package}.{service.name}"
            server.add_registered_method_handlers(name, handlers)
    if contracts is not None:
        server._contracts = contracts
    await server.start()
    try:
        yield server
    finally:
        await server.stop(None)


async def get_contract(
    hub: Hub, address: str, service: str = "t.Service"
) -> hub_pb2.GetContractResponse:
    """
    Ask a hub, as any program may.

    Raises:
        relayrpc.aio.RpcError: It says no.
    """
    async with relayrpc.aio.channel(f"ws://127.0.0.1:{hub.http_port}") as channel:
        return await ask_contract(channel, address, service)


async def ask_contract(
    channel: grpc.aio.Channel, address: str, service: str = "t.Service"
) -> hub_pb2.GetContractResponse:
    """
    Ask the hub that a channel leads to.

    Raises:
        relayrpc.aio.RpcError: It says no.
    """
    ask = channel.unary_unary(
        "/relayrpc.v1.Hub/GetContract",
        hub_pb2.GetContractRequest.SerializeToString,
        hub_pb2.GetContractResponse.FromString,
    )
    response: hub_pb2.GetContractResponse = await ask(
        hub_pb2.GetContractRequest(address=address, service=service),
        metadata=(("relay-address", "$hub"),),
    )
    return response
