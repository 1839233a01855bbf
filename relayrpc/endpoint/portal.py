"""
Where threads get to an event loop: one that runs anyway, or one on a thread of its own, behind a
blocking channel or server; and one more thread for what the program wants called back.

Owns: these threads, their beginning and end, what a fork and the end of the process mean for them.
Does not own: what is done on the loop (sync_channel.py, sync_server.py), how it is handed over
(handover.py).
Source: docs/adr/0006-blocking-portal.md.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import logging
import os
import queue
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any, Final

from relayrpc.endpoint.handover import LOOK_S, Bell, Handover
from relayrpc.errors import UsageError
from relayrpc.extras import loop_factory


__all__ = ["Portal", "PortalThread"]

_LOGGER: Final = logging.getLogger("relayrpc")
# At the end of a process, for the goodbyes of all portals together.
_EXIT_TIMEOUT_S: Final = 2.0
_OWN_THREAD: Final = (
    "this would wait for the thread it runs on: a blocking call, close() or stop() was made by "
    "code that runs on the event loop of the same channel or server; make it on another thread"
)
_portals: Final[weakref.WeakSet[Portal]] = weakref.WeakSet()


class Portal:
    """
    The way from threads to one event loop.

    Attributes for reading: `is_started`; `is_forked`, in the child of a fork, where no loop of the
    parent's runs and nothing may be handed over.
    """

    handover: Handover
    """Set by open()."""
    loop: asyncio.AbstractEventLoop
    """Set by open()."""

    def __init__(self, name: str) -> None:
        """
        Args:
            name: Of its threads.
        """
        self.is_started = False
        self.is_forked = False
        self._name = name
        self._callbacks: _Callbacks | None = None
        self._is_closed = False

    # --- life ---

    def open(self) -> None:
        """Lead to the loop that runs here."""
        self.loop = asyncio.get_running_loop()
        self.handover = Handover(self.loop)
        self.is_started = True
        _portals.add(self)

    def close(self) -> None:
        """
        End the thread for callbacks behind what it has to do. Idempotent; one that comes later has
        a thread for itself.
        """
        self._is_closed = True
        if self._callbacks is not None:
            self._callbacks.end()
            self._callbacks = None

    def fork(self) -> None:
        """Take note of being in the child of a fork, where no thread of this portal is."""
        self.is_forked = True

    # --- use ---

    def require_other_thread(self) -> None:
        """Raise UsageError on the loop's thread, where to wait would be for ever."""
        if self.is_started and self.handover.is_own_thread:
            raise UsageError(_OWN_THREAD)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """
        Run a coroutine on the loop, wait, and return what it returns or raise what it raises.

        A signal's exception, such as KeyboardInterrupt, cancels it.

        Raises:
            UsageError: This is the loop's thread.
            concurrent.futures.CancelledError: The loop has ended, or ends before it is done.
        """
        try:
            self.require_other_thread()
        except UsageError:
            coroutine.close()
            raise
        try:
            running = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except RuntimeError:
            # The loop is closed.
            coroutine.close()
            raise concurrent.futures.CancelledError from None
        try:
            while not concurrent.futures.wait((running,), LOOK_S).done:
                if self.loop.is_closed():
                    # It came too late to be begun.
                    coroutine.close()
                    running.cancel()
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def call_back(self, function: Callable[..., object], *arguments: Any) -> None:
        """
        Have the program's function called on a thread where it may block and call; one after the
        other, in the order of their coming. Only on the loop's thread; once that is over, here.
        """
        if self.handover.is_over:
            function(*arguments)
            return
        if self._callbacks is None:
            self._callbacks = _Callbacks(f"{self._name} callbacks")
            weakref.finalize(self, self._callbacks.end).atexit = False
        self._callbacks.submit(function, arguments)
        if self._is_closed:
            self.close()


class PortalThread(Portal):
    """
    Runs the loop that it leads to, on a daemon thread, from start() until shut_down().

    A process that ends without shutting it down waits a moment for its farewell.
    """

    def __init__(
        self,
        name: str,
        *,
        farewell: Callable[[], Awaitable[object]],
        forked: Callable[[], object],
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        """
        Args:
            name: Of the threads.
            farewell: What the loop does last.
            forked: Called in the child of a fork.
            ended: Called when the loop has ended, on its thread.
        """
        super().__init__(name)
        self._farewell = farewell
        self._forked = forked
        self._ended = ended
        self._closing: asyncio.Event
        self._thread: threading.Thread | None = None
        # Guards the beginning and the end of the threads.
        self._lock = threading.Lock()
        self._is_shut_down = False
        # Why there is no loop.
        self._failure: Exception | None = None
        self._bell = Bell()

    def start(self) -> None:
        """
        Start the loop's thread, and wait until it runs. Idempotent; after shut_down() a no-op.

        Raises:
            OSError: The process has no file descriptors for a loop.
        """
        with self._lock:
            if self.is_started or self._is_shut_down:
                return
            # A fork may come before it runs.
            _portals.add(self)
            self._failure = None
            self._thread = threading.Thread(target=self._main, name=self._name, daemon=True)
            self._thread.start()
            self._bell.wait_for(lambda: self.is_started or self._failure is not None)
            if self._failure is not None:
                raise self._failure

    def shut_down_soon(self) -> None:
        """Have the loop say farewell and end. Idempotent; never blocks."""
        self._is_shut_down = True
        if self.is_started and not self.is_forked:
            self.handover.submit(self._closing.set)

    def shut_down(self, timeout_s: float | None = None) -> None:
        """
        Have the loop say farewell, and wait for the end of both threads. Idempotent.

        Raises:
            UsageError: This is the loop's thread.
        """
        self.require_other_thread()
        with self._lock:
            self.shut_down_soon()
        self.join(timeout_s)

    def join(self, timeout_s: float | None = None) -> None:
        """
        Wait until somebody has shut it down, and both threads have ended.

        Raises:
            UsageError: This is the loop's thread.
        """
        self.require_other_thread()
        if self._thread is not None and not self.is_forked:
            self._thread.join(timeout_s)
            if self._callbacks is not None:
                self._callbacks.join(timeout_s)

    def fork(self) -> None:
        """Take note of being in the child of a fork, where no thread of this portal is."""
        super().fork()
        # Another thread of the parent may have held it.
        self._lock = threading.Lock()
        self._forked()

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(self._until_shut_down())
        except Exception as exc:
            if self.is_started:
                _LOGGER.exception("the event loop of %s failed", self._name)
            self._failure = exc
            self._bell.ring()
        if self.is_started:
            self.handover.end()
        if self._callbacks is not None:
            self._callbacks.end()
        self._ended()

    async def _until_shut_down(self) -> None:
        self._closing = asyncio.Event()
        self.open()
        self._bell.ring()
        await self._closing.wait()
        await self._farewell()


class _Callbacks:
    """Calls the program's callbacks on a thread of their own."""

    def __init__(self, name: str) -> None:
        # As many as the program has registered.
        self._queue: queue.SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self._queue.put((function, arguments))

    def end(self) -> None:
        """End behind what was submitted."""
        self._queue.put(None)

    def join(self, timeout_s: float | None) -> None:
        """Wait for the end; a callback may be the one who asks for that."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _main(self) -> None:
        while (job := self._queue.get()) is not None:
            function, arguments = job
            try:
                function(*arguments)
            except Exception:
                _LOGGER.exception("a callback failed")
            # Else the last one would be kept until the next comes.
            del job, function, arguments


def _at_exit() -> None:
    until_s = monotonic() + _EXIT_TIMEOUT_S
    portals = [
        portal
        for portal in _portals
        if isinstance(portal, PortalThread) and not portal.is_forked
    ]
    for portal in portals:
        portal.shut_down_soon()
    for portal in portals:
        portal.shut_down(max(0.0, until_s - monotonic()))


def _forked() -> None:
    for portal in list(_portals):
        portal.fork()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
