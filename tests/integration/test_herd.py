"""
Goal: when more hosts come at once than a hub takes handshakes, all of them are registered in the
end, and the bound holds.

Method: a hub with a bound of a few handshakes, in this process, all of them taken by connections
that say nothing; many hosts that dial in vain, until these leave.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import grpc
import pytest

import relayrpc.aio
from relayrpc.endpoint.dialler import DIALLING
from relayrpc.hub.observer import HubObserver
from relayrpc.hub.server import Hub
from relayrpc.limits import Limits
from tests.support.raw_peer import Door, open_raw
from tests.support.relay import Stub, peer_links, running_hub
from tests.support.until import until


pytestmark = pytest.mark.integration

HOSTS_COUNT = 100
HANDSHAKES_MAX = 4


class Watch(HubObserver):
    """Notes how many handshakes are open whenever one of them comes to its end."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.open_counts: list[int] = []

    def link_opened(self, link: Any, carrier_kind: str) -> None:
        self.open_counts.append(self._hub.sessions.handshakes_count)

    def carrier_refused(self, carrier: Any, error: Any) -> None:
        self.open_counts.append(self._hub.sessions.handshakes_count)


async def say_hello(request: bytes, context: Any) -> bytes:
    return b"hello"


class Dialler:
    """Counts how often all hosts together dial."""

    def __init__(self) -> None:
        self.dials_count = 0
        self.dialling = dataclasses.replace(DIALLING, dial=self._dial)

    async def _dial(self, *args: Any, **options: Any) -> Any:
        self.dials_count += 1
        return await DIALLING.dial(*args, **options)


async def test_hosts_that_come_all_at_once_are_all_registered(door: Door) -> None:
    limits = Limits(handshakes_open_max=HANDSHAKES_MAX, handshake_timeout_s=600)
    async with running_hub(limits=limits) as hub:
        watch = Watch(hub)
        hub.sessions.observers.add(watch)
        port = hub.grpc_port if door == "grpc" else hub.http_port
        url = f"{'relay' if door == 'grpc' else 'ws'}://127.0.0.1:{port}"
        dialler = Dialler()
        servers = [
            relayrpc.aio.server(
                f"{url}/{number}", carrier=door, keep_trying=True, dialling=dialler.dialling
            )
            for number in range(HOSTS_COUNT)
        ]
        for server in servers:
            handlers = {"Hello": grpc.unary_unary_rpc_method_handler(say_hello)}
            server.add_registered_method_handlers("test.Service", handlers)
        ports = {"grpc_port": hub.grpc_port, "http_port": hub.http_port}
        silent = [await open_raw(door, **ports) for _ in range(HANDSHAKES_MAX)]
        await until(lambda: hub.sessions.handshakes_count == HANDSHAKES_MAX)
        starting = asyncio.gather(*[server.start() for server in servers])
        await until(lambda: dialler.dials_count > 2 * HOSTS_COUNT)
        assert not peer_links(hub)
        for carrier in silent:
            await carrier.aclose()
        await starting
        assert len(peer_links(hub)) == HOSTS_COUNT
        assert max(watch.open_counts) <= HANDSHAKES_MAX
        async with relayrpc.aio.channel(f"ws://127.0.0.1:{hub.http_port}") as channel:
            hello = Stub(channel).unary_unary("Hello")
            for number in range(HOSTS_COUNT):
                assert await hello(b"", metadata=(("relay-address", str(number)),)) == b"hello"
        await asyncio.gather(*[server.stop(None) for server in servers])
