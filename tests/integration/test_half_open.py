"""
Goal: connections that never finish a handshake cost a bounded place for a bounded time.

Method: a thousand of each kind (silent TCP connections, silent WebSockets, silent gRPC streams) at
a real hub process with a neighbour, and a few hundred at a hub in this process whose time limit is
short. Freed means that the hub closed them: the test reads their ends.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import grpc
import grpc.aio
import pytest

from relayrpc.hub.server import Hub
from relayrpc.limits import DEFAULT_LIMITS
from tests.integration.watched_hub import Neighbour, WatchedHub, neighbour_of
from tests.support.raw_peer import Door, RawLink, batch, hello, open_raw
from tests.support.relay import peer_links, running_hub
from tests.support.until import until


pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("nobody_else_notices"),
]

_COUNT = 1000
_METHOD = "/relayrpc.v1.Link/Connect"
_STREAMS_PER_CONNECTION = 100


class _Connections:
    """Plain TCP connections that say what they are told to, and no more."""

    def __init__(self) -> None:
        self.open: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def dial(self, port: int, count: int, first: bytes = b"") -> None:
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(first)
            self.open.append((reader, writer))

    async def read_ends(self) -> None:
        """Wait until the hub has closed every one of them."""
        for reader, _ in self.open:
            with suppress(ConnectionError):
                await reader.read()

    async def aclose(self) -> None:
        for _, writer in self.open:
            writer.transport.abort()
        for _, writer in self.open:
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def _connections() -> AsyncIterator[_Connections]:
    connections = _Connections()
    try:
        yield connections
    finally:
        await connections.aclose()


@asynccontextmanager
async def _silent_streams(port: int, count: int) -> AsyncIterator[list[grpc.aio.StreamStreamCall]]:
    """Streams of the Link service on which nothing is ever written; the hub knows each of them."""
    channels: list[grpc.aio.Channel] = []
    calls: list[grpc.aio.StreamStreamCall] = []
    try:
        for number in range(count):
            if number % _STREAMS_PER_CONNECTION == 0:
                options = (("grpc.use_local_subchannel_pool", 1),)
                channels.append(grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options))
            call = channels[-1].stream_stream(_METHOD)()
            await call.initial_metadata()
            calls.append(call)
        yield calls
    finally:
        for call in calls:
            call.cancel()
        for channel in channels:
            await channel.close()


_UPGRADE = (
    f"GET {_METHOD} HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    "Sec-WebSocket-Protocol: relayrpc.v1\r\n\r\n"
).encode()


async def _check_open_to_newcomers(hub: WatchedHub) -> None:
    async with neighbour_of(hub.http_port) as newcomer:
        await newcomer.check_served()


@pytest.mark.parametrize("first", [b"", b"GET /relayrpc", _UPGRADE], ids=["tcp", "head", "upgrade"])
async def test_hub_serves_beside_a_thousand_silent_connections_to_the_http_door(
    first: bytes, hub: WatchedHub, neighbour: Neighbour
) -> None:
    before = hub.sockets_count()
    async with _connections() as silent:
        await silent.dial(hub.http_port, _COUNT, first)
        await neighbour.check_served()
        await _check_open_to_newcomers(hub)
    await until(lambda: hub.sockets_count() <= before)


async def test_hub_serves_beside_a_thousand_silent_connections_to_the_grpc_door(
    hub: WatchedHub, neighbour: Neighbour
) -> None:
    before = hub.sockets_count()
    async with _connections() as silent:
        await silent.dial(hub.grpc_port, _COUNT)
        await neighbour.check_served()
        await _check_open_to_newcomers(hub)
    await until(lambda: hub.sockets_count() <= before)


async def test_hub_serves_beside_a_thousand_silent_streams(
    hub: WatchedHub, neighbour: Neighbour
) -> None:
    async with _silent_streams(hub.grpc_port, _COUNT):
        await neighbour.check_served()
        await _check_open_to_newcomers(hub)


# --- a hub that is quick to lose patience ---


@asynccontextmanager
async def _impatient_hub(*, handshake_timeout_s: float, handshakes_max: int) -> AsyncIterator[Hub]:
    limits = dataclasses.replace(
        DEFAULT_LIMITS,
        handshake_timeout_s=handshake_timeout_s,
        handshakes_open_max=handshakes_max,
    )
    async with running_hub(limits=limits) as hub:
        yield hub


@pytest.mark.parametrize("first", [b"", b"GET /relayrpc", _UPGRADE], ids=["tcp", "head", "upgrade"])
async def test_http_door_frees_silent_connections(first: bytes) -> None:
    async with _impatient_hub(handshake_timeout_s=0.3, handshakes_max=1024) as hub:
        async with _connections() as silent:
            await silent.dial(hub.http_port, 200, first)
            await silent.read_ends()
        await until(lambda: hub.sessions.handshakes_count == 0)


async def test_grpc_door_frees_silent_connections() -> None:
    async with (
        _impatient_hub(handshake_timeout_s=0.3, handshakes_max=1024) as hub,
        _connections() as silent,
    ):
        await silent.dial(hub.grpc_port, 200)
        await silent.read_ends()


async def test_grpc_door_frees_silent_streams() -> None:
    async with _impatient_hub(handshake_timeout_s=0.3, handshakes_max=1024) as hub:
        async with _silent_streams(hub.grpc_port, 200) as calls:
            for call in calls:
                assert await call.code() is grpc.StatusCode.UNAVAILABLE
        await until(lambda: hub.sessions.handshakes_count == 0)


async def test_hub_refuses_handshakes_over_its_bound(door: Door) -> None:
    """
    Carriers of both doors count together; a place that comes free is given away again.

    Silent WebSockets hold the places, because those can be ended one by one.
    """
    async with _impatient_hub(handshake_timeout_s=60, handshakes_max=50) as hub:
        ports = {"grpc_port": hub.grpc_port, "http_port": hub.http_port}
        holders = [await open_raw("websocket", **ports) for _ in range(50)]
        await until(lambda: hub.sessions.handshakes_count == 50)
        refused = await open_raw(door, **ports)
        last = await refused.receive_last()
        assert last is not None
        assert "too many handshakes" in last.close.reason
        await refused.aclose()
        await holders.pop().aclose()
        await until(lambda: hub.sessions.handshakes_count == 49)
        newcomer = await open_raw(door, **ports)
        link = await RawLink.open(newcomer)
        assert link.welcome.version == 1
        for carrier in (newcomer, *holders):
            await carrier.aclose()


async def test_hub_frees_the_place_of_a_finished_handshake(door: Door) -> None:
    async with _impatient_hub(handshake_timeout_s=60, handshakes_max=2) as hub:
        carriers = []
        for _ in range(10):
            carrier = await open_raw(door, grpc_port=hub.grpc_port, http_port=hub.http_port)
            await carrier.send(batch(hello()))
            await carrier.receive_body("welcome")
            carriers.append(carrier)
        assert len(peer_links(hub)) == 10
        for carrier in carriers:
            await carrier.aclose()
        await until(lambda: len(peer_links(hub)) == 0)
