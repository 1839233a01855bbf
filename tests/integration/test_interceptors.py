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
from tests.support.aio_sides import ServeAio
from tests.support.relay import Stub, running_relay


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


async def check_tags(channel: grpc.aio.Channel) -> None:
    stub = Stub(channel)
    call = stub.unary_unary("UU")(b"", timeout=60)
    assert await call == b"a,b"
    if isinstance(channel, relayrpc.aio.Channel):
        # grpc.aio's calls behind interceptors do not tell.
        assert 0 < call.time_remaining() <= 60
        assert stub.unary_unary("UU")(b"", timeout=60).time_remaining() is None
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


async def test_client_interceptors_of_every_kind_run_in_order(serve_aio: ServeAio) -> None:
    interceptors = [kind(tag) for tag in ("a", "b") for kind in KINDS]
    async with serve_aio(BEHAVIORS, channel_options={"interceptors": interceptors}) as channel:
        await check_tags(channel)


async def test_client_interceptor_may_answer_itself(serve_aio: ServeAio) -> None:
    class Answer(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return b"from here"

    options = {"interceptors": [Answer()]}
    async with serve_aio(BEHAVIORS, channel_options=options) as channel:
        assert await Stub(channel).unary_unary("UU")(b"") == b"from here"


async def test_client_interceptor_may_call_again(serve_aio: ServeAio) -> None:
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
    async with serve_aio({"uu:M": fail_once}, channel_options=options) as channel:
        assert await Stub(channel).unary_unary("M")(b"") == b"second"
    assert seen == [grpc.StatusCode.UNAVAILABLE]


async def test_error_passes_a_client_interceptor() -> None:
    options = {"interceptors": [UnaryUnaryTag("a")]}
    async with running_relay(BEHAVIORS, channel_options=options) as relay:
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await Stub(relay.channel).unary_unary("None")(b"")
    assert caught.value.origin == "host"


class Broken:
    """Raises, in the way of each kind."""

    async def _intercept(self, continuation: Any, details: Any, request: Any) -> Any:
        raise ValueError("broken")


class UnaryUnaryBroken(Broken, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    intercept_unary_unary = Broken._intercept


class UnaryStreamBroken(Broken, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    intercept_unary_stream = Broken._intercept


class StreamUnaryBroken(Broken, grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]
    intercept_stream_unary = Broken._intercept


class StreamStreamBroken(Broken, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]
    intercept_stream_stream = Broken._intercept


BROKEN = (UnaryUnaryBroken, UnaryStreamBroken, StreamUnaryBroken, StreamStreamBroken)


async def read_all(call: Any) -> list[bytes]:
    return [message async for message in call]


async def test_failing_client_interceptor_raises_from_its_call(serve_aio: ServeAio) -> None:
    options = {"interceptors": [kind() for kind in BROKEN]}
    async with serve_aio(BEHAVIORS, channel_options=options) as channel:
        stub = Stub(channel)
        call = stub.unary_unary("UU")(b"")
        attempts = [
            lambda: call,
            call.code,
            call.details,
            call.initial_metadata,
            call.trailing_metadata,
            call.wait_for_connection,
            lambda: read_all(stub.unary_stream("US")(b"")),
            stub.unary_stream("US")(b"").read,
            lambda: stub.stream_unary("SU")(iter([b"1"])),
            lambda: stub.stream_unary("SU")().write(b"1"),
            stub.stream_unary("SU")().done_writing,
            lambda: read_all(stub.stream_stream("SS")(iter([b"1"]))),
            lambda: stub.stream_stream("SS")().write(b"1"),
        ]
        for attempt in attempts:
            with pytest.raises(ValueError, match="broken"):
                await attempt()
        assert call.done()
        assert not call.cancelled()


async def test_closing_the_channel_waits_for_a_call_that_its_interceptor_holds(
    serve_aio: ServeAio,
) -> None:
    held, go_on = asyncio.Event(), asyncio.Event()

    class Hold(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            held.set()
            await go_on.wait()
            return b"kept"

    options = {"interceptors": [Hold()]}
    async with serve_aio(BEHAVIORS, channel_options=options) as channel:
        call = Stub(channel).unary_unary("UU")(b"")
        await held.wait()
        closing = asyncio.create_task(channel.close(60))
        await asyncio.sleep(0)
        go_on.set()
        await closing
        assert await call == b"kept"


async def test_closing_the_channel_cancels_a_call_that_its_interceptor_holds(
    serve_aio: ServeAio,
) -> None:
    held = asyncio.Event()

    class Hold(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            held.set()
            await asyncio.Event().wait()

    options = {"interceptors": [Hold()]}
    async with serve_aio(BEHAVIORS, channel_options=options) as channel:
        call = Stub(channel).unary_unary("UU")(b"")
        await held.wait()
        await channel.close()
        with pytest.raises(asyncio.CancelledError):
            await call


class ServerLog(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Notes each call."""

    def __init__(self, name: str, log: list[str]) -> None:
        self._name = name
        self._log = log

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        assert dict(details.invocation_metadata)["k"] == "v"
        self._log.append(f"{self._name} {details.method}")
        return await continuation(details)


async def test_server_interceptors_run_in_order_for_every_shape(serve_aio: ServeAio) -> None:
    log: list[str] = []
    options = {"interceptors": [ServerLog("outer", log), ServerLog("inner", log)]}
    more: Any = {"metadata": (("k", "v"),)}
    async with serve_aio(BEHAVIORS, server_options=options) as channel:
        stub = Stub(channel)
        assert await stub.unary_unary("UU")(b"", **more) == b""
        assert log == ["outer /test.Service/UU", "inner /test.Service/UU"]
        assert [m async for m in stub.unary_stream("US")(b"", **more)] == [b""]
        assert await stub.stream_unary("SU")(iter([b"1"]), **more) == b":1"
        assert [m async for m in stub.stream_stream("SS")(iter([b"1"]), **more)] == [b":1"]
        with pytest.raises(grpc.aio.AioRpcError, match="Method not found!"):
            await stub.unary_unary("None")(b"", **more)
    assert len(log) == 10


async def test_server_interceptor_may_answer_itself(serve_aio: ServeAio) -> None:
    async def refuse(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
        return b""

    class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(refuse)

    options = {"interceptors": [Guard()]}
    async with serve_aio(BEHAVIORS, server_options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="not you") as caught:
            await Stub(channel).unary_unary("UU")(b"")
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_failing_server_interceptor_fails_its_call(serve_aio: ServeAio) -> None:
    class Broken(grpc.aio.ServerInterceptor):  # type: ignore[misc]
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            raise ValueError("broken")

    options = {"interceptors": [Broken()]}
    async with serve_aio(BEHAVIORS, server_options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Stub(channel).unary_unary("UU")(b"")
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert caught.value.details() == "Unexpected <class 'ValueError'>: broken"
