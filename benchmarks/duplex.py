"""
Sessions, callbacks, one-way calls, and many callers at once. Direct gRPC has none of them: where a
figure is beside direct, it is beside its plain calls.

Owns: which processes stand where.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from benchmarks.accounting import resident_bytes
from benchmarks.harness import Processes
from benchmarks.memory import settled_bytes
from benchmarks.relay_side import start_hub
from benchmarks.scenarios import CALLS_IN_FLIGHT, STREAMING_SIDES, Scenario, start_caller
from benchmarks.side import ADDRESS, Service


if TYPE_CHECKING:
    from benchmarks.harness import Worker
    from benchmarks.scenarios import Effort
    from benchmarks.side import Side, SideName


__all__ = ["DUPLEX_SCENARIOS"]

CHILD: Final = "benchmarks.duplex_child"
RELAY_SIDES: Final[tuple[SideName, ...]] = ("websocket", "grpc")
FIRST_SESSIONS_COUNT: Final = 50
WATCHERS_COUNT: Final = 1_000
WATCHING_PROCESSES_COUNT: Final = 2


async def start_duplex(processes: Processes, side: Side) -> tuple[Service, Worker]:
    """Start a hub and a host of a relay's side; returns the host's worker too."""
    limits = ("--limit", "calls_open_max=12000", "--limit", "link_budget_bytes=64MiB")
    hub = await start_hub(processes, *limits)
    is_websocket = side.name == "websocket"
    scheme, port = ("ws", hub.http_port) if is_websocket else ("relay", hub.grpc_port)
    url = f"{scheme}://127.0.0.1:{port}/{ADDRESS}"
    host = await processes.start_worker("duplex host", CHILD, "host", side.name, url)
    pids = {"hub": hub.pid, "host": host.pid}
    return Service(side=side, url=url, host="127.0.0.1", port=port, pids=pids), host


async def start_duplex_caller(processes: Processes, service: Service) -> Worker:
    """Start a process with a channel that hears callbacks."""
    name = service.side.name
    return await processes.start_worker("duplex caller", CHILD, "caller", name, service.url)


class DuplexScenario(Scenario):
    """One whose host calls back."""

    sides = RELAY_SIDES

    async def run(self, side: Side, effort: Effort) -> dict[str, float]:
        """As Scenario's, with other processes."""
        async with Processes() as processes:
            self._service, self._host = await start_duplex(processes, side)
            return await self.measure(processes, self._service, effort)


class SessionCalls(DuplexScenario):
    """Echoes of 100 bytes within one session: 64 in flight, and one at a time."""

    name = "session_calls"
    sides = STREAMING_SIDES

    async def run(self, side: Side, effort: Effort) -> dict[str, float]:
        """Beside direct's plain calls."""
        if side.name != "direct":
            return await super().run(side, effort)
        async with Processes() as processes:
            service = await side.start(processes)
            caller = await start_caller(processes, service)
            return await _calls_and_latency(caller, "echoes", "latencies", effort, service.pids)

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """Calls a second, and the median of one at a time."""
        caller = await start_duplex_caller(processes, service)
        names = ("session_echoes", "session_latencies")
        return await _calls_and_latency(caller, *names, effort, service.pids)


async def _calls_and_latency(
    caller: Worker, echoes: str, latencies: str, effort: Effort, pids: dict[str, int]
) -> dict[str, float]:
    window: dict[str, Any] = {"warm_up_s": effort.warm_up_s, "window_s": effort.window_s}
    values = await caller.run(echoes, in_flight=CALLS_IN_FLIGHT, pids=pids, **window)
    alone = await caller.run(latencies, in_flight=1, **window)
    return values | {"p50_us": alone["p50_us"]}


class Callbacks(DuplexScenario):
    """A callback's round trip, one at a time, and a call's."""

    name = "callbacks"

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """Medians, in the same processes."""
        caller = await start_duplex_caller(processes, service)
        call = await caller.run(
            "latencies", in_flight=1, warm_up_s=effort.warm_up_s, window_s=effort.window_s
        )
        await caller.run("callbacks", window_s=effort.warm_up_s)
        values = await caller.run("callbacks", window_s=effort.window_s)
        return values | {"call_us": call["p50_us"]}


class OneWay(DuplexScenario):
    """One-way calls and ordinary ones of 100 bytes, 64 in flight."""

    name = "one_way"

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """Calls a second, in the same processes."""
        caller = await start_duplex_caller(processes, service)
        rates = {}
        for name in ("echoes", "one_way"):
            values = await caller.run(
                name,
                in_flight=CALLS_IN_FLIGHT,
                warm_up_s=effort.warm_up_s,
                window_s=effort.window_s,
                pids=service.pids,
            )
            rates[f"{name}_per_s"] = values["calls_per_s"]
        return rates


class IdleSessions(DuplexScenario):
    """10,000 sessions that do nothing, on one link at each side."""

    name = "idle_sessions"
    rounds_max = 2

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """KiB a session, of each process."""
        caller = await start_duplex_caller(processes, service)
        pids = service.pids | {"caller": caller.pid}
        await caller.run("hold_sessions", count=FIRST_SESSIONS_COUNT)
        before = {role: await settled_bytes(pid) for role, pid in pids.items()}
        count = effort.hosts_count
        await caller.run("hold_sessions", count=count)
        await settled_bytes(pids["hub"])
        values = {
            f"{role}_kib": (resident_bytes(pid) - before[role]) / 1024 / count
            for role, pid in pids.items()
        }
        return values | {"sessions_count": count}


class CallbackSets(DuplexScenario):
    """What 1,000 callers are told, each on a link of its own; then with one of them stuck."""

    name = "callback_set"
    rounds_max = 3

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """Callbacks a second, all callers together."""
        callers = [
            await start_duplex_caller(processes, service) for _ in range(WATCHING_PROCESSES_COUNT)
        ]
        each = WATCHERS_COUNT // WATCHING_PROCESSES_COUNT
        await asyncio.gather(*(caller.run("watch", count=each) for caller in callers))
        arguments = {"window_s": effort.window_s, "callers_count": WATCHERS_COUNT}
        free = await self._host.run("publish", **arguments)
        await callers[0].run("watch", count=1, is_stuck=True)
        stuck = await self._host.run("publish", **arguments)
        return {
            "events_per_s": free["events_per_s"],
            "events_beside_stuck_per_s": stuck["events_per_s"],
        }


DUPLEX_SCENARIOS: Final[tuple[Scenario, ...]] = (
    SessionCalls(),
    Callbacks(),
    OneWay(),
    IdleSessions(),
    CallbackSets(),
)
