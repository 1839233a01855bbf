"""
Goal: channels live and calls fail through a relay as they do direct: states, refusals, what is
raised where.

Method: the same assertions on grpc.aio's own channel and on a relay's.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from tests.support.aio_sides import ServeAio
from tests.support.blocking import SideName
from tests.support.relay import Stub


pytestmark = pytest.mark.integration

State = grpc.ChannelConnectivity
Code = grpc.StatusCode


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def collect(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return b",".join([request async for request in requests])


async def count(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b"0"
    await asyncio.Event().wait()


async def chat(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def not_found(request: Any, context: Any) -> bytes:
    await context.send_initial_metadata((("i", "1"),))
    await context.abort(Code.NOT_FOUND, "no such thing", (("k-bin", b"\x00"),))
    return b""


BEHAVIORS = {"uu:E": echo, "us:C": count, "su:S": collect, "ss:T": chat, "uu:N": not_found}


def every_shape(channel: grpc.aio.Channel) -> list[Callable[[], Any]]:
    """Start a call of each shape."""
    stub = Stub(channel)
    return [
        lambda: stub.unary_unary("E")(b""),
        lambda: stub.unary_stream("C")(b""),
        lambda: stub.stream_unary("S")(iter([b""])),
        lambda: stub.stream_stream("T")(iter([b""])),
    ]


async def result_of(call: Any) -> Any:
    if hasattr(call, "__await__"):
        return await call
    return [message async for message in call]


def nobody(side: SideName, port: int) -> grpc.aio.Channel:
    """A channel to a port where nobody listens."""
    if side == "direct":
        return grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    return relayrpc.aio.channel(f"ws://127.0.0.1:{port}/a")


# --- the channel ---


async def test_channel_connects_when_it_is_asked(serve_aio: ServeAio) -> None:
    async with serve_aio(BEHAVIORS) as channel:
        assert channel.get_state() is State.IDLE
        assert channel.get_state(try_to_connect=True) in (State.IDLE, State.CONNECTING)
        await channel.wait_for_state_change(State.IDLE)
        assert channel.get_state() in (State.CONNECTING, State.READY)
        await channel.channel_ready()
        assert channel.get_state() is State.READY
        await channel.wait_for_state_change(State.IDLE)


async def test_closing_a_channel_wakes_those_who_wait(serve_aio: ServeAio) -> None:
    async with serve_aio(BEHAVIORS) as channel:
        await channel.channel_ready()
        waiting = asyncio.create_task(channel.wait_for_state_change(State.READY))
        await asyncio.sleep(0)
        await channel.close()
        await waiting
        assert channel.get_state() is State.SHUTDOWN


async def test_closed_channel_refuses(serve_aio: ServeAio) -> None:
    async with serve_aio(BEHAVIORS) as channel:
        with pytest.raises(ValueError, match=r"grace must be non-negative, got -1\."):
            await channel.close(-1)
        await channel.close()
        await channel.close(1)
        assert channel.get_state(try_to_connect=True) is State.SHUTDOWN
        attempts: list[Callable[[], Any]] = [
            *[lambda start=start: result_of(start()) for start in every_shape(channel)],
            channel.channel_ready,
            lambda: channel.wait_for_state_change(State.SHUTDOWN),
            lambda: channel.wait_for_state_change(State.READY),
        ]
        for attempt in attempts:
            with pytest.raises(grpc.aio.UsageError, match=r"^Channel is closed\.$"):
                await attempt()


async def test_refused_port_is_unavailable(side: SideName, unused_tcp_port: int) -> None:
    async with nobody(side, unused_tcp_port) as channel:
        for start in every_shape(channel):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await result_of(start())
            assert caught.value.code() is Code.UNAVAILABLE
            assert str(unused_tcp_port) in str(caught.value.details())
            call = start()
            with pytest.raises(grpc.aio.AioRpcError):
                await call.wait_for_connection()
            assert await call.code() is Code.UNAVAILABLE
        assert channel.get_state() is not State.READY


async def test_connection_can_be_waited_for(serve_aio: ServeAio) -> None:
    async with serve_aio(BEHAVIORS) as channel:
        for start in every_shape(channel):
            call = start()
            await call.wait_for_connection()
            assert channel.get_state() is State.READY
            call.cancel()


# --- errors ---


async def test_error_is_a_snapshot_of_the_call(serve_aio: ServeAio) -> None:
    async with serve_aio(BEHAVIORS) as channel:
        call = Stub(channel).unary_unary("N")(b"")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        error: Any = caught.value
        assert isinstance(error, grpc.RpcError)
        assert error.code() is await call.code() is Code.NOT_FOUND
        assert error.details() == await call.details() == "no such thing"
        assert error.initial_metadata() == await call.initial_metadata()
        assert error.initial_metadata()["i"] == "1"
        assert error.trailing_metadata() == await call.trailing_metadata()
        assert error.trailing_metadata()["k-bin"] == b"\x00"
        assert error.debug_error_string() == await call.debug_error_string()
        for text in (str(error), repr(error)):
            assert 'status = StatusCode.NOT_FOUND\n\tdetails = "no such thing"' in text
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert call.done()
        assert not call.cancelled()
        assert not call.cancel()


async def test_cancelled_call_raises_cancelled_error(serve_aio: ServeAio) -> None:
    async with serve_aio(BEHAVIORS) as channel:
        stub = Stub(channel)
        starts: list[Callable[[], Any]] = [
            lambda: stub.unary_stream("C")(b""),
            lambda: stub.stream_unary("S")(),
            lambda: stub.stream_stream("T")(),
        ]
        for start in starts:
            call = start()
            await call.wait_for_connection()
            assert call.cancel()
            assert not call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await result_of(call)
            assert call.done()
            assert call.cancelled()
            assert await call.code() is Code.CANCELLED
            assert await call.details() == "Locally cancelled by application!"
            if not hasattr(call, "__await__"):
                with pytest.raises(asyncio.CancelledError):
                    await call.read()
            if hasattr(call, "write"):
                with pytest.raises(asyncio.InvalidStateError, match="already finished"):
                    await call.write(b"")
                await call.done_writing()


@pytest.mark.parametrize("how", ["read", "iterate"])
async def test_cancelling_a_reader_cancels_the_call(serve_aio: ServeAio, how: str) -> None:
    async with serve_aio(BEHAVIORS) as channel:
        call = Stub(channel).unary_stream("C")(b"")
        first = asyncio.Event()

        async def read() -> None:
            if how == "read":
                assert await call.read() == b"0"
                first.set()
                await call.read()
            async for message in call:
                assert message == b"0"
                first.set()

        reading = asyncio.create_task(read())
        await first.wait()
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await call.code() is Code.CANCELLED


@pytest.mark.parametrize("is_async", [False, True])
async def test_failing_request_iterator_cancels_its_call(
    serve_aio: ServeAio, is_async: bool
) -> None:
    def fail() -> Any:
        yield b"a"
        raise ValueError("broken")

    async def fail_async() -> Any:
        yield b"a"
        raise ValueError("broken")

    requests = fail_async if is_async else fail
    async with serve_aio(BEHAVIORS) as channel:
        stub = Stub(channel)
        for call in (stub.stream_unary("S")(requests()), stub.stream_stream("T")(requests())):
            with pytest.raises(asyncio.CancelledError):
                await result_of(call)
            assert await call.code() is Code.CANCELLED


@pytest.mark.parametrize("requests", [5, [5], ["text"]])
async def test_requests_of_a_wrong_type_cancel_their_call(
    serve_aio: ServeAio, requests: Any
) -> None:
    async with serve_aio(BEHAVIORS) as channel:
        with pytest.raises(asyncio.CancelledError):
            await Stub(channel).stream_unary("S")(requests)
        with pytest.raises(TypeError):
            await Stub(channel).unary_unary("E")("text")
        call = Stub(channel).stream_unary("S")()
        with pytest.raises(TypeError):
            await call.write("text")
        await call.write(b"a")
        await call.done_writing()
        assert await call == b"a"


WRONG_METADATA = {
    "key": ((("Upper", "x"),), grpc.aio.InternalError),
    "value": ((("a", "x\n"),), grpc.aio.InternalError),
    "text for bytes": ((("a-bin", "x"),), TypeError),
    "number": ((("a", 5),), TypeError),
    "no pair": ((("a",),), ValueError),
    "no pairs": (5, TypeError),
}


@pytest.mark.parametrize("case", list(WRONG_METADATA))
async def test_wrong_metadata_raises(serve_aio: ServeAio, case: str) -> None:
    metadata, error = WRONG_METADATA[case]
    async with serve_aio(BEHAVIORS) as channel:
        method = Stub(channel).unary_unary("E")
        with pytest.raises(error):
            await method(b"", metadata=metadata)
        for taken in ([("a", "x")], grpc.aio.Metadata(("a", "x")), iter([("a", "x")]), ()):
            assert await method(b"", metadata=taken) == b""


@pytest.mark.parametrize("timeout", [-1, float("nan")])
async def test_passed_deadline_is_exceeded(serve_aio: ServeAio, timeout: float) -> None:
    async with serve_aio(BEHAVIORS) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="Deadline Exceeded") as caught:
            await Stub(channel).unary_unary("E")(b"", timeout=timeout)
        assert caught.value.code() is Code.DEADLINE_EXCEEDED
        with pytest.raises(TypeError):
            await Stub(channel).unary_unary("E")(b"", timeout="1")
