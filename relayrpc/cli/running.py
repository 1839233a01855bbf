"""
What commands that run until they are told to stop have in common: signals.

Owns: where they are missing. Does not own: what a signal means.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Final


__all__ = ["RELOAD_SIGNALS", "STOP_SIGNALS", "signals_call"]

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
"""What ends such a command in order."""
RELOAD_SIGNALS: Final = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()
"""What has it read its file again; nothing does on Windows."""


@contextlib.contextmanager
def signals_call(callback: Callable[[], None], numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Have signals call something while inside."""
    loop = asyncio.get_running_loop()
    # Where loops take no signal handlers (Windows), Ctrl-C cancels the task, which stops at once.
    with contextlib.suppress(NotImplementedError):
        for number in numbers:
            loop.add_signal_handler(number, callback)
    try:
        yield
    finally:
        with contextlib.suppress(NotImplementedError):
            for number in numbers:
                loop.remove_signal_handler(number)
