"""
A script of a scene, seen from the test: what it has said so far, and what it is told.

Owns: starting it, its pipes, its end. Source: lines.py.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


__all__ = ["PeerProcess", "peer_process"]


class PeerProcess:
    """A host or a caller in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[dict[str, Any]] = []
        """All that it has said, in order; complete once `finished` has returned."""
        self._has_said = asyncio.Condition()
        self._is_over = False
        self._listening = asyncio.create_task(self._listen())

    async def said(self, event: str, call: str = "") -> dict[str, Any]:
        """
        Wait until it has said this, of this call; returns the line.

        Raises:
            EOFError: It ended before.
        """
        async with self._has_said:
            while (line := self.find(event, call)) is None:
                if self._is_over:
                    raise EOFError(f"it ended without having said {event} of {call!r}")
                await self._has_said.wait()
            return line

    def find(self, event: str, call: str = "") -> dict[str, Any] | None:
        """Return the first line that says this; None: it has not."""
        for line in self.lines:
            if line["event"] == event and line.get("call", "") == call:
                return line
        return None

    def tell(self, event: str, **fields: Any) -> None:
        """Give it a command; no-op when it is gone."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"event": event, **fields}).encode() + b"\n")

    def send_signal(self, number: signal.Signals) -> None:
        """Send its process a signal."""
        self._process.send_signal(number)

    async def finished(self) -> int:
        """Let it end by itself, and read what it says until then; returns its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._listening
        return await self._process.wait()

    async def aclose(self) -> None:
        """Kill it if it still runs. Idempotent."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._listening

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._has_said:
                self.lines.append(json.loads(line))
                self._has_said.notify_all()
        async with self._has_said:
            self._is_over = True
            self._has_said.notify_all()


@asynccontextmanager
async def peer_process(
    module: str, config: dict[str, Any], *, ready: str
) -> AsyncIterator[PeerProcess]:
    """Run a script until it has said that it is ready; it is killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, json.dumps(config)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    peer = PeerProcess(process)
    try:
        await peer.said(ready)
        yield peer
    finally:
        await peer.aclose()
