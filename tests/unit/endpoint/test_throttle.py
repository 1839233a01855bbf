"""
Goal: a place is taken by one at a time, in order, however waits end. Method: places taken and given
back by tasks of the test's.
"""

from __future__ import annotations

import asyncio
import threading

import pytest

from relayrpc.endpoint.throttle import Throttle


@pytest.mark.parametrize("is_given_first", [True, False])
async def test_wait_that_is_cancelled_leaves_its_place_to_the_next(is_given_first: bool) -> None:
    throttle = Throttle(calls=1)
    await throttle.take("calls")
    cancelled = asyncio.create_task(throttle.take("calls"))
    waiting = asyncio.create_task(throttle.take("calls"))
    await asyncio.sleep(0)

    # Both before the task learns of either.
    if is_given_first:
        throttle.give("calls")
        cancelled.cancel()
    else:
        cancelled.cancel()
        throttle.give("calls")

    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await waiting
    assert throttle.counts["calls"] == 1
    assert throttle.waiting_counts["calls"] == 0


async def test_one_who_comes_overtakes_nobody_who_was_let_in_just_now() -> None:
    throttle = Throttle(calls=2)
    order: list[int] = []

    async def take(number: int) -> None:
        await throttle.take("calls")
        order.append(number)

    await take(0)
    await take(1)
    waiting = asyncio.create_task(take(2))
    await asyncio.sleep(0)
    coming = asyncio.create_task(take(3))
    # Two places for two; the second of them has not asked yet.
    throttle.give("calls")
    throttle.give("calls")
    await asyncio.gather(waiting, coming)
    assert order == [0, 1, 2, 3]
    assert throttle.counts["calls"] == 2
    assert throttle.waiting_counts["calls"] == 0


async def test_bound_that_another_thread_raises_lets_in_who_waits_on_the_loop() -> None:
    throttle = Throttle(calls=1)
    await throttle.take("calls")
    waiting = asyncio.create_task(throttle.take("calls"))
    await asyncio.sleep(0)

    raising = threading.Thread(target=setattr, args=(throttle, "calls", 2))
    raising.start()
    raising.join()
    # Another thread would not wake the loop for whom it lets in.
    assert throttle.waiting_counts["calls"] == 1
    await waiting
    assert throttle.counts["calls"] == 2


def test_bound_may_be_set_when_the_loop_has_ended() -> None:
    throttle = Throttle(calls=1)
    asyncio.run(throttle.take("calls"))
    throttle.calls = 2
    assert throttle.bounds["calls"] == 2


async def test_instances_are_calls_and_sessions_together_until_they_are_set() -> None:
    throttle = Throttle(calls=1, sessions=1)
    for _ in range(2):
        await throttle.take("instances")
    waiting = asyncio.create_task(throttle.take("instances"))
    await asyncio.sleep(0)

    throttle.sessions = 4
    assert throttle.bounds == {"calls": 1, "sessions": 4, "instances": 5}
    await waiting
    throttle.calls = 2
    assert throttle.instances == 6

    throttle.instances = 3
    throttle.calls = 10
    assert throttle.bounds == {"calls": 10, "sessions": 4, "instances": 3}
    assert Throttle(calls=1, instances=7).instances == 7
