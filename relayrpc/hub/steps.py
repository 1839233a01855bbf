"""Long work that is pure, done on a loop that has other things to do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator


__all__ = ["in_steps"]


async def in_steps(steps: Iterator[None]) -> None:
    """Take all steps, with a turn of the loop after each."""
    for _ in steps:
        await asyncio.sleep(0)
