"""
What an agent does as its backend and its list of backends change. Goal: a backend that cannot take
calls is out of routing, and what is exposed can change under running calls. Method: grpc.aio
servers that stop, start and say how they are; a hub on loopback.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

import relayrpc.aio
from relayrpc.agent.agent import Agent
from relayrpc.agent.backend import Backend
from relayrpc.errors import ConfigError
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.testing import run_hub
from relayrpc.v1 import link_pb2
from tests.support.carriers import TLSFiles, tls_files
from tests.support.exposed import (
    SERVICE,
    Reports,
    Running,
    running_backend,
    running_exposed,
)
from tests.support.relay import ADDRESS, Stub, make_handlers
from tests.support.until import until


__all__ = ["tls_files"]

GREETER = "samples.greeter.v1.Greeter"


async def _who(_request: bytes, context: Any) -> bytes:
    return b"me"


async def _chat(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


def named(name: bytes) -> dict[str, Any]:
    async def who(_request: bytes, _context: Any) -> bytes:
        return name

    return {"uu:Who": who, "ss:Chat": _chat}


async def call_who(channel: grpc.aio.Channel) -> bytes:
    return await Stub(channel).unary_unary("Who")(b"")


async def is_refused(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call_who(channel)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.origin == "hub"


async def test_backend_that_says_it_is_not_healthy_leaves_and_returns() -> None:
    async with (
        running_backend(named(b"a"), has_health=True) as (authority, health),
        running_exposed(authority) as running,
    ):
        chat = Stub(running.channel).stream_stream("Chat")()
        await chat.write(b"before")
        assert await chat.read() == b"before"
        await health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        told = await running.reports.until("left routing")
        assert told.endswith(": its health is NOT_SERVING; left routing until it is back")
        await is_refused(running.channel)
        await chat.write(b"meanwhile")
        assert await chat.read() == b"meanwhile"
        await health.set("", health_pb2.HealthCheckResponse.SERVING)
        await running.reports.until("1 service", 2)
        assert await call_who(running.channel) == b"a"
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF


async def test_health_of_a_named_service_counts() -> None:
    async with running_backend(named(b"a"), has_health=True) as (authority, health):
        await health.set("db", health_pb2.HealthCheckResponse.SERVING)
        async with running_exposed(authority, health="db") as running:
            await health.set("db", health_pb2.HealthCheckResponse.NOT_SERVING)
            assert "the health of db is NOT_SERVING" in await running.reports.until("left routing")


@pytest.mark.parametrize("has_health", [False, True])
async def test_backend_that_stops_leaves_and_its_successor_is_found(
    has_health: bool, unused_tcp_port: int
) -> None:
    options: dict[str, Any] = {"port": unused_tcp_port, "has_health": has_health}
    async with running_backend(named(b"first"), **options) as (authority, _):
        exposing = running_exposed(authority)
        running = await exposing.__aenter__()
        assert await call_who(running.channel) == b"first"
    try:
        told = await running.reports.until("left routing")
        assert told.endswith("connection refused; left routing until it is back")
        await is_refused(running.channel)
        async with running_backend(named(b"second"), **options):
            await running.reports.until("1 service", 2)
            assert await call_who(running.channel) == b"second"
    finally:
        await exposing.__aexit__(None, None, None)


def _reflecting(*services: str) -> Any:
    def register(server: grpc.aio.Server) -> None:
        reflection.enable_server_reflection([*services, reflection.SERVICE_NAME], server)

    return register


async def test_contract_comes_from_reflection_and_may_change_with_a_restart(
    unused_tcp_port: int,
) -> None:
    async with running_backend(
        {"uu:Who": _who}, port=unused_tcp_port, register=_reflecting(GREETER)
    ) as (authority, _):
        exposing = running_exposed(authority, services=())
        running = await exposing.__aenter__()
        assert running.reports.lines[0].endswith("at contoso/test, 2 services")
        assert _shapes(running, GREETER) == {
            "SayHello": 1, "ListGreetings": 2, "CollectNames": 3, "Chat": 4,
        }  # fmt: skip
    try:
        both = _reflecting(GREETER, SERVICE)
        async with running_backend(named(b"new"), port=unused_tcp_port, register=both):
            await running.reports.until("3 services")
            assert await call_who(running.channel) == b"new"
            await until(lambda: _hosts(running) == 1)
    finally:
        await exposing.__aexit__(None, None, None)


def _registrations(running: Running) -> list[Any]:
    return [
        each
        for each in running.hub.hub.sessions.forwarder.router.registrations
        if each.announce.address == ADDRESS
    ]


def _hosts(running: Running) -> int:
    return len(_registrations(running))


def _shapes(running: Running, service: str) -> dict[str, int]:
    (registration,) = _registrations(running)
    (found,) = [each for each in registration.announce.services if each.name == service]
    return {method.name: method.shape for method in found.methods}


async def test_backend_that_is_not_there_yet_is_waited_for(unused_tcp_port: int) -> None:
    authority = f"127.0.0.1:{unused_tcp_port}"
    reports = Reports()
    async with run_hub() as hub:
        url = hub.url(ADDRESS)
        agent = Agent(limits=DEFAULT_LIMITS, report=reports)
        agent.apply([Backend(target=f"grpc://{authority}", at=url, services=(SERVICE,))])
        told = await reports.until("waiting")
        assert told == f"! grpc://{authority}: connection refused; waiting for it"
        async with running_backend(named(b"late"), port=unused_tcp_port):
            await reports.until("1 service")
            async with relayrpc.aio.channel(url) as channel:
                assert await call_who(channel) == b"late"
        await agent.stop(None)


async def _fault(backend: Backend, *, must_be_there: bool = True) -> str:
    agent = Agent(limits=DEFAULT_LIMITS, report=Reports(), must_be_there=must_be_there)
    agent.apply([backend])
    error = await agent.finished()
    await agent.stop(None)
    return str(error)


async def test_server_without_reflection_needs_a_contract() -> None:
    async with run_hub() as hub, running_backend(named(b"a")) as (authority, _):
        backend = Backend(target=f"grpc://{authority}", at=hub.url(ADDRESS))
        assert await _fault(backend, must_be_there=False) == (
            f"grpc://{authority} has no reflection: give its contract with --descriptors FILE "
            "(protoc --descriptor_set_out=FILE --include_imports), or name its services "
            "with --service NAME"
        )


async def test_hub_that_is_not_there_is_told() -> None:
    async with running_backend(named(b"a")) as (authority, _):
        backend = Backend(
            target=f"grpc://{authority}", at="relay://127.0.0.1:1/a", services=(SERVICE,)
        )
        assert await _fault(backend) == "cannot connect to 127.0.0.1:1: connection refused"


async def test_link_that_a_hub_ends_for_good_ends_the_agent() -> None:
    async with (
        running_backend(named(b"a")) as (authority, _),
        running_exposed(authority) as running,
    ):
        (registration,) = _registrations(running)
        registration.link.close(code=link_pb2.Close.CODE_REFUSED, reason="not you")
        registration.link.flush_soon()
        assert "not you" in str(await running.agent.finished())


async def test_tls_server_is_exposed(tls_files: TLSFiles) -> None:
    async with (
        running_backend(named(b"safe"), credentials=_credentials(tls_files)) as (authority, _),
        running_exposed(authority, tls_ca=tls_files.ca_file) as running,
    ):
        assert await call_who(running.channel) == b"safe"


@pytest.mark.parametrize(
    ("is_secure", "settings", "words"),
    [
        (True, {}, "it speaks TLS; say so with --tls"),
        (True, {"tls": True}, "its certificate is not trusted: "),
        (False, {"tls": True}, "it does not answer with TLS; leave the TLS settings out"),
    ],
)
async def test_tls_against_plaintext_and_the_reverse_are_told(
    is_secure: bool, settings: dict[str, Any], words: str, tls_files: TLSFiles
) -> None:
    credentials = _credentials(tls_files) if is_secure else None
    async with run_hub() as hub, running_backend({}, credentials=credentials) as (authority, _):
        backend = Backend(
            target=f"grpc://{authority}", at=hub.url(ADDRESS), services=(SERVICE,), **settings
        )
        fault = await _fault(backend)
        assert fault.startswith(f"grpc://{authority} cannot be exposed: {words}")


def _credentials(files: TLSFiles) -> grpc.ServerCredentials:
    pair = (Path(files.key_file).read_bytes(), Path(files.cert_file).read_bytes())
    return grpc.ssl_server_credentials([pair])


async def test_changed_backend_takes_over_without_cutting_calls() -> None:
    async with (
        running_backend(named(b"old")) as (old, _),
        running_backend(named(b"new")) as (new, _),
        running_exposed(old) as running,
    ):
        chat = Stub(running.channel).stream_stream("Chat")()
        await chat.write(b"1")
        assert await chat.read() == b"1"
        changed = dataclasses.replace(running.backend, target=f"grpc://{new}")
        running.agent.apply([changed])
        answers = set()
        while b"new" not in answers:
            answers.add(await call_who(running.channel))
        await until(lambda: _hosts(running) == 1)
        assert await call_who(running.channel) == b"new"
        await chat.write(b"2")
        assert await chat.read() == b"2"
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
        await running.reports.until("is no longer at")


async def test_unchanged_backend_is_not_touched_by_a_reload() -> None:
    async with (
        running_backend(named(b"a")) as (authority, _),
        running_exposed(authority) as running,
    ):
        (before,) = _registrations(running)
        other = dataclasses.replace(running.backend, at=running.hub.url("contoso/other"))
        running.agent.apply([running.backend, other])
        await running.reports.until("contoso/other")
        assert _registrations(running) == [before]
        running.agent.apply([running.backend])
        await running.reports.until("is no longer at")
        assert _registrations(running) == [before]
        with pytest.raises(ConfigError, match="twice"):
            running.agent.apply([running.backend, running.backend])
        assert await call_who(running.channel) == b"a"


async def test_stop_lets_running_calls_finish() -> None:
    async with (
        running_backend(named(b"a")) as (authority, _),
        running_exposed(authority) as running,
    ):
        chat = Stub(running.channel).stream_stream("Chat")()
        await chat.write(b"1")
        assert await chat.read() == b"1"
        stopping = asyncio.create_task(running.agent.stop(30))
        await until(lambda: _hosts(running) == 0)
        await is_refused(running.channel)
        await chat.write(b"2")
        assert await chat.read() == b"2"
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
        await stopping


async def test_server_withdrawn_while_it_has_no_connection_gets_no_calls_when_it_is_back() -> None:
    async with run_hub() as hub:
        server = hub.server(ADDRESS)
        server.add_registered_method_handlers(SERVICE, make_handlers(named(b"a")))
        await server.start()
        channel = hub.channel(ADDRESS)
        assert await call_who(channel) == b"a"
        with hub.cut_off(server):
            await until(lambda: server.live.state is not grpc.ChannelConnectivity.READY)
            await server.withdraw()
        await until(lambda: server.live.state is grpc.ChannelConnectivity.READY)
        await is_refused(channel)
        await server.announce()
        assert await call_who(channel) == b"a"
