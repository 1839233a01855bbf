"""
Goal: places are given on in order, whoever leaves and whichever thread says so. Method: places
taken and given on by the test, on its loop and on a thread.
"""

from __future__ import annotations

import asyncio
import threading

from relayrpc.endpoint.handover import Handover
from relayrpc.endpoint.order import Order, Place


def make_places(count: int) -> tuple[Order, list[Place]]:
    order = Order(asyncio.get_running_loop())
    return order, [order.enter() for _ in range(count)]


async def test_place_is_the_first_when_those_before_are_given_on() -> None:
    order, (first, second, third) = make_places(3)
    assert [each.comes_first() for each in (first, second, third)] == [True, False, False]
    second.give()
    assert not third.comes_first()
    first.give()
    first.give()
    assert third.comes_first()
    third.give()
    assert not order.places


async def test_those_who_wait_go_on_behind_the_step_that_gave_the_place_on() -> None:
    _, (first, second, third) = make_places(3)
    told: list[str] = []
    third.when_first(lambda: told.append("third"))
    waiting = asyncio.create_task(second.wait())
    await asyncio.sleep(0)
    first.give()
    assert not second.is_first
    await waiting
    assert told == []
    second.give()
    second.give()
    assert told == []
    await asyncio.sleep(0)
    assert told == ["third"]
    third.when_first(lambda: told.append("again"))
    assert told == ["third", "again"]


async def test_place_that_is_given_on_while_somebody_waits_for_it_tells_nobody() -> None:
    _, (first, second, third) = make_places(3)
    waiting = asyncio.create_task(second.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    second.give()
    first.give()
    await third.wait()
    await asyncio.wait((waiting,))
    assert waiting.cancelled()


async def test_thread_gives_a_place_on_to_whoever_comes_before_or_after() -> None:
    handover = Handover(asyncio.get_running_loop())
    order, (first, second) = make_places(2)

    thread = threading.Thread(target=first.give_on_thread, args=(handover,))
    thread.start()
    await second.wait()
    thread.join()
    assert list(order.places) == [second]

    thread = threading.Thread(target=second.give_on_thread, args=(handover,))
    thread.start()
    thread.join()
    # Nobody was behind it: whoever comes sees it.
    assert order.enter().comes_first()


async def test_thread_that_is_about_to_call_its_handler_is_waited_for() -> None:
    _, (first, second) = make_places(2)
    loop = asyncio.get_running_loop()

    class SlowHandover(Handover):
        def submit(self, function: object, *arguments: object) -> None:
            """The loop is ahead of the thread."""
            asyncio.run_coroutine_threadsafe(look(), loop).result()

    seen = []

    async def look() -> None:
        seen.append(second.comes_first())

    await asyncio.to_thread(first.give_on_thread, SlowHandover(loop))
    assert seen == [False]
    assert second.comes_first()
