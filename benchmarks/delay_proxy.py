"""
A TCP proxy that adds a fixed delay each way: `python -m benchmarks.delay_proxy PORT DELAY_MS`.

Bounded: at the bound it stops reading, as a full network path would. Never drops or reorders, and
never slows what fits.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import Final, cast

from benchmarks.child import run, serve_commands


__all__ = ["Leg", "main"]

WAITING_BYTES_MAX: Final = 128 * 1024 * 1024
"""Held for one direction: 50 ms at 2.5 GB/s."""
CONNECTIONS_MAX: Final = 64


class Leg(asyncio.Protocol):
    """One of a connection's two sockets: what arrives here leaves by the other, later."""

    def __init__(self, delay_s: float) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: Leg | None = None
        self._delay_s = delay_s
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, bytes | None]] = deque()
        self._waiting_bytes = 0
        self._is_reading = True
        self._is_writable = True
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hold at most 1 MiB in the socket's own buffer; the rest waits where it is counted."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=1024 * 1024)

    def data_received(self, data: bytes) -> None:
        """Keep bytes until their time has come."""
        self._waiting_bytes += len(data)
        self._wait(data)
        if self._waiting_bytes > WAITING_BYTES_MAX and self._is_reading and self.transport:
            self._is_reading = False
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """The end travels as slowly as the bytes before it."""
        self._wait(None)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """A broken connection breaks the other one too, at once."""
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.clear()
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def pause_writing(self) -> None:
        """This socket is full: what goes to it has to wait."""
        self._is_writable = False

    def resume_writing(self) -> None:
        """This socket takes bytes again."""
        self._is_writable = True
        if self.other is not None:
            self.other.pass_on()

    def pass_on(self) -> None:
        """Hand over what is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        other = self.other
        if other is None or other.transport is None:
            return
        now_s = self._loop.time()
        while self._waiting and other._is_writable and self._waiting[0][0] <= now_s:
            _, data = self._waiting.popleft()
            if data is None:
                other.transport.close()
                return
            self._waiting_bytes -= len(data)
            other.transport.write(data)
        has_room = self._waiting_bytes <= WAITING_BYTES_MAX // 2
        if has_room and not self._is_reading and self.transport:
            self._is_reading = True
            self.transport.resume_reading()
        if self._waiting and other._is_writable:
            self._timer = self._loop.call_at(self._waiting[0][0], self.pass_on)

    def _wait(self, data: bytes | None) -> None:
        self._waiting.append((self._loop.time() + self._delay_s, data))
        if self._timer is None and (self.other is None or self.other._is_writable):
            self._timer = self._loop.call_at(self._waiting[0][0], self.pass_on)


class Incoming(Leg):
    """The accepted socket: dials the target and joins the two."""

    def __init__(self, delay_s: float, target_port: int, open_legs: set[Leg]) -> None:
        super().__init__(delay_s)
        self._target_port = target_port
        self._open_legs = open_legs
        self._dialling: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Dial, unless too many are open."""
        super().connection_made(transport)
        if len(self._open_legs) >= CONNECTIONS_MAX:
            transport.close()
            return
        self._open_legs.add(self)
        self._dialling = self._loop.create_task(self._dial())

    def connection_lost(self, error: Exception | None) -> None:
        """Give the place back."""
        self._open_legs.discard(self)
        super().connection_lost(error)

    async def _dial(self) -> None:
        outgoing = Leg(self._delay_s)
        outgoing.other = self
        try:
            await self._loop.create_connection(lambda: outgoing, "127.0.0.1", self._target_port)
        except OSError:
            if self.transport is not None:
                self.transport.close()
            return
        self.other = outgoing
        self.pass_on()


async def main(target_port: int, delay_s: float) -> None:
    """Listen on a free port until standard input ends."""
    open_legs: set[Leg] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Incoming(delay_s, target_port, open_legs), "127.0.0.1", 0
    )
    await serve_commands({"port": server.sockets[0].getsockname()[1]}, {})
    server.close()


if __name__ == "__main__":
    run(main(int(sys.argv[1]), float(sys.argv[2]) / 1000))
