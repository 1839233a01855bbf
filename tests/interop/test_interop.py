"""
Goal: gRPC's standard interop cases end through the relay as they do without it.

Method: each case once for each pairing of clients, ways and servers, grpcio's own among them; the
assertions are the case's, whatever the pairing.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.e2e.node import needs_grpc_js
from tests.interop.cases import CASES, Case, channel_soak, concurrent_large_unary, rpc_soak
from tests.interop.client import Client, StatusLostError
from tests.interop.pairings import PAIRINGS, connected
from tests.support.blocking import HubThread, hub_thread


pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

PLAYS_COUNT_MAX = 3
"""How often a case may be played, where grpcio loses the status it is about."""


@pytest.fixture(scope="module")
def hub() -> Iterator[HubThread]:
    with hub_thread() as hub:
        yield hub


PARAMS = [
    pytest.param(pairing, marks=[needs_grpc_js] if pairing.client == "grpc-js" else [])
    for pairing in PAIRINGS
]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=PARAMS, ids=str)
async def client(request: pytest.FixtureRequest, hub: HubThread) -> AsyncIterator[Client]:
    """The client of one pairing; its server runs."""
    async with connected(request.param, hub) as client:
        yield client


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_case(client: Client, case: Case) -> None:
    for _ in range(PLAYS_COUNT_MAX - 1):
        with contextlib.suppress(StatusLostError):
            return await case(client)
    await case(client)


@pytest.mark.slow
async def test_many_calls_and_channels(client: Client) -> None:
    # As many as one connection to the hub's gRPC port has room for, which grpcio's server bounds by
    # its configuration only.
    await concurrent_large_unary(client, calls_count=64)
    await rpc_soak(client, calls_count=200)
    await channel_soak(client, channels_count=20)
