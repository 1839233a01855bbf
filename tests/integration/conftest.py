"""
One hub process for each file of tests, with a neighbour on it, and both doors; and for blocking
tests a hub on a thread.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import pytest_asyncio

from tests.integration.watched_hub import Neighbour, WatchedHub, neighbour_of, watched_hub
from tests.support.aio_sides import ServeAio, serving_aio
from tests.support.blocking import SIDES, HubThread, Serve, SideName, hub_thread, serving
from tests.support.raw_peer import Door, RawCarrier, open_raw


OpenCarrier = Callable[[], Awaitable[RawCarrier]]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedHub]:
    with watched_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def neighbour(hub: WatchedHub) -> AsyncIterator[Neighbour]:
    """Lives through every test of a file."""
    async with neighbour_of(hub.http_port) as neighbour:
        yield neighbour


@pytest_asyncio.fixture(loop_scope="module")
async def nobody_else_notices(hub: WatchedHub, neighbour: Neighbour) -> AsyncIterator[None]:
    """At the end of the test the hub is unhurt and serves its neighbour."""
    yield
    await neighbour.check_served()
    hub.check_unhurt()


@pytest.fixture(params=["websocket", "grpc"])
def door(request: pytest.FixtureRequest) -> Door:
    return request.param


@pytest_asyncio.fixture(loop_scope="module")
async def open_carrier(hub: WatchedHub, door: Door) -> AsyncIterator[OpenCarrier]:
    """Opens raw carriers to the door of this test; they are dropped at its end."""
    carriers: list[RawCarrier] = []

    async def open_one() -> RawCarrier:
        carrier = await open_raw(door, grpc_port=hub.grpc_port, http_port=hub.http_port)
        carriers.append(carrier)
        return carrier

    yield open_one
    for carrier in carriers:
        await carrier.aclose()


@pytest.fixture(scope="module")
def relay_hub() -> Iterator[HubThread]:
    """A hub on a thread of this process."""
    with hub_thread() as hub:
        yield hub


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> SideName:
    """Whose server and channel: grpc's own, or the relay's."""
    return request.param


@pytest.fixture
def serve(side: SideName, relay_hub: HubThread) -> Serve:
    """Serves, and opens a channel, on the side of this test."""
    return functools.partial(serving, side, relay_hub)


@pytest.fixture
def serve_aio(side: SideName) -> ServeAio:
    """Serves, and opens a channel, on the side of this test: grpc.aio's own, or the relay's."""
    return functools.partial(serving_aio, side)
