"""
Goal: a program on virtual time runs as on a real loop, at once, and what would hang it says so.

Method: a few coroutines inside of run_virtual(), without a relay.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from relayrpc.errors import UsageError
from relayrpc.testing import (
    ComplaintError,
    DeadlockError,
    LivelockError,
    VirtualLoop,
    run_virtual,
)


DAY_S = 24 * 3600.0

Main = Callable[[], Coroutine[Any, Any, Any]]


def test_time_passes_by_what_is_waited_for() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        before_s = loop.time()
        await asyncio.gather(asyncio.sleep(3600.0), asyncio.sleep(10.0))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60.0):
                await asyncio.Event().wait()
        return loop.time() - before_s

    assert run_virtual(main) == pytest.approx(3660.0, abs=0.001)


def test_seed_decides_among_what_is_due_at_the_same_time() -> None:
    async def main() -> list[int]:
        order: list[int] = []

        async def note(number: int) -> None:
            await asyncio.sleep(1.0)
            order.append(number)

        await asyncio.gather(*[note(number) for number in range(8)])
        return order

    orders = [run_virtual(main, seed=seed) for seed in range(6)]
    assert orders == [run_virtual(main, seed=seed) for seed in range(6)]
    assert len({tuple(order) for order in orders}) == 6


def test_what_runs_in_a_thread_elsewhere_runs_here() -> None:
    async def main() -> tuple[int, str]:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        return await asyncio.to_thread(divmod, 7, 2), "done"

    assert run_virtual(main) == ((3, 1), "done")


def test_what_main_leaves_is_cancelled() -> None:
    ends: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.sleep(DAY_S / 2)
        finally:
            # Cleaning up may take its time too.
            await asyncio.sleep(5.0)
            ends.append("cleaned up")

    async def main() -> asyncio.Task[None]:
        task = asyncio.create_task(linger())
        await asyncio.sleep(1.0)
        return task

    assert run_virtual(main).cancelled()
    assert ends == ["cleaned up"]


async def _waits_for_nothing() -> None:
    await asyncio.create_task(asyncio.Event().wait(), name="the one that waits")


async def _never_ends() -> None:
    while True:
        await asyncio.sleep(1000.0)


async def _raises_in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(lambda: 1 // 0)
    await asyncio.sleep(1.0)


async def _raises_in_a_task_nobody_awaits() -> None:
    async def fail() -> None:
        raise ValueError("nobody asked")

    task = asyncio.create_task(fail())
    await asyncio.wait([task])


async def _opens_a_socket() -> None:
    await asyncio.open_connection("127.0.0.1", 1)


@pytest.mark.parametrize(
    ("main", "error", "text"),
    [
        (_waits_for_nothing, DeadlockError, "the one that waits"),
        (_never_ends, LivelockError, "s have passed"),
        (_raises_in_a_callback, ComplaintError, "ZeroDivisionError"),
        (_raises_in_a_task_nobody_awaits, ComplaintError, "nobody asked"),
        (_opens_a_socket, AssertionError, "no socket"),
    ],
)
def test_what_would_hang_or_be_logged_raises(
    main: Main, error: type[AssertionError], text: str
) -> None:
    with pytest.raises(error, match=text):
        run_virtual(main)


def test_loop_that_turns_for_ever_is_found_though_no_time_passes() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    loop = VirtualLoop(rng=random.Random(0), turns_max=100)
    with (
        asyncio.Runner(loop_factory=lambda: loop) as runner,
        pytest.raises(LivelockError, match="101 turns"),
    ):
        runner.run(main())


async def test_virtual_time_is_not_for_a_loop_that_runs() -> None:
    with pytest.raises(UsageError, match="a loop of its own"):
        run_virtual(_never_ends)
