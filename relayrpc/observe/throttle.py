"""
Holds back what comes too often, and says how much that was. Pure: clock and timer are arguments.

Owns: what passes within a second, by kind. Does not own: what the kinds are (hub/log.py).
Source: docs/reference/logs.md, "What is held back".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol


__all__ = ["OTHERS", "Key", "Throttle", "Timer"]

Key = tuple[tuple[str, str], ...]
"""One kind: names and values of what its members have in common."""
OTHERS: Final[Key] = (("of", "others"),)
"""The kind of all that comes beyond the bound on kinds."""
_WINDOW_S: Final = 1.0


class Timer(Protocol):
    """What can be called off."""

    def cancel(self) -> None:
        """Call it off. Idempotent."""


class Throttle:
    """Lets so many of each kind pass in a second."""

    def __init__(
        self,
        *,
        passes_max: int,
        keys_max: int,
        clock: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], Timer],
        held_back: Callable[[Key, int], None],
    ) -> None:
        """
        Args:
            passes_max: How many of a kind pass.
            keys_max: Kinds told apart within a second.
            clock: Monotonic seconds.
            call_later: As an event loop's; asked only when something was held back.
            held_back: Told, at the end of such a second, how many of a kind did not pass.
        """
        self._passes_max = passes_max
        self._keys_max = keys_max
        self._clock = clock
        self._call_later = call_later
        self._held_back = held_back
        self._counts: dict[Key, int] = {}
        self._since_s = -_WINDOW_S
        self._timer: Timer | None = None

    def admits(self, key: Key) -> bool:
        """Count one of a kind; False: it is held back."""
        now_s = self._clock()
        if now_s >= self._since_s + _WINDOW_S:
            self.flush()
            self._since_s = now_s
        if key not in self._counts and len(self._counts) >= self._keys_max:
            key = OTHERS
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if count <= self._passes_max:
            return True
        if self._timer is None:
            self._timer = self._call_later(self._since_s + _WINDOW_S - now_s, self.flush)
        return False

    def flush(self) -> None:
        """Say now what was held back, and begin anew; also for the end of the process."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        counts, self._counts = self._counts, {}
        for key, count in counts.items():
            if count > self._passes_max:
                self._held_back(key, count - self._passes_max)
