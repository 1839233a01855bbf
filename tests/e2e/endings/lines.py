"""
How a script talks with the test that started it: JSON lines on its standard input and output.

A line that was written stays readable when the process is killed right behind it: what a script
has said is its record.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any


__all__ = ["hear", "say"]


def say(event: str, **fields: Any) -> None:
    """Tell the test; one write, past every buffer of this process."""
    os.write(sys.stdout.fileno(), json.dumps({"event": event, **fields}).encode() + b"\n")


async def hear() -> AsyncIterator[dict[str, Any]]:
    """Yield what the test says, until it closes the pipe or is gone."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    async for line in reader:
        yield json.loads(line)
