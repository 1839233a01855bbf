"""
Goal: a message may have 64 MiB, both ways and through both carriers, and not a byte more.

Method: a real hub process between a host and a caller in this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

import relayrpc.aio
from relayrpc.limits import MIB
from tests.integration.peers import RecorderStub, calling, recording
from tests.integration.watched_hub import WatchedHub
from tests.support.raw_peer import Door


pytestmark = pytest.mark.integration

_LARGEST = 64 * MIB


@pytest_asyncio.fixture
async def stub(hub: WatchedHub, door: Door) -> AsyncIterator[RecorderStub]:
    scheme, port = ("relay", hub.grpc_port) if door == "grpc" else ("ws", hub.http_port)
    url = f"{scheme}://127.0.0.1:{port}/large"
    async with recording(url, carrier=door), calling(url, carrier=door) as stub:
        yield stub
    hub.check_unhurt()


def _request(answer_bytes: int, size: int) -> bytes:
    return (b"%d " % answer_bytes).ljust(size, b"x")


@pytest.mark.parametrize(
    "size", [pytest.param(9 * MIB), pytest.param(_LARGEST, marks=pytest.mark.slow)]
)
async def test_large_message_goes_both_ways(size: int, stub: RecorderStub) -> None:
    reply = await stub.exchange(_request(size, size), timeout=100)
    assert len(reply) == size


async def test_request_over_the_limit_is_refused(stub: RecorderStub) -> None:
    with pytest.raises(relayrpc.aio.RpcError) as caught:
        await stub.exchange(_request(1, _LARGEST + 1), timeout=100)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"larger than max ({_LARGEST + 1} vs. {_LARGEST})" in str(caught.value.details())
    assert await stub.echo(b"next", timeout=60) == b"next"


async def test_reply_over_the_limit_is_refused(stub: RecorderStub) -> None:
    with pytest.raises(relayrpc.aio.RpcError) as caught:
        await stub.exchange(_request(_LARGEST + 1, 100), timeout=100)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"larger than max ({_LARGEST + 1} vs. {_LARGEST})" in str(caught.value.details())
    assert await stub.echo(b"next", timeout=60) == b"next"


async def test_small_calls_pass_large_ones(stub: RecorderStub) -> None:
    """Several large messages at once, each way; the small ones need not wait for their end."""
    large = [
        asyncio.ensure_future(stub.exchange(_request(16 * MIB, 16 * MIB), timeout=100))
        for _ in range(4)
    ]
    small = 0
    while not all(call.done() for call in large):
        assert await stub.echo(b"%d" % small, timeout=60) == b"%d" % small
        small += 1
    assert [len(await call) for call in large] == [16 * MIB] * 4
    assert small > len(large)
