"""
Goal: interceptors written for grpc.aio run unchanged, on both sides, in their order.

Method: interceptors of every kind around calls through a real hub. Notices when grpc's own
machinery, which runs them, changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from tests.support.relay import Relay, Stub, running_relay


pytestmark = pytest.mark.integration


async def tags(request: Any, context: Any) -> bytes:
    metadata = context.invocation_metadata()
    return ",".join(value for key, value in metadata if key == "tag").encode()


async def all_tags(requests: AsyncIterator[bytes], context: Any) -> bytes:
    count = len([request async for request in requests])
    return await tags(None, context) + b":%d" % count


async def tag_stream(request: Any, context: Any) -> AsyncIterator[bytes]:
    yield await tags(request, context)


async def tag_chat(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield await tags(request, context) + b":" + request


BEHAVIORS = {"uu:UU": tags, "us:US": tag_stream, "su:SU": all_tags, "ss:SS": tag_chat}


class Tag:
    """Adds a metadata entry, in the way of each kind."""

    def __init__(self, tag: str) -> None:
        self._tag = tag

    async def _intercept(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), ("tag", self._tag))
        return await continuation(details._replace(metadata=metadata), request)


class UnaryUnaryTag(Tag, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc has no types
    intercept_unary_unary = Tag._intercept


class UnaryStreamTag(Tag, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    intercept_unary_stream = Tag._intercept


class StreamUnaryTag(Tag, grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]
    intercept_stream_unary = Tag._intercept


class StreamStreamTag(Tag, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]
    intercept_stream_stream = Tag._intercept


KINDS = (UnaryUnaryTag, UnaryStreamTag, StreamUnaryTag, StreamStreamTag)


async def check_tags(relay: Relay) -> None:
    stub = Stub(relay.channel)
    call = stub.unary_unary("UU")(b"", timeout=60)
    assert call.time_remaining() is None
    assert await call == b"a,b"
    assert 0 < call.time_remaining() <= 60
    assert await call.code() is grpc.StatusCode.OK
    assert [message async for message in stub.unary_stream("US")(b"")] == [b"a,b"]
    assert await stub.stream_unary("SU")(iter([b"1", b"2"])) == b"a,b:2"
    assert [m async for m in stub.stream_stream("SS")(iter([b"1"]))] == [b"a,b:1"]

    collecting = stub.stream_unary("SU")()
    await collecting.write(b"1")
    await collecting.done_writing()
    assert await collecting == b"a,b:1"
    chat = stub.stream_stream("SS")()
    await chat.write(b"1")
    assert await chat.read() == b"a,b:1"
    await chat.done_writing()
    assert await chat.read() is grpc.aio.EOF


async def test_client_interceptors_of_every_kind_run_in_order() -> None:
    interceptors = [kind(tag) for tag in ("a", "b") for kind in KINDS]
    async with running_relay(BEHAVIORS, channel_options={"interceptors": interceptors}) as relay:
        await check_tags(relay)


async def test_client_interceptor_may_answer_itself() -> None:
    class Answer(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return b"from here"

    options = {"interceptors": [Answer()]}
    async with running_relay(BEHAVIORS, channel_options=options) as relay:
        assert await Stub(relay.channel).unary_unary("UU")(b"") == b"from here"


async def test_client_interceptor_may_call_again() -> None:
    seen: list[grpc.StatusCode] = []

    async def fail_once(request: bytes, context: Any) -> bytes:
        if not seen:
            await context.abort(grpc.StatusCode.UNAVAILABLE)
        return b"second"

    class Retry(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            call = await continuation(details, request)
            seen.append(await call.code())
            return await continuation(details, request)

    options = {"interceptors": [Retry()]}
    async with running_relay({"uu:M": fail_once}, channel_options=options) as relay:
        assert await Stub(relay.channel).unary_unary("M")(b"") == b"second"
    assert seen == [grpc.StatusCode.UNAVAILABLE]


async def test_error_passes_a_client_interceptor() -> None:
    options = {"interceptors": [UnaryUnaryTag("a")]}
    async with running_relay(BEHAVIORS, channel_options=options) as relay:
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await Stub(relay.channel).unary_unary("None")(b"")
    assert caught.value.origin == "host"


async def test_closing_the_channel_cancels_a_call_that_its_interceptor_holds() -> None:
    held = asyncio.Event()

    class Hold(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            held.set()
            await asyncio.Event().wait()

    options = {"interceptors": [Hold()]}
    async with running_relay(BEHAVIORS, channel_options=options) as relay:
        call = Stub(relay.channel).unary_unary("UU")(b"")
        await held.wait()
        await relay.channel.close()
        with pytest.raises(asyncio.CancelledError):
            await call


class ServerLog(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Notes each call."""

    def __init__(self, name: str, log: list[str]) -> None:
        self._name = name
        self._log = log

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        self._log.append(f"{self._name} {details.method} {details.invocation_metadata}")
        return await continuation(details)


async def test_server_interceptors_run_in_order_for_every_shape() -> None:
    log: list[str] = []
    options = {"interceptors": [ServerLog("outer", log), ServerLog("inner", log)]}
    async with running_relay(BEHAVIORS, server_options=options) as relay:
        stub = Stub(relay.channel)
        assert await stub.unary_unary("UU")(b"") == b""
        assert log == ["outer /test.Service/UU ()", "inner /test.Service/UU ()"]
        assert [m async for m in stub.unary_stream("US")(b"")] == [b""]
        assert await stub.stream_unary("SU")(iter([b"1"])) == b":1"
        assert [m async for m in stub.stream_stream("SS")(iter([b"1"]))] == [b":1"]
        with pytest.raises(relayrpc.aio.RpcError, match="Method not found!"):
            await stub.unary_unary("None")(b"")
    assert len(log) == 10


async def test_server_interceptor_may_answer_itself() -> None:
    async def refuse(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
        return b""

    class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(refuse)

    options = {"interceptors": [Guard()]}
    async with running_relay(BEHAVIORS, server_options=options) as relay:
        with pytest.raises(relayrpc.aio.RpcError, match="not you") as caught:
            await Stub(relay.channel).unary_unary("UU")(b"")
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_failing_server_interceptor_fails_its_call() -> None:
    class Broken(grpc.aio.ServerInterceptor):  # type: ignore[misc]
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            raise ValueError("broken")

    options = {"interceptors": [Broken()]}
    async with running_relay(BEHAVIORS, server_options=options) as relay:
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await Stub(relay.channel).unary_unary("UU")(b"")
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
