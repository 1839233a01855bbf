"""
Goal: an operator learns from "$hub" who is there, and changes it, with any stub.

Method: a real hub, hosts and callers on real sockets, and the contract's methods on a channel.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

import relayrpc.aio
from relayrpc import __version__
from relayrpc.hub.server import Hub
from relayrpc.v1 import hub_pb2 as pb
from relayrpc.v1 import link_pb2
from tests.support.relay import Stub, running_hub


pytestmark = pytest.mark.integration


class HubStub:
    """What grpcio-tools would make of hub.proto."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.List = channel.unary_stream(
            "/relayrpc.v1.Hub/List", pb.ListRequest.SerializeToString, pb.ListResponse.FromString
        )


@contextlib.asynccontextmanager
async def managing(hub: Hub, scheme: str = "ws") -> AsyncIterator[HubStub]:
    port = hub.http_port if scheme == "ws" else hub.grpc_port
    async with relayrpc.aio.channel(f"{scheme}://127.0.0.1:{port}/$hub") as channel:
        yield HubStub(channel)


async def _echo(request: bytes, _context: Any) -> bytes:
    return request


async def _count(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
    yield b""


HANDLERS = {
    "Echo": grpc.unary_unary_rpc_method_handler(_echo),
    "Count": grpc.unary_stream_rpc_method_handler(_count),
}


@contextlib.asynccontextmanager
async def serving(
    hub: Hub, path: str, handlers: dict[str, Any] = HANDLERS, **options: Any
) -> AsyncIterator[relayrpc.aio.Server]:
    server = relayrpc.aio.server(f"ws://127.0.0.1:{hub.http_port}{path}", **options)
    server.add_registered_method_handlers("test.Service", handlers)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(None)


async def listing(stub: HubStub, address: str = "") -> pb.ListResponse:
    """The parts put together, those of the hub itself left out."""
    whole = pb.ListResponse()
    async for part in stub.List(pb.ListRequest(address=address)):
        whole.MergeFrom(part)
    hosts = [host for host in whole.hosts if not host.is_local]
    del whole.hosts[:]
    whole.hosts.extend(hosts)
    return whole


@pytest.mark.parametrize("scheme", ["ws", "relay"])
async def test_hub_lists_hosts_with_contract_and_link(scheme: str) -> None:
    async with (
        running_hub() as hub,
        serving(hub, "/contoso/a", instance="host-1", slots=3, priority=1),
        managing(hub, scheme) as stub,
    ):
        answer = await listing(stub)
    assert answer.hub.version == __version__
    assert answer.hub.hosts_count == 1
    assert answer.hub.links_count == 2
    (host,) = answer.hosts
    assert (host.instance, host.address, host.slots, host.priority) == (
        "host-1",
        "contoso/a",
        3,
        1,
    )
    assert host.state == pb.HOST_STATE_SERVING
    (service,) = host.services
    assert service.name == "test.Service"
    assert {method.name: method.shape for method in service.methods} == {
        "Echo": link_pb2.SHAPE_UNARY_UNARY,
        "Count": link_pb2.SHAPE_UNARY_STREAM,
    }
    (link,) = [link for link in answer.links if link.link_id == host.link_id]
    assert link.instance == "host-1"
    assert link.peer.startswith("ipv4:127.0.0.1:")
    assert link.state == pb.LINK_STATE_OPEN
    assert link.carrier == "websocket"
    assert link.wire_version == 1
    assert link.agent.startswith(f"relayrpc/{__version__} python/3.")
    assert not link.is_local


async def test_hub_lists_itself_as_its_own_part() -> None:
    async with running_hub() as hub, managing(hub) as stub:
        parts = [part async for part in stub.List(pb.ListRequest())]
    (host,) = parts[0].hosts
    assert host.address == "$hub"
    assert host.is_local
    (link,) = [link for link in parts[0].links if link.is_local]
    assert (link.identity, link.carrier) == ("$hub", "memory")
    assert parts[0].hub.hosts_count == 0


async def test_hub_lists_what_is_at_and_below_an_address() -> None:
    async with (
        running_hub() as hub,
        serving(hub, "/contoso/a", instance="below"),
        serving(hub, "/contoso", instance="at"),
        serving(hub, "/contoso-b", instance="beside"),
        managing(hub) as stub,
    ):
        answer = await listing(stub, "contoso")
        by_name = await listing(stub, "test.Service")
    assert {host.instance for host in answer.hosts} == {"below", "at"}
    assert {link.instance for link in answer.links} == {"below", "at"}
    assert not by_name.hosts


async def test_hub_lists_a_host_without_address_at_the_name_of_its_service() -> None:
    async with running_hub() as hub, serving(hub, ""), managing(hub) as stub:
        (host,) = (await listing(stub, "test.Service")).hosts
    assert host.address == ""


async def test_hub_tells_a_long_list_in_parts() -> None:
    """Each part is one message: gRPC takes none above 4 MiB."""
    many = {f"Method{number:04}": HANDLERS["Echo"] for number in range(2_000)}
    async with (
        running_hub() as hub,
        serving(hub, "/a", many),
        serving(hub, "/b", many),
        managing(hub) as stub,
    ):
        parts = [part async for part in stub.List(pb.ListRequest())]
    assert len(parts) > 1
    assert [part.HasField("hub") for part in parts] == [True] + [False] * (len(parts) - 1)
    addresses = [host.address for part in parts for host in part.hosts]
    assert sorted(addresses) == ["$hub", "a", "b"]


async def test_caller_with_no_path_in_its_url_is_told_that_nobody_listens() -> None:
    """The reserved address is the only one: no host can stand in for the hub there."""
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        async with relayrpc.aio.channel(url) as channel:
            with pytest.raises(relayrpc.aio.RpcError, match="no host listens"):
                await Stub(channel, "relayrpc.v1.Hub").unary_unary("Drain")(b"")
