"""
What hubs and callers make of an agent's backends. Goal: slots, priorities and several hubs work as
for any host, and a server that was not reached has not run a call.

Method: grpc.aio servers that stop, hold calls or do not answer; hubs on loopback that drain.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from relayrpc.agent.backend import Backend
from relayrpc.agent.forward import forwarding_handler
from relayrpc.errors import ConfigError
from relayrpc.testing import LoopbackHub, run_hub
from relayrpc.v1 import link_pb2
from tests.support.exposed import SERVICE, running_agent, running_backend, running_exposed
from tests.support.relay import ADDRESS, Stub
from tests.support.until import until


pytestmark = pytest.mark.integration

Code = grpc.StatusCode


class Holding:
    """A handler that counts the calls it has at once, and holds them until they are released."""

    def __init__(self) -> None:
        self.running_count = 0
        self.running_most = 0
        self.released = asyncio.Event()

    async def hold(self, request: bytes, _context: Any) -> bytes:
        self.running_count += 1
        self.running_most = max(self.running_most, self.running_count)
        await self.released.wait()
        self.running_count -= 1
        return request


def named(name: bytes) -> dict[str, Any]:
    async def who(_request: bytes, _context: Any) -> bytes:
        return name

    return {"uu:Who": who}


async def who(channel: grpc.aio.Channel, **options: Any) -> bytes:
    answer: bytes = await Stub(channel).unary_unary("Who")(b"", **options)
    return answer


# --- slots and priorities ---


async def test_calls_beyond_the_slots_wait_at_the_hub() -> None:
    holding = Holding()
    async with (
        running_backend({"uu:Hold": holding.hold}) as (authority, _),
        running_exposed(authority, slots=2) as running,
    ):
        hold = Stub(running.channel).unary_unary("Hold")
        calls = [asyncio.ensure_future(hold(b"%d" % number)) for number in range(5)]
        queue = running.hub.hub.sessions.forwarder.queue
        await until(lambda: holding.running_count == 2 and len(queue) == 3)
        holding.released.set()
        assert await asyncio.gather(*calls) == [b"%d" % number for number in range(5)]
        assert holding.running_most == 2


async def test_backend_of_a_higher_priority_number_stands_by() -> None:
    async with (
        run_hub() as hub,
        running_backend(named(b"second")) as (second, _),
        relayrpc.aio.channel(hub.url(ADDRESS)) as channel,
    ):
        async with running_backend(named(b"first")) as (first, _):
            exposing = running_agent(
                _backend(second, hub, priority=1), _backend(first, hub, priority=0)
            )
            _, reports = await exposing.__aenter__()
            assert {await who(channel) for _ in range(8)} == {b"first"}
        try:
            await reports.until("left routing")
            assert {await who(channel) for _ in range(8)} == {b"second"}
            port = int(first.rpartition(":")[2])
            async with running_backend(named(b"again"), port=port):
                await reports.until(f"{first} at", 2)
                assert {await who(channel) for _ in range(8)} == {b"again"}
        finally:
            await exposing.__aexit__(None, None, None)


def _backend(authority: str, *hubs: LoopbackHub, **settings: Any) -> Backend:
    urls = tuple(hub.url(ADDRESS) for hub in hubs)
    return Backend(target=f"grpc://{authority}", at=urls, services=(SERVICE,), **settings)


# --- several hubs ---


async def test_agent_goes_to_the_next_hub_when_its_own_drains() -> None:
    holding = Holding()
    async with (
        run_hub() as first,
        run_hub() as second,
        running_backend({**named(b"me"), "uu:Hold": holding.hold}) as (authority, _),
        running_agent(_backend(authority, first, second)),
        relayrpc.aio.channel([first.url(ADDRESS), second.url(ADDRESS)]) as channel,
    ):
        held = asyncio.ensure_future(Stub(channel).unary_unary("Hold")(b"held"))
        await until(lambda: holding.running_count)
        draining = asyncio.create_task(first.hub.drain())
        async with relayrpc.aio.channel(second.url(ADDRESS)) as there:
            assert await who(there, wait_for_ready=True) == b"me"
        assert not held.done()
        holding.released.set()
        assert await held == b"held"
        await draining
        assert await who(channel, wait_for_ready=True) == b"me"


async def test_agent_finds_the_hub_that_is_there(unused_tcp_port: int) -> None:
    gone = f"relay://127.0.0.1:{unused_tcp_port}/{ADDRESS}"
    async with run_hub() as hub, running_backend(named(b"me")) as (authority, _):
        urls = (gone, hub.url(ADDRESS))
        backend = Backend(target=f"grpc://{authority}", at=urls, services=(SERVICE,))
        async with running_agent(backend), relayrpc.aio.channel(urls) as channel:
            assert await who(channel) == b"me"


def test_hubs_of_a_backend_have_one_address() -> None:
    backend = Backend(target="grpc://127.0.0.1:1", at=("relay://a/x", "relay://b/y"))
    with pytest.raises(ConfigError, match="cannot use 'relay://b:7350/y' beside 'relay://a:7350"):
        backend.check()


# --- servers that were not reached ---


KINDS = {
    "unary_unary": link_pb2.SHAPE_UNARY_UNARY,
    "unary_stream": link_pb2.SHAPE_UNARY_STREAM,
    "stream_unary": link_pb2.SHAPE_STREAM_UNARY,
    "stream_stream": link_pb2.SHAPE_STREAM_STREAM,
}


@asynccontextmanager
async def forwarding(port: int) -> AsyncIterator[grpc.aio.Channel]:
    """Forward all kinds of calls to a port whether anybody is there or not, as no agent would."""
    async with run_hub() as hub:
        server = hub.server(ADDRESS)
        url = hub.url(ADDRESS)
        backend = Backend(target=f"grpc://127.0.0.1:{port}", at=url).open_channel()
        handlers = {
            kind: forwarding_handler(backend, f"/{SERVICE}/Who", shape)
            for kind, shape in KINDS.items()
        }
        server.add_registered_method_handlers(SERVICE, handlers)
        await server.start()
        yield hub.channel(ADDRESS, options=[("grpc.enable_retries", 0)])
        await backend.close()


async def error_of(channel: grpc.aio.Channel, kind: str, **options: Any) -> Any:
    call = getattr(channel, kind)(f"/{SERVICE}/{kind}")
    request = b"" if kind.startswith("unary") else iter([b""])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        made = call(request, **options)
        if kind.endswith("stream"):
            await made.read()
        else:
            await made
    return caught.value


@pytest.mark.parametrize("kind", list(KINDS))
async def test_call_whose_server_is_not_there_has_not_run(kind: str, unused_tcp_port: int) -> None:
    async with forwarding(unused_tcp_port) as channel:
        for _ in range(2):
            error = await error_of(channel, kind)
            assert error.code() is Code.UNAVAILABLE
            assert error.details() == "the exposed server cannot be reached"
            assert (error.origin, error.may_have_executed) == ("host", False)


@pytest.mark.parametrize("kind", list(KINDS))
async def test_call_waits_while_its_server_is_being_connected_to(kind: str) -> None:
    """A port that accepts and says nothing, and then is closed."""
    silent: set[asyncio.StreamWriter] = set()
    accepted = asyncio.Event()

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        silent.add(writer)
        accepted.set()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with forwarding(listener.sockets[0].getsockname()[1]) as channel:
        error = await error_of(channel, kind, timeout=0.2)
        assert error.code() is Code.DEADLINE_EXCEEDED
        waiting = asyncio.ensure_future(error_of(channel, kind))
        await accepted.wait()
        assert not waiting.done()
        listener.close()
        for writer in silent:
            writer.transport.abort()
        error = await waiting
        assert (error.code(), error.may_have_executed) == (Code.UNAVAILABLE, False)


async def test_server_that_says_it_did_not_reach_its_own_may_have_run() -> None:
    """Servers pass on what gRPC tells them of servers behind them, word by word."""
    details = "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:50051"

    async def behind(_request: bytes, context: Any) -> bytes:
        await context.abort(Code.UNAVAILABLE, details)
        return b""

    async with (
        running_backend({"uu:Who": behind}) as (authority, _),
        running_exposed(authority) as running,
    ):
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await who(running.channel)
        assert (caught.value.code(), caught.value.details()) == (Code.UNAVAILABLE, details)
        assert caught.value.may_have_executed


async def test_call_that_its_server_had_when_it_went_may_have_run() -> None:
    holding = Holding()
    async with running_backend({"uu:Hold": holding.hold}) as (authority, _):
        exposing = running_exposed(authority)
        running = await exposing.__aenter__()
        held = asyncio.ensure_future(Stub(running.channel).unary_unary("Hold")(b""))
        await until(lambda: holding.running_count)
    try:
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await held
        assert caught.value.code() is Code.UNAVAILABLE
        assert caught.value.may_have_executed
    finally:
        await exposing.__aexit__(None, None, None)
