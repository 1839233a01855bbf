"""
Virtual time for one simulated world: a heap of things that will happen, and a trace of what did.

Owns: the clock, the order of events, the trace, the seeded randomness. Does not own: what happens.
Nothing here depends on hash order, object addresses or the wall clock, so a seed replays exactly.
Source: docs/adr/0005-simulation.md.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Final


__all__ = ["SimulationFailure", "Timer", "World"]

_STEPS_MAX: Final = 400_000
_TRACE_SHOWN: Final = 60


class SimulationFailure(AssertionError):
    """A promise was broken; `check` names it."""

    def __init__(self, check: str, text: str) -> None:
        super().__init__(f"[{check}] {text}")
        self.check = check


class Timer:
    """Something that will happen."""

    __slots__ = ("action", "arguments")

    def __init__(self, action: Callable[..., object] | None, arguments: tuple[object, ...]) -> None:
        self.action = action
        self.arguments = arguments

    def cancel(self) -> None:
        """Let it not happen; idempotent."""
        self.action = None
        self.arguments = ()


class World:
    """
    One world. It stands in for an event loop where LinkDriver asks for one: call_soon, call_later.

    Attributes for reading: `now_s`, `random`, `trace` (tuples, first the time), `seen` (how often
    things happened, for the proof that seeds reach what they should).
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        # Another source, so that the number of secrets drawn does not shift everything else.
        self.token_bytes = random.Random(seed ^ 0x5EC2E7).randbytes
        self.now_s = 1000.0
        self.trace: list[tuple[object, ...]] = []
        self.seen: Counter[str] = Counter()
        # Called after every so many events: (every how many, what).
        self.checks: list[tuple[int, Callable[[], None]]] = []
        self.steps_count = 0
        self._heap: list[tuple[float, int, Timer]] = []
        self._sequence = 0

    # --- time ---

    def at(self, time_s: float, action: Callable[..., object], *arguments: object) -> Timer:
        """Have something happen at a time, which must not have passed."""
        timer = Timer(action, arguments)
        self._sequence += 1
        heapq.heappush(self._heap, (max(time_s, self.now_s), self._sequence, timer))
        return timer

    def call_soon(self, action: Callable[..., object], *arguments: object) -> Timer:
        """Have something happen in this instant, after what is due already."""
        return self.at(self.now_s, action, *arguments)

    def call_later(
        self, delay_s: float, action: Callable[..., object], *arguments: object
    ) -> Timer:
        """Have something happen later."""
        return self.at(self.now_s + delay_s, action, *arguments)

    def run(self, *, until_s: float, is_done: Callable[[], bool] | None = None) -> bool:
        """
        Let the world go on, up to a time.

        Returns:
            True as soon as `is_done` says so (asked after every event); False when the time is up.
        """
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            time_s, _, timer = heapq.heappop(heap)
            action = timer.action
            if action is None:
                continue
            self.now_s = time_s
            action(*timer.arguments)
            self.steps_count += 1
            if self.steps_count > _STEPS_MAX:
                self.fail("progress", f"more than {_STEPS_MAX} events")
            for every, check in self.checks:
                if not self.steps_count % every:
                    check()
            if is_done is not None and is_done():
                return True
        self.now_s = max(self.now_s, until_s)
        return False

    # --- what happened ---

    def note(self, *what: object) -> None:
        """Add a line to the trace: plain values only, no objects whose text is an address."""
        self.trace.append((self.now_s, *what))

    def fail(self, check: str, text: str) -> None:
        """Say that a promise was broken."""
        self.note("FAILED", check, text)
        raise SimulationFailure(check, text)

    def trace_text(self, about: str = "", count: int = _TRACE_SHOWN) -> str:
        """Return the last lines of the trace, those that name `about` when it is not empty."""
        lines = [_line(entry) for entry in self.trace]
        if about:
            lines = [line for line in lines if about in line]
        return "\n".join(lines[-count:])


def _line(entry: tuple[Any, ...]) -> str:
    return f"{entry[0]:12.6f}  " + "  ".join(str(value) for value in entry[1:])
