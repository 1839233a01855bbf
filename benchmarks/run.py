"""
The benchmark's command line: `python -m benchmarks.run [--quick] [--only NAME,...] [--json FILE]`.

Owns: rounds and their order. Every round measures every scenario, side after side, beginning with
another side each time, so that whatever the machine does meanwhile falls on all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from benchmarks.addresses import ADDRESS_SCENARIOS
from benchmarks.blocking import BLOCKING_SCENARIOS
from benchmarks.duplex import DUPLEX_SCENARIOS
from benchmarks.exposed import EXPOSE_CALLS
from benchmarks.harness import BenchmarkError, raise_open_files_limit
from benchmarks.machine import facts
from benchmarks.memory import MEMORY_SCENARIOS
from benchmarks.report import LATEST, Results, facts_lines, failures, table
from benchmarks.routing import Routing
from benchmarks.scenarios import FULL, QUICK, SCENARIOS
from benchmarks.side import SideName
from benchmarks.sides import SIDE_NAMES, side
from benchmarks.validation import ValidatedCalls


if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.figures import Measurement
    from benchmarks.scenarios import Effort, Scenario


__all__ = ["main"]

ALL_SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        *SCENARIOS,
        *BLOCKING_SCENARIOS,
        *DUPLEX_SCENARIOS,
        EXPOSE_CALLS,
        ValidatedCalls(),
        *ADDRESS_SCENARIOS,
        Routing(),
        *MEMORY_SCENARIOS,
    )
}
MEASUREMENT_S_MAX: Final = 300.0
ROUNDS_MAX: Final = 100
SAVED_AS: Final = "benchmarks/results/latest.json"


def main() -> int:
    """Measure, show, save; returns 1 when something could not be measured, never for a goal."""
    options = parse(sys.argv[1:])
    raise_open_files_limit()
    scenarios = [ALL_SCENARIOS[name] for name in options.only]
    results = Results(
        machine=facts(),
        command=shlex.join(["python", "-m", "benchmarks.run", *sys.argv[1:]]),
        started_at=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        measurements=[],
    )
    try:
        asyncio.run(measure_all(options, scenarios, results.measurements))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("stopped; what was measured so far:", file=sys.stderr)
    print("\n".join(["", *facts_lines(results), "", *table(results)]))
    failed = failures(results)
    if failed:
        print("\n".join(["", "not measured:", *failed]))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps(results.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return 1 if failed else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--rounds", type=int, help="default 5; 1 with --quick")
    parser.add_argument(
        "--only",
        type=NamesOf(ALL_SCENARIOS),
        default=list(ALL_SCENARIOS),
        metavar="NAME,...",
        help=f"scenarios: {', '.join(ALL_SCENARIOS)}",
    )
    parser.add_argument(
        "--sides",
        type=NamesOf(SIDE_NAMES),
        default=list(SIDE_NAMES),
        metavar="NAME,...",
        help=f"sides: {', '.join(SIDE_NAMES)}",
    )
    parser.add_argument("--quick", action="store_true", help="short windows, small transfers")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help=f"where the results go; {SAVED_AS} after a full run",
    )
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    if not 1 <= options.rounds <= ROUNDS_MAX:
        parser.error(f"--rounds takes 1 to {ROUNDS_MAX}")
    is_full = options.only == list(ALL_SCENARIOS) and options.sides == list(SIDE_NAMES)
    if options.json is None and is_full and not options.quick:
        options.json = LATEST
    return options


class NamesOf:
    """A comma-separated choice of known names."""

    def __init__(self, known: Sequence[str] | dict[str, Scenario]) -> None:
        self._known = list(known)

    def __call__(self, text: str) -> list[str]:
        """Split and check."""
        names = text.split(",")
        for name in names:
            if name not in self._known:
                raise argparse.ArgumentTypeError(
                    f"no {name!r}; there are {', '.join(self._known)}"
                )
        return names


async def measure_all(
    options: argparse.Namespace, scenarios: list[Scenario], measurements: list[Measurement]
) -> None:
    """Fill `measurements`, one entry as soon as it is there."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    effort = QUICK if options.quick else FULL
    for number in range(options.rounds):
        for scenario in scenarios:
            if number >= scenario.rounds_max:
                continue
            sides = [name for name in options.sides if name in scenario.sides]
            turn = number % len(sides) if sides else 0
            for name in sides[turn:] + sides[:turn]:
                measured = await measure_one(number, scenario, cast("SideName", name), effort)
                measurements.append(measured)


async def measure_one(
    number: int, scenario: Scenario, name: SideName, effort: Effort
) -> Measurement:
    """Measure one side; a failure is part of the result, the rest of the run goes on."""
    began_s = time.monotonic()
    values: dict[str, float] = {}
    error = ""
    try:
        async with asyncio.timeout(MEASUREMENT_S_MAX):
            values = await scenario.run(side(name), effort)
    except (BenchmarkError, ImportError, OSError, TimeoutError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    shown = error or "  ".join(f"{key} {value:,.1f}" for key, value in values.items())
    took_s = time.monotonic() - began_s
    print(f"[{number + 1}] {scenario.name:16} {name:9} {took_s:5.1f} s  {shown}", flush=True)
    return {
        "round": number,
        "scenario": scenario.name,
        "side": name,
        "values": {key: round(value, 3) for key, value in values.items()},
        "error": error,
    }


if __name__ == "__main__":
    sys.exit(main())
