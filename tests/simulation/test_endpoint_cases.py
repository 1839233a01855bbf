"""
What the simulation found wrong in live links, servers and channels, each in a few steps.

Method: one hub and one endpoint on a virtual-time loop, over memory carriers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import random
from typing import Any

import grpc
import grpc.aio
import pytest

from relayrpc.carrier.memory import memory_pair
from relayrpc.carrier.url import parse_url
from relayrpc.endpoint.channel import Channel
from relayrpc.endpoint.dialler import Dialling
from relayrpc.endpoint.live_link import LiveLink
from relayrpc.endpoint.server import Server
from relayrpc.errors import ConnectError
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.testing.virtual_time import VirtualLoop, run_virtual
from relayrpc.v1 import link_pb2
from samples.greeter import greeter_pb2 as pb
from samples.greeter import greeter_pb2_grpc
from samples.greeter.host import Greeter
from tests.simulation.ring2_network import Network


def _network() -> Network:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    network = Network(loop, random.Random(1), limits=DEFAULT_LIMITS, delay_s_max=0.0)
    network.start_hub()
    return network


def _server(
    network: Network, servicer: Any = None, *, dialling: Dialling | None = None
) -> Server:
    def make_live(on_call: Any) -> LiveLink:
        return LiveLink(
            [parse_url("relay://hub:7350/a", carrier="grpc")],
            limits=DEFAULT_LIMITS,
            on_call=on_call,
            dialling=dialling or network.dialling("host"),
        )

    server = Server(make_live, address="a")
    greeter_pb2_grpc.add_GreeterServicer_to_server(servicer or Greeter(), server)
    return server


def _channel(network: Network) -> Channel:
    live = LiveLink(
        [parse_url("relay://hub:7350/a", carrier="grpc")],
        limits=DEFAULT_LIMITS,
        dialling=network.dialling("caller"),
    )
    return Channel(live, address="a")


def test_server_start_fails_when_it_is_stopped_before_the_hub_answers() -> None:
    async def main() -> None:
        network = _network()
        server = _server(network)
        starting = asyncio.ensure_future(server.start())
        while not network.connections:
            await asyncio.sleep(0)
        network.connections[0].vanish()
        await asyncio.sleep(1.0)
        await server.stop(None)
        with pytest.raises(ConnectError):
            await starting

    run_virtual(main)


def test_reader_of_requests_sees_no_end_of_them_when_the_server_stops() -> None:
    """Half closing is what says that the requests are complete; a stop is a cancellation."""
    seen: list[str] = []

    class Servicer(greeter_pb2_grpc.GreeterServicer):
        async def CollectNames(self, requests: Any, context: Any) -> pb.HelloReply:
            reading = asyncio.ensure_future(self._read(requests))
            await asyncio.wait([reading])
            return pb.HelloReply()

        async def _read(self, requests: Any) -> None:
            try:
                async for request in requests:
                    seen.append(request.name)
                seen.append("the end")
            except asyncio.CancelledError:
                seen.append("cancelled")

    async def main() -> None:
        network = _network()
        server = _server(network, Servicer())
        await server.start()
        channel = _channel(network)
        call = greeter_pb2_grpc.GreeterStub(channel).CollectNames()
        await call.write(pb.HelloRequest(name="Ada"))
        await asyncio.sleep(1.0)
        await server.stop(None)
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        await channel.close()

    run_virtual(main)
    assert seen == ["Ada", "cancelled"]


@pytest.mark.parametrize("is_drained", [False, True])
def test_call_waits_for_the_next_link_when_the_hub_is_replaced(is_drained: bool) -> None:
    """From the moment the old link is of no use, none is refused for the lack of a link."""

    async def main() -> None:
        network = _network()
        server = _server(network)
        await server.start()
        channel = _channel(network)
        stub = greeter_pb2_grpc.GreeterStub(channel)
        await stub.SayHello(pb.HelloRequest(name="Ada"))
        old_link = channel.live.link
        old_hub, old_connections = network.hub, list(network.connections)
        assert old_hub is not None
        network.start_hub()
        next_server = _server(network)
        await next_server.start()
        if not is_drained:
            for connection in old_connections:
                connection.far.cut()
        ending = asyncio.ensure_future(old_hub.drain() if is_drained else old_hub.aclose())
        while channel.live.link is old_link:
            await asyncio.sleep(0)
        for _ in range(3):
            assert (await stub.SayHello(pb.HelloRequest(name="Ada"))).message == "Hello, Ada"
        await ending
        await channel.close()
        await server.stop(None)
        await next_server.stop(None)

    run_virtual(main)


def test_dialler_waits_longer_each_time_when_the_hub_ends_every_link() -> None:
    """A hub that welcomes and closes at once is not dialled in a tight loop."""

    async def main() -> None:
        network = _network()
        server = _server(network)
        await server.start()
        dials_before = network.dials_count
        loop = asyncio.get_running_loop()
        until_s = loop.time() + 60.0
        while loop.time() < until_s:
            assert network.hub is not None
            for link in network.hub.table.links:
                link.close(code=link_pb2.Close.CODE_LIMIT, reason="too many links")
                link.flush_soon()
            await asyncio.sleep(0.01)
        # 0.1 s, growing by 1.6 to 10 s: a dozen or so in a minute, not hundreds.
        assert network.dials_count - dials_before < 30
        await server.stop(None)

    run_virtual(main)


def test_hosts_whose_hub_crashed_are_back_in_one_round_and_not_all_at_once() -> None:
    """Each dials ever more rarely, at times of its own, and once more when its link is unknown."""
    hosts_count, down_s = 50, 12.0
    loop_times: list[list[float]] = [[] for _ in range(hosts_count)]

    def recorded(dialling: Dialling, times: list[float]) -> Dialling:
        async def dial(*args: Any, **options: Any) -> Any:
            times.append(asyncio.get_running_loop().time())
            return await dialling.dial(*args, **options)

        return dataclasses.replace(dialling, dial=dial)

    async def main() -> None:
        network = _network()
        servers = [
            _server(network, dialling=recorded(network.dialling("host"), times))
            for times in loop_times
        ]
        for server in servers:
            await server.start()
        loop = asyncio.get_running_loop()
        await network.kill_hub()
        await asyncio.sleep(down_s)
        up_s = loop.time()
        network.start_hub()
        await asyncio.sleep(2 * DEFAULT_LIMITS.backoff_s_max)
        firsts = []
        for server, times in zip(servers, loop_times, strict=True):
            assert server.live.state is grpc.ChannelConnectivity.READY
            # Its link's first one, one at once, then pauses of 0.1 s that grow by 1.6.
            assert len([each for each in times if each < up_s]) <= 12
            first, second = [each for each in times if each >= up_s]
            assert second - first < 0.01, "a hub that answered was left waiting"
            firsts.append(first)
        assert max(firsts) - up_s <= DEFAULT_LIMITS.backoff_s_max * 1.2
        # The pauses of all together differ by more than those of one.
        assert max(firsts) - min(firsts) > 1.0
        for server in servers:
            await server.stop(None)

    run_virtual(main)


@pytest.mark.parametrize("is_opened", [True, False])
def test_dialling_leaves_nothing_when_its_loop_ends_in_that_moment(is_opened: bool) -> None:
    """asyncio.run() cancels every task; what was dialled by then is nobody's."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        dialled: asyncio.Future[Any] = loop.create_future()
        ours, hubs = memory_pair(limits=DEFAULT_LIMITS, schedule=loop.call_soon)

        async def dial(*_: Any, **__: Any) -> Any:
            return await dialled

        live = LiveLink(
            [parse_url("relay://hub:7350/a", carrier="grpc")],
            limits=DEFAULT_LIMITS,
            dialling=dataclasses.replace(_network().dialling("caller"), dial=dial),
        )
        live.start()
        await asyncio.sleep(1.0)
        if is_opened:
            dialled.set_result(ours)
        else:
            dialled.set_exception(ConnectError("refused"))
        # The dialling is over with the next turn; the link's task is cancelled before it looks.
        this = asyncio.current_task()
        loop.call_soon(lambda: loop.call_soon(_cancel_all_but, this))
        await asyncio.sleep(1.0)
        assert not is_opened or not ours.is_writable
        hubs.abort()
        await live.aclose()
        # An error that nobody took is told when its task is collected.
        del live
        gc.collect()
        await asyncio.sleep(1.0)

    run_virtual(main)


def _cancel_all_but(this: asyncio.Task[Any] | None) -> None:
    for task in asyncio.all_tasks():
        if task is not this:
            task.cancel()
