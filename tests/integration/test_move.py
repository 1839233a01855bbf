"""
Goal: a link that began on the gRPC stream goes over to the WebSocket under load, and nobody
notices; where the WebSocket cannot be had it stays, and is none the worse for it.

Method: a hub process whose WebSocket door is named as a proxy; both endpoints with carrier "auto".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from relayrpc.endpoint.channel import Channel
from relayrpc.errors import ConnectError
from tests.integration.peers import RecorderStub, calling, recording
from tests.integration.watched_hub import WatchedHub, watched_hub
from tests.support.tcp_proxy import TCPProxy
from tests.support.until import until


pytestmark = pytest.mark.integration

_STREAM_MESSAGES = 400
_DOWN = grpc.ChannelConnectivity.TRANSIENT_FAILURE


@pytest_asyncio.fixture
async def websocket_door() -> AsyncIterator[TCPProxy]:
    """Stands in front of the hub's WebSocket door; the hub names it to its peers."""
    async with TCPProxy(0) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def hub(websocket_door: TCPProxy, tmp_path: Path) -> AsyncIterator[WatchedHub]:
    public = f"ws://127.0.0.1:{websocket_door.port}"
    with watched_hub(tmp_path, f"--http-public={public}") as hub:
        websocket_door.target_port = hub.http_port
        yield hub
        hub.check_unhurt()


def _carrier_kind(stub: RecorderStub) -> str | None:
    assert isinstance(stub.channel, Channel)
    return stub.channel.live.carrier_kind


async def _load(stub: RecorderStub, until_set: asyncio.Event) -> list[bytes]:
    """Call one after the other until told to stop; returns what was called."""
    names = []
    while not until_set.is_set():
        name = b"call-%d" % len(names)
        assert await stub.echo(name, timeout=60) == name
        names.append(name)
    return names


async def _numbers(until_set: asyncio.Event) -> AsyncIterator[bytes]:
    number = 0
    while not until_set.is_set() or number < _STREAM_MESSAGES:
        yield b"stream %d" % number
        number += 1
        await asyncio.sleep(0)


async def test_links_move_under_load_without_a_gap(
    hub: WatchedHub, websocket_door: TCPProxy
) -> None:
    """The door keeps both waiting until calls and a stream are well under way on gRPC."""
    websocket_door.stall()
    url = f"relay://127.0.0.1:{hub.grpc_port}/moving"
    over = asyncio.Event()
    async with recording(url) as recorder, calling(url) as stub, asyncio.TaskGroup() as group:
        calls = [group.create_task(_load(stub, over))]
        stream = stub.chat(_numbers(over), timeout=60)
        echoed = group.create_task(_collected(stream))
        await recorder.was_entered(b"call-20")
        await websocket_door.connected(2)
        assert _carrier_kind(stub) == "grpc"
        websocket_door.resume()
        await until(lambda: _carrier_kind(stub) == "websocket")
        moved_at = recorder.executed.total()
        await recorder.was_entered(b"call-%d" % (moved_at + 20))
        over.set()
        names = await calls[0]
        messages = await echoed
        assert messages == [b"stream %d" % number for number in range(len(messages))]
        assert len(messages) >= _STREAM_MESSAGES
        assert recorder.executed == dict.fromkeys([*names, b"stream"], 1)


async def _collected(stream: AsyncIterator[bytes]) -> list[bytes]:
    return [message async for message in stream]


async def test_link_stays_on_grpc_where_the_websocket_door_is_closed(
    hub: WatchedHub, websocket_door: TCPProxy
) -> None:
    await websocket_door.aclose()
    url = f"relay://127.0.0.1:{hub.grpc_port}/staying"
    async with recording(url) as recorder, calling(url) as stub:
        for number in range(50):
            await stub.echo(b"%d" % number, timeout=60)
        assert _carrier_kind(stub) == "grpc"
        assert set(recorder.executed.values()) == {1}


async def test_pinned_websocket_fails_clearly_where_its_door_is_closed(
    hub: WatchedHub, websocket_door: TCPProxy
) -> None:
    await websocket_door.aclose()
    url = f"relay://127.0.0.1:{hub.grpc_port}/pinned"
    with pytest.raises(ConnectError, match=r"the WebSocket door of .*; use carrier='auto'"):
        async with recording(url, carrier="websocket"):
            pass
    async with calling(url, carrier="websocket") as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="the WebSocket door of") as caught:
            await stub.echo(b"never", timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_pinned_websocket_comes_back_when_its_door_does(
    hub: WatchedHub, websocket_door: TCPProxy
) -> None:
    url = f"relay://127.0.0.1:{hub.grpc_port}/pinned"
    async with (
        recording(url, carrier="websocket") as recorder,
        calling(url, carrier="websocket") as stub,
    ):
        assert await stub.echo(b"before", timeout=60) == b"before"
        assert _carrier_kind(stub) == "websocket"
        port, websocket_door.target_port = websocket_door.target_port, hub.grpc_port
        before = websocket_door.accepted_count
        websocket_door.cut()
        # They tried in vain, each in its own time.
        await until(lambda: websocket_door.accepted_count >= before + 2)
        await until(lambda: stub.channel.get_state() is _DOWN)
        websocket_door.target_port = port
        assert await stub.echo(b"after", timeout=60) == b"after"
        await until(lambda: _carrier_kind(stub) == "websocket")
        assert set(recorder.executed.values()) == {1}


async def test_link_stays_on_grpc_where_something_else_answers(
    hub: WatchedHub, websocket_door: TCPProxy
) -> None:
    websocket_door.target_port = hub.grpc_port
    url = f"relay://127.0.0.1:{hub.grpc_port}/staying"
    async with recording(url), calling(url) as stub:
        for number in range(50):
            await stub.echo(b"%d" % number, timeout=60)
        # Both tried, and were answered by a gRPC server.
        await until(
            lambda: websocket_door.accepted_count == 2 and not websocket_door.connections_count
        )
        assert await stub.echo(b"still", timeout=60) == b"still"
        assert _carrier_kind(stub) == "grpc"


async def test_cut_websocket_is_replaced_by_way_of_grpc(
    hub: WatchedHub, websocket_door: TCPProxy
) -> None:
    url = f"relay://127.0.0.1:{hub.grpc_port}/returning"
    async with recording(url) as recorder, calling(url) as stub:
        waiting = asyncio.ensure_future(stub.hold(b"held", timeout=60))
        await recorder.was_entered(b"held")
        await until(lambda: _carrier_kind(stub) == "websocket")
        await websocket_door.connected(2)
        websocket_door.cut()
        await websocket_door.connected(2)
        await until(lambda: _carrier_kind(stub) == "websocket")
        recorder.released.set()
        assert await waiting == b"held"
        assert recorder.executed[b"held"] == 1


async def test_link_whose_carrier_is_cut_while_it_moves_goes_on(
    hub: WatchedHub, websocket_door: TCPProxy
) -> None:
    """
    The WebSocket door never answers, and the gRPC stream breaks meanwhile: the link must not wait
    for the one before it mends the other. The deadline is shorter than a dial's time limit.
    """
    websocket_door.stall()
    async with TCPProxy(hub.grpc_port) as grpc_door:
        url = f"relay://127.0.0.1:{grpc_door.port}/moving"
        async with recording(url, carrier="grpc") as recorder, calling(url) as stub:
            await stub.echo(b"before", timeout=60)
            await websocket_door.connected()
            grpc_door.cut()
            assert await stub.echo(b"after", timeout=15) == b"after"
            assert recorder.executed == {b"before": 1, b"after": 1}
        websocket_door.resume()
