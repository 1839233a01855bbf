"""
Hosts and callers for the fault tests: recorders in processes of their own or in the test's, and
channels with the recorder's methods.

Owns: starting and ending them. Source: recorder.py.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

import relayrpc.aio
from tests.integration.recorder import SERVICE, Recorder


__all__ = ["RecorderStub", "calling", "host_process", "recording"]


class RecorderStub:
    """The recorder's methods on a channel, bytes in and out."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.echo = channel.unary_unary(f"/{SERVICE}/Echo")
        self.count = channel.unary_stream(f"/{SERVICE}/Count")
        self.collect = channel.stream_unary(f"/{SERVICE}/Collect")
        self.chat = channel.stream_stream(f"/{SERVICE}/Chat")
        self.hold = channel.unary_unary(f"/{SERVICE}/Hold")
        self.block = channel.unary_unary(f"/{SERVICE}/Block")
        self.exchange = channel.unary_unary(f"/{SERVICE}/Exchange")
        self._report = channel.unary_unary(f"/{SERVICE}/Report")

    async def report(self) -> dict[str, Any]:
        """What the host's process executed and holds."""
        report: dict[str, Any] = json.loads(await self._report(b"", timeout=60))
        return report

    async def served_again(self) -> None:
        """Call until a host is registered again; each end before says that nobody ran it."""
        while error := await self._error_of_echo():
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error
            assert not error.may_have_executed, error

    async def _error_of_echo(self) -> relayrpc.aio.RpcError | None:
        try:
            await self.echo(b"again", timeout=20)
        except relayrpc.aio.RpcError as error:
            return error
        return None


@asynccontextmanager
async def host_process(
    url: str, carrier: str = "auto", service: str = SERVICE
) -> AsyncIterator[subprocess.Popen[str]]:
    """Run a recorder in a process of its own, registered; it is killed at the end."""
    command = (sys.executable, "-m", "tests.integration.recorder", url, carrier, service)
    # Starting is quick; what takes time is waited for in a thread.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220
        try:
            assert process.stdout is not None
            # Its way to the hub may lead through a proxy on this loop.
            line = await asyncio.to_thread(process.stdout.readline)
            assert line == "registered\n", f"the host printed {line!r}"
            yield process
        finally:
            process.kill()


@asynccontextmanager
async def recording(url: str, **options: Any) -> AsyncIterator[Recorder]:
    """Run a recorder in this process, registered; it is stopped at the end."""
    recorder = Recorder()
    server = relayrpc.aio.server(url, **options)
    server.add_generic_rpc_handlers((recorder.handlers(),))
    await server.start()
    try:
        yield recorder
    finally:
        recorder.released.set()
        await server.stop(None)


@asynccontextmanager
async def calling(url: str, **options: Any) -> AsyncIterator[RecorderStub]:
    """Open a channel with the recorder's methods."""
    async with relayrpc.aio.channel(url, **options) as channel:
        yield RecorderStub(channel)
