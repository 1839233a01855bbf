"""
How much memory the process in the middle holds for every idle connection.

Owns: opening many connections from a few processes and reading the hub's memory. Those of callers
have each made one call, those of hosts have announced an address.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar, Final

from benchmarks.accounting import cpu_s, resident_bytes, sockets_count
from benchmarks.addresses import open_hosts, start_links
from benchmarks.harness import BenchmarkError, Processes, open_files_max
from benchmarks.scenarios import STREAMING_SIDES, Scenario


if TYPE_CHECKING:
    from benchmarks.harness import Worker
    from benchmarks.scenarios import Effort
    from benchmarks.side import Service, Side


__all__ = ["MEMORY_SCENARIOS", "IdleLinks", "SecureIdleLinks"]

IDLE_WINDOW_S: Final = 10.0
"""One keepalive interval."""
OTHER_FILES_COUNT: Final = 256
"""What a hub may have open beside the links that are counted."""
FIRST_LINKS_COUNT: Final = 25
"""Opened by each process before the first reading: what a hub allocates once is not counted."""
SETTLE_S: Final = 0.25
SETTLE_READINGS_MAX: Final = 20
SETTLED_BYTES: Final = 64 * 1024


class IdleLinks(Scenario):
    """The growth of the hub (of the server, for direct) over many idle links."""

    name = "idle_links"
    sides = STREAMING_SIDES
    processes_count: ClassVar[int] = 2

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """KiB a link, and sockets a link to see that none was shared."""
        pid = service.pids.get("hub", service.pids["host"])
        openers = await start_links(processes, service, self.processes_count)
        for number, opener in enumerate(openers):
            await self.open(opener, number * FIRST_LINKS_COUNT, FIRST_LINKS_COUNT)
        before_bytes = await settled_bytes(pid)
        before_sockets = sockets_count(pid)
        each = self.links_count(effort) // self.processes_count
        first = FIRST_LINKS_COUNT * self.processes_count
        await asyncio.gather(
            *(
                self.open(opener, first + number * each, each)
                for number, opener in enumerate(openers)
            )
        )
        after_bytes = await settled_bytes(pid)
        links_count = each * self.processes_count
        sockets_per_link = (sockets_count(pid) - before_sockets) / links_count
        if sockets_per_link < 0.99:
            raise BenchmarkError(f"links share sockets: {sockets_per_link:.2f} a link")
        return {
            "kib_per_link": (after_bytes - before_bytes) / 1024 / links_count,
            "sockets_per_link": sockets_per_link,
            "links_count": links_count,
        }

    def links_count(self, effort: Effort) -> int:
        """How many are opened between the two readings."""
        return effort.links_count

    async def open(self, opener: Worker, first: int, count: int) -> None:
        """Have one process open links; those of hosts are numbered."""
        await opener.run("callers", count=count)


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


class IdleHosts(IdleLinks):
    """
    10,000 hosts at addresses of their own, and what the hub has to do for them: keepalive.

    A system that lets a process open fewer files gets fewer hosts; the figures say how many.
    """

    name = "idle_hosts"
    sides = ("websocket", "grpc")
    rounds_max = 2
    processes_count = 4

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """As idle links, and milliseconds of the hub's processor time a second."""
        values = await super().measure(processes, service, effort)
        pid = service.pids["hub"]
        before_s = cpu_s(pid)
        await asyncio.sleep(IDLE_WINDOW_S)
        return values | {"hub_ms_per_s": (cpu_s(pid) - before_s) * 1000 / IDLE_WINDOW_S}

    def links_count(self, effort: Effort) -> int:
        """How many are opened between the two readings."""
        return min(effort.hosts_count, open_files_max() - OTHER_FILES_COUNT)

    async def open(self, opener: Worker, first: int, count: int) -> None:
        """Have one process open links of hosts."""
        await open_hosts(opener, range(first, first + count))


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


MEMORY_SCENARIOS: Final[tuple[Scenario, ...]] = (IdleLinks(), SecureIdleLinks(), IdleHosts())
