"""
Goal: what threads hand over to a loop is done once, in order, with few wakes, and nobody waits for
ever.

Method: a loop on a thread of the test's; threads that are told apart by what they hand over.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Iterator

import pytest

from relayrpc.endpoint.handover import Bell, Handover


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often other threads woke it."""

    wakes_count = 0

    def call_soon_threadsafe(self, *arguments: object, **options: object) -> asyncio.Handle:
        self.wakes_count += 1
        return super().call_soon_threadsafe(*arguments, **options)  # type: ignore[arg-type]


@contextlib.contextmanager
def running_loop() -> Iterator[tuple[CountingLoop, Handover]]:
    loop = CountingLoop()
    made: list[Handover] = []
    ready = threading.Event()

    def run() -> None:
        made.append(Handover(loop))
        loop.call_soon(ready.set)
        loop.run_forever()
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        yield loop, made[0]
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(loop.stop)
        thread.join()


def test_jobs_of_a_thread_are_done_in_order() -> None:
    done: list[tuple[int, int]] = []
    with running_loop() as (_, handover):

        def work(thread_number: int) -> None:
            for number in range(200):
                handover.submit(done.append, (thread_number, number))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        handover.call(int)
    assert len(done) == 1600
    for number in range(8):
        assert [each for thread, each in done if thread == number] == list(range(200))


def test_jobs_that_come_while_the_loop_is_busy_wake_it_once() -> None:
    busy, go_on = threading.Event(), threading.Event()
    done: list[int] = []
    with running_loop() as (loop, handover):
        handover.submit(busy.set)
        handover.submit(go_on.wait)
        busy.wait()
        before = loop.wakes_count
        for number in range(100):
            handover.submit(done.append, number)
        assert handover.backlog_count >= 99
        assert loop.wakes_count <= before + 1
        go_on.set()
        handover.call(int)
    assert done == list(range(100))


def test_call_returns_and_raises_what_the_function_does() -> None:
    with running_loop() as (_, handover):
        assert not handover.is_own_thread
        assert handover.call(lambda: handover.is_own_thread)
        assert handover.call(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            handover.call(divmod, 7, 0)


def test_a_loop_that_is_over_has_no_thread() -> None:
    """A thread that comes later may have the number of one that has ended."""

    async def make() -> Handover:
        return Handover(asyncio.get_running_loop())

    handover = asyncio.run(make())
    assert handover.is_own_thread
    handover.end()
    assert not handover.is_own_thread
    assert handover.call(divmod, 7, 2) == (3, 1)


def test_call_on_the_loops_thread_comes_behind_what_was_submitted() -> None:
    order: list[str] = []
    with running_loop() as (_, handover):

        def on_loop() -> None:
            handover.submit(order.append, "submitted")
            handover.call(order.append, "called")

        handover.call(on_loop)
    assert order == ["submitted", "called"]


def test_failing_job_is_logged_and_the_next_is_done(caplog: pytest.LogCaptureFixture) -> None:
    with running_loop() as (_, handover):
        handover.submit(divmod, 1, 0)
        assert handover.call(int) == 0
    assert "ZeroDivisionError" in caplog.text


def test_once_the_loop_is_over_jobs_are_done_where_they_are_submitted() -> None:
    with running_loop() as (_, handover):
        pass
    assert handover.call(threading.get_ident) == threading.get_ident()
    assert handover.is_over


def test_thread_that_waits_when_the_loop_ends_is_let_go() -> None:
    """The job was submitted, the loop had been woken, and stopped before it looked."""
    results: list[int] = []
    busy, go_on = threading.Event(), threading.Event()
    with running_loop() as (loop, handover):

        def stop() -> None:
            busy.set()
            go_on.wait()
            loop.stop()

        loop.call_soon_threadsafe(stop)
        busy.wait()
        waiting = threading.Thread(target=lambda: results.append(handover.call(int)))
        waiting.start()
        while not handover.backlog_count:
            pass
        go_on.set()
        waiting.join()
    assert results == [0]


def test_jobs_are_not_done_in_what_is_current_for_whoever_woke_the_loop() -> None:
    """One wake is for the jobs of any number of threads."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    variable.set("of the one that woke it")
    with running_loop() as (_, handover):
        assert handover.call(variable.get) == "none"


# --- bells ---


def test_bell_wakes_everybody_who_waits() -> None:
    bell, is_so = Bell(), threading.Event()
    waiting = [threading.Thread(target=bell.wait_for, args=(is_so.is_set,)) for _ in range(4)]
    for thread in waiting:
        thread.start()
    bell.ring()
    is_so.set()
    bell.ring()
    for thread in waiting:
        thread.join()


def test_bell_does_not_wait_for_what_is_so() -> None:
    assert Bell().wait_for(lambda: True)
    assert Bell().wait_for(lambda: True, timeout_s=0)


def test_wait_that_times_out_says_so_and_leaves_nothing() -> None:
    bell = Bell()
    for _ in range(3):
        assert not bell.wait_for(lambda: False, timeout_s=0.001)
    assert not bell.wait_for(lambda: False, timeout_s=-1)
    assert not bell._waiting


def test_state_that_changes_between_look_and_wait_is_seen() -> None:
    bell = Bell()
    answers = iter([False, True])

    def is_so() -> bool:
        bell.ring()
        return next(answers)

    assert bell.wait_for(is_so)
