"""
What a call costs where many hosts listen at many addresses, beside one host at one address.

Owns: who listens where. Hub and caller are the same for both, and every call names its address.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from benchmarks.scenarios import CALLS_IN_FLIGHT, Scenario, start_caller


if TYPE_CHECKING:
    from benchmarks.harness import Processes, Worker
    from benchmarks.scenarios import Effort
    from benchmarks.side import Service


__all__ = ["ADDRESS_SCENARIOS", "ManyAddresses", "ManyHosts", "open_hosts", "start_links"]

ADDRESSES_COUNT: Final = 1000
HOSTS_COUNT: Final = 3
"""At each of many addresses, in a process each."""
LINKS_AT_ONCE: Final = 250
"""Opened by one command, whose answer is waited for."""


class ManyAddresses(Scenario):
    """1,000 addresses with three hosts each; a process has one link for all of its hosts."""

    name = "many_addresses"
    sides = ("websocket", "grpc")

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """Echoes at one address with one host, at one with three, and at all."""
        workers = await start_links(processes, service, HOSTS_COUNT)
        caller = await start_caller(processes, service)
        cases = {
            "one": (range(1), workers[:1]),
            "three": (range(1, 2), workers),
            "many": (range(2, 2 + ADDRESSES_COUNT), workers),
        }
        values: dict[str, float] = {}
        for case, (numbers, hosts) in cases.items():
            await asyncio.gather(*(self.listen(host, numbers) for host in hosts))
            measured = await caller.run(
                "spread_echoes",
                first=numbers.start,
                addresses_count=len(numbers),
                in_flight=CALLS_IN_FLIGHT,
                warm_up_s=effort.warm_up_s,
                window_s=effort.window_s,
                pids={"hub": service.pids["hub"]},
            )
            values |= {f"{case}_{name}": value for name, value in measured.items()}
        return values

    async def listen(self, host: Worker, numbers: range) -> None:
        """Have one process listen at addresses of these numbers."""
        await host.run("host", first=numbers.start, addresses_count=len(numbers))


class ManyHosts(ManyAddresses):
    """The same with a link for every host."""

    name = "many_hosts"
    rounds_max = 2

    async def listen(self, host: Worker, numbers: range) -> None:
        """Have one process listen at addresses of these numbers."""
        await open_hosts(host, numbers)


async def start_links(processes: Processes, service: Service, count: int) -> list[Worker]:
    """Start processes that can hold many links."""
    name = service.side.name
    return [
        await processes.start_worker(
            f"{name} links {number}", "benchmarks.links", name, service.url
        )
        for number in range(count)
    ]


async def open_hosts(worker: Worker, numbers: range) -> None:
    """Have one process open a link for a host at each address of these numbers."""
    for first in range(numbers.start, numbers.stop, LINKS_AT_ONCE):
        count = min(LINKS_AT_ONCE, numbers.stop - first)
        await worker.run("hosts", first=first, count=count)


ADDRESS_SCENARIOS: Final[tuple[Scenario, ...]] = (ManyAddresses(), ManyHosts())
