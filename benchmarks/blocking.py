"""
The blocking API: a stub in threads, one call at a time, and plain handlers in a pool.

Owns: which processes stand where. On the direct side server and channel are grpc's own blocking
ones; on the relay's sides they are ours, on the same pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.harness import Processes
from benchmarks.relay_side import start_hub
from benchmarks.scenarios import CALLS_IN_FLIGHT, STREAMING_SIDES, Scenario, start_caller
from benchmarks.side import ADDRESS, Service


if TYPE_CHECKING:
    from benchmarks.harness import Worker
    from benchmarks.scenarios import Effort
    from benchmarks.side import Side


__all__ = ["BLOCKING_SCENARIOS"]

CHILD: Final = "benchmarks.blocking_child"
THREADS_COUNT: Final = 16


class BlockingScenario(Scenario):
    """One with a blocking server."""

    sides = STREAMING_SIDES

    async def run(self, side: Side, effort: Effort) -> dict[str, float]:
        """As Scenario's, with a blocking server where a side has an asynchronous one."""
        async with Processes() as processes:
            return await self.measure(processes, await start_service(processes, side), effort)


async def start_service(processes: Processes, side: Side) -> Service:
    """Start a blocking server; for a relay's side, the hub that it dials."""
    url, pids = "", {}
    if side.name != "direct":
        hub = await start_hub(processes)
        is_websocket = side.name == "websocket"
        scheme, port = ("ws", hub.http_port) if is_websocket else ("relay", hub.grpc_port)
        url, pids = f"{scheme}://127.0.0.1:{port}/{ADDRESS}", {"hub": hub.pid}
    host = await processes.start_worker("blocking host", CHILD, "host", side.name, url)
    pids["host"] = host.pid
    return Service(side=side, url=host.ready["url"], host="127.0.0.1", port=0, pids=pids)


async def start_blocking_caller(processes: Processes, service: Service) -> Worker:
    """Start a process with a blocking channel."""
    name = service.side.name
    return await processes.start_worker("blocking caller", CHILD, "caller", name, service.url)


class BlockingCalls(BlockingScenario):
    """Echoes of 100 bytes by 16 threads on one channel."""

    name = "blocking_calls"

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """Calls a second and microseconds a call."""
        caller = await start_blocking_caller(processes, service)
        return await caller.run(
            "echoes",
            threads_count=THREADS_COUNT,
            warm_up_s=effort.warm_up_s,
            window_s=effort.window_s,
            pids=service.pids,
        )


class BlockingLatency(BlockingScenario):
    """Echoes of 100 bytes by one thread."""

    name = "blocking_latency"

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """Median and 99th percentile."""
        caller = await start_blocking_caller(processes, service)
        return await caller.run(
            "latencies", warm_up_s=effort.warm_up_s, window_s=effort.window_s
        )


class PlainHost(BlockingScenario):
    """Echoes of 100 bytes, 64 in flight from an asynchronous caller, served by plain functions."""

    name = "plain_host"

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """Calls a second and microseconds a call."""
        caller = await start_caller(processes, service)
        return await caller.run(
            "echoes",
            in_flight=CALLS_IN_FLIGHT,
            warm_up_s=effort.warm_up_s,
            window_s=effort.window_s,
            pids=service.pids,
        )


BLOCKING_SCENARIOS: Final[tuple[Scenario, ...]] = (BlockingCalls(), BlockingLatency(), PlainHost())
