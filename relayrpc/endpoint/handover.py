"""
Between threads and one event loop: what threads want done there, and how they wait for it.

Any number of things handed over while the loop is busy costs one wake, and a thread that waits
costs one lock. Nothing here knows calls.
Source: docs/adr/0006-blocking-portal.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final


__all__ = ["LOOK_S", "Bell", "Handover"]

_LOGGER: Final = logging.getLogger("relayrpc")
# A thread that waits for a loop looks this often whether the loop is still there.
LOOK_S: Final = 1.0


class Handover:
    """
    Has functions called on a loop's thread, in the order in which they were submitted.

    Once the loop is over they are called where they are submitted, so that nobody waits for ever:
    by then nothing else runs, and whatever they belong to has ended.
    """

    __slots__ = ("_context", "_is_due", "_is_over", "_jobs", "_loop", "_thread_id")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make one for the loop that runs on this thread."""
        self._loop = loop
        self._thread_id = threading.get_ident()
        # What is current for the thread that happens to wake the loop is not so for what others
        # hand over.
        self._context = contextvars.Context()
        # As long as the threads that wait, and the calls they may start without waiting.
        self._jobs: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        # The loop has been woken and has not looked yet.
        self._is_due = False
        self._is_over = False

    @property
    def backlog_count(self) -> int:
        """What the loop has not come to yet."""
        return len(self._jobs)

    @property
    def is_over(self) -> bool:
        """True once the loop is known to have ended."""
        return self._is_over

    @property
    def is_own_thread(self) -> bool:
        """True on the loop's thread, which must never wait for itself."""
        return threading.get_ident() == self._thread_id

    def submit(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have a function called soon; what it raises is logged. Never blocks, takes no lock."""
        self._jobs.append((function, arguments))
        if not self._is_due:
            self._is_due = True
            try:
                self._loop.call_soon_threadsafe(self.run, context=self._context)
            except RuntimeError:
                self.end()
        if self._is_over:
            self.run()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """
        Have a function called, wait for it, and return what it returns or raise what it raises.

        On the loop's own thread it runs at once, behind what was submitted before.
        """
        if self.is_own_thread:
            self.run()
            return function(*arguments)
        outcome = _Outcome()
        self.submit(outcome.run, function, arguments)
        while not outcome.lock.acquire(timeout=LOOK_S):
            if self._loop.is_closed():
                self.end()
        if outcome.error is not None:
            raise outcome.error
        return outcome.result

    def run(self) -> None:
        """Call what is waiting now; what is submitted meanwhile wakes the loop again."""
        self._is_due = False
        jobs = self._jobs
        for _ in range(len(jobs)):
            try:
                function, arguments = jobs.popleft()
            except IndexError:
                # The loop is over, and another thread was faster.
                return
            try:
                function(*arguments)
            except (Exception, asyncio.CancelledError):
                _LOGGER.exception("what a thread handed over to the loop failed")

    def end(self) -> None:
        """Note that the loop is over: its own last act, or what a thread finds. Idempotent."""
        self._is_over = True
        # Another thread may be given the number of one that has ended.
        self._thread_id = 0
        self.run()


class _Outcome:
    """What one thread waits for."""

    __slots__ = ("error", "lock", "result")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        try:
            self.result = function(*arguments)
        except (Exception, asyncio.CancelledError) as exc:
            self.error = exc
        finally:
            self.lock.release()


class Bell:
    """
    Threads that wait until the loop has changed something.

    Without a lock around the state: whoever waits puts itself on the list and then looks again, and
    the loop changes the state before it rings.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[threading.Lock] = []

    def ring(self) -> None:
        """Have those who wait look again."""
        waiting = self._waiting
        while waiting:
            waiting.pop().release()

    def wait_for(self, is_so: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """
        Wait until `is_so()`; a signal's exception ends the wait.

        Returns:
            False when `timeout_s` passed before.
        """
        until_s = None if timeout_s is None else monotonic() + timeout_s
        while not is_so():
            lock = threading.Lock()
            lock.acquire()
            self._waiting.append(lock)
            if is_so():
                break
            if until_s is None:
                lock.acquire()
            else:
                left_s = min(max(0.0, until_s - monotonic()), threading.TIMEOUT_MAX)
                if not lock.acquire(timeout=left_s):
                    self._forget(lock)
                    if monotonic() >= until_s:
                        return is_so()
        return True

    def _forget(self, lock: threading.Lock) -> None:
        # It may have been rung in this moment.
        with contextlib.suppress(ValueError):
            self._waiting.remove(lock)
