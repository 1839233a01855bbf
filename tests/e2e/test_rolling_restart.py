"""
Goal: hosts are restarted one after the other under load, and no call is lost.

Method: a hub and two hosts of the greeter sample as processes; callers of both kinds that call in
every shape all the time, and fail the test with any call that does. A host that gets SIGTERM has
calls running; it is replaced once it has ended, and its neighbour follows.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from samples.greeter import greeter_pb2, greeter_pb2_grpc
from tests.e2e.processes import running_hub


pytestmark = pytest.mark.e2e

CALLERS_COUNT: Final = 8
GREETINGS_COUNT: Final = 10
PAUSE_MS: Final = 5


class Load:
    """Callers that never rest."""

    def __init__(self) -> None:
        self.rounds: list[int] = []
        self._moved = asyncio.Condition()

    async def call_on(self, stub: Any, metadata: Any = None) -> None:
        """Call in every shape, again and again."""
        caller = len(self.rounds)
        self.rounds.append(0)
        while True:
            await call_in_every_shape(stub, f"{caller} {self.rounds[caller]}", metadata)
            self.rounds[caller] += 1
            async with self._moved:
                self._moved.notify_all()

    async def went_on(self) -> None:
        """Wait until every caller has finished two more rounds: one of them is all new calls."""
        due = [rounds + 2 for rounds in self.rounds]
        async with self._moved:
            await self._moved.wait_for(
                lambda: all(now >= then for now, then in zip(self.rounds, due, strict=True))
            )


async def call_in_every_shape(stub: Any, name: str, metadata: Any) -> None:
    request = greeter_pb2.HelloRequest(name=name)
    reply = await stub.SayHello(request, metadata=metadata)
    assert reply.message == f"Hello, {name}"
    listing = greeter_pb2.ListGreetingsRequest(name=name, count=GREETINGS_COUNT, pause_ms=PAUSE_MS)
    numbers = [reply.number async for reply in stub.ListGreetings(listing, metadata=metadata)]
    assert numbers == list(range(1, GREETINGS_COUNT + 1))
    reply = await stub.CollectNames(iter([request] * 3), metadata=metadata)
    assert reply.message == f"Hello, {name} and {name} and {name}"
    chat = stub.Chat(metadata=metadata)
    for line in range(3):
        await chat.write(greeter_pb2.ChatLine(text=f"{name} {line}"))
        assert (await chat.read()).text == f"you said: {name} {line}"
    await chat.done_writing()
    assert await chat.read() is grpc.aio.EOF


@contextlib.asynccontextmanager
async def host(url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the sample's host, registered; it is killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "samples.greeter.host", url), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        while b"serving" not in (line := await process.stdout.readline()):
            assert line, "the host ended before it served"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("door", ["relay", "ws"])
async def test_rolling_restart_of_two_hosts_loses_no_call(door: str) -> None:
    with running_hub() as hub:
        port = hub.grpc_port if door == "relay" else hub.http_port
        url = f"{door}://127.0.0.1:{port}/contoso/greeter"
        load = Load()
        async with (
            contextlib.AsyncExitStack() as hosts,
            relayrpc.aio.channel(url) as relayed,
            grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as native,
        ):
            running = [await hosts.enter_async_context(host(url)) for _ in range(2)]
            async with asyncio.TaskGroup() as group:
                calling = []
                for _ in range(CALLERS_COUNT):
                    stub = greeter_pb2_grpc.GreeterStub(relayed)
                    calling.append(group.create_task(load.call_on(stub)))
                    stub = greeter_pb2_grpc.GreeterStub(native)
                    at = (("relay-address", "contoso/greeter"),)
                    calling.append(group.create_task(load.call_on(stub, at)))
                await asyncio.sleep(0)
                for old in running:
                    await load.went_on()
                    old.send_signal(signal.SIGTERM)
                    assert await old.wait() == 0
                    await load.went_on()
                    await hosts.enter_async_context(host(url))
                await load.went_on()
                for task in calling:
                    task.cancel()
