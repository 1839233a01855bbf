"""
Goal: a peer that is silent without a FIN is found, and what hung on it ends, truthfully and once.

Method: a hub process with a short keepalive and resume window; silence is made by a proxy that
stops forwarding, and by SIGSTOP of the host's and the caller's process. Nothing waits for a time:
each step waits for what the silence must bring about.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

import relayrpc.aio
from relayrpc.limits import DEFAULT_LIMITS
from tests.integration.peers import calling, host_process, recording
from tests.integration.watched_hub import Neighbour, WatchedHub, neighbour_of, watched_hub
from tests.support.raw_peer import Door
from tests.support.tcp_proxy import TCPProxy


pytestmark = pytest.mark.integration

_KEEPALIVE_S = 0.5
_RESUME_WINDOW_S = 1.0
# Endpoints notice as quickly as the hub.
_LIMITS = dataclasses.replace(DEFAULT_LIMITS, keepalive_interval_s=_KEEPALIVE_S)


@pytest_asyncio.fixture
async def hub(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[WatchedHub]:
    """An impatient hub, whose neighbour must not notice; a test may give its resume window."""
    resume_window_s = getattr(request, "param", _RESUME_WINDOW_S)
    flags = (f"--keepalive={_KEEPALIVE_S}", f"--resume-window={resume_window_s}")
    with watched_hub(tmp_path, *flags) as hub:
        async with neighbour_of(hub.http_port) as neighbour:
            yield hub
            await neighbour.check_served()
        hub.check_unhurt()


def _url(hub: WatchedHub, door: Door, port: int = 0) -> str:
    if door == "grpc":
        return f"relay://127.0.0.1:{port or hub.grpc_port}/silent"
    return f"ws://127.0.0.1:{port or hub.http_port}/silent"


def _port(hub: WatchedHub, door: Door) -> int:
    return hub.grpc_port if door == "grpc" else hub.http_port


@pytest.mark.parametrize("hub", [60], indirect=True, ids=["patient"])
async def test_calls_survive_a_silence_shorter_than_the_resume_window(
    hub: WatchedHub, door: Door
) -> None:
    """The stalled carrier is given up by both ends, and the link goes on over a new one."""
    async with (
        TCPProxy(_port(hub, door)) as proxy,
        recording(_url(hub, door), carrier=door, limits=_LIMITS) as recorder,
        calling(_url(hub, door, proxy.port), carrier=door, limits=_LIMITS) as stub,
    ):
        held = stub.hold(b"held", timeout=60)
        waiting = asyncio.ensure_future(held)
        await recorder.was_entered(b"held")
        first = proxy.accepted_count
        proxy.stall()
        while proxy.accepted_count == first:
            # The caller found the silence, dropped the carrier and dials again.
            await proxy.changed()
        proxy.resume()
        recorder.released.set()
        assert await waiting == b"held"
        assert recorder.executed[b"held"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("hub", [60], indirect=True, ids=["patient"])
async def test_calls_survive_a_hub_that_was_stopped(hub: WatchedHub, door: Door) -> None:
    """Both endpoints find it silent and dial again; awake, it must not blame them for its sleep."""
    async with TCPProxy(_port(hub, door)) as proxy:
        url = _url(hub, door, proxy.port)
        async with (
            recording(url, carrier=door, limits=_LIMITS) as recorder,
            calling(url, carrier=door, limits=_LIMITS) as stub,
        ):
            waiting = asyncio.ensure_future(stub.hold(b"held", timeout=60))
            await recorder.was_entered(b"held")
            first = proxy.accepted_count
            os.kill(hub.pid, signal.SIGSTOP)
            while proxy.accepted_count < first + 2:
                await proxy.changed()
            os.kill(hub.pid, signal.SIGCONT)
            recorder.released.set()
            assert await waiting == b"held"
            assert recorder.executed[b"held"] == 1


@pytest.mark.slow
async def test_host_gives_up_the_call_of_a_caller_silent_for_good(
    hub: WatchedHub, door: Door
) -> None:
    async with (
        TCPProxy(_port(hub, door)) as proxy,
        recording(_url(hub, door), carrier=door) as recorder,
        calling(_url(hub, door, proxy.port), carrier=door, limits=_LIMITS) as stub,
    ):
        waiting = asyncio.ensure_future(stub.hold(b"held", timeout=60))
        await recorder.was_entered(b"held")
        proxy.stall()
        await recorder.was_cancelled(b"held")
        proxy.resume()
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await waiting
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.may_have_executed
        await stub.served_again()


@pytest.mark.slow
async def test_caller_is_told_of_a_host_silent_for_good(hub: WatchedHub, door: Door) -> None:
    async with (
        TCPProxy(_port(hub, door)) as proxy,
        recording(_url(hub, door, proxy.port), carrier=door, limits=_LIMITS) as recorder,
        calling(_url(hub, door), carrier=door) as stub,
    ):
        waiting = asyncio.ensure_future(stub.hold(b"held", timeout=60))
        await recorder.was_entered(b"held")
        proxy.stall()
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await waiting
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.may_have_executed
        proxy.resume()
        # The host hears that its link is gone, and gives the handler up.
        await recorder.was_cancelled(b"held")
        await stub.served_again()


@pytest.mark.slow
async def test_deadline_ends_a_call_to_a_silent_host(hub: WatchedHub, door: Door) -> None:
    """Whoever is silent: the caller's own clock is enough."""
    async with (
        TCPProxy(_port(hub, door)) as proxy,
        recording(_url(hub, door, proxy.port), carrier=door, limits=_LIMITS) as recorder,
        calling(_url(hub, door), carrier=door) as stub,
    ):
        await stub.echo(b"warm", timeout=20)
        proxy.stall()
        with pytest.raises(relayrpc.aio.DeadlineExceededError) as caught:
            await stub.hold(b"late", timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        proxy.resume()
        await stub.served_again()
        # What reaches the host after its deadline is not begun, or is ended at once.
        assert recorder.executed[b"late"] == len(recorder.cancelled & {b"late"})


async def test_hub_gives_up_a_stopped_host(hub: WatchedHub, door: Door) -> None:
    async with (
        host_process(_url(hub, door), door) as host,
        calling(_url(hub, door), carrier=door) as stub,
    ):
        await stub.echo(b"warm", timeout=20)
        os.kill(host.pid, signal.SIGSTOP)
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await stub.echo(b"into silence", timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.may_have_executed
        os.kill(host.pid, signal.SIGCONT)
        await stub.served_again()
        report = await stub.report()
        assert report["doubled"] == []


@pytest.mark.slow
async def test_hub_gives_up_a_stopped_caller(hub: WatchedHub, door: Door) -> None:
    """The caller here is a process that serves as well; stopping it stops what it has called."""
    async with recording(_url(hub, door), carrier=door) as recorder:
        command = _CALLER.format(url=_url(hub, door), carrier=door)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", command, stdout=asyncio.subprocess.PIPE
        )
        try:
            await recorder.was_entered(b"held")
            process.send_signal(signal.SIGSTOP)
            await recorder.was_cancelled(b"held")
            process.send_signal(signal.SIGCONT)
            output, _ = await process.communicate()
            assert output.split() == [b"UNAVAILABLE", b"True", b"again"]
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


# Calls, tells how the call ended, and calls again until it is served.
_CALLER = """
import asyncio, sys
import relayrpc.aio
from tests.integration.peers import calling

async def main():
    async with calling({url!r}, carrier={carrier!r}) as stub:
        try:
            await stub.hold(b"held", timeout=60)
        except relayrpc.aio.RpcError as error:
            sys.stdout.write(f"{{error.code().name}} {{error.may_have_executed}} ")
        reply = await stub.echo(b"again", timeout=20)
        sys.stdout.write(reply.decode())

asyncio.run(main())
"""


@pytest.mark.slow
async def test_neighbour_is_served_while_many_are_stopped(hub: WatchedHub, door: Door) -> None:
    """Five silent hosts with calls under way: another pair's calls go on all the while."""
    async with neighbour_of(hub.http_port) as neighbour:
        await _stop_many(hub, door, neighbour)


async def _stop_many(hub: WatchedHub, door: Door, neighbour: Neighbour) -> None:
    async with TCPProxy(_port(hub, door)) as proxy, asyncio.TaskGroup() as group:
        url = _url(hub, door, proxy.port)
        served = group.create_task(_serve_neighbour(neighbour))
        async with (
            recording(url + "/1", carrier=door),
            recording(url + "/2", carrier=door),
            calling(_url(hub, door) + "/1", carrier=door) as one,
            calling(_url(hub, door) + "/2", carrier=door) as two,
        ):
            await one.echo(b"warm", timeout=20)
            await two.echo(b"warm", timeout=20)
            proxy.stall()
            calls = [stub.echo(b"lost", timeout=60) for stub in (one, two) for _ in range(50)]
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert {end.code() for end in ends if isinstance(end, relayrpc.aio.RpcError)} == {
                grpc.StatusCode.UNAVAILABLE
            }
            assert len(ends) == 100
            proxy.resume()
        served.cancel()


async def _serve_neighbour(neighbour: Neighbour) -> None:
    while True:
        await neighbour.check_served()
