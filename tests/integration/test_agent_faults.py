"""
Servers behind an agent that are not there, or that say too much. Goal: each is one clear error, and
what is said of a call's having run is true.

Method: grpc.aio servers that stop, do not answer, or answer beyond the bounds of the agent.
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
from relayrpc.limits import Limits
from relayrpc.testing import run_hub
from relayrpc.v1 import link_pb2
from tests.support.exposed import (
    SERVICE,
    Holding,
    descriptor_set,
    running_backend,
    running_exposed,
    written,
)
from tests.support.relay import ADDRESS, Stub
from tests.support.until import until


pytestmark = pytest.mark.integration

Code = grpc.StatusCode


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
            await Stub(running.channel).unary_unary("Who")(b"")
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


# --- too much ---


async def echo(request: bytes, _context: Any) -> bytes:
    return request


async def make(request: bytes, _context: Any) -> bytes:
    return bytes(int(request))


async def make_stream(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    yield b"first"
    yield bytes(int(request))


async def begin_with(request: bytes, context: Any) -> bytes:
    await context.send_initial_metadata((("k", "x" * int(request)),))
    return b""


async def begin_stream_with(request: bytes, context: Any) -> AsyncIterator[bytes]:
    await context.send_initial_metadata((("k", "x" * int(request)),))
    yield b""


async def end_with(request: bytes, context: Any) -> bytes:
    context.set_trailing_metadata((("k", "x" * int(request)),))
    return b""


async def end_stream_with(request: bytes, context: Any) -> AsyncIterator[bytes]:
    context.set_trailing_metadata((("k", "x" * int(request)),))
    yield b""


TALKATIVE = {
    "uu:Echo": echo,
    "uu:Make": make,
    "us:MakeStream": make_stream,
    "uu:BeginWith": begin_with,
    "us:BeginStreamWith": begin_stream_with,
    "uu:EndWith": end_with,
    "us:EndStreamWith": end_stream_with,
}


@asynccontextmanager
async def talkative(**options: Any) -> AsyncIterator[Stub]:
    """Expose what answers with as much as it is asked for, shapes known."""
    with written(descriptor_set(TALKATIVE)) as file:
        async with (
            running_backend(TALKATIVE) as (authority, _),
            running_exposed(authority, descriptors=file, **options) as running,
        ):
            yield Stub(running.channel)
            assert await Stub(running.channel).unary_unary("Echo")(b"next") == b"next"


async def fault_of(stub: Stub, method: str, request: bytes) -> Any:
    with pytest.raises(relayrpc.aio.RpcError) as caught:
        if "Stream" in method:
            async for _ in stub.unary_stream(method)(request):
                pass
        else:
            await stub.unary_unary(method)(request)
    assert "\n" not in str(caught.value.details())
    return caught.value


async def test_request_that_the_server_does_not_take_is_its_own_to_refuse() -> None:
    """By default gRPC's servers take 4 MiB."""
    async with talkative() as stub:
        error = await fault_of(stub, "Echo", bytes(5_000_000))
        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert "larger than max (5000000 vs. 4194304)" in error.details()
        assert (error.origin, error.may_have_executed) == ("host", True)


async def test_request_over_the_bound_of_the_agent_is_refused() -> None:
    async with talkative(limits=Limits(message_bytes_max=100_000)) as stub:
        error = await fault_of(stub, "Echo", bytes(100_001))
        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert error.details() == "received message larger than max (100001 vs. 100000)"


@pytest.mark.parametrize("method", ["Make", "MakeStream"])
async def test_response_over_the_bound_of_the_agent_is_refused(method: str) -> None:
    async with talkative(limits=Limits(message_bytes_max=100_000)) as stub:
        error = await fault_of(stub, method, b"100001")
        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert "larger than max (100001 vs. 100000)" in error.details()
        assert (error.origin, error.may_have_executed) == ("host", True)


@pytest.mark.parametrize("size", [17_000, 60_000])
@pytest.mark.parametrize("method", ["BeginWith", "BeginStreamWith", "EndWith", "EndStreamWith"])
async def test_too_much_metadata_of_a_server_ends_its_call(method: str, size: int) -> None:
    """Beyond the agent's bound, and beyond what gRPC takes for it."""
    async with talkative() as stub:
        error = await fault_of(stub, method, b"%d" % size)
        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert "metadata" in error.details()
        assert (error.origin, error.may_have_executed) == ("host", True)
