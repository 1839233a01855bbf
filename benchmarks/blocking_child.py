"""
A process with a blocking server or channel: `python -m benchmarks.blocking_child ROLE SIDE URL`.

Owns: the threads, and their measuring on the caller's clock. Its event loop takes commands and
touches no call.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, cast

import grpc

import relayrpc
from benchmarks.child import run, serve_commands
from benchmarks.services import SERVICE
from benchmarks.side import CALL_TIMEOUT_S
from benchmarks.workloads import ECHO_BYTES, quantile, read_meters, values_between


if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.side import SideName
    from relayrpc.carrier.url import CarrierChoice


__all__ = ["BlockingWorkloads", "main"]

POOL_THREADS_COUNT: Final = 64


def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Answer with what was asked."""
    return request


def start_server(name: SideName, url: str) -> tuple[Any, str]:
    """Start a server of plain handlers; returns it and what a channel to it is made with."""
    pool = ThreadPoolExecutor(POOL_THREADS_COUNT)
    server: Any
    if name == "direct":
        server = grpc.server(pool)
        url = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    else:
        server = relayrpc.server(url, pool, carrier=cast("CarrierChoice", name))
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_registered_method_handlers(SERVICE, handlers)
    server.start()
    return server, url


def open_channel(name: SideName, url: str) -> grpc.Channel:
    """Open a blocking channel."""
    if name == "direct":
        return grpc.insecure_channel(url)
    return relayrpc.channel(url, carrier=cast("CarrierChoice", name))


class BlockingWorkloads:
    """The commands of a calling process."""

    def __init__(self, channel: grpc.Channel) -> None:
        stub = channel.unary_unary(f"/{SERVICE}/Echo")
        request = bytes(ECHO_BYTES)
        self._call: Callable[[], Any] = lambda: stub(request, timeout=CALL_TIMEOUT_S)

    async def echoes(
        self, *, threads_count: int, warm_up_s: float, window_s: float, pids: dict[str, int]
    ) -> dict[str, float]:
        """Echo in a closed loop a thread; calls a second, and processor time a call."""
        counts = [0] * threads_count
        is_over = threading.Event()

        def work(number: int) -> None:
            while not is_over.is_set():
                self._call()
                counts[number] += 1

        with ThreadPoolExecutor(threads_count) as threads:
            working = [threads.submit(work, number) for number in range(threads_count)]
            await asyncio.sleep(warm_up_s)
            before = read_meters(sum(counts), pids)
            await asyncio.sleep(window_s)
            after = read_meters(sum(counts), pids)
            is_over.set()
            for each in working:
                each.result()
        return values_between(before, after)

    async def latencies(self, *, warm_up_s: float, window_s: float) -> dict[str, float]:
        """Time echoes, one after the other on one thread."""
        return await asyncio.to_thread(self._time_calls, warm_up_s, window_s)

    def _time_calls(self, warm_up_s: float, window_s: float) -> dict[str, float]:
        clock = time.perf_counter
        times_us = array("d")
        counts_from = clock() + warm_up_s
        while (before := clock()) < counts_from + window_s:
            self._call()
            if before >= counts_from:
                times_us.append((clock() - before) * 1e6)
        ordered = sorted(times_us)
        return {
            "p50_us": quantile(ordered, 0.5),
            "p99_us": quantile(ordered, 0.99),
            "calls_per_s": len(ordered) / window_s,
        }


async def main(role: str, name: SideName, url: str) -> None:
    """Serve, or connect and do what is asked, until standard input ends."""
    if role == "host":
        server, target = start_server(name, url)
        await serve_commands({"url": target}, {})
        server.stop(None)
        return
    with open_channel(name, url) as channel:
        workloads = BlockingWorkloads(channel)
        workloads._call()
        await serve_commands(
            {}, {"echoes": workloads.echoes, "latencies": workloads.latencies}
        )


if __name__ == "__main__":
    run(main(sys.argv[1], cast("SideName", sys.argv[2]), sys.argv[3]))
