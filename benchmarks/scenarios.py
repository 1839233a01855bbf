"""
What is measured, each scenario written once and run on every side that can.

Owns: which processes stand where and what they do meanwhile. Every measurement starts its own
processes and ends them.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from benchmarks.harness import Processes
from benchmarks.side import SideName


if TYPE_CHECKING:
    from benchmarks.harness import Worker
    from benchmarks.side import Service, Side


__all__ = ["FULL", "QUICK", "SCENARIOS", "Effort", "Scenario"]

KIB: Final = 1024
SMALL_BYTES: Final = 100
BULK_BYTES: Final = 64 * KIB
CALLS_IN_FLIGHT: Final = 64
NEIGHBOURS_IN_FLIGHT: Final = 16
DELAY_MS: Final = 50
STUCK_SETTLE_S: Final = 0.5
"""Long enough for every window between a source and a reader that never reads to fill."""
TRANSFER_S_MAX: Final = 50.0

ALL_SIDES: Final[tuple[SideName, ...]] = ("direct", "nats", "websocket", "grpc", "native")
STREAMING_SIDES: Final[tuple[SideName, ...]] = ("direct", "websocket", "grpc")
STUB_SIDES: Final[tuple[SideName, ...]] = (*STREAMING_SIDES, "native")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long and how much a measurement runs."""

    warm_up_s: float
    window_s: float
    delayed_warm_up_s: float
    """Longer: windows grow once a round trip, and a round trip is 100 ms."""
    transfer_bytes: int
    links_count: int
    hosts_count: int


FULL: Final = Effort(
    warm_up_s=0.5,
    window_s=2.0,
    delayed_warm_up_s=3.0,
    transfer_bytes=1024 * 1024 * KIB,
    links_count=2000,
    hosts_count=10_000,
)
QUICK: Final = Effort(
    warm_up_s=0.3,
    window_s=0.8,
    delayed_warm_up_s=2.0,
    transfer_bytes=128 * 1024 * KIB,
    links_count=200,
    hosts_count=400,
)


class Scenario(ABC):
    """One thing to measure."""

    name: ClassVar[str]
    sides: ClassVar[tuple[SideName, ...]] = STREAMING_SIDES
    rounds_max: ClassVar[int] = 100
    """A scenario that changes little from round to round, and takes long, may sit out the rest."""

    async def run(self, side: Side, effort: Effort) -> dict[str, float]:
        """
        Measure one side once, in processes of its own.

        Raises:
            BenchmarkError: If a process fails or does not answer in time.
        """
        async with Processes() as processes:
            service = await side.start(processes)
            return await self.measure(processes, service, effort)

    @abstractmethod
    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """Measure a service that is up; the values by name, units in the names."""


async def start_caller(processes: Processes, service: Service, *, url: str = "") -> Worker:
    """Start a calling process; it has a connection of its own."""
    name = service.side.name
    return await processes.start_worker(
        f"{name} caller", "benchmarks.caller", name, url or service.url
    )


class Calls(Scenario):
    """Echoes of 100 bytes, 64 in flight, and the processor time each costs every process."""

    name = "calls"
    sides = ALL_SIDES
    workload: ClassVar[str] = "echoes"

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """Calls a second and microseconds a call."""
        caller = await start_caller(processes, service)
        return await caller.run(
            self.workload,
            in_flight=CALLS_IN_FLIGHT,
            warm_up_s=effort.warm_up_s,
            window_s=effort.window_s,
            pids=service.pids,
        )


class StubCalls(Calls):
    """The same from a generated protobuf stub to a generated servicer."""

    name = "stub_calls"
    sides = STUB_SIDES
    workload = "greetings"


class Stub2K(Scenario):
    """An order of 2 KiB, sent and fetched by a generated stub, and the same bytes raw."""

    name = "stub_2k"
    calls: ClassVar[tuple[str, ...]] = ("raw_put", "stub_put", "raw_get", "stub_get")

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """Calls a second and microseconds a call, of each kind in turn."""
        caller = await start_caller(processes, service)
        values: dict[str, float] = {}
        for call in self.calls:
            measured = await caller.run(
                "orders",
                call=call,
                in_flight=CALLS_IN_FLIGHT,
                warm_up_s=effort.warm_up_s,
                window_s=effort.window_s,
                pids=service.pids,
            )
            values |= {f"{call}_{name}": value for name, value in measured.items()}
        return values


class Latency(Scenario):
    """Echoes of 100 bytes, one at a time."""

    name = "latency"
    sides = ALL_SIDES

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """Median and 99th percentile."""
        caller = await start_caller(processes, service)
        return await caller.run(
            "latencies", in_flight=1, warm_up_s=effort.warm_up_s, window_s=effort.window_s
        )


class SmallStream(Scenario):
    """One server stream of 100-byte messages."""

    name = "small_stream"
    size_bytes: ClassVar[int] = SMALL_BYTES

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """Messages and megabytes a second."""
        caller = await start_caller(processes, service)
        return await caller.run(
            "messages",
            size_bytes=self.size_bytes,
            warm_up_s=effort.warm_up_s,
            window_s=effort.window_s,
        )


class BulkStream(SmallStream):
    """One server stream of 64 KiB messages."""

    name = "bulk_stream"
    size_bytes = BULK_BYTES


class DelayedStream(Scenario):
    """The same with 50 ms more each way between the caller and what it connects to."""

    name = "delayed_stream"

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """Megabytes a second once windows have grown."""
        proxy = await processes.start_worker(
            "delay proxy", "benchmarks.delay_proxy", str(service.port), str(DELAY_MS)
        )
        url = service.through(proxy.ready["port"])
        caller = await start_caller(processes, service, url=url)
        return await caller.run(
            "messages",
            size_bytes=BULK_BYTES,
            warm_up_s=effort.delayed_warm_up_s,
            window_s=effort.window_s,
        )


class StuckReader(Scenario):
    """Neighbours with and without a reader that never reads, in another process."""

    name = "stuck_reader"

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """Neighbours' times alone and beside it."""
        neighbours = await start_caller(processes, service)
        stuck = await start_caller(processes, service)
        alone = await neighbours_alone(neighbours, effort)
        await stuck.run("hold_stream", size_bytes=BULK_BYTES)
        await asyncio.sleep(STUCK_SETTLE_S)
        beside = await neighbours_alone(neighbours, effort)
        return comparison(alone, beside)


class Transfer(Scenario):
    """Neighbours beside an unthrottled transfer to another calling process, from the same host."""

    name = "transfer"
    is_link_shared: ClassVar[bool] = False
    share_of_bytes: ClassVar[float] = 1.0

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """Neighbours' times alone and beside it, and how fast it went."""
        neighbours = await start_caller(processes, service)
        taker = neighbours if self.is_link_shared else await start_caller(processes, service)
        alone = await neighbours_alone(neighbours, effort)
        running = asyncio.ensure_future(
            neighbours.run(
                "latencies",
                in_flight=NEIGHBOURS_IN_FLIGHT,
                # Warm from the window before. A call that began ahead of the transfer and was
                # held up by it counts: there may be no other.
                warm_up_s=0,
                window_s=TRANSFER_S_MAX,
            )
        )
        try:
            count = int(effort.transfer_bytes * self.share_of_bytes) // BULK_BYTES
            transferred = await taker.run("transfer", size_bytes=BULK_BYTES, count=count)
            await neighbours.run("stop_latencies")
            beside = await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        return comparison(alone, beside) | transferred


class SharedTransfer(Transfer):
    """The same with the transfer and its neighbours in one process, on one connection."""

    name = "shared_transfer"
    is_link_shared = True
    # Reported only, so it need not take as long.
    share_of_bytes = 0.25


async def neighbours_alone(caller: Worker, effort: Effort) -> dict[str, float]:
    """Time the neighbours for one window."""
    return await caller.run(
        "latencies",
        in_flight=NEIGHBOURS_IN_FLIGHT,
        warm_up_s=effort.warm_up_s,
        window_s=effort.window_s,
    )


def comparison(alone: dict[str, float], beside: dict[str, float]) -> dict[str, float]:
    """Neighbours' values without and with somebody beside them."""
    return {f"alone_{name}": value for name, value in alone.items()} | {
        f"beside_{name}": value for name, value in beside.items()
    }


SCENARIOS: Final[tuple[Scenario, ...]] = (
    Calls(),
    StubCalls(),
    Stub2K(),
    Latency(),
    SmallStream(),
    BulkStream(),
    DelayedStream(),
    StuckReader(),
    Transfer(),
    SharedTransfer(),
)
