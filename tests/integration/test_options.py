"""
Goal: the options that gRPC's channels and servers take do on a relay what they do direct.

Method: the same calls and assertions on grpc.aio's own channel and server and on a relay's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from tests.support.aio_sides import ServeAio, serving_aio


pytestmark = pytest.mark.integration

TOO_LARGE = r"essage larger than max \(20 vs\. 10\)"


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def echo_all(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def forever(request: bytes, context: Any) -> bytes:
    await asyncio.Event().wait()
    return b""


def options(*pairs: tuple[str, Any]) -> dict[str, Any]:
    return {"options": pairs}


def service_config(*names: dict[str, str], **config: Any) -> dict[str, Any]:
    text = json.dumps({"methodConfig": [{"name": list(names or ({},)), **config}]})
    return options(("grpc.service_config", text))


async def error_of(awaitable: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value


async def check_bound(channel: grpc.aio.Channel) -> None:
    """10 bytes pass, 20 do not; in a stream after what passed."""
    method = channel.unary_unary("/test.Service/E")
    assert await method(bytes(10)) == bytes(10)
    error = await error_of(method(bytes(20)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    if not isinstance(channel, relayrpc.aio.Channel):
        # Of a stream's request that it could not send, grpc.aio says INTERNAL.
        return
    call: Any = channel.stream_stream("/test.Service/S")()
    await call.write(bytes(10))
    assert await call.read() == bytes(10)
    with pytest.raises(grpc.aio.AioRpcError, match=TOO_LARGE) as caught:
        await call.write(bytes(20))
        await call.read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    # What the channel has beside goes on.
    assert await method(bytes(10)) == bytes(10)


@pytest.mark.parametrize("direction", ["send", "receive"])
@pytest.mark.parametrize("end", ["server_options", "channel_options"])
async def test_messages_are_bounded(serve_aio: ServeAio, end: str, direction: str) -> None:
    bound = {end: options((f"grpc.max_{direction}_message_length", 10))}
    async with serve_aio({"uu:E": echo, "ss:S": echo_all}, **bound) as channel:
        await check_bound(channel)


@pytest.mark.parametrize("message", ["Request", "Response"])
async def test_service_config_bounds_messages(serve_aio: ServeAio, message: str) -> None:
    config = service_config({"service": "test.Service"}, **{f"max{message}MessageBytes": 10})
    behaviors = {"uu:E": echo, "ss:S": echo_all}
    async with serve_aio(behaviors, channel_options=config) as channel:
        await check_bound(channel)


async def test_service_config_bounds_only_its_method(serve_aio: ServeAio) -> None:
    names = {"service": "test.Service", "method": "E"}
    config = service_config(names, maxResponseMessageBytes=10)
    async with serve_aio({"uu:E": echo, "uu:F": echo}, channel_options=config) as channel:
        await error_of(channel.unary_unary("/test.Service/E")(bytes(20)))
        assert await channel.unary_unary("/test.Service/F")(bytes(20)) == bytes(20)


async def test_request_iterator_over_the_bound_ends_the_call() -> None:
    bound = options(("grpc.max_send_message_length", 10))
    async with serving_aio("relay", {"ss:S": echo_all}, channel_options=bound) as channel:
        call = channel.stream_stream("/test.Service/S")(iter([bytes(20)]))
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_service_config_times_calls_out(serve_aio: ServeAio) -> None:
    config = service_config({"service": "test.Service"}, timeout="0.2s")
    async with serve_aio({"uu:F": forever}, channel_options=config) as channel:
        for timeout in (None, 600):
            call = channel.unary_unary("/test.Service/F")(b"", timeout=timeout)
            error = await error_of(call)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        remaining = channel.unary_unary("/test.Service/F")(b"", timeout=0.1).time_remaining()
        assert remaining <= 0.1


@pytest.mark.parametrize("side", ["direct", "relay"])
async def test_service_config_has_calls_wait(side: str, unused_tcp_port: int) -> None:
    config = service_config(waitForReady=True, timeout="0.3s")
    open_channel: Any = {
        "direct": lambda: grpc.aio.insecure_channel(f"127.0.0.1:{unused_tcp_port}", **config),
        "relay": lambda: relayrpc.aio.channel(f"ws://127.0.0.1:{unused_tcp_port}/a", **config),
    }[side]
    async with open_channel() as channel:
        method = channel.unary_unary("/test.Service/M")
        assert (await error_of(method(b""))).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if side == "relay":
            # grpc.aio's calls cannot say that they do not want to.
            error = await error_of(method(b"", wait_for_ready=False))
            assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_user_agent_is_told(serve_aio: ServeAio) -> None:
    async def agent(request: bytes, context: Any) -> bytes:
        return str(dict(context.invocation_metadata()).get("user-agent")).encode()

    agents = options(("grpc.primary_user_agent", "me/1"), ("grpc.secondary_user_agent", "too"))
    async with serve_aio({"uu:A": agent}, channel_options=agents) as channel:
        method = channel.unary_unary("/test.Service/A")
        for metadata in ((), (("k", "v"), ("user-agent", "dropped"))):
            told = await method(b"", metadata=metadata)
            assert told.startswith(b"me/1 ")
            assert told.endswith(b" too")


async def test_user_agent_counts_as_metadata() -> None:
    agents = options(("grpc.primary_user_agent", "me" * 100))
    async with serving_aio("relay", {"uu:E": echo}, channel_options=agents) as channel:
        method = channel.unary_unary("/test.Service/E")
        error = await error_of(method(b"", metadata=(("k", "x" * 16_200),)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "is over 16384 bytes" in str(error.details())
        assert await method(b"", metadata=(("k", "x" * 16_000),)) == b""
