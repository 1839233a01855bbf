"""
Goal: the hosts of a hub that is restarted are all back, each after a few attempts.

Method: hundreds and thousands of hosts in a few processes, a hub process that is drained or
killed, and the next one on the same ports. Every host is called by its own address in the end. How
often hosts dial is held to what their backoff allows in the time it took.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

import relayrpc.aio
from relayrpc.limits import DEFAULT_LIMITS
from tests.e2e.many_hosts import SERVICE
from tests.e2e.processes import RunningHub, running_hub
from tests.support.ports import held_doors


pytestmark = pytest.mark.e2e

ADDRESS: Final = "many"
CALLING_MAX: Final = 64
# As the live link has them.
BACKOFF_FACTOR: Final = 1.6
JITTER_LEAST: Final = 0.8


class ManyHosts:
    """Hosts 0 to `count` - 1, in some processes."""

    def __init__(self, processes: list[asyncio.subprocess.Process], count: int) -> None:
        self._processes = processes
        self.count = count

    async def dials(self) -> list[int]:
        """How often each host has dialled since this was last asked."""
        dials: list[int] = []
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            dials.extend((await _heard(process))["dials"])
        return dials

    async def all_answer(self, hub: RunningHub) -> None:
        """Call each until it is served; an end before says that nobody ran it."""
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        calling = asyncio.Semaphore(CALLING_MAX)
        async with relayrpc.aio.channel(url) as channel:
            who_are_you = channel.unary_unary(f"/{SERVICE}/WhoAreYou")

            async def call(number: int) -> None:
                at = (("relay-address", f"{ADDRESS}/{number}"),)
                async with calling:
                    # Answered once its host listens, however long that takes.
                    answer = await who_are_you(b"", metadata=at, wait_for_ready=True)
                assert answer == b"%d" % number

            await asyncio.gather(*map(call, range(self.count)))


@contextlib.asynccontextmanager
async def many_hosts(url: str, count: int, processes_count: int) -> AsyncIterator[ManyHosts]:
    each = count // processes_count
    processes = []
    try:
        for index in range(processes_count):
            command = ("-m", "tests.e2e.many_hosts", url, str(index * each), str(each))
            processes.append(
                await asyncio.create_subprocess_exec(
                    *(sys.executable, *command),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                )
            )
        for process in processes:
            assert await _heard(process) == {"registered": each}
        yield ManyHosts(processes, each * processes_count)
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _heard(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await process.stdout.readline()
    assert line, "the hosts' process ended"
    heard: dict[str, Any] = json.loads(line)
    return heard


def dials_max(elapsed_s: float) -> int:
    """The most that one host may dial in a time: once at once, and after each pause."""
    count, pause_s = 1, DEFAULT_LIMITS.backoff_s_min
    while (elapsed_s := elapsed_s - JITTER_LEAST * pause_s) > 0:
        count += 1
        pause_s = min(pause_s * BACKOFF_FACTOR, DEFAULT_LIMITS.backoff_s_max)
    return count


@pytest.mark.parametrize(
    ("door", "ending", "hosts_count", "processes_count"),
    [
        ("relay", signal.SIGTERM, 200, 2),
        ("ws", signal.SIGKILL, 200, 2),
        *[
            pytest.param(door, ending, 2_000, 4, marks=(pytest.mark.slow, pytest.mark.timeout(600)))
            for door in ("relay", "ws")
            for ending in (signal.SIGTERM, signal.SIGKILL)
        ],
    ],
)
async def test_all_hosts_are_back_after_their_hub_was_restarted(
    door: str, ending: signal.Signals, hosts_count: int, processes_count: int, tmp_path: Path
) -> None:
    log_file = tmp_path / "hub.log"
    with (
        held_doors() as doors,
        log_file.open("w") as log,
        running_hub(*doors, stderr=log) as hub,
    ):
        port = hub.grpc_port if door == "relay" else hub.http_port
        url = f"{door}://127.0.0.1:{port}/{ADDRESS}"
        async with many_hosts(url, hosts_count, processes_count) as hosts:
            await hosts.all_answer(hub)
            await hosts.dials()
            ended_s = time.monotonic()
            hub.process.send_signal(ending)
            # A hub that drains has its ports closed when it ends, as nothing runs.
            await asyncio.to_thread(hub.process.wait)
            with running_hub(*doors, stderr=log) as next_hub:
                await hosts.all_answer(next_hub)
                dials = await hosts.dials()
                # A link that the next hub does not know is begun anew, with the first pause again.
                assert max(dials) <= 2 * dials_max(time.monotonic() - ended_s)
                assert min(dials) >= 1
    assert "Traceback" not in log_file.read_text()
