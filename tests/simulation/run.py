"""
The simulation's command: `python -m tests.simulation.run --ring 1 --seeds 200`, `--seed 17`.

A ring is a function `run_seed(seed)` that raises when a promise is broken. A failing seed is
printed with the end of its trace; the same seed replays it exactly.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Final


__all__ = ["RINGS", "main", "start"]

RINGS: Final = {"1": "tests.simulation.ring1", "2": "tests.simulation.ring2"}
"""Ring -> the module with its run_seed."""


def main(arguments: list[str] | None = None) -> int:
    """Run seeds; 0 when all are clean."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run")
    parser.add_argument("--ring", choices=[*RINGS, "all"], default="all")
    parser.add_argument("--seeds", type=int, default=200, help="how many worlds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="replay this one and show its trace")
    parser.add_argument("--about", default="", help="show only lines that hold this text")
    parser.add_argument("--lines", type=int, default=80, help="of the trace, at most")
    options = parser.parse_args(arguments)
    rings = list(RINGS) if options.ring == "all" else [options.ring]
    return max(_run_ring(ring, options) for ring in rings)


def _run_ring(ring: str, options: argparse.Namespace) -> int:
    module = importlib.import_module(RINGS[ring])
    run_seed: Callable[[int], object] = getattr(module, "run_world", module.run_seed)
    seeds = (
        [options.seed]
        if options.seed is not None
        else range(options.first, options.first + options.seeds)
    )
    started = time.perf_counter()
    seen: Counter[str] = Counter()
    for seed in seeds:
        try:
            world = run_seed(seed)
        except Exception as exc:
            _show_failure(ring, seed, exc, options)
            return 1
        seen.update(getattr(world, "seen", {}))
        if options.seed is not None and hasattr(world, "trace_text"):
            print(world.trace_text(options.about, options.lines))
    took_s = time.perf_counter() - started
    count = len(seeds)
    print(f"ring {ring}: {count} seeds clean, {1000 * took_s / count:.0f} ms each")
    for what, times in sorted(seen.items()):
        print(f"  {times:9} {what}")
    return 0


def _show_failure(ring: str, seed: int, error: Exception, options: argparse.Namespace) -> None:
    world = _world_of(error)
    if world is not None:
        print(world.trace_text(options.about, options.lines))
    traceback.print_exception(error)
    print(f"ring {ring}: seed {seed} FAILED: {error}")
    command = f"python -m tests.simulation --ring {ring} --seed {seed}"
    print(f"replay: make sim SEED={seed}, or {command}")


def _world_of(error: Exception) -> object:
    """Find the world in the frames of the failure: ring 1 calls it `world`."""
    trace = error.__traceback__
    found = None
    while trace is not None:
        ring = trace.tb_frame.f_locals.get("ring")
        found = getattr(ring, "world", found)
        trace = trace.tb_next
    return found


def start(module: str) -> None:
    """Run as the program `python -m module`, with hash order fixed."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Nothing may depend on it; fixed all the same, so that a replay is a replay.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])
    sys.exit(main())


if __name__ == "__main__":
    start("tests.simulation.run")
