"""The serving process of a side: `python -m benchmarks.host SIDE URL`."""

from __future__ import annotations

import sys
from typing import cast

from benchmarks.child import run, serve_commands
from benchmarks.side import SideName
from benchmarks.sides import side


__all__ = ["main"]


async def main(name: SideName, url: str) -> None:
    """Serve until standard input ends."""
    serving = side(name)
    await serve_commands({"url": await serving.serve(url)}, {})


if __name__ == "__main__":
    run(main(cast("SideName", sys.argv[1]), sys.argv[2]))
