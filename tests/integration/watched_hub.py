"""
A hub process whose log is kept, and a neighbour: a host and a caller that must not notice anything.

Owns: starting both, and the question whether the hub is unhurt. The hub is the command line's, the
neighbour an ordinary server and channel in the test's own process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import relayrpc.aio
from samples.greeter import greeter_pb2, greeter_pb2_grpc
from samples.greeter.host import Greeter
from tests.e2e.processes import RunningHub, running_hub


__all__ = ["Neighbour", "WatchedHub", "check_log", "neighbour_of", "watched_hub"]

# What asyncio, logging and gRPC write when an exception reached nobody.
_SIGNS_OF_HARM = ("Traceback", " ERROR ", " CRITICAL ", "Exception ignored", "never retrieved")


@dataclass(frozen=True, slots=True)
class WatchedHub:
    """A running hub, and what it wrote."""

    running: RunningHub
    log_file: Path

    @property
    def grpc_port(self) -> int:
        return self.running.grpc_port

    @property
    def http_port(self) -> int:
        return self.running.http_port

    @property
    def pid(self) -> int:
        return self.running.process.pid

    def check_unhurt(self) -> None:
        """Assert that the process runs and that no exception went astray in it."""
        assert self.running.process.poll() is None, self.log_file.read_text()
        self.check_log()

    def check_log(self) -> None:
        """Assert that no exception went astray."""
        check_log(self.log_file.read_text())

    async def stopped(self) -> int:
        """Wait for its end, while peers in this process go on; returns its exit code."""
        return await asyncio.to_thread(self.running.wait)

    def sockets_count(self) -> int:
        """Sockets that the hub's process has open."""
        return sockets_count(self.pid)


def check_log(log: str) -> None:
    """Assert that no exception went astray in the process that wrote this."""
    assert not any(sign in log for sign in _SIGNS_OF_HARM), log


def sockets_count(pid: int | str = "self") -> int:
    """Sockets that a process has open."""
    count = 0
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            count += os.readlink(f"/proc/{pid}/fd/{entry}").startswith("socket:")
        except FileNotFoundError:
            continue
    return count


@contextmanager
def watched_hub(folder: Path, *flags: str) -> Iterator[WatchedHub]:
    """Run a hub and keep its log in `folder`."""
    log_file = folder / "hub.log"
    with log_file.open("w") as log, running_hub(*flags, stderr=log) as running:
        yield WatchedHub(running, log_file)


class Neighbour:
    """Somebody else's host and caller at the same hub."""

    def __init__(
        self, stub: greeter_pb2_grpc.GreeterStub, metadata: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.stub = stub
        self._metadata = metadata

    async def check_served(self) -> None:
        """Assert that a call goes through."""
        request = greeter_pb2.HelloRequest(name="neighbour")
        reply = await self.stub.SayHello(request, timeout=20, metadata=self._metadata)
        assert reply.message == "Hello, neighbour"


@asynccontextmanager
async def neighbour_of(http_port: int) -> AsyncIterator[Neighbour]:
    """Serve and call at an address of its own."""
    url = f"ws://127.0.0.1:{http_port}/neighbour"
    server = relayrpc.aio.server(url)
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    await server.start()
    try:
        async with relayrpc.aio.channel(url) as channel:
            neighbour = Neighbour(greeter_pb2_grpc.GreeterStub(channel))
            await neighbour.check_served()
            yield neighbour
    finally:
        await server.stop(None)
