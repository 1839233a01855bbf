"""
Goal: what a calling process measures is what its calls took, however few they were.
Method: the real workloads over a caller whose calls end when the test says so.
"""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.side import Caller
from benchmarks.workloads import Workloads


class HeldCaller(Caller):
    """Echoes once `release` is set."""

    echo_at = None
    greet = None
    stream = None

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.release = asyncio.Event()
        self.echo = self._echo

    async def _echo(self, request: bytes) -> bytes:
        self.began.set()
        await self.release.wait()
        return request

    async def aclose(self) -> None:
        """Nothing is open."""


async def test_call_counts_that_was_held_up_to_the_end() -> None:
    caller = HeldCaller()
    workloads = Workloads(caller)
    timed = asyncio.ensure_future(workloads.latencies(in_flight=2, warm_up_s=0, window_s=60))
    await caller.began.wait()
    await workloads.stop_latencies()
    caller.release.set()
    values = await timed
    assert values["p50_us"] > 0
    assert values["p99_us"] >= values["p50_us"]


async def test_window_without_a_call_says_so() -> None:
    caller = HeldCaller()
    workloads = Workloads(caller)
    timed = asyncio.ensure_future(workloads.latencies(in_flight=2, warm_up_s=60, window_s=60))
    await caller.began.wait()
    await workloads.stop_latencies()
    caller.release.set()
    with pytest.raises(RuntimeError, match="no call began and ended while times counted"):
        await timed
