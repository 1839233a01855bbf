"""
Goal: what relayrpc.testing gives for a real hub is a real hub, can be broken, and leaves nothing.

Method: run_hub() on loopback, over each carrier; processes of their own for what is not installed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

import relayrpc.aio
from relayrpc.carrier.url import CarrierChoice
from relayrpc.limits import Limits
from relayrpc.testing import LoopbackHub, run_hub
from samples.greeter import greeter_pb2 as pb
from samples.greeter import greeter_pb2_grpc
from samples.greeter.host import Greeter
from tests.support.until import until


pytestmark = pytest.mark.integration

ADDRESS = "contoso/greeter"
CARRIERS: list[CarrierChoice] = ["grpc", "websocket", "auto"]


async def serve(hub: LoopbackHub, carrier: CarrierChoice = "websocket") -> relayrpc.aio.Server:
    server = hub.server(ADDRESS, carrier=carrier)
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    await server.start()
    return server


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_cut_in_mid_stream_loses_nothing(carrier: CarrierChoice) -> None:
    async with run_hub() as hub:
        server = await serve(hub, carrier)
        channel = hub.channel(ADDRESS, carrier=carrier)
        stub = greeter_pb2_grpc.GreeterStub(channel)
        numbers, cut = [], set()
        async for reply in stub.ListGreetings(pb.ListGreetingsRequest(count=300, pause_ms=1)):
            numbers.append(reply.number)
            if reply.number % 50 == 0:
                peer = server if reply.number % 100 else channel
                if peer.live.state is grpc.ChannelConnectivity.READY:
                    hub.carrier(peer).cut()
                    cut.add(peer)
        assert numbers == list(range(1, 301))
        assert cut == {server, channel}


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_peer_that_is_cut_off_comes_back(carrier: CarrierChoice) -> None:
    async with run_hub() as hub:
        server = await serve(hub, carrier)
        stub = greeter_pb2_grpc.GreeterStub(hub.channel(ADDRESS))
        chat = stub.Chat()
        await chat.write(pb.ChatLine(text="hi"))
        assert (await chat.read()).text == "you said: hi"
        with hub.cut_off(server):
            await chat.write(pb.ChatLine(text="are you there?"))
            # It has dialled in vain.
            await until(
                lambda: server.live.state is grpc.ChannelConnectivity.TRANSIENT_FAILURE
            )
            assert server.live.carrier is None
        assert (await chat.read()).text == "you said: are you there?"
        await chat.done_writing()


async def test_program_of_ones_own_reaches_it_by_url() -> None:
    async with run_hub() as hub:
        assert hub.url() == f"relay://{hub.grpc_target}/"
        for carrier in CARRIERS:
            server = relayrpc.aio.server(hub.url(ADDRESS, carrier=carrier), carrier=carrier)
            greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
            await server.start()
            reply = await greeter_pb2_grpc.GreeterStub(hub.channel(ADDRESS)).SayHello(
                pb.HelloRequest(name="Ada")
            )
            assert reply.message == "Hello, Ada"
            await server.stop(None)


async def test_limits_are_the_hubs_and_of_what_is_made_on_it() -> None:
    limits = Limits(resume_window_s=7.0)
    async with run_hub(limits=limits, metrics=False) as hub:
        assert hub.hub.sessions.limits is limits
        assert hub.hub.config.metrics is False
        assert hub.server(ADDRESS).limits is limits
        assert hub.channel(ADDRESS, limits=Limits()).limits == Limits()


async def test_nothing_is_left_of_it() -> None:
    async def use_one() -> list[int]:
        async with run_hub() as hub:
            await serve(hub)
            hub.server("never/started")
            hub.channel("never/used")
            stub = greeter_pb2_grpc.GreeterStub(hub.channel(ADDRESS, carrier="auto"))
            running = stub.ListGreetings(pb.ListGreetingsRequest(count=9, pause_ms=100_000))
            assert (await running.read()).number == 1
            ports = [hub.hub.grpc_port, hub.hub.http_port]
        assert running.done()
        return ports

    def descriptors_count() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    # The first one opens what grpc keeps for the process.
    await use_one()
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    before_count = descriptors_count()
    for _ in range(5):
        for port in await use_one():
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    await until(lambda: descriptors_count() <= before_count)


# --- what is not installed ---

IN_MEMORY = """
import asyncio
from relayrpc.testing import memory_hub, run_hub, run_virtual

async def main():
    async with memory_hub() as hub:
        await hub.channel().channel_ready()

run_virtual(main)
asyncio.run(main())
"""


def run_without(modules: list[str], code: str) -> subprocess.CompletedProcess[str]:
    hide = f"import sys; sys.modules.update(dict.fromkeys({modules!r}))\n"
    command = [sys.executable, "-W", "error", "-c", hide + code]
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=60, check=False
    )


def test_hub_in_memory_needs_no_extra_and_no_pytest() -> None:
    modules = ["h11", "uvloop", "grpc_health", "pytest", "pytest_asyncio", "opentelemetry"]
    done = run_without(modules, IN_MEMORY)
    assert done.returncode == 0, done.stderr


def test_real_hub_names_the_extra_that_is_missing() -> None:
    code = "import asyncio, relayrpc.testing; asyncio.run(relayrpc.testing.run_hub().__aenter__())"
    done = run_without(["h11"], code)
    assert done.stderr.splitlines()[-1] == (
        "relayrpc.errors.ConfigError: relayrpc.testing.run_hub() needs h11, which comes with the "
        "extra [hub]: pip install 'relayrpc[hub]'"
    )
