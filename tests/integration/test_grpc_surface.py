"""
Goal: every public name of grpc.aio's objects is there, and is as in grpcio or stands on the page of
what is not, with a test.

Method: the table of names against grpcio's own classes, the relay's classes and the page; and what
no other file of tests shows.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from relayrpc.endpoint import options
from relayrpc.errors import ConnectError
from tests.support.aio_sides import ServeAio, serving_aio
from tests.support.grpc_surface import CLASSES, SAME, SURFACE
from tests.support.relay import Stub, running_hub, running_relay


TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "reference" / "grpc-compatibility.md"
SPECIAL = {"__aenter__", "__aexit__", "__aiter__", "__await__", "__call__"}
ROW = re.compile(r"^\| (`[^|]+`) \| (differs|no effect|raises) \| [^|]+ \|$", re.MULTILINE)
PAIRS = [pair for pairs in CLASSES.values() for pair in pairs]


def public_names(kind: type) -> set[str]:
    names = {name for name in dir(kind) if not name.startswith("_")}
    return names | {name for name in SPECIAL if any(name in vars(each) for each in kind.__mro__)}


def parameters_of(function: Any) -> list[tuple[str, str, str]]:
    return [
        (parameter.name, parameter.kind.name, repr(parameter.default))
        for parameter in inspect.signature(function).parameters.values()
    ]


# --- the table ---


@pytest.mark.parametrize("title", list(CLASSES))
def test_table_has_every_public_name(title: str) -> None:
    names = set().union(*[public_names(theirs) for theirs, _ in CLASSES[title]])
    assert names == set(SURFACE[title])


@pytest.mark.parametrize(("theirs", "ours"), PAIRS, ids=lambda kind: kind.__qualname__)
def test_names_have_grpcios_signatures(theirs: type, ours: type) -> None:
    assert issubclass(ours, theirs)
    for name in public_names(theirs):
        expected, found = getattr(theirs, name), getattr(ours, name)
        assert parameters_of(found) == parameters_of(expected), name
        assert inspect.iscoroutinefunction(found) == inspect.iscoroutinefunction(expected), name


def test_page_has_every_difference() -> None:
    on_page = {
        (name, kind)
        for names, kind in ROW.findall(PAGE.read_text(encoding="utf-8"))
        for name in re.findall(r"`([^`]+)`", names)
    }
    expected = {
        (f"{title}.{name}", difference.kind)
        for title, names in SURFACE.items()
        for name, difference in names.items()
        if difference is not SAME
    }
    assert on_page == expected


def test_page_has_every_option_that_counts() -> None:
    section = PAGE.read_text(encoding="utf-8").split("## Options")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`grpc\.[^|]+) \|", section, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == set(options._READERS)


def test_every_difference_has_a_test() -> None:
    for names in SURFACE.values():
        for difference in names.values():
            if difference is not SAME:
                path, _, name = difference.test.partition("::")
                assert f"def {name}(" in (TESTS / path).read_text(encoding="utf-8"), name


# --- what no other file shows ---


async def echo(request: bytes, context: Any) -> bytes:
    return request


@pytest.mark.integration
async def test_compression_is_accepted(serve_aio: ServeAio) -> None:
    gzip = grpc.Compression.Gzip

    async def compress(request: bytes, context: Any) -> bytes:
        context.set_compression(gzip)
        context.disable_next_message_compression()
        return request

    async def compress_all(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            context.disable_next_message_compression()
            yield request

    behaviors = {"uu:M": compress, "ss:S": compress_all}
    more = {"compression": gzip}
    async with serve_aio(behaviors, server_options=more, channel_options=more) as channel:
        stub = Stub(channel)
        sent = bytes(10_000)
        assert await stub.unary_unary("M")(sent, compression=gzip) == sent
        call = stub.stream_stream("S")(iter([sent, b""]), compression=grpc.Compression.Deflate)
        assert [message async for message in call] == [sent, b""]


@pytest.mark.integration
async def test_ready_means_that_the_hub_is_reached() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/nobody"
        async with relayrpc.aio.channel(url) as channel:
            await channel.channel_ready()
            assert channel.get_state() is grpc.ChannelConnectivity.READY
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await Stub(channel).unary_unary("M")(b"")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.integration
async def test_closing_ends_waiting_for_the_hub(unused_tcp_port: int) -> None:
    channel = relayrpc.aio.channel(f"ws://127.0.0.1:{unused_tcp_port}/a")
    waiting = asyncio.create_task(channel.channel_ready())
    await asyncio.sleep(0)
    await channel.close()
    with pytest.raises(grpc.aio.UsageError, match=r"Channel is closed\."):
        await waiting


@pytest.mark.integration
async def test_what_arrived_can_be_read_after_the_end() -> None:
    async def three(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d" % number

    async with serving_aio("relay", {"us:M": three}) as channel:
        call: Any = Stub(channel).unary_stream("M")(b"")
        assert await call.code() is grpc.StatusCode.OK
        assert [await call.read() for _ in range(3)] == [b"0", b"1", b"2"]
        assert await call.read() is grpc.aio.EOF


@pytest.mark.integration
async def test_request_that_cannot_be_written_ends_a_call() -> None:
    async def collect(requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"".join([request async for request in requests])

    def fail(_: Any) -> bytes:
        raise ValueError("broken")

    async with serving_aio("relay", {"su:M": collect}) as channel:
        method = channel.stream_unary("/test.Service/M", request_serializer=fail)
        call: Any = method()
        with pytest.raises(relayrpc.aio.RpcError, match="Exception serializing request!") as caught:
            await call.write(b"")
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert await call.code() is grpc.StatusCode.INTERNAL
        with pytest.raises(relayrpc.aio.RpcError, match="Exception serializing request!"):
            await method(iter([b""]))


@pytest.mark.integration
async def test_context_knows_the_caller_by_the_hub() -> None:
    seen: list[Any] = []

    async def look(request: bytes, context: Any) -> bytes:
        seen.extend((context.peer(), context.peer_identity_key(), context.peer_identities()))
        seen.append(context.auth_context())
        return b""

    more = {"instance": "caller-1"}
    async with running_relay({"uu:M": look}, channel_options=more) as relay:
        await Stub(relay.channel).unary_unary("M")(b"")
    assert seen[0].startswith("ipv4:127.0.0.1:")
    assert seen[1:3] == ["relay_identity", [b"caller-1"]]
    assert seen[3] == {"transport_security_type": [b"relay"], "relay_identity": [b"caller-1"]}


@pytest.mark.integration
async def test_server_that_cannot_start_says_why(unused_tcp_port: int) -> None:
    server = relayrpc.aio.server(f"ws://127.0.0.1:{unused_tcp_port}/a")
    with pytest.raises(grpc.aio.UsageError, match="serves nothing"):
        await server.start()
    handlers = {"M": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_registered_method_handlers("test.Service", handlers)
    with pytest.raises(ConnectError, match=str(unused_tcp_port)):
        await server.start()
    with pytest.raises(grpc.aio.UsageError, match="a server can be started once"):
        await server.start()
    await server.stop(None)
