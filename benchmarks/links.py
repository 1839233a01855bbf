"""
A process that holds many connections: `python -m benchmarks.links SIDE URL`.

Owns: opening them, as callers or as hosts of a relay.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Final, cast

from benchmarks.child import run, serve_commands
from benchmarks.harness import raise_open_files_limit
from benchmarks.side import SideName, at
from benchmarks.sides import side


if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


__all__ = ["main"]

OPENING_MAX: Final = 32
"""Connected at once; a hub bounds its half-open handshakes."""
LINKS_MAX: Final = 10_000


class Links:
    """Opens links and holds them as long as the process lives."""

    def __init__(self, name: SideName, url: str) -> None:
        self._name = name
        self._url = url
        self._held: list[object] = []

    async def callers(self, *, count: int) -> dict[str, float]:
        """Open `count` more links that made one call each."""
        return await self._open(count, lambda _: side(self._name).connect(self._url))

    async def hosts(self, *, first: int, count: int) -> dict[str, float]:
        """Open `count` more links of hosts, each at one address, numbered from `first` on."""
        return await self._open(count, lambda number: self._serve(first + number))

    async def host(self, *, first: int, addresses_count: int) -> dict[str, float]:
        """Open one more link, of a host that listens at so many addresses."""
        return await self._open(1, lambda _: self._serve(first, addresses_count))

    async def _serve(self, first: int, addresses_count: int = 1) -> object:
        # A child imports its own side's libraries only.
        from benchmarks.relay_side import Relay

        assert self._name in ("websocket", "grpc")
        relay = Relay(self._name)
        await relay.serve(at(self._url, first))
        for number in range(first + 1, first + addresses_count):
            await relay.serve_also(number)
        return relay

    async def _open(
        self, count: int, open_one: Callable[[int], Coroutine[Any, Any, object]]
    ) -> dict[str, float]:
        if len(self._held) + count > LINKS_MAX:
            raise ValueError(f"{LINKS_MAX} links a process")
        opening = asyncio.Semaphore(OPENING_MAX)

        async def hold(number: int) -> None:
            async with opening:
                self._held.append(await open_one(number))

        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(hold(number))
        return {"held": len(self._held)}


async def main(name: SideName, url: str) -> None:
    """Open as many as asked, hold them until standard input ends."""
    links = Links(name, url)
    raise_open_files_limit()
    commands = {"callers": links.callers, "hosts": links.hosts, "host": links.host}
    await serve_commands({}, commands)


if __name__ == "__main__":
    run(main(cast("SideName", sys.argv[1]), sys.argv[2]))
