"""
Goal: parts of a hub call and serve through it as any peer does, under names nobody else can take.

Method: a real hub, a Server and a Channel on links of its own, and peers that try the same names.
"""

from __future__ import annotations

from typing import Any

import grpc
import pytest

import relayrpc.aio
from relayrpc.endpoint.channel import Channel
from relayrpc.endpoint.server import Server
from relayrpc.errors import RelayError
from relayrpc.hub.local import local_link
from tests.support.relay import Stub, running_hub


pytestmark = pytest.mark.integration


async def _who_calls(request: bytes, context: Any) -> bytes:
    return f"{context.peer()}".encode()


def _handlers() -> dict[str, grpc.RpcMethodHandler]:
    return {"M": grpc.unary_unary_rpc_method_handler(_who_calls)}


async def test_part_of_a_hub_serves_at_a_reserved_address() -> None:
    async with running_hub() as hub:
        server = Server(
            lambda on_call: local_link(
                hub.sessions, identity="$part", peer="local:part", on_call=on_call
            ),
            address="$part",
        )
        server.add_registered_method_handlers("test.Service", _handlers())
        await server.start()
        async with relayrpc.aio.channel(f"ws://127.0.0.1:{hub.http_port}/$part") as channel:
            answer = await Stub(channel).unary_unary("M")(b"")
        assert answer.startswith(b"ipv4:127.0.0.1:")
        await server.stop(None)


async def test_part_of_a_hub_calls_in_the_name_of_whom_it_speaks_for() -> None:
    async with running_hub() as hub:
        server = relayrpc.aio.server(f"ws://127.0.0.1:{hub.http_port}/a")
        server.add_registered_method_handlers("test.Service", _handlers())
        await server.start()
        live = local_link(hub.sessions, identity="$gate", peer="ipv4:192.0.2.1:5")
        async with Channel(live, address="a") as channel:
            assert await Stub(channel).unary_unary("M")(b"") == b"ipv4:192.0.2.1:5"
        await server.stop(None)


async def test_peer_from_elsewhere_cannot_serve_at_a_reserved_address() -> None:
    async with running_hub() as hub:
        server = relayrpc.aio.server(f"ws://127.0.0.1:{hub.http_port}/$part")
        server.add_registered_method_handlers("test.Service", _handlers())
        with pytest.raises(RelayError, match="reserved for the hub"):
            await server.start()
        await server.stop(None)


async def test_hub_drains_with_its_own_links_open() -> None:
    async with running_hub() as hub:
        live = local_link(hub.sessions, identity="$gate", peer="local:gate")
        async with Channel(live, address="nobody") as channel:
            with pytest.raises(grpc.aio.AioRpcError, match="no host listens"):
                await Stub(channel).unary_unary("M")(b"")
            await hub.drain()
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await Stub(channel).unary_unary("M")(b"")
        assert told.value.code() is grpc.StatusCode.UNAVAILABLE
