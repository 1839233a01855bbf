"""
Which client calls which server, and by which way.

Owns: starting a pairing's server and client. The direct pairings are grpcio alone: what they do is
what the others are held to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import grpc
import grpc.aio

import relayrpc
import relayrpc.aio
from tests.interop import interop_pb2_grpc
from tests.interop.client import Client, Pairs
from tests.interop.node_client import JSClient
from tests.interop.python_clients import AioClient, BlockingClient
from tests.interop.servicer import AioInterop, BlockingInterop
from tests.support.blocking import HubThread


__all__ = ["PAIRINGS", "Pairing", "connected"]

ClientKind = Literal["aio", "blocking", "grpc-js"]
ServerKind = Literal["aio", "blocking"]
Route = Literal["direct", "relay", "native"]

_ADDRESS: Final = "contoso/interop"
_THREADS_COUNT: Final = 16


@dataclass(frozen=True, slots=True)
class Pairing:
    """A client, a way and a server."""

    route: Route
    """
    "direct": grpc's client on grpc's server; "relay": the relay's channel, hub, the relay's server;
    "native": grpc's client on the hub's gRPC port, the relay's server.
    """
    client: ClientKind
    server: ServerKind

    def __str__(self) -> str:
        return f"{self.route}-{self.client}-{self.server}"


PAIRINGS: Final = tuple(
    Pairing(route, client, server)
    for route in get_args(Route)
    for client in get_args(ClientKind)
    for server in get_args(ServerKind)
    if not (route == "relay" and client == "grpc-js")
)


@contextlib.asynccontextmanager
async def connected(pairing: Pairing, hub: HubThread) -> AsyncIterator[Client]:
    """Run the pairing's server, and a client of it."""
    async with contextlib.AsyncExitStack() as stack:
        serve = _serve_aio if pairing.server == "aio" else _serve_blocking
        target = await stack.enter_async_context(serve(pairing, hub))
        yield await stack.enter_async_context(_client(pairing, target))


@contextlib.asynccontextmanager
async def _serve_aio(pairing: Pairing, hub: HubThread) -> AsyncIterator[str]:
    server: grpc.aio.Server
    if pairing.route == "direct":
        server = grpc.aio.server()
    else:
        server = relayrpc.aio.server(hub.url(_ADDRESS), include_exception_detail=True)
    interop_pb2_grpc.add_InteropServicer_to_server(AioInterop(), server)
    target = _target(pairing, hub, server)
    await server.start()
    try:
        yield target
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def _serve_blocking(pairing: Pairing, hub: HubThread) -> AsyncIterator[str]:
    server: grpc.Server
    with ThreadPoolExecutor(_THREADS_COUNT) as pool:
        if pairing.route == "direct":
            server = grpc.server(pool)
        else:
            server = relayrpc.server(hub.url(_ADDRESS), pool, include_exception_detail=True)
        interop_pb2_grpc.add_InteropServicer_to_server(BlockingInterop(), server)
        target = _target(pairing, hub, server)
        server.start()
        try:
            yield target
        finally:
            await asyncio.to_thread(server.stop(None).wait)


def _target(pairing: Pairing, hub: HubThread, server: Any) -> str:
    """What a client is given to reach the server: "host:port", or the URL of an address."""
    match pairing.route:
        case "direct":
            return f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        case "relay":
            return hub.url(_ADDRESS)
        case "native":
            return f"127.0.0.1:{hub.grpc_port}"


def _client(pairing: Pairing, target: str) -> contextlib.AbstractAsyncContextManager[Client]:
    is_relay = pairing.route == "relay"
    metadata: Pairs = [("relay-address", _ADDRESS)] if pairing.route == "native" else []
    if pairing.client == "grpc-js":
        return JSClient.started(target, metadata)
    if pairing.client == "aio":
        open_aio = relayrpc.aio.channel if is_relay else grpc.aio.insecure_channel
        return AioClient(lambda: open_aio(target), metadata)
    open_blocking = relayrpc.channel if is_relay else grpc.insecure_channel
    return BlockingClient(lambda: open_blocking(target), metadata)
