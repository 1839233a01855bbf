"""
Goal: gRPC clients and hosts that do not read cost the hub little, and nobody else notices.

Method: a hub process; 100 streams of one client at a host that floods or never reads, until
nothing moves any more; the hub's memory as the kernel counts it, at its peak. Meanwhile a
neighbour with a host of its own calls both ways a caller can.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from samples.greeter import greeter_pb2_grpc
from tests.integration.recorder import memory_kib
from tests.integration.watched_hub import Neighbour, neighbour_of, watched_hub


pytestmark = pytest.mark.integration

STREAMS_COUNT = 100
GROWTH_KIB_MAX = 64 * 1024
# The neighbour's calls, while nothing of the flood moves, after which it counts as over.
STILL_CALLS_COUNT = 50
FAR_MESSAGE_BYTES = 16 * 1024
# 8 MiB: without a bound of its own the window would have grown to megabytes by then.
FAR_READ_COUNT = 512
AHEAD_BYTES_MAX = 1024 * 1024
AT = (("relay-address", "flood"),)


class Flood:
    """Hosts and sends what nobody reads; counts each stream's messages that went somewhere."""

    def __init__(self, message_bytes: int) -> None:
        self._message = bytes(message_bytes)
        self.responses = [0] * STREAMS_COUNT
        self.requests = [0] * STREAMS_COUNT

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        return {
            "Pour": grpc.unary_stream_rpc_method_handler(self._pour),
            "Ignore": grpc.stream_unary_rpc_method_handler(self._ignore),
            "Both": grpc.stream_stream_rpc_method_handler(self._both),
        }

    async def _pour(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        number = int(request)
        while True:
            yield self._message
            self.responses[number] += 1

    async def _ignore(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def _both(self, requests: AsyncIterator[bytes], context: Any) -> None:
        number = int(dict(context.invocation_metadata())["number"])
        while True:
            await context.write(self._message)
            self.responses[number] += 1

    async def write(self, call: Any, number: int) -> None:
        """Send requests for as long as they are taken."""
        while True:
            await call.write(self._message)
            self.requests[number] += 1

    def begin(
        self, channel: grpc.aio.Channel, method: str, group: asyncio.TaskGroup
    ) -> tuple[list[Any], list[asyncio.Task[None]]]:
        """Open the streams, which nobody reads; returns them, and the tasks that write."""
        calls: list[Any] = []
        writing = []
        for number in range(STREAMS_COUNT):
            at = (*AT, ("number", str(number)))
            path = f"/tests.Flood/{method}"
            if method == "Pour":
                calls.append(channel.unary_stream(path)(str(number).encode(), metadata=at))
                continue
            open_call = channel.stream_unary if method == "Ignore" else channel.stream_stream
            calls.append(open_call(path)(metadata=at))
            writing.append(group.create_task(self.write(calls[-1], number)))
        return calls, writing


@asynccontextmanager
async def flooding_host(port: int, flood: Flood) -> AsyncIterator[None]:
    server = relayrpc.aio.server(f"ws://127.0.0.1:{port}/flood")
    server.add_registered_method_handlers("tests.Flood", flood.handlers())
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


@pytest.mark.parametrize(
    ("method", "message_bytes"),
    [
        ("Pour", 1024),
        ("Pour", 64 * 1024),
        ("Ignore", 1024),
        ("Ignore", 64 * 1024),
        ("Both", 16 * 1024),
    ],
)
async def test_streams_that_nobody_reads_cost_the_hub_little(
    method: str, message_bytes: int, tmp_path: Path
) -> None:
    flood = Flood(message_bytes)
    # Takes no more than the usual window ahead of its reader, as clients other than Python's do.
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 * 1024)]
    with watched_hub(tmp_path) as hub:
        target = f"127.0.0.1:{hub.grpc_port}"
        async with (
            neighbour_of(hub.http_port) as neighbour,
            native_neighbour(target) as native,
            flooding_host(hub.http_port, flood),
            grpc.aio.insecure_channel(target, options=options) as channel,
        ):
            for _ in range(STILL_CALLS_COUNT):
                await check_served(neighbour, native)
            before_kib = memory_kib(hub.pid)
            async with asyncio.TaskGroup() as group:
                calls, writing = flood.begin(channel, method, group)
                await nothing_moves(flood, neighbour, native)
                for task in writing:
                    task.cancel()
            if method != "Pour":
                assert min(flood.requests) > 0, "a stream that sent nothing floods nobody"
            if method != "Ignore":
                assert min(flood.responses) > 0
            assert memory_kib(hub.pid, "VmHWM") - before_kib < GROWTH_KIB_MAX
            for call in calls:
                call.cancel()
            await check_served(neighbour, native)
        hub.check_unhurt()


async def test_far_host_is_not_ahead_of_its_client_by_more_than_a_near_one(tmp_path: Path) -> None:
    """Between links a window follows round trip times rate; here what fills it is at the hub."""
    flood = Flood(FAR_MESSAGE_BYTES)
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 * 1024)]
    with watched_hub(tmp_path) as hub:
        target = f"127.0.0.1:{hub.grpc_port}"
        async with (
            neighbour_of(hub.http_port) as neighbour,
            far_port(hub.http_port) as port,
            flooding_host(port, flood),
            grpc.aio.insecure_channel(target, options=options) as channel,
        ):
            call = channel.unary_stream("/tests.Flood/Pour")(b"0", metadata=AT)
            for _ in range(FAR_READ_COUNT):
                assert len(await call.read()) == FAR_MESSAGE_BYTES
            await nothing_moves(flood, neighbour)
            ahead_bytes = (flood.responses[0] - FAR_READ_COUNT) * FAR_MESSAGE_BYTES
            # In the host's own queue, the window, gRPC's hands, and the client's window.
            assert 0 < ahead_bytes < AHEAD_BYTES_MAX
            call.cancel()
        hub.check_unhurt()


@asynccontextmanager
async def far_port(port: int) -> AsyncIterator[int]:
    """Another way to a port, 50 ms there and back."""
    command = ("-m", "benchmarks.delay_proxy", str(port), "25")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield json.loads(await process.stdout.readline())["ready"]["port"]
    finally:
        process.kill()
        await process.wait()


async def nothing_moves(flood: Flood, *neighbours: Neighbour) -> None:
    """Return when the flood has come to a stop; the neighbours are served all the time."""
    moved, still_count = -1, 0
    while still_count < STILL_CALLS_COUNT:
        await check_served(*neighbours)
        now = sum(flood.requests) + sum(flood.responses)
        still_count = still_count + 1 if now == moved else 0
        moved = now


@asynccontextmanager
async def native_neighbour(target: str) -> AsyncIterator[Neighbour]:
    """The neighbour's other caller: a gRPC client on a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        yield Neighbour(greeter_pb2_grpc.GreeterStub(channel), (("relay-address", "neighbour"),))


async def check_served(*neighbours: Neighbour) -> None:
    for neighbour in neighbours:
        await neighbour.check_served()
