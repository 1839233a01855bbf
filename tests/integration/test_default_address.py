"""
The default address that a contract declares. Goal: hosts and callers that name no address meet
there, callers of any kind. Method: real hubs and hosts in this process, grpcio's channel beside
ours.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

import relayrpc
import relayrpc.aio
from relayrpc.agent.backend import Backend
from relayrpc.contract.fingerprint import fingerprint_of
from relayrpc.errors import LinkRefusedError
from relayrpc.hub.server import Hub
from relayrpc.v1 import hub_pb2
from tests.support.contract_hosts import Liar, get_contract, serving_contract
from tests.support.contracts import make_file, make_set
from tests.support.declared_contract import ADDRESS, FILES, METHOD, SERVICE
from tests.support.exposed import running_agent
from tests.support.log_records import hub_records
from tests.support.relay import running_hub
from tests.support.until import until


pytestmark = pytest.mark.integration

# Of a service that this process knows from no generated code.
UNKNOWN = make_file(imports=[FILES[0].name])
UNKNOWN.service[0].options.CopyFrom(FILES[-1].service[0].options)


def url(hub: Hub, path: str = "") -> str:
    return f"ws://127.0.0.1:{hub.http_port}{path}"


async def call(hub: Hub, method: str = METHOD, path: str = "", **options: Any) -> bytes:
    """Call with a channel of ours."""
    async with relayrpc.aio.channel(url(hub, path)) as channel:
        reply: bytes = await channel.unary_unary(method)(b"hello", **options)
        return reply


async def call_plainly(hub: Hub, method: str = METHOD, **options: Any) -> bytes:
    """Call with a channel of grpcio's, which knows of no relay."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as channel:
        reply: bytes = await channel.unary_unary(method)(b"hello", **options)
        return reply


async def refusal_of(reply: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await reply
    return failed.value.code(), failed.value.details() or ""


# --- hosts without a path ---


async def test_host_without_a_path_listens_where_its_contract_says() -> None:
    async with running_hub() as hub, serving_contract(url(hub), *FILES):
        assert await call(hub, path=f"/{ADDRESS}") == b"hello"
        assert await call(hub) == b"hello"
        assert await call_plainly(hub) == b"hello"
        assert await call_plainly(hub, metadata=(("relay-address", ADDRESS),)) == b"hello"


async def test_what_is_said_of_such_a_host_is_true() -> None:
    async with running_hub() as hub, serving_contract(url(hub), *FILES, instance="h"):
        at_address = await get_contract(hub, ADDRESS, SERVICE)
        without = await get_contract(hub, "", SERVICE)
        async with relayrpc.aio.channel(url(hub, "/$hub")) as channel:
            listed = channel.unary_stream(
                "/relayrpc.v1.Hub/List",
                hub_pb2.ListRequest.SerializeToString,
                hub_pb2.ListResponse.FromString,
            )(hub_pb2.ListRequest(address=ADDRESS))
            hosts = [host async for part in listed for host in part.hosts]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as channel:
            health = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=SERVICE)
            )
    assert at_address == without
    assert at_address.descriptor_set == make_set(*FILES)
    assert [(host.instance, host.address) for host in hosts] == [("h", "")]
    assert [service.default_address for service in hosts[0].services] == [ADDRESS]
    assert health.status == health_pb2.HealthCheckResponse.SERVING


async def test_services_of_one_host_listen_at_an_address_each() -> None:
    plain = make_file("plain.proto", package="plain")
    async with running_hub() as hub, serving_contract(url(hub), *FILES, plain):
        assert await call(hub) == b"hello"
        assert await call(hub, "/plain.Service/Do") == b"hello"
        assert await call_plainly(hub, "/plain.Service/Do") == b"hello"
        code, details = await refusal_of(call(hub, path="/plain.Service"))
    assert (code, details) == (
        grpc.StatusCode.UNIMPLEMENTED,
        f"no host at 'plain.Service' serves {SERVICE!r}",
    )


async def test_blocking_hosts_and_callers_meet_there_too() -> None:
    async with running_hub() as hub:
        server = relayrpc.server(url(hub))
        handler = grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
        server.add_registered_method_handlers(SERVICE, {"Do": handler})
        await asyncio.to_thread(server.start)

        def call_blocking() -> bytes:
            with relayrpc.channel(url(hub)) as channel:
                reply: bytes = channel.unary_unary(METHOD)(b"hello")
                return reply

        assert await asyncio.to_thread(call_blocking) == b"hello"
        assert await call(hub, path=f"/{ADDRESS}") == b"hello"
        await asyncio.to_thread(server.stop(None).wait)


async def test_sessions_without_a_path_are_there() -> None:
    async with (
        running_hub() as hub,
        serving_contract(url(hub), *FILES, instance="h"),
        relayrpc.aio.channel(url(hub)) as channel,
        channel.session() as session,
    ):
        assert await session.unary_unary(METHOD)(b"hello") == b"hello"
        assert session.instance == "h"


async def test_exposed_server_listens_where_its_reflection_says() -> None:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
    server.add_registered_method_handlers(SERVICE, {"Do": handler})
    reflection.enable_server_reflection([SERVICE], server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with running_hub() as hub:
        backend = Backend(target=f"grpc://127.0.0.1:{port}", at=url(hub))
        async with running_agent(backend) as (_, reports):
            assert await call(hub, path=f"/{ADDRESS}") == b"hello"
            assert await call_plainly(hub) == b"hello"
    await server.stop(None)
    assert "at its services' default addresses, 1 service" in reports.lines[0]


# --- callers without a path ---


@pytest.mark.parametrize("path", [f"/{ADDRESS}", "/contoso"])
async def test_callers_without_a_path_reach_hosts_that_name_the_address(path: str) -> None:
    """The address itself, or one above it."""
    async with running_hub() as hub, serving_contract(url(hub, path), *FILES):
        assert await call(hub) == b"hello"
        assert await call_plainly(hub) == b"hello"


async def test_callers_without_a_path_do_not_reach_hosts_elsewhere() -> None:
    async with running_hub() as hub, serving_contract(url(hub, "/elsewhere"), *FILES):
        assert await call(hub, path="/elsewhere") == b"hello"
        refusal = (grpc.StatusCode.UNAVAILABLE, f"no host listens at {ADDRESS!r}")
        assert await refusal_of(call(hub)) == refusal
        assert await refusal_of(call_plainly(hub)) == refusal


async def test_caller_finds_the_address_in_its_own_contract() -> None:
    """Its hosts tell the hub nothing: neither contract nor default address."""
    async with running_hub() as hub:
        untold = Liar(b"", lambda *_: None)
        async with serving_contract(url(hub, f"/{ADDRESS}"), *FILES, contracts=untold):
            assert await call(hub) == b"hello"
            code, _ = await refusal_of(call_plainly(hub))
    assert code is grpc.StatusCode.UNAVAILABLE


async def test_hosts_that_know_no_contract_are_found_at_the_services_name() -> None:
    untold = Liar(b"", lambda *_: None)
    async with running_hub() as hub, serving_contract(url(hub), *FILES, contracts=untold):
        assert await call_plainly(hub) == b"hello"


async def test_call_that_waits_for_a_host_is_served_by_one_that_declares_an_address() -> None:
    """Neither caller nor hub knew the address when the call came."""
    async with running_hub() as hub:
        calling = asyncio.create_task(call(hub, "/t.Service/Do", wait_for_ready=True))
        await until(lambda: len(hub.sessions.forwarder.queue))
        async with serving_contract(url(hub), FILES[0], UNKNOWN):
            assert await calling == b"hello"


async def test_default_address_is_forgotten_with_the_last_host() -> None:
    async with running_hub() as hub:
        async with serving_contract(url(hub), FILES[0], UNKNOWN):
            assert await call(hub, "/t.Service/Do") == b"hello"
        _, details = await refusal_of(call(hub, "/t.Service/Do"))
    assert details == "no host listens at 't.Service'"


# --- hosts that say otherwise ---


class _Misplaced(Liar):
    """Announces another default address than its contract declares."""

    default_address = ""

    def add_to(self, services: Any, pool: Any, limits: Any) -> None:
        super().add_to(services, pool, limits)
        for service in services:
            service.default_address = self.default_address


@pytest.mark.parametrize("default_address", ["", "contoso/other"])
async def test_hub_notices_that_a_contract_declares_another_address(default_address: str) -> None:
    data = make_set(*FILES)
    contracts = _Misplaced(
        fingerprint_of(data), lambda liar, call, opening: liar.give(call, opening, data)
    )
    contracts.default_address = default_address
    async with running_hub() as hub:
        with hub_records() as events:
            async with serving_contract(url(hub), *FILES, contracts=contracts):
                await until(lambda: any(each.message == "contract unknown" for each in events))
    record = next(event for event in events if event.message == "contract unknown")
    assert record.fields["services"] == [SERVICE]
    assert record.fields["reason"] == "the descriptors declare another default address"


@pytest.mark.parametrize("default_address", ["/contoso", "$hub"])
async def test_hub_refuses_a_default_address_that_is_none(default_address: str) -> None:
    contracts = _Misplaced(b"", lambda *_: None)
    contracts.default_address = default_address
    async with running_hub() as hub:
        with pytest.raises(LinkRefusedError, match=r"is no path|is reserved for the hub"):
            async with serving_contract(url(hub), *FILES, contracts=contracts):
                pass
