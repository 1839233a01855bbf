"""
An asyncio event loop whose time is virtual and whose order depends on a seed alone.

It has no sockets and no threads: when nothing is ready, time jumps to the next timer; when there is
no timer either, whatever was awaited can never come, and that is an error. Executors run on the
loop. Tasks, futures, timers and timeouts are asyncio's own.
Source: DESIGN.md decision 6; docs/reference/testing.md.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn, TypeVar

from relayrpc.errors import UsageError


__all__ = [
    "ComplaintError",
    "DeadlockError",
    "InlineExecutor",
    "LivelockError",
    "VirtualLoop",
    "run_virtual",
]

_Result = TypeVar("_Result")

# Far above what a test needs, far below what would hang a test run.
_TURNS_MAX: Final = 2_000_000
_TIME_S_MAX: Final = 24 * 3600.0
# Timers due at the same time fire in any order on a real loop: each is late by up to this.
_LATENESS_S: Final = 1e-6


class ComplaintError(AssertionError):
    """Something that a real loop would only log: a callback raised, nobody took an exception."""


class DeadlockError(AssertionError):
    """Nothing is ready, no timer is set, and the main coroutine is not done."""


class LivelockError(AssertionError):
    """The loop has turned too often, or too much virtual time has passed."""


class _NoSockets:
    """Stands where asyncio keeps its selector; waiting is what moves the time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout_s: float | None) -> list[Any]:
        self._loop.wait(timeout_s)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """
    Use `run_virtual()` where one coroutine is the whole program.

    Attributes for reading: `turns_count`, and `rng`, from which a program may draw what else is
    random in it.
    """

    # asyncio's own.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(
        self,
        *,
        rng: random.Random,
        turns_max: int = _TURNS_MAX,
        time_s_max: float = _TIME_S_MAX,
        executor_delay_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """
        Args:
            rng: Decides between timers that are due at the same time.
            turns_max: More turns of the loop raise LivelockError.
            time_s_max: More virtual seconds raise LivelockError.
            executor_delay_s: How long after its call the result of a function in an executor
                arrives, or after its submission a function is called.
        """
        super().__init__()
        self._selector = _NoSockets(self)
        self._clock_resolution = 1e-9
        self.rng = rng
        self._turns_max = turns_max
        self._time_s_max = time_s_max
        self.executor_delay_s = executor_delay_s
        # Not 0, so that a forgotten clock shows.
        self._now_s = 1000.0
        self._time_s_end = self._now_s + time_s_max
        self.turns_count = 0
        self.complaints: list[str] = []
        self.set_exception_handler(_complain)

    def time(self) -> float:
        """Virtual monotonic seconds."""
        return self._now_s

    def wait(self, timeout_s: float | None) -> None:
        """Let the time pass until the next timer; None: there is none."""
        self.turns_count += 1
        self.check()
        if timeout_s is None:
            waiting = sorted(task.get_name() for task in asyncio.all_tasks(self))
            raise DeadlockError(f"nothing will ever happen; waiting: {', '.join(waiting)}")
        if self.turns_count > self._turns_max:
            self._fail_for_livelock(f"{self.turns_count} turns of the loop")
        self._now_s += timeout_s
        if self._now_s > self._time_s_end:
            self._fail_for_livelock(f"{self._now_s:g} s have passed")

    def check(self) -> None:
        """
        Raise what a real loop would have logged so far, once.

        Raises:
            ComplaintError: There was something.
        """
        complaints, self.complaints = self.complaints, []
        if complaints:
            raise ComplaintError("; ".join(complaints))

    def _fail_for_livelock(self, what: str) -> NoReturn:
        # Whoever ends the loop now has as much again, to cancel what is left.
        self.turns_count = 0
        self._time_s_end = self._now_s + self._time_s_max
        raise LivelockError(f"{what}; {self._what_is_next()}")

    def _what_is_next(self) -> str:
        return f"ready: {list(self._ready)[:4]}, timers: {self.timers()[:4]}"

    def timers(self) -> list[asyncio.TimerHandle]:
        """Return the timers that are set and not cancelled, earliest first."""
        return sorted(timer for timer in self._scheduled if not timer.cancelled())

    def call_at(  # type: ignore[override]  # asyncio's is typed with TypeVarTuple
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """As asyncio's, late by up to a microsecond."""
        when += self.rng.uniform(0.0, _LATENESS_S)
        return super().call_at(when, callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]  # asyncio's is typed with TypeVarTuple
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Call the function now; its result arrives later, as from a thread."""
        future: asyncio.Future[Any] = self.create_future()
        result: Any = None
        error: Exception | None = None
        try:
            result = func(*args)
        except Exception as exc:
            error = exc

        def arrive() -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.call_later(self.executor_delay_s(), arrive)
        return future

    # --- what asyncio asks of a loop with sockets ---

    def _process_events(self, event_list: list[Any]) -> None:
        assert not event_list

    def _write_to_self(self) -> None:
        # Only this thread runs the loop, and it never sleeps.
        pass

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise AssertionError("virtual time has no socket, pipe, process or signal")

    create_connection = _refuse
    create_server = _refuse
    create_unix_connection = _refuse
    create_unix_server = _refuse
    create_datagram_endpoint = _refuse
    connect_accepted_socket = _refuse
    connect_read_pipe = _refuse
    connect_write_pipe = _refuse
    subprocess_exec = _refuse
    subprocess_shell = _refuse
    getaddrinfo = _refuse
    getnameinfo = _refuse
    add_reader = _refuse
    add_writer = _refuse
    add_signal_handler = _refuse
    sock_connect = _refuse
    sock_recv = _refuse
    sock_sendall = _refuse
    sock_accept = _refuse


class InlineExecutor(concurrent.futures.Executor):
    """Calls on the thread of a virtual loop: later, as a thread would come to it later."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except Exception as exc:
                future.set_exception(exc)

        self._loop.call_later(self._loop.executor_delay_s(), run)
        return future


def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, VirtualLoop)
    error = context.get("exception")
    text = f"{context['message']}: {error!r}"
    if error is not None:
        text += "".join(traceback.format_tb(error.__traceback__)[-2:])
    loop.complaints.append(text)


def run_virtual(
    main: Callable[[], Coroutine[Any, Any, _Result]], *, seed: int = 0
) -> _Result:
    """
    Run a coroutine function on a virtual loop of its own, as asyncio.run() does on a real one.

    Waiting takes no time: a deadline of an hour passes at once. The same seed gives the same order
    of everything, another one may give another.

    Args:
        main: Called without arguments. What it leaves running is cancelled.
        seed: Decides whatever has no order of its own.

    Returns:
        What `main` returns.

    Raises:
        UsageError: A loop runs already on this thread.
        DeadlockError: What is awaited can never come.
        LivelockError: Two million turns of the loop, or a day of virtual time, were not enough.
        ComplaintError: A callback raised, or a task whose exception nobody took.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise UsageError("run_virtual() runs a loop of its own: call it where none runs yet")
    loop = VirtualLoop(rng=random.Random(seed))
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        result = runner.run(main())
    loop.check()
    return result
