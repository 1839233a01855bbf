"""
The command line as a user meets it. Goal: clear answers to mistakes, and orderly ends.

Method: real processes.
"""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import relayrpc.aio
from samples.greeter import greeter_pb2, greeter_pb2_grpc
from samples.greeter.host import Greeter
from tests.e2e.processes import RunningHub, running_hub
from tests.support.until import until_refused


pytestmark = pytest.mark.e2e


def run_relayrpc(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "relayrpc", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_hub_listens_on_both_doors_and_stops_with_0_on_signal(number: signal.Signals) -> None:
    with running_hub() as hub:
        for port in (hub.grpc_port, hub.http_port):
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
        hub.process.send_signal(number)
        assert hub.wait() == 0


class SlowGreeter(Greeter):
    """Greets when it is told to."""

    def __init__(self) -> None:
        self.called = asyncio.Event()
        self.may_reply = asyncio.Event()

    async def SayHello(
        self, request: greeter_pb2.HelloRequest, context: grpc.aio.ServicerContext
    ) -> greeter_pb2.HelloReply:
        self.called.set()
        await self.may_reply.wait()
        return await super().SayHello(request, context)


@asynccontextmanager
async def running_call(hub: RunningHub) -> AsyncIterator[tuple[SlowGreeter, Any]]:
    """A call through the hub whose handler waits; gives the servicer and the call."""
    url = f"relay://127.0.0.1:{hub.grpc_port}/contoso/greeter"
    greeter = SlowGreeter()
    server = relayrpc.aio.server(url)
    greeter_pb2_grpc.add_GreeterServicer_to_server(greeter, server)
    await server.start()
    async with relayrpc.aio.channel(url) as channel:
        stub = greeter_pb2_grpc.GreeterStub(channel)
        call = stub.SayHello(greeter_pb2.HelloRequest(name="Ada"))
        await greeter.called.wait()
        yield greeter, call
    await server.stop(None)


async def test_hub_lets_running_call_finish_after_sigterm() -> None:
    with running_hub() as hub:
        async with running_call(hub) as (greeter, call):
            hub.process.send_signal(signal.SIGTERM)
            await until_refused(hub.grpc_port)
            await until_refused(hub.http_port)
            greeter.may_reply.set()
            assert (await call).message == "Hello, Ada"
        assert await asyncio.to_thread(hub.wait) == 0


async def test_hub_stops_at_once_on_second_signal() -> None:
    with running_hub("--drain-timeout", "3600") as hub:
        async with running_call(hub) as (_, call):
            hub.process.send_signal(signal.SIGTERM)
            await until_refused(hub.http_port)
            hub.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(hub.wait) == 0
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_hub_logs_on_standard_error_who_came_and_what_failed(tmp_path: Path) -> None:
    log_file = tmp_path / "hub.log"
    with log_file.open("w") as log, running_hub("--drain-timeout", "0.1", stderr=log) as hub:
        async with running_call(hub) as (_, call):
            hub.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(hub.wait) == 0
            with pytest.raises(grpc.aio.AioRpcError):
                await call
    lines = log_file.read_text().splitlines()
    head = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING) relayrpc\.hub: "
    assert all(re.match(head, line) for line in lines), lines
    for begin in (
        "host came link_id=",
        "hub draining timeout_s=",
        "hub drain cut short duration_s=",
        "call failed link_id=",
    ):
        found = [line for line in lines if f" relayrpc.hub: {begin}" in line and "$" not in line]
        assert len(found) == 1, (begin, lines)


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (["--grpc", "127.0.0.1"], "port"),
        (["--grpc", "127.0.0.1:seven"], "port"),
        (["--http", "127.0.0.1:70000"], "port"),
        (["--tls-cert", "cert.pem"], "--tls-key"),
        (["--tls-cert", "no-such.pem", "--tls-key", "no-such.pem"], "no-such.pem"),
        (["--http-public", "ftp://example.com"], "ws://"),
        (["--grpc", "0.0.0.0:0"], "--insecure-listen"),
        (["--http", "0.0.0.0:0"], "--insecure-listen"),
        (["--keepalive", "-1"], "--keepalive"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_hub_refuses_bad_flag_with_one_sentence_and_exit_code_2(
    flags: list[str], hint: str
) -> None:
    ports = [] if {"--grpc", "--http"} & set(flags) else ["--grpc", "127.0.0.1:0"]
    done = run_relayrpc("hub", "--http", "127.0.0.1:0", *ports, *flags)
    assert done.returncode == 2, done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_hub_says_which_port_is_taken_with_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for flag, other in (("--grpc", "--http"), ("--http", "--grpc")):
            done = run_relayrpc("hub", flag, f"127.0.0.1:{port}", other, "127.0.0.1:0")
            assert done.returncode == 1, done.stderr
            assert str(port) in done.stderr
            assert "Traceback" not in done.stderr


def test_hub_names_the_missing_extra() -> None:
    """A finder that hides what the extra brings stands for an installation without it."""
    hide = (
        "import sys; sys.modules.update(h11=None, uvloop=None); "
        "sys.argv = ['relayrpc', 'hub', '--grpc', '127.0.0.1:0', '--http', '127.0.0.1:0']; "
        "from relayrpc.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", hide], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "relayrpc[hub]" in done.stderr
    assert "Traceback" not in done.stderr
