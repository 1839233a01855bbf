"""
Goal: a callback with a stream is stopped by credit where its reader does not read, on either side,
holds no more than its window meanwhile, keeps nobody else waiting, and goes on when it is read.

Method: hosts and callers over a real hub on loopback; streams far larger than the window, and
conditions that say when their writers have stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from relayrpc.limits import DEFAULT_LIMITS, KIB
from tests.support.relay import ADDRESS, Stub, make_handlers, running_hub
from tests.support.until import until


pytestmark = pytest.mark.integration

EVENTS = "test.Events"
SIZE = 16 * KIB
COUNT = 256
WINDOW = 64 * KIB
LIMITS = replace(
    DEFAULT_LIMITS,
    initial_credit_bytes=WINDOW,
    window_bytes_max=WINDOW,
    send_queue_bytes_high=WINDOW,
)
# Of 4 MiB: a window on each of the two legs, what waits behind it, and messages half written.
HELD_MAX = 6 * WINDOW


class Writer:
    """Writes numbered messages, and says how far it is."""

    def __init__(self) -> None:
        self.written_count = 0

    async def write(self) -> AsyncIterator[bytes]:
        for number in range(COUNT):
            self.written_count += 1
            yield b"%d" % number + bytes(SIZE)


class Reader:
    """Reads when it may, and notes what it read."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.numbers: list[int] = []

    async def read(self, messages: AsyncIterator[bytes]) -> None:
        async for message in messages:
            assert len(message) > SIZE
            self.numbers.append(int(message.rstrip(b"\0")))
            await self.go_on.wait()


class Listener:
    """What the caller serves."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def tell(self, request: bytes, context: Any) -> bytes:
        return b"heard " + request

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        async for message in self._writer.write():
            yield message

    async def join(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        await self._reader.read(requests)
        return b"joined"

    async def echo(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request


def add_listener(listener: Listener, server: grpc.aio.Server) -> None:
    behaviors = {
        "uu:Tell": listener.tell,
        "us:Count": listener.count,
        "su:Join": listener.join,
        "ss:Echo": listener.echo,
    }
    server.add_registered_method_handlers(EVENTS, make_handlers(behaviors))


async def _call_back(stub: Stub, method: str, writer: Writer, reader: Reader) -> None:
    """Make a callback whose stream nobody reads for now."""
    match method:
        case "Count":
            await reader.read(stub.unary_stream(method)(b""))
        case "Join":
            assert await stub.stream_unary(method)(writer.write()) == b"joined"
        case _:
            await reader.read(stub.stream_stream(method)(writer.write()))


@pytest.mark.parametrize("in_session", [False, True])
@pytest.mark.parametrize("method", ["Count", "Join", "Echo"])
async def test_a_callback_s_stream_stops_while_nobody_reads(method: str, in_session: bool) -> None:
    writer, reader = Writer(), Reader()
    stubs: list[Stub] = []

    async def handler(request: bytes, context: Any) -> bytes:
        stubs.append(Stub(context.caller(), EVENTS))
        await _call_back(stubs[0], method, writer, reader)
        return b"done"

    async with running_hub(limits=LIMITS) as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        server = relayrpc.aio.server(url, limits=LIMITS)
        server.add_registered_method_handlers("test.Service", make_handlers({"uu:Call": handler}))
        await server.start()
        callbacks = [(add_listener, Listener(writer, reader))]
        async with relayrpc.aio.channel(url, limits=LIMITS, callbacks=callbacks) as channel:
            session = channel.session() if in_session else None
            running = asyncio.ensure_future(Stub(session or channel).unary_unary("Call")(b""))
            await until(lambda: reader.numbers)
            writing = (channel if method == "Count" else server).live.link

            def has_stopped() -> bool:
                """Somebody has more to send, and may not."""
                return any(call.unsent_bytes >= SIZE for call in writing._calls.values())

            await until(has_stopped)
            # Others pass, as often as the stream would have had messages.
            for number in range(COUNT):
                data = b"%d" % number
                assert await stubs[0].unary_unary("Tell")(data) == b"heard " + data
            assert reader.numbers == [0]
            assert (writer.written_count - 1) * SIZE <= HELD_MAX
            held = sum(link.held_bytes for link in hub.sessions.table.links)
            assert held <= HELD_MAX
            reader.go_on.set()
            assert await running == b"done"
            assert reader.numbers == list(range(COUNT))
            if session is not None:
                await session.close()
        await server.stop(0)
