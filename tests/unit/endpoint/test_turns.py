"""
Goal: one handler at a time has a service object, in order, however waits end. Method: turns taken
and given by tasks of the test's, cancelled at each of the moments that there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, cast

import pytest

from relayrpc.endpoint.turns import Turn, Turns


if TYPE_CHECKING:
    from relayrpc.endpoint.server import Server


def make_turns(count: int) -> tuple[Turns, list[Turn]]:
    turns = Turns()
    # Of whose handlers they are matters to channels alone.
    server = cast("Server", None)
    made = [Turn(turns, server, "test.Service/Method", is_reentrant=True) for _ in range(count)]
    return turns, made


async def begin(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Start a task and let it run until it waits."""
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)
    return task


async def call_back(turn: Turn, answered: asyncio.Event) -> None:
    """Wait on a callback, as handlers do."""
    async with turn.given_way():
        await answered.wait()


async def require_cancelled(task: asyncio.Task[None]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_turns_are_taken_in_order() -> None:
    turns, (first, second, third) = make_turns(3)
    await turns.take(first)
    waiting = [await begin(turns.take(second)), await begin(turns.take(third))]

    first.end()
    await waiting[0]
    assert turns.is_held_by(second)

    second.end()
    await waiting[1]
    assert turns.is_held_by(third)


@pytest.mark.parametrize("is_given_first", [True, False])
async def test_wait_that_is_cancelled_leaves_its_turn_to_the_next(is_given_first: bool) -> None:
    turns, (first, second, third) = make_turns(3)
    await turns.take(first)
    cancelled = await begin(turns.take(second))
    waiting = await begin(turns.take(third))

    # Both before the task learns of either.
    if is_given_first:
        first.end()
        cancelled.cancel()
    else:
        cancelled.cancel()
        first.end()

    await require_cancelled(cancelled)
    await waiting
    assert turns.is_held_by(third)


async def test_handler_that_is_cancelled_goes_on_in_its_turn_only() -> None:
    turns, (handler, other) = make_turns(2)
    await turns.take(handler)
    answered = asyncio.Event()
    calling = await begin(call_back(handler, answered))
    await turns.take(other)

    answered.set()
    await asyncio.sleep(0)
    calling.cancel()
    await asyncio.sleep(0)
    assert not calling.done()

    other.end()
    await require_cancelled(calling)
    assert turns.is_held_by(handler)


async def test_one_callback_of_two_that_is_cancelled_leaves_the_turn_to_the_other() -> None:
    turns, (handler, other) = make_turns(2)
    await turns.take(handler)
    answered = asyncio.Event()
    first = await begin(call_back(handler, answered))
    second = await begin(call_back(handler, answered))
    await turns.take(other)

    answered.set()
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    assert not first.done()
    assert not second.done()

    other.end()
    await require_cancelled(second)
    await first
    assert turns.is_held_by(handler)


@pytest.mark.parametrize("is_answered_first", [True, False])
async def test_callback_that_starts_while_the_turn_is_taken_back_is_waited_for_too(
    is_answered_first: bool,
) -> None:
    """Others have their turns until that one is over as well, as whoever it calls may need one."""
    turns, (handler, other, third) = make_turns(3)
    await turns.take(handler)
    answered, answered_later = asyncio.Event(), asyncio.Event()
    first = await begin(call_back(handler, answered))
    await turns.take(other)
    answered.set()
    await asyncio.sleep(0)
    second = await begin(call_back(handler, answered_later))

    if is_answered_first:
        answered_later.set()
        await asyncio.sleep(0)
        other.end()
    else:
        other.end()
        await asyncio.wait_for(turns.take(third), timeout=10)
        assert not first.done()
        answered_later.set()
        await asyncio.sleep(0)
        assert not second.done()
        third.end()
    await asyncio.wait_for(asyncio.gather(first, second), timeout=10)
    assert turns.is_held_by(handler)


async def test_callback_gives_way_though_one_of_before_still_waits() -> None:
    turns, (handler, other, third) = make_turns(3)
    await turns.take(handler)
    answered, answered_later = asyncio.Event(), asyncio.Event()
    first = await begin(call_back(handler, answered))
    await turns.take(other)
    answered.set()
    await asyncio.sleep(0)
    # It starts while the turn is taken back, and outlasts that.
    second = await begin(call_back(handler, answered_later))
    other.end()
    last = await begin(call_back(handler, answered_later))
    await asyncio.wait_for(turns.take(third), timeout=10)
    answered_later.set()
    await asyncio.sleep(0)
    assert not any(each.done() for each in (first, second, last))

    third.end()
    await asyncio.gather(first, second, last)
