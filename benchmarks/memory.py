"""
How much memory the process in the middle holds for every idle connection.

Owns: opening many connections from a few processes and reading the hub's memory. The connections
have each made one call.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from benchmarks.accounting import resident_bytes, sockets_count
from benchmarks.harness import BenchmarkError, Processes
from benchmarks.scenarios import STREAMING_SIDES, Scenario


if TYPE_CHECKING:
    from benchmarks.scenarios import Effort
    from benchmarks.side import Service, Side


__all__ = ["MEMORY_SCENARIOS", "IdleLinks", "SecureIdleLinks"]

PROCESSES_COUNT: Final = 2
FIRST_LINKS_COUNT: Final = 25
"""Opened by each process before the first reading: what a hub allocates once is not counted."""
SETTLE_S: Final = 0.25
SETTLE_READINGS_MAX: Final = 20
SETTLED_BYTES: Final = 64 * 1024


class IdleLinks(Scenario):
    """The growth of the hub (of the server, for direct) over many idle links."""

    name = "idle_links"
    sides = STREAMING_SIDES

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """KiB a link, and sockets a link to see that none was shared."""
        pid = service.pids.get("hub", service.pids["host"])
        name = service.side.name
        openers = [
            await processes.start_worker(
                f"{name} links {number}", "benchmarks.links", name, service.url
            )
            for number in range(PROCESSES_COUNT)
        ]
        for opener in openers:
            await opener.run("open", count=FIRST_LINKS_COUNT)
        before_bytes = await settled_bytes(pid)
        before_sockets = sockets_count(pid)
        each = effort.links_count // PROCESSES_COUNT
        await asyncio.gather(*(opener.run("open", count=each) for opener in openers))
        after_bytes = await settled_bytes(pid)
        sockets_per_link = (sockets_count(pid) - before_sockets) / (each * PROCESSES_COUNT)
        if sockets_per_link < 0.99:
            raise BenchmarkError(f"links share sockets: {sockets_per_link:.2f} a link")
        return {
            "kib_per_link": (after_bytes - before_bytes) / 1024 / (each * PROCESSES_COUNT),
            "sockets_per_link": sockets_per_link,
        }


class SecureIdleLinks(IdleLinks):
    """The same with TLS on every link."""

    name = "secure_idle_links"
    sides = ("websocket", "grpc")
    rounds_max = 2

    async def run(self, side: Side, effort: Effort) -> dict[str, float]:
        """Measure with a certificate authority of its own."""
        from benchmarks.certificates import made_certificates
        from benchmarks.relay_side import CA_VARIABLE, Relay

        assert isinstance(side, Relay)
        with made_certificates() as made:
            async with Processes({CA_VARIABLE: made.ca_file}) as processes:
                service = await Relay(side.carrier, made).start(processes)
                return await self.measure(processes, service, effort)


async def settled_bytes(pid: int) -> int:
    """The memory of a process once it no longer changes, or 5 s later."""
    before = resident_bytes(pid)
    for _ in range(SETTLE_READINGS_MAX):
        await asyncio.sleep(SETTLE_S)
        now = resident_bytes(pid)
        if abs(now - before) < SETTLED_BYTES:
            return now
        before = now
    return before


MEMORY_SCENARIOS: Final[tuple[Scenario, ...]] = (IdleLinks(), SecureIdleLinks())
