"""
A TCP proxy that breaks networks on demand: cuts, stalls without a FIN, resumes, delays.

Owns: the sockets between a peer and a hub, on loopback. Knows nothing of what they carry. Never
waits by itself: all it does is asked for, and `changed` says that something happened.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final


__all__ = ["TCPProxy"]

_CHUNK_BYTES: Final = 64 * 1024


class TCPProxy:
    """Listens on a free port, and passes bytes to `target_port` and back."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        """Where connections go; may be changed, for those that come."""
        self.port = 0
        """Where it listens; 0 before `start`."""
        self.accepted_count = 0
        self.cut_count = 0
        """Connections that `cut` and `cut_after` have dropped."""
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._delay_s = 0.0
        self._changed = asyncio.Event()

    @property
    def connections_count(self) -> int:
        """Connections that go through it now."""
        return sum(not pair.is_aborted for pair in self._pairs)

    async def __aenter__(self) -> TCPProxy:
        await self.start()
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def connected(self, count: int = 1) -> None:
        """Wait until at least this many connections go through it."""
        while self.connections_count < count:
            await self.changed()

    async def changed(self) -> None:
        """Wait until a connection comes or goes."""
        self._changed.clear()
        await self._changed.wait()

    def cut(self) -> int:
        """
        Drop every connection at once, as a broken network does: what is under way is lost.

        Returns:
            How many were dropped.
        """
        pairs = [pair for pair in self._pairs if not pair.is_aborted]
        for pair in pairs:
            pair.abort()
        self.cut_count += len(pairs)
        return len(pairs)

    def cut_after(self, passed_bytes: int) -> int:
        """
        Drop every connection once so many more bytes went through it, in the middle of whatever.

        Returns:
            How many will be dropped.
        """
        for pair in self._pairs:
            pair.bytes_left = passed_bytes
        return self.connections_count

    def stall(self) -> None:
        """Forward nothing from now on, keep every connection open, accept more: silence, no FIN."""
        self._flowing.clear()

    def resume(self) -> None:
        """Undo stall(); what was held goes out first."""
        self._flowing.set()

    def delay(self, delay_s: float) -> None:
        """Hold every chunk for so long, in order."""
        self._delay_s = delay_s

    async def aclose(self) -> None:
        """Stop listening, drop what is open, and wait until no task is left. Idempotent."""
        if self._server is not None:
            self._server.close()
        self._flowing.set()
        for pair in list(self._pairs):
            pair.abort()
        while self._pairs:
            await self.changed()
        if self._server is not None:
            await self._server.wait_closed()

    # --- one connection ---

    async def _connected(
        self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter
    ) -> None:
        self.accepted_count += 1
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            near.transport.abort()
            return
        pair = _Pair(near, far)
        pair.tasks = (
            asyncio.create_task(self._pass_on(pair, near_reader, far)),
            asyncio.create_task(self._pass_on(pair, far_reader, near)),
        )
        self._pairs.add(pair)
        self._changed.set()
        try:
            await asyncio.wait(pair.tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            pair.abort()
            await asyncio.gather(*pair.tasks, return_exceptions=True)
            for writer in (near, far):
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            self._pairs.discard(pair)
            self._changed.set()

    async def _pass_on(
        self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(_CHUNK_BYTES):
            if self._delay_s:
                due = loop.create_future()
                loop.call_later(self._delay_s, due.set_result, None)
                await due
            await self._flowing.wait()
            if pair.bytes_left is not None:
                data = data[: pair.bytes_left]
                pair.bytes_left -= len(data)
            writer.write(data)
            await writer.drain()
            if pair.bytes_left == 0:
                self.cut_count += not pair.is_aborted
                pair.abort()
                return
        await self._flowing.wait()
        if writer.can_write_eof():
            writer.write_eof()


class _Pair:
    """The two sockets of one connection."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near
        self.far = far
        self.tasks: tuple[asyncio.Task[None], ...] = ()
        # What may still go through before the connection is dropped; None: no bound.
        self.bytes_left: int | None = None
        self.is_aborted = False

    def abort(self) -> None:
        """Drop both sockets, and whatever waits to be passed on. Idempotent."""
        self.is_aborted = True
        self.near.transport.abort()
        self.far.transport.abort()
        for task in self.tasks:
            task.cancel()
