"""
Waiting for a condition that no event tells about: another process's files, or a library's inside.

Never waits longer than it takes: the condition is looked at again every few milliseconds, and the
test's own time limit is the only bound.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Final


__all__ = ["until", "until_refused"]

_LOOK_AGAIN_S: Final = 0.01


async def until(condition: Callable[[], object]) -> None:
    """Return once `condition()` is true; what it returns may have to be awaited for that."""
    loop = asyncio.get_running_loop()
    while True:
        is_true = condition()
        if inspect.isawaitable(is_true):
            is_true = await is_true
        if is_true:
            return
        again = loop.create_future()
        loop.call_later(_LOOK_AGAIN_S, again.set_result, None)
        await again


async def until_refused(port: int) -> None:
    """Return once nobody listens at a port of this machine any more."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            # It was still in the queue when the listener went.
            continue
        writer.transport.abort()
