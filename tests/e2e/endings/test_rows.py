"""
Goal: the rows of DESIGN.md's "What a caller is told" that no failing process brings about.

Method: as the matrix, with real processes: a host that is away for a while or for good, another one
beside it, drains of host and hub, a deadline. Which rows stand elsewhere is said in cells.py.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.e2e.endings.cells import OK, Door, Ending
from tests.e2e.endings.peer import PeerProcess, caller_process, host_process, server_at
from tests.integration.watched_hub import WatchedHub, watched_hub
from tests.support.deadlines import DEADLINES_S
from tests.support.scraping import key, scrape
from tests.support.tcp_proxy import TCPProxy
from tests.support.until import until


pytestmark = pytest.mark.e2e

ADDRESS = "contoso/rows"
NOT_RUN = Ending("UNAVAILABLE", False, "hub")
MAY_HAVE_RUN = Ending("UNAVAILABLE", True, "hub")


def _doors(*doors: Door) -> list[object]:
    """The first of them in `make test`, the others in `make test-all` too."""
    first, *others = doors
    return [first, *(pytest.param(door, marks=pytest.mark.slow) for door in others)]


@pytest.fixture(params=_doors(*Door), ids=str)
def door(request: pytest.FixtureRequest) -> Door:
    return request.param


@asynccontextmanager
async def hub_and_caller(
    folder: Path, door: Door, *flags: str
) -> AsyncIterator[tuple[WatchedHub, PeerProcess]]:
    with watched_hub(folder, *flags) as hub:
        port = hub.http_port if door is Door.WEBSOCKET else hub.grpc_port
        async with caller_process(door, port, "caller") as caller:
            yield hub, caller
        hub.check_log()


def serving(
    hub: WatchedHub, door: Door, *, port: int = 0, **options: object
) -> AsyncIterator[PeerProcess]:
    """Run a host at the address; by way of another port, if it is given."""
    door = Door.WEBSOCKET if door is Door.NATIVE else door
    port = port or (hub.http_port if door is Door.WEBSOCKET else hub.grpc_port)
    return host_process(door, server_at(door, port, ADDRESS, **options))


async def counts(hub: WatchedHub, metric: str, value: int) -> None:
    """Wait until a metric of the hub has this value, at the address if it has one."""
    names = (key(metric), key(metric, address=ADDRESS))

    async def look() -> bool:
        samples = await scrape(hub.http_port)
        return sum(samples.get(name, 0) for name in names) == value

    await until(look)


@pytest.mark.parametrize("comes_back", [True, False], ids=["back", "gone"])
async def test_call_waits_for_a_host_that_lost_its_connection(
    comes_back: bool, door: Door, tmp_path: Path
) -> None:
    async with hub_and_caller(tmp_path, door) as (hub, caller):
        port = hub.grpc_port if door is Door.GRPC else hub.http_port
        async with TCPProxy(port) as proxy, serving(hub, door, port=proxy.port) as host:
            # It dials again, and is not answered.
            proxy.stall()
            proxy.cut()
            await counts(hub, "links_parked", 1)
            caller.call("waits", ADDRESS)
            await counts(hub, "queue_calls", 1)
            if comes_back:
                host.tell("release", call="waits")
                proxy.resume()
            told = await caller.told("waits")
            assert told.ending == (OK if comes_back else NOT_RUN)
            assert (host.find("started", "waits") is not None) == comes_back


async def test_other_host_takes_calls_while_one_has_lost_its_connection(
    door: Door, tmp_path: Path
) -> None:
    async with hub_and_caller(tmp_path, door) as (hub, caller):
        port = hub.grpc_port if door is Door.GRPC else hub.http_port
        async with (
            TCPProxy(port) as proxy,
            serving(hub, door, port=proxy.port, instance="lost"),
            serving(hub, door, instance="other") as other,
        ):
            proxy.stall()
            proxy.cut()
            caller.call("goes on", ADDRESS)
            await other.said("started", "goes on")
            other.tell("release", call="goes on")
            assert (await caller.told("goes on")).ending == OK


@pytest.mark.parametrize("door", _doors(Door.WEBSOCKET, Door.GRPC), ids=str)
async def test_call_that_waits_for_ready_waits_for_a_host_to_come(
    door: Door, tmp_path: Path
) -> None:
    """A plain client cannot tell the hub that it waits; its own library waits for the hub."""
    async with hub_and_caller(tmp_path, door) as (hub, caller):
        caller.call("served", ADDRESS, wait_for_ready=True)
        caller.call("too late", ADDRESS, wait_for_ready=True, timeout=0.2)
        told = await caller.told("too late")
        assert told.ending.status == "DEADLINE_EXCEEDED"
        await counts(hub, "queue_calls", 1)
        async with serving(hub, door) as host:
            host.tell("release", call="served")
            assert (await caller.told("served")).ending == OK
            assert host.find("started", "too late") is None


async def test_new_calls_go_to_another_host_while_one_drains(door: Door, tmp_path: Path) -> None:
    async with (
        hub_and_caller(tmp_path, door) as (hub, caller),
        serving(hub, door, instance="leaves") as leaves,
    ):
        caller.call("runs", ADDRESS)
        await leaves.said("started", "runs")
        async with serving(hub, door, instance="stays") as stays:
            leaves.send_signal(signal.SIGTERM)
            await counts(hub, "hosts", 1)
            caller.call("comes", ADDRESS)
            await stays.said("started", "comes")
            leaves.tell("release", call="runs")
            stays.tell("release", call="comes")
            for call in ("runs", "comes"):
                assert (await caller.told(call)).ending == OK
            assert await leaves.finished() == 0


async def test_hub_ends_what_outlives_its_drain(door: Door, tmp_path: Path) -> None:
    async with (
        hub_and_caller(tmp_path, door, "--drain-timeout=0.3") as (hub, caller),
        serving(hub, door) as host,
    ):
        caller.call("outlives", ADDRESS)
        await host.said("started", "outlives")
        hub.running.process.send_signal(signal.SIGTERM)
        told = await caller.told("outlives")
        assert told.ending == MAY_HAVE_RUN
        assert told.pushback == ("-1" if door is Door.NATIVE else None)
        await host.said("cancelled", "outlives")
        assert await hub.stopped() == 0


@pytest.mark.slow
async def test_deadline_passes_although_the_host_is_silent(door: Door, tmp_path: Path) -> None:
    async with hub_and_caller(tmp_path, door) as (hub, caller):
        port = hub.grpc_port if door is Door.GRPC else hub.http_port
        async with TCPProxy(port) as proxy, serving(hub, door, port=proxy.port) as host:
            for timeout_s in DEADLINES_S[2:]:
                late = f"late after {timeout_s} s"
                caller.call(late, ADDRESS, timeout=timeout_s)
                ends = (("started", host), ("told", caller))
                await until(
                    lambda call=late, ends=ends: any(who.find(what, call) for what, who in ends)
                )
                if host.find("started", late):
                    break
            proxy.stall()
            assert (await caller.told(late)).ending.status == "DEADLINE_EXCEEDED"
            await counts(hub, "calls_in_flight", 0)
            proxy.resume()
            await host.said("cancelled", late)
