"""
What a calling process does and measures: closed loops of unary calls, streams, transfers.

Owns: the measuring itself, all of it on the caller's clock. Knows nothing of sides.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from array import array
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from benchmarks.accounting import cpu_s


if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benchmarks.child import Command
    from benchmarks.side import Caller, StreamCall


__all__ = ["ECHO_BYTES", "Meters", "Workloads", "quantile", "read_meters", "values_between"]

MEGABYTE: Final = 1_000_000
ECHO_BYTES: Final = 100
LATENCIES_MAX: Final = 5_000_000
"""Beyond this many a loop ends early; 40 MB."""


class Workloads:
    """The commands of one calling process."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._stuck: list[StreamCall] = []
        self._stop = asyncio.Event()

    def commands(self) -> dict[str, Command]:
        """By name, as harness.Worker.run takes them."""
        return {
            "echoes": self.echoes,
            "spread_echoes": self.spread_echoes,
            "greetings": self.greetings,
            "orders": self.orders,
            "latencies": self.latencies,
            "messages": self.messages,
            "transfer": self.transfer,
            "hold_stream": self.hold_stream,
            "stop_latencies": self.stop_latencies,
        }

    async def echoes(self, **arguments: Any) -> dict[str, float]:
        """Echo 100 bytes in a closed loop: see `closed_loop`."""
        return await closed_loop(partial(self._caller.echo, bytes(ECHO_BYTES)), **arguments)

    async def spread_echoes(
        self, *, first: int, addresses_count: int, **arguments: Any
    ) -> dict[str, float]:
        """The same at many addresses in turn, numbered from `first` on."""
        echo_at = self._caller.echo_at
        assert echo_at is not None
        turns = itertools.cycle([echo_at(first + number) for number in range(addresses_count)])
        payload = bytes(ECHO_BYTES)
        return await closed_loop(lambda: next(turns)(payload), **arguments)

    async def greetings(self, **arguments: Any) -> dict[str, float]:
        """The same with a generated stub."""
        assert self._caller.greet is not None
        return await closed_loop(self._caller.greet, **arguments)

    async def orders(self, *, call: str, **arguments: Any) -> dict[str, float]:
        """The same with 2 KiB one way: see `Caller.orders`."""
        assert self._caller.orders is not None
        return await closed_loop(self._caller.orders[call], **arguments)

    async def latencies(
        self, *, in_flight: int, warm_up_s: float, window_s: float
    ) -> dict[str, float]:
        """
        Time every one of many echoes.

        Args:
            in_flight: Loops side by side, each with one call at a time.
            warm_up_s: How long they run before times count.
            window_s: How long times count; `stop_latencies` ends it early.
        """
        call = partial(self._caller.echo, bytes(ECHO_BYTES))
        times_us = array("d")
        self._stop.clear()
        counts_from = time.perf_counter() + warm_up_s

        async def loop() -> None:
            clock = time.perf_counter
            while not self._stop.is_set() and len(times_us) < LATENCIES_MAX:
                before = clock()
                await call()
                if before >= counts_from:
                    times_us.append((clock() - before) * 1e6)

        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(loop())
            try:
                async with asyncio.timeout(warm_up_s + window_s):
                    await self._stop.wait()
            except TimeoutError:
                self._stop.set()
        if not times_us:
            raise RuntimeError("no call began and ended while times counted")
        ordered = sorted(times_us)
        elapsed_s = time.perf_counter() - counts_from
        return {
            "p50_us": quantile(ordered, 0.5),
            "p99_us": quantile(ordered, 0.99),
            "calls_per_s": len(ordered) / elapsed_s,
        }

    async def stop_latencies(self) -> dict[str, float]:
        """End the `latencies` that run."""
        self._stop.set()
        return {}

    async def messages(
        self, *, size_bytes: int, warm_up_s: float, window_s: float
    ) -> dict[str, float]:
        """Read an endless stream; what comes during the warm-up does not count."""
        call = self._open_stream(0, size_bytes)
        loop = asyncio.get_running_loop()
        count = 0
        marks: list[tuple[int, float]] = []
        loop.call_later(warm_up_s, lambda: marks.append((count, time.perf_counter())))
        loop.call_later(warm_up_s + window_s, lambda: marks.append((count, time.perf_counter())))
        async for _ in call:
            count += 1
            if len(marks) == 2:
                break
        call.cancel()
        (first, began_s), (last, ended_s) = marks
        per_s = (last - first) / (ended_s - began_s)
        return {"messages_per_s": per_s, "mb_per_s": per_s * size_bytes / MEGABYTE}

    async def transfer(self, *, size_bytes: int, count: int) -> dict[str, float]:
        """Read a stream of known length to its end."""
        began_s = time.perf_counter()
        received_bytes = 0
        async for message in self._open_stream(count, size_bytes):
            received_bytes += len(message)
        elapsed_s = time.perf_counter() - began_s
        if received_bytes != count * size_bytes:
            raise RuntimeError(f"got {received_bytes} of {count * size_bytes} bytes")
        return {"mb_per_s": received_bytes / MEGABYTE / elapsed_s, "seconds": elapsed_s}

    async def hold_stream(self, *, size_bytes: int) -> dict[str, float]:
        """Open an endless stream and never read it, as long as this process lives."""
        call = self._open_stream(0, size_bytes)
        await call.initial_metadata()
        self._stuck.append(call)
        return {}

    def _open_stream(self, count: int, size_bytes: int) -> StreamCall:
        assert self._caller.stream is not None
        return self._caller.stream(count, size_bytes)


async def closed_loop(
    call: Callable[[], Awaitable[Any]],
    *,
    in_flight: int,
    warm_up_s: float,
    window_s: float,
    pids: dict[str, int],
) -> dict[str, float]:
    """
    Keep `in_flight` calls going and count them.

    Args:
        call: Makes one call.
        in_flight: Loops side by side, each with one call at a time.
        warm_up_s: How long they run before calls count.
        window_s: How long calls count.
        pids: Processes whose processor time is taken over the window, by role.

    Returns:
        Calls a second, and microseconds of processor time a call for each role and for the caller.
    """
    count = 0
    is_over = False

    async def loop() -> None:
        nonlocal count
        while not is_over:
            await call()
            count += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(loop())
        await asyncio.sleep(warm_up_s)
        before = read_meters(count, pids)
        await asyncio.sleep(window_s)
        after = read_meters(count, pids)
        is_over = True
    return values_between(before, after)


class Meters(NamedTuple):
    """What stood where at one moment of a closed loop."""

    calls_count: int
    at_s: float
    cpu_s: dict[str, float]
    """Processor time by role."""


def read_meters(calls_count: int, pids: dict[str, int]) -> Meters:
    """Read the clocks of this process, the caller, and of others by role."""
    cpu = {role: cpu_s(pid) for role, pid in pids.items()} | {"caller": time.process_time()}
    return Meters(calls_count, time.perf_counter(), cpu)


def values_between(before: Meters, after: Meters) -> dict[str, float]:
    """Return calls a second, and microseconds of processor time a call for each role."""
    calls_count = after.calls_count - before.calls_count
    values = {"calls_per_s": calls_count / (after.at_s - before.at_s)}
    for role, used_s in before.cpu_s.items():
        values[f"{role}_us_per_call"] = (after.cpu_s[role] - used_s) * 1e6 / calls_count
    return values


def quantile(ordered: list[float], fraction: float) -> float:
    """The value that `fraction` of a sorted list do not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))]
