"""
What the simulation found wrong in live links, servers and channels, each in a few steps.

Method: one hub and one endpoint on a virtual-time loop, over memory carriers.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from relayrpc.carrier.url import parse_url
from relayrpc.endpoint.live_link import LiveLink
from relayrpc.endpoint.server import Server
from relayrpc.errors import ConnectError
from relayrpc.limits import DEFAULT_LIMITS
from samples.greeter import greeter_pb2_grpc
from samples.greeter.host import Greeter
from tests.simulation.ring2_network import Network
from tests.support.virtual_loop import VirtualLoop, run_virtual


def _network(loop: VirtualLoop) -> Network:
    network = Network(loop, random.Random(1), limits=DEFAULT_LIMITS, delay_s_max=0.0)
    network.start_hub()
    return network


def _server(network: Network, *, address: str = "a") -> Server:
    def make_live(on_call: Any) -> LiveLink:
        return LiveLink(
            parse_url(f"relay://hub:7350/{address}", carrier="grpc"),
            limits=DEFAULT_LIMITS,
            on_call=on_call,
            dialling=network.dialling("host"),
        )

    server = Server(make_live, address=address)
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    return server


def test_server_start_fails_when_it_is_stopped_before_the_hub_answers() -> None:
    async def main(loop: VirtualLoop) -> None:
        network = _network(loop)
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
