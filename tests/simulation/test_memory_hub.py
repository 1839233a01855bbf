"""
Goal: what a user tests on a hub in memory is what the relay does, at once and the same each time.

Method: the sample's servicer on memory_hub() inside of run_virtual(): cuts that Hypothesis draws,
deadlines of hours, peers that are cut off, and what is left at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import relayrpc.aio
from relayrpc.carrier.faulty import Direction
from relayrpc.errors import ConfigError, UsageError
from relayrpc.limits import Limits
from relayrpc.testing import MemoryHub, VirtualLoop, memory_hub, run_hub, run_virtual
from relayrpc.v1 import hub_pb2
from samples.greeter import greeter_pb2 as pb
from samples.greeter import greeter_pb2_grpc
from samples.greeter.host import Greeter


ADDRESS = "contoso/greeter"
HOUR_S = 3600.0


@dataclass
class Scene:
    """A host and a caller on a hub."""

    hub: MemoryHub
    server: relayrpc.aio.Server
    channel: relayrpc.aio.Channel

    @property
    def stub(self) -> Any:
        return greeter_pb2_grpc.GreeterStub(self.channel)


@asynccontextmanager
async def scene(servicer: Any = None, **options: Any) -> AsyncIterator[Scene]:
    async with memory_hub(**options) as hub:
        server = hub.server(ADDRESS)
        greeter_pb2_grpc.add_GreeterServicer_to_server(servicer or Greeter(), server)
        await server.start()
        yield Scene(hub, server, hub.channel(ADDRESS))


def now_s() -> float:
    return asyncio.get_running_loop().time()


class Plain(greeter_pb2_grpc.GreeterServicer):
    """Plain `def` handlers, which ask for a thread each."""

    def SayHello(self, request: pb.HelloRequest, context: grpc.ServicerContext) -> pb.HelloReply:
        if not request.name:
            raise ValueError("nobody to greet")
        return pb.HelloReply(message=f"Hello, {request.name}")

    def ListGreetings(
        self, request: pb.ListGreetingsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.HelloReply]:
        for number in range(1, request.count + 1):
            yield pb.HelloReply(number=number)

    def CollectNames(
        self, requests: Iterator[pb.HelloRequest], context: grpc.ServicerContext
    ) -> pb.HelloReply:
        return pb.HelloReply(message=" ".join(request.name for request in requests))


# --- cuts ---


@dataclass(frozen=True)
class Cut:
    """A carrier's end at its nth batch."""

    is_hosts: bool
    batch_count: int
    direction: Direction
    is_delivered: bool


CUTS = st.builds(
    Cut,
    is_hosts=st.booleans(),
    batch_count=st.integers(1, 8),
    direction=st.sampled_from(["outgoing", "incoming"]),
    is_delivered=st.booleans(),
)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.lists(CUTS, min_size=1, max_size=12))
def test_cut_in_mid_stream_loses_nothing(seed: int, cuts: list[Cut]) -> None:
    greetings_count = 150

    async def cut_each(on: Scene) -> None:
        for cut in cuts:
            peer = on.server if cut.is_hosts else on.channel
            while peer.live.state is not grpc.ChannelConnectivity.READY:
                await asyncio.sleep(0.01)
            carrier = on.hub.carrier(peer)
            carrier.cut_after(
                cut.batch_count, direction=cut.direction, is_delivered=cut.is_delivered
            )
            while not carrier.is_over:
                await asyncio.sleep(0.01)

    async def names() -> AsyncIterator[pb.HelloRequest]:
        for number in range(greetings_count):
            await asyncio.sleep(0.05)
            yield pb.HelloRequest(name=str(number))

    async def main() -> None:
        async with scene() as on:
            # A link that has carried nothing yet is not kept for a resume.
            await on.stub.SayHello(pb.HelloRequest(name="Ada"))
            cutting = asyncio.ensure_future(cut_each(on))
            collecting = asyncio.ensure_future(on.stub.CollectNames(names()).__await__())
            request = pb.ListGreetingsRequest(name="Ada", count=greetings_count, pause_ms=50)
            numbers = [reply.number async for reply in on.stub.ListGreetings(request)]
            assert numbers == list(range(1, greetings_count + 1))
            expected = " and ".join(str(number) for number in range(greetings_count))
            assert (await collecting).message == f"Hello, {expected}"
            cutting.cancel()

    run_virtual(main, seed=seed)


async def test_carrier_can_be_cut_on_a_real_loop_too() -> None:
    async with scene() as on:
        request = pb.ListGreetingsRequest(name="Ada", count=50)
        numbers = []
        async for reply in on.stub.ListGreetings(request):
            numbers.append(reply.number)
            if reply.number in (10, 20):
                on.hub.carrier(on.server if reply.number == 10 else on.channel).cut()
        assert numbers == list(range(1, 51))


# --- time ---


async def _transcript() -> list[str]:
    """What two callers see of a host that is cut off twice, with the time of it."""
    lines: list[str] = []

    async def read(name: str, stub: Any, pause_ms: int) -> None:
        request = pb.ListGreetingsRequest(name=name, count=40, pause_ms=pause_ms)
        try:
            async for reply in stub.ListGreetings(request, timeout=HOUR_S):
                lines.append(f"{now_s()} {name} {reply.number}")
            await stub.SayHello(pb.HelloRequest())
        except grpc.aio.AioRpcError as error:
            lines.append(f"{now_s()} {name} {error.code().name} {error.details()}")

    class Failing(Greeter):
        async def SayHello(self, request: pb.HelloRequest, context: Any) -> pb.HelloReply:
            raise ValueError

    async with scene(Failing()) as on:
        other = greeter_pb2_grpc.GreeterStub(on.hub.channel(ADDRESS))
        readers = asyncio.gather(read("Ada", on.stub, 100_000), read("Grace", other, 50_000))
        for pause_s in (HOUR_S / 4, HOUR_S / 3):
            await asyncio.sleep(pause_s)
            with on.hub.cut_off(on.server):
                await asyncio.sleep(10.0)
        await readers
    return lines


def test_hours_pass_at_once_and_the_same_way_for_one_seed() -> None:
    transcripts = {seed: run_virtual(_transcript, seed=seed) for seed in range(3)}
    for seed, lines in transcripts.items():
        assert lines == run_virtual(_transcript, seed=seed)
        assert len(lines) > 60
        assert "DEADLINE_EXCEEDED" in lines[-1], "40 pauses of 100 s are more than an hour"
        assert any("the handler failed, incident" in line for line in lines)
    assert len({tuple(lines) for lines in transcripts.values()}) == len(transcripts)


def test_deadline_passes_when_it_is_due() -> None:
    async def main() -> None:
        async with scene() as on:
            await on.channel.channel_ready()
            before_s = now_s()
            request = pb.ListGreetingsRequest(count=2, pause_ms=int(10 * HOUR_S * 1000))
            call = on.stub.ListGreetings(request, timeout=HOUR_S)
            with pytest.raises(relayrpc.aio.DeadlineExceededError):
                _ = [reply async for reply in call]
            # No sooner, and no later than the wheel of deadlines turns.
            assert 0.0 <= now_s() - before_s - HOUR_S < 0.1

    run_virtual(main)


def test_peer_that_is_cut_off_longer_than_its_window_is_lost() -> None:
    async def main() -> None:
        async with scene(limits=Limits(resume_window_s=60.0)) as on:
            request = pb.ListGreetingsRequest(count=500, pause_ms=1000)
            reading = on.stub.ListGreetings(request).__aiter__()
            assert (await anext(reading)).number == 1
            with on.hub.cut_off(on.server):
                await asyncio.sleep(45.0)
            assert (await anext(reading)).number == 2
            with on.hub.cut_off(on.server):
                await asyncio.sleep(0.1)
                with pytest.raises(UsageError, match="no carrier"):
                    on.hub.carrier(on.server)
                with pytest.raises(relayrpc.aio.RpcError) as lost:
                    _ = [reply async for reply in reading]
                assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
                assert lost.value.may_have_executed
                with pytest.raises(relayrpc.aio.RpcError) as unserved:
                    await on.stub.SayHello(pb.HelloRequest(name="Ada"))
                assert not unserved.value.may_have_executed
            greeting = on.stub.SayHello(pb.HelloRequest(name="Ada"), wait_for_ready=True)
            assert (await greeting).message == "Hello, Ada"

    run_virtual(main)


def test_plain_handlers_are_served_on_virtual_time() -> None:
    async def main() -> None:
        async with scene(Plain()) as on:
            assert (await on.stub.SayHello(pb.HelloRequest(name="Ada"))).message == "Hello, Ada"
            listing = on.stub.ListGreetings(pb.ListGreetingsRequest(count=5))
            assert [reply.number async for reply in listing] == [1, 2, 3, 4, 5]
            # To wait for requests it would need a thread.
            with pytest.raises(relayrpc.aio.RpcError) as refused:
                await on.stub.CollectNames(iter([pb.HelloRequest(name="Ada")]))
            assert refused.value.code() is grpc.StatusCode.UNKNOWN

    run_virtual(main)


# --- the hub ---


def test_hub_tells_of_itself_as_any_hub_does() -> None:
    async def main() -> None:
        async with scene() as on:
            list_hosts = on.hub.channel("$hub").unary_stream(
                "/relayrpc.v1.Hub/List",
                request_serializer=hub_pb2.ListRequest.SerializeToString,
                response_deserializer=hub_pb2.ListResponse.FromString,
            )
            parts = [part async for part in list_hosts(hub_pb2.ListRequest())]
            addresses = {host.address for part in parts for host in part.hosts}
            assert ADDRESS in addresses
            assert {link.carrier for part in parts for link in part.links} == {"memory"}

    run_virtual(main)


def test_nothing_is_left_of_a_hub_and_what_was_made_on_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        async with scene() as on:
            on.hub.server("never/started")
            on.hub.channel("never/used")
            on.hub.carrier(on.server).stall()
            running = on.stub.ListGreetings(pb.ListGreetingsRequest(count=9, pause_ms=1000))
            cut_off = on.hub.channel(ADDRESS)
            await cut_off.channel_ready()
            with on.hub.cut_off(cut_off):
                await asyncio.sleep(1.0)
        with pytest.raises(asyncio.CancelledError):
            await running.read()
        # The turn in which the last link's timers are let go.
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not loop.timers()

    run_virtual(main)


def test_what_cannot_be_done_says_so() -> None:
    async def main() -> None:
        async with scene() as on, memory_hub() as other:
            with pytest.raises(UsageError, match="this hub's server"):
                other.carrier(on.server)
            with pytest.raises(UsageError, match=r"channel_ready\(\)"):
                on.hub.carrier(on.channel)
            with pytest.raises(ConfigError, match="address segment"):
                on.hub.server("no such/address")
            with pytest.raises(UsageError, match=r"use memory_hub\(\)"):
                await run_hub().__aenter__()

    run_virtual(main)
