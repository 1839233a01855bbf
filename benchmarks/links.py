"""A process that opens many idle connections: `python -m benchmarks.links SIDE URL`."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final, cast

from benchmarks.child import run, serve_commands
from benchmarks.harness import raise_open_files_limit
from benchmarks.side import SideName
from benchmarks.sides import side


if TYPE_CHECKING:
    from benchmarks.side import Caller


__all__ = ["main"]

OPENING_MAX: Final = 32
"""Connected at once; a hub bounds its half-open handshakes."""
LINKS_MAX: Final = 10_000


async def main(name: SideName, url: str) -> None:
    """Open as many as asked, hold them until standard input ends."""
    calling = side(name)
    callers: list[Caller] = []

    async def open_links(*, count: int) -> dict[str, float]:
        if len(callers) + count > LINKS_MAX:
            raise ValueError(f"{LINKS_MAX} links a process")
        opening = asyncio.Semaphore(OPENING_MAX)

        async def open_one() -> None:
            async with opening:
                callers.append(await calling.connect(url))

        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(open_one())
        return {"open": len(callers)}

    raise_open_files_limit()
    await serve_commands({}, {"open": open_links})


if __name__ == "__main__":
    run(main(cast("SideName", sys.argv[1]), sys.argv[2]))
