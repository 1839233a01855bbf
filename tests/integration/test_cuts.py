"""
Goal: a carrier may be cut again and again under load, and no call notices.

Method: a hub process, a host process and a caller, each endpoint behind a proxy that drops its
connection, in the middle of bytes or between them, after every so many completed calls. The host
records which calls it executed. Afterwards tasks, sockets, calls and memory are where they were.
"""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from relayrpc.hub.config import HubConfig
from relayrpc.hub.server import Hub
from tests.integration.peers import RecorderStub, calling, host_process, recording
from tests.integration.recorder import calls_count, memory_kib
from tests.integration.watched_hub import WatchedHub, sockets_count, watched_hub
from tests.support.raw_peer import Door
from tests.support.relay import peer_links
from tests.support.tcp_proxy import TCPProxy
from tests.support.until import until


pytestmark = pytest.mark.integration

_IN_FLIGHT: Final = 64
_CALLS_PER_CUT: Final = 50
_STREAMS: Final = 20
_STREAM_MESSAGES: Final = 40
_LARGE_BYTES: Final = 8 * 1024 * 1024
_TIMEOUT_S: Final = 100.0
# Of a process of some 60 MiB: allocators keep what a burst needed.
_MEMORY_TOLERANCE_KIB: Final = 16 * 1024


class Storm:
    """The load of one run, and the cuts that its progress sets off."""

    def __init__(
        self, name: str, stub: RecorderStub, proxies: list[TCPProxy], *, calls: int
    ) -> None:
        self.name = name
        self.stub = stub
        self.proxies = proxies
        self.calls = calls
        self.names = [f"{name}-call-{number}".encode() for number in range(calls)]
        self.completed = 0
        self.cuts_due = 0
        self._chance = random.Random(7)
        self._progress = asyncio.Condition()

    @property
    def cut_count(self) -> int:
        return sum(proxy.cut_count for proxy in self.proxies)

    async def run(self) -> None:
        """Make all calls and streams; returns when every one has ended as it should."""
        left = iter(self.names.copy())
        async with asyncio.TaskGroup() as group:
            for number in range(_STREAMS):
                group.create_task(self._stream(number))
            for _ in range(_IN_FLIGHT):
                group.create_task(self._call_all(left))
        while self.proxies and self.cut_count < self.cuts_due:
            # The last cut waits for bytes that no call was left to send.
            name = f"{self.name}-call-{len(self.names)}".encode()
            self.names.append(name)
            assert await self.stub.echo(name, timeout=_TIMEOUT_S) == name

    async def _call_all(self, names: object) -> None:
        for name in names:  # type: ignore[attr-defined]  # an iterator shared by all workers
            assert await self.stub.echo(name, timeout=_TIMEOUT_S) == name
            await self._completed()

    async def _completed(self) -> None:
        self.completed += 1
        if self.completed % _CALLS_PER_CUT == 0:
            self.cuts_due += 1
        if self.proxies and self.cut_count < self.cuts_due:
            self._cut()
        async with self._progress:
            self._progress.notify_all()

    def _cut(self) -> None:
        """Drop a connection now or within the next bytes; without one the next call will try."""
        proxy = self._chance.choice(self.proxies)
        if self._chance.random() < 0.5:
            proxy.cut()
        else:
            proxy.cut_after(self._chance.randrange(1, 2000))

    async def _stream(self, number: int) -> None:
        name = f"{self.name}-stream-{number}".encode()
        self.names.append(name)
        step = self.calls // _STREAM_MESSAGES
        expected = [b"%s %d" % (name, index) for index in range(_STREAM_MESSAGES)]
        match number % 3:
            case 0:
                request = b"%s %d %d" % (name, _STREAM_MESSAGES, step)
                call = self.stub.count(request, timeout=_TIMEOUT_S)
                assert [message async for message in call] == expected
            case 1:
                reply = await self.stub.collect(self._paced(expected, step), timeout=_TIMEOUT_S)
                assert reply.split(b",") == expected
            case _:
                call = self.stub.chat(self._paced(expected, step), timeout=_TIMEOUT_S)
                assert [message async for message in call] == expected

    async def _paced(self, messages: list[bytes], step: int) -> AsyncIterator[bytes]:
        for index, message in enumerate(messages):
            due = index * step
            async with self._progress:
                await self._progress.wait_for(lambda due=due: self.completed >= due)
            yield message


def _held(hub: WatchedHub, report: dict[str, Any]) -> dict[str, int]:
    """What each process holds that must not grow."""
    gc.collect()
    return {
        "tasks of the caller": len(asyncio.all_tasks()),
        "sockets of the caller": sockets_count(),
        "calls of the caller": calls_count(),
        "sockets of the hub": hub.sockets_count(),
        "tasks of the host": report["tasks"],
        "sockets of the host": report["sockets"],
        "calls of the host": report["calls"],
    }


def _exceeds(held: dict[str, int], before: dict[str, int]) -> bool:
    return any(held[what] > before[what] for what in before)


def _memory_kib(hub: WatchedHub, report: dict[str, Any]) -> tuple[int, int, int]:
    return memory_kib(), memory_kib(hub.pid), report["memory_kib"]


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param(2_000, id="40 cuts"),
        pytest.param(10_000, id="200 cuts", marks=pytest.mark.slow),
    ],
)
async def test_no_call_notices_that_carriers_are_cut(
    calls: int, door: Door, tmp_path: Path
) -> None:
    tasks, sockets = len(asyncio.all_tasks()), sockets_count()
    with watched_hub(tmp_path) as hub:
        port = hub.grpc_port if door == "grpc" else hub.http_port
        scheme = "relay" if door == "grpc" else "ws"
        async with (
            TCPProxy(port) as host_proxy,
            TCPProxy(port) as caller_proxy,
            host_process(f"{scheme}://127.0.0.1:{host_proxy.port}/storm", door),
            calling(f"{scheme}://127.0.0.1:{caller_proxy.port}/storm", carrier=door) as stub,
        ):
            calm = Storm("calm", stub, [], calls=_STREAM_MESSAGES)
            await calm.run()
            report = await stub.report()
            before = _held(hub, report)
            memory = _memory_kib(hub, report)

            storm = Storm("storm", stub, [host_proxy, caller_proxy], calls=calls)
            await storm.run()

            assert storm.cut_count >= calls // _CALLS_PER_CUT
            # Each end notices the last cut, and frees what it held, in its own time.
            while _exceeds(_held(hub, report := await stub.report()), before):
                pass
            assert report["doubled"] == []
            assert report["executed"] == len(calm.names) + len(storm.names)
            grown = [now - then for now, then in zip(_memory_kib(hub, report), memory, strict=True)]
            assert max(grown) < _MEMORY_TOLERANCE_KIB, grown
        hub.check_unhurt()
    gc.collect()
    assert calls_count() == 0
    await until(lambda: len(asyncio.all_tasks()) <= tasks and sockets_count() <= sockets)


async def test_hub_forgets_links_and_calls_that_went_through_cuts(door: Door) -> None:
    """The hub, too, is in this process: what it holds can be looked at."""
    # gRPC's library opens sockets of its own with the first server of a loop, and keeps them.
    await (await _started_hub()).aclose()
    tasks, sockets = len(asyncio.all_tasks()), sockets_count()
    hub = await _started_hub()
    port = hub.grpc_port if door == "grpc" else hub.http_port
    scheme = "relay" if door == "grpc" else "ws"
    async with TCPProxy(port) as host_proxy, TCPProxy(port) as caller_proxy:
        host_url, caller_url = [
            f"{scheme}://127.0.0.1:{proxy.port}/storm" for proxy in (host_proxy, caller_proxy)
        ]
        async with (
            recording(host_url, carrier=door) as recorder,
            calling(caller_url, carrier=door) as stub,
        ):
            storm = Storm("storm", stub, [host_proxy, caller_proxy], calls=1_000)
            await storm.run()
            assert recorder.executed == dict.fromkeys(storm.names, 1)
            assert len(peer_links(hub)) == 2
            await until(lambda: all(link.is_idle for link in peer_links(hub)))
            assert hub.sessions.forwarder.starved_count == 0
        await until(lambda: len(peer_links(hub)) == 0)
    gc.collect()
    assert calls_count() == 0
    await hub.aclose()
    await until(lambda: len(asyncio.all_tasks()) <= tasks and sockets_count() <= sockets)


async def test_large_messages_survive_cuts(door: Door, tmp_path: Path) -> None:
    """Connections break every few hundred KiB, in the middle of batches and of full windows."""
    chance = random.Random(11)
    messages = [chance.randbytes(_LARGE_BYTES) for _ in range(4)]
    with watched_hub(tmp_path) as hub:
        port = hub.grpc_port if door == "grpc" else hub.http_port
        scheme = "relay" if door == "grpc" else "ws"
        async with TCPProxy(port) as host_proxy, TCPProxy(port) as caller_proxy:
            host_url, caller_url = [
                f"{scheme}://127.0.0.1:{proxy.port}/large" for proxy in (host_proxy, caller_proxy)
            ]
            async with (
                recording(host_url, carrier=door) as recorder,
                calling(caller_url, carrier=door) as stub,
            ):
                await stub.echo(b"warm", timeout=_TIMEOUT_S)
                cutting = [
                    asyncio.ensure_future(_keep_cutting(proxy, chance))
                    for proxy in (host_proxy, caller_proxy)
                ]
                calls = [stub.echo(message, timeout=_TIMEOUT_S) for message in messages]
                assert await asyncio.gather(*calls) == messages
                for task in cutting:
                    task.cancel()
                await asyncio.wait(cutting)
                assert min(host_proxy.cut_count, caller_proxy.cut_count) > 10
                assert set(recorder.executed.values()) == {1}
        hub.check_unhurt()


async def _keep_cutting(proxy: TCPProxy, chance: random.Random) -> None:
    """Give every connection a few hundred KiB to live for."""
    while True:
        proxy.cut_after(chance.randrange(50_000, 1_500_000))
        await proxy.changed()


async def _started_hub() -> Hub:
    hub = Hub(HubConfig(grpc="127.0.0.1:0", http="127.0.0.1:0"))
    await hub.start()
    return hub
