"""
A TCP proxy whose connections can be cut: how the demo breaks the host's network. Loopback only.

Owns: the sockets between a host and a hub. Knows nothing of what they carry.
"""

from __future__ import annotations

import asyncio
from typing import Final


__all__ = ["CutProxy"]

_CHUNK_BYTES: Final = 64 * 1024


class CutProxy:
    """Listens on a free port, and passes bytes to `target_port` and back."""

    def __init__(self) -> None:
        self.target_port = 0
        """Where connections go; may be set after `start`, before the first connection."""
        self.port = 0
        """Where it listens; 0 before `start`."""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> int:
        """
        Drop every open connection at once, as a broken network does: no farewell to either side.

        Returns:
            How many were dropped.
        """
        count = len(self._writers) // 2
        for writer in list(self._writers):
            writer.transport.abort()
        return count

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()

    async def _connected(
        self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter
    ) -> None:
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            near.transport.abort()
            return
        both = {near, far}
        self._writers |= both
        try:
            await asyncio.gather(_pass_on(near_reader, far), _pass_on(far_reader, near))
        except OSError:
            pass
        finally:
            self._writers -= both
            for writer in both:
                writer.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
