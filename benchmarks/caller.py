"""The calling process: `python -m benchmarks.caller SIDE URL`; its commands are the workloads."""

from __future__ import annotations

import sys
from typing import cast

from benchmarks.child import run, serve_commands
from benchmarks.side import SideName
from benchmarks.sides import side
from benchmarks.workloads import Workloads


__all__ = ["main"]


async def main(name: SideName, url: str) -> None:
    """Connect, do what is asked until standard input ends, close."""
    caller = await side(name).connect(url)
    await serve_commands({}, Workloads(caller).commands())
    await caller.aclose()


if __name__ == "__main__":
    run(main(cast("SideName", sys.argv[1]), sys.argv[2]))
