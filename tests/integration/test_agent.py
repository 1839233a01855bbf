"""
Calls to an existing grpc.aio server through an agent. Goal: a caller cannot tell them from direct
calls. Method: the same assertions on a direct channel, through an agent that knows the contract,
and through one that knows only the service's name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.support.deadlines import DEADLINES_S
from tests.support.exposed import PathName, calling
from tests.support.relay import Stub
from tests.support.until import until


METADATA = (
    ("key", "first"),
    ("other", "of its own"),
    ("key", "second"),
    ("raw-bin", b"\x00\xff\x01"),
    ("raw-bin", b""),
    ("empty", ""),
)


@pytest.fixture(params=["direct", "exposed", "exposed by name"])
def path(request: pytest.FixtureRequest) -> PathName:
    return request.param


def by_key(metadata: Any) -> dict[str, list[str | bytes]]:
    """Return values in order, of the keys that the tests use."""
    found: dict[str, list[str | bytes]] = {}
    for key, value in metadata:
        if key in ("key", "other", "raw-bin", "empty"):
            found.setdefault(key, []).append(value)
    return found


async def _collect(requests: AsyncIterator[bytes], _context: Any) -> bytes:
    return b"|".join([request async for request in requests])


async def _count(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    for number in range(int(request)):
        yield b"%d" % number


async def _chat(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def _echo(request: bytes, _context: Any) -> bytes:
    return request


ALL_SHAPES = {"uu:Echo": _echo, "us:Count": _count, "su:Collect": _collect, "ss:Chat": _chat}


async def test_all_shapes_bring_their_messages(path: PathName) -> None:
    async with calling(path, ALL_SHAPES) as channel:
        stub = Stub(channel)
        assert await stub.unary_unary("Echo")(b"\x00one") == b"\x00one"
        assert [each async for each in stub.unary_stream("Count")(b"3")] == [b"0", b"1", b"2"]
        assert await stub.stream_unary("Collect")(iter([b"a", b"", b"c"])) == b"a||c"
        chat = stub.stream_stream("Chat")()
        for message in (b"ping", b"", b"pong"):
            await chat.write(message)
            assert await chat.read() == message
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
        assert await chat.code() is grpc.StatusCode.OK


async def test_streams_may_be_empty(path: PathName) -> None:
    async with calling(path, ALL_SHAPES) as channel:
        stub = Stub(channel)
        assert [each async for each in stub.unary_stream("Count")(b"0")] == []
        assert await stub.stream_unary("Collect")(iter([])) == b""
        assert [each async for each in stub.stream_stream("Chat")(iter([]))] == []


async def test_large_messages_arrive_whole(path: PathName) -> None:
    large = bytes(range(256)) * 4096 * 3
    async with calling(path, {"ss:Chat": _chat}) as channel:
        chat = Stub(channel).stream_stream("Chat")(iter([large, b"", large]))
        assert [each async for each in chat] == [large, b"", large]


@pytest.mark.parametrize("kind", ["uu", "us", "su", "ss"])
async def test_metadata_is_the_same_per_key_and_in_order(path: PathName, kind: str) -> None:
    seen: list[Any] = []

    async def one(_request: Any, context: Any) -> bytes:
        seen.append(context.invocation_metadata())
        await context.send_initial_metadata(METADATA)
        context.set_trailing_metadata(METADATA[::-1])
        return b""

    async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield await one(request, context)

    async with calling(path, {f"{kind}:M": one if kind[1] == "u" else many}) as channel:
        names = {"u": "unary", "s": "stream"}
        start = getattr(Stub(channel), f"{names[kind[0]]}_{names[kind[1]]}")("M")
        call = start(b"" if kind[0] == "u" else iter([b""]), metadata=METADATA)
        if kind[1] == "u":
            await call
        else:
            assert [each async for each in call] == [b""]
        assert by_key(seen[0]) == by_key(METADATA)
        assert by_key(await call.initial_metadata()) == by_key(METADATA)
        assert by_key(await call.trailing_metadata()) == by_key(METADATA[::-1])


@pytest.mark.parametrize("kind", ["uu", "us", "su", "ss"])
async def test_status_brings_details_and_trailing_metadata(path: PathName, kind: str) -> None:
    rich = (("grpc-status-details-bin", b"\x08\x05\x12\x04gone"), ("key", "v"))

    async def refuse(_request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone, säd", rich)

    async with calling(path, {f"{kind}:M": refuse}) as channel:
        names = {"u": "unary", "s": "stream"}
        start = getattr(Stub(channel), f"{names[kind[0]]}_{names[kind[1]]}")("M")
        call = start(b"" if kind[0] == "u" else iter([]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = await call if kind[1] == "u" else [each async for each in call]
        error = caught.value
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert error.details() == "gone, säd"
        assert error.trailing_metadata()["grpc-status-details-bin"] == rich[0][1]
        assert error.trailing_metadata()["key"] == "v"
        assert by_key(await call.initial_metadata()) == {}


async def _requests_for_ever() -> AsyncIterator[bytes]:
    while True:
        yield bytes(1000)


async def _refuse_early(_requests: Any, context: Any) -> Any:
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "early", (("key", "v"),))


async def _lose_none(path: PathName, calls_count: int) -> None:
    """Call methods that end while the caller sends, known and not, again and again."""
    behaviors = {"ss:Refuse": _refuse_early, "su:RefuseOne": _refuse_early}
    async with calling(path, behaviors) as channel:
        stub = Stub(channel)
        ends: list[tuple[Any, ...]] = []
        for _ in range(calls_count // 2):
            call = stub.stream_stream("Refuse")(_requests_for_ever())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                _ = [each async for each in call]
            ends.append(_end(caught.value))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.stream_unary("RefuseOne")(_requests_for_ever())
            ends.append(_end(caught.value))
    assert set(ends) == {(grpc.StatusCode.FAILED_PRECONDITION, "early", "v")}
    assert len(ends) == calls_count


def _end(error: grpc.aio.AioRpcError) -> tuple[Any, ...]:
    return error.code(), error.details(), error.trailing_metadata()["key"]


# Not direct: grpc.aio itself loses one in a hundred.
@pytest.mark.parametrize("path", ["exposed", "exposed by name"])
async def test_status_that_comes_while_the_caller_sends_is_not_lost(path: PathName) -> None:
    await _lose_none(path, 100)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["exposed", "exposed by name"])
async def test_no_status_in_a_thousand_is_lost(path: PathName) -> None:
    await _lose_none(path, 1000)


async def test_unknown_method_is_unimplemented(path: PathName) -> None:
    async with calling(path, {"uu:Echo": _echo}) as channel:
        # Direct, grpc.aio itself may lose the status of a call that still sends.
        for kind in ("unary_unary", "stream_stream")[: 1 if path == "direct" else 2]:
            start = getattr(Stub(channel), kind)("Missing")
            call = start(b"" if kind == "unary_unary" else iter([b""] * 20))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                _ = await call if kind == "unary_unary" else [each async for each in call]
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert caught.value.details() == "Method not found!"


async def test_deadline_is_the_callers_and_passes_on_both_sides(path: PathName) -> None:
    remaining: list[float] = []
    ended = asyncio.Event()

    async def wait(_request: bytes, context: Any) -> bytes:
        remaining.append(context.time_remaining())
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return b""

    async with calling(path, {"uu:Wait": wait}) as channel:
        for timeout_s in DEADLINES_S:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await Stub(channel).unary_unary("Wait")(b"", timeout=timeout_s)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if remaining and remaining[-1] > 0:
                break
        await ended.wait()
    # gRPC rounds up what travels.
    assert 0 < remaining[-1] <= timeout_s * 1.04


async def test_call_without_deadline_has_none(path: PathName) -> None:
    async def ask(_request: bytes, context: Any) -> bytes:
        return repr(context.time_remaining()).encode()

    async with calling(path, {"uu:Ask": ask}) as channel:
        assert await Stub(channel).unary_unary("Ask")(b"") == b"None"


@pytest.mark.parametrize("kind", ["uu", "ss"])
async def test_cancellation_reaches_the_server(path: PathName, kind: str) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(_request: Any, _context: Any) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with calling(path, {f"{kind}:Wait": wait}) as channel:
        stub = Stub(channel)
        call = (
            stub.unary_unary("Wait")(b"") if kind == "uu" else stub.stream_stream("Wait")()
        )
        await begun.wait()
        call.cancel()
        await cancelled.wait()


async def test_cancelled_by_the_server_is_the_callers_status(path: PathName) -> None:
    async def cancel(_request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.CANCELLED, "not now")
        return b""

    async with calling(path, {"uu:Cancel": cancel}) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Stub(channel).unary_unary("Cancel")(b"")
        assert caught.value.code() is grpc.StatusCode.CANCELLED
        assert caught.value.details() == "not now"


@pytest.mark.parametrize("metadata", [(("key", "early"),), ()])
@pytest.mark.parametrize("kind", ["us", "ss"])
async def test_initial_metadata_comes_before_the_first_message(
    path: PathName, kind: str, metadata: tuple[tuple[str, str], ...]
) -> None:
    go_on = asyncio.Event()

    async def begin(_request: Any, context: Any) -> AsyncIterator[bytes]:
        await context.send_initial_metadata(metadata)
        await go_on.wait()
        yield b"late"

    async with calling(path, {f"{kind}:Begin": begin}) as channel:
        stub = Stub(channel)
        call = stub.unary_stream("Begin")(b"") if kind == "us" else stub.stream_stream("Begin")()
        assert by_key(await call.initial_metadata()) == by_key(metadata)
        go_on.set()
        assert await call.read() == b"late"
        call.cancel()


async def test_slow_reader_stops_the_server(path: PathName) -> None:
    written = 0

    async def pour(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        nonlocal written
        while True:
            yield bytes(64 * 1024)
            written += 1

    async with calling(path, {"us:Pour": pour}) as channel:
        call = Stub(channel).unary_stream("Pour")(b"")
        await call.read()
        seen = -1

        async def stands_still() -> bool:
            nonlocal seen
            before, seen = seen, written
            for _ in range(10):
                await asyncio.sleep(0)
            return before == written

        await until(stands_still)
        assert written < 1000
        call.cancel()
