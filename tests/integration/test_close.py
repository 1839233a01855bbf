"""
Goal: closing an endpoint ends what it had, whatever became of the task, hub or network around it.

Method: channels and servers at a real hub process, over both carriers, one through a proxy.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import relayrpc.aio
from tests.integration.peers import calling, recording
from tests.integration.watched_hub import WatchedHub, sockets_count, watched_hub
from tests.support.raw_peer import Door
from tests.support.tcp_proxy import TCPProxy
from tests.support.until import until


pytestmark = pytest.mark.integration


def _url(hub: WatchedHub, door: Door, port: int = 0) -> str:
    if door == "grpc":
        return f"relay://127.0.0.1:{port or hub.grpc_port}/closing"
    return f"ws://127.0.0.1:{port or hub.http_port}/closing"


async def test_channel_closes_in_a_task_that_was_cancelled_before(
    hub: WatchedHub, door: Door
) -> None:
    """A TaskGroup of Python 3.11 can leave a task's count of cancellations at 1."""
    url = _url(hub, door)
    async with recording(url, carrier=door), calling(url, carrier=door) as stub:
        await stub.echo(b"one")
        this_task = asyncio.current_task()
        assert this_task is not None
        this_task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        assert this_task.cancelling() == 1
    this_task.uncancel()


async def test_closing_leaves_no_task_and_no_socket(hub: WatchedHub, door: Door) -> None:
    url = _url(hub, door)
    # The first gRPC channel of a loop opens sockets that the library keeps.
    async with recording(url, carrier=door), calling(url, carrier=door) as stub:
        await stub.echo(b"warm")
    tasks, sockets = len(asyncio.all_tasks()), sockets_count()
    hub_sockets = hub.sockets_count()
    for number in range(10):
        async with recording(url, carrier=door), calling(url, carrier=door) as stub:
            await stub.echo(b"%d" % number)
    assert len(asyncio.all_tasks()) <= tasks
    await until(lambda: sockets_count() <= sockets and hub.sockets_count() <= hub_sockets)


async def test_hub_forgets_an_address_when_its_host_closes(hub: WatchedHub, door: Door) -> None:
    """Without a Close that arrives, calls would go to the parked link of a host that is gone."""
    url = _url(hub, door)
    async with calling(url, carrier=door) as stub:
        for number in range(10):
            async with recording(url, carrier=door) as recorder:
                names = [b"%d %d" % (number, call) for call in range(100)]
                assert await asyncio.gather(*map(stub.echo, names)) == names
                assert recorder.executed.total() == 100
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await stub.echo(b"nobody")
            assert not caught.value.may_have_executed


@pytest.mark.slow
async def test_closing_does_not_wait_for_a_silent_hub(tmp_path: Path, door: Door) -> None:
    tasks = len(asyncio.all_tasks())
    with watched_hub(tmp_path) as hub:
        port = hub.grpc_port if door == "grpc" else hub.http_port
        async with TCPProxy(port) as proxy:
            url = _url(hub, door, proxy.port)
            async with recording(url, carrier=door), calling(url, carrier=door) as stub:
                await stub.echo(b"one")
                proxy.stall()
            # Closed, although nothing was answered.
            assert proxy.connections_count
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
