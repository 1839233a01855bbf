"""
Goal: a place is taken by one at a time, in order, however waits end. Method: places taken and given
back by tasks of the test's.
"""

from __future__ import annotations

import asyncio

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
