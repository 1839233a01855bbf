"""
grpc.health.v1 of a hub. Goal: it says of itself and of services what a call would find. Method: a
real hub, asked over gRPC with the stubs of grpcio-health-checking.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from relayrpc.hub.server import Hub
from relayrpc.limits import Limits
from tests.support.relay import ADDRESS, Stub, running_hub, running_relay
from tests.support.until import until


pytestmark = pytest.mark.integration

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
AT_ADDRESS = (("relay-address", ADDRESS),)


@contextlib.asynccontextmanager
async def asking(hub: Hub) -> AsyncIterator[health_pb2_grpc.HealthStub]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as channel:
        yield health_pb2_grpc.HealthStub(channel)


def ask(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


async def echo(request: bytes, _context: Any) -> bytes:
    return request


@pytest.mark.parametrize("service", ["", "relayrpc.v1.Link"])
async def test_hub_says_that_it_serves(service: str) -> None:
    async with running_hub() as hub, asking(hub) as stub:
        assert (await stub.Check(ask(service))).status == SERVING
        listed = await stub.List(health_pb2.HealthListRequest())
        assert listed.statuses[service].status == SERVING


async def test_hub_answers_for_the_services_behind_it() -> None:
    async with running_relay({"uu:Echo": echo}) as relay, asking(relay.hub) as stub:
        here = await stub.Check(ask("test.Service"), metadata=AT_ADDRESS)
        assert here.status == SERVING
        for service, metadata in (("test.Service", ()), ("test.Other", AT_ADDRESS)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Check(ask(service), metadata=metadata)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            assert caught.value.details() == f"no host listens for {service!r}"


async def test_watch_follows_hosts_as_they_come_and_go() -> None:
    async with running_relay({"uu:Echo": echo}) as relay, asking(relay.hub) as stub:
        sessions = relay.hub.sessions
        watch = stub.Watch(ask("test.Service"), metadata=AT_ADDRESS)
        assert (await watch.read()).status == SERVING
        (registration,) = (
            each
            for each in sessions.forwarder.router.registrations
            if each.announce.address == ADDRESS
        )
        for is_drained, status in ((True, NOT_SERVING), (False, SERVING)):
            sessions.forwarder.hosts.set_drained(
                registration, is_drained=is_drained, now_s=sessions.clock()
            )
            assert (await watch.read()).status == status
        await relay.server.stop(None)
        answers = [await watch.read()]
        if answers[-1].status == NOT_SERVING:
            # It said first that it takes no new calls.
            answers.append(await watch.read())
        assert answers[-1].status == SERVICE_UNKNOWN
        watch.cancel()


async def test_a_host_that_serves_health_answers_for_itself() -> None:
    async def check(_request: bytes, _context: Any) -> bytes:
        return health_pb2.HealthCheckResponse(status=NOT_SERVING).SerializeToString()

    def register(server: Any) -> None:
        handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
        server.add_registered_method_handlers("grpc.health.v1.Health", handlers)

    async with running_relay(register=register) as relay, asking(relay.hub) as stub:
        assert (await stub.Check(ask(""), metadata=AT_ADDRESS)).status == NOT_SERVING
        assert (await stub.Check(ask(""))).status == SERVING


async def test_who_watches_is_told_that_the_hub_drains() -> None:
    release = asyncio.Event()

    async def wait(request: bytes, _context: Any) -> bytes:
        await release.wait()
        return request

    async with running_relay({"uu:Wait": wait}) as relay, asking(relay.hub) as stub:
        watches = [stub.Watch(ask("")), stub.Watch(ask("test.Service"), metadata=AT_ADDRESS)]
        for watch in watches:
            assert (await watch.read()).status == SERVING
        call = Stub(relay.channel).unary_unary("Wait")(b"x")
        await until(lambda: any(each.calls_open_count for each in relay.hub.sessions.table.links))
        draining = asyncio.create_task(relay.hub.drain())
        for watch in watches:
            assert (await watch.read()).status == NOT_SERVING
        release.set()
        assert await call == b"x"
        await relay.server.stop(None)
        await relay.channel.close()
        await draining
        with pytest.raises(grpc.aio.AioRpcError, match="the hub stopped") as caught:
            await watches[0].read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_watches_are_bounded_and_give_their_place_back() -> None:
    async with running_hub(limits=Limits(health_watches_max=1)) as hub, asking(hub) as stub:
        first = stub.Watch(ask(""))
        assert (await first.read()).status == SERVING
        second = stub.Watch(ask(""))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await second.read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        first.cancel()
        await until(lambda: not hub._health._watches_count)
        third = stub.Watch(ask(""))
        assert (await third.read()).status == SERVING
        third.cancel()
