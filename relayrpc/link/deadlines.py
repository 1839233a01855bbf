"""
Deadlines of many calls at the price of a dictionary entry each. Pure.

A call stands in one bucket under the time, in hundredths of a second, at which somebody has to look
at it. Distant
deadlines share coarse buckets and move to finer ones as they come near, so the number of buckets
stays small however
many calls come and go before their time.
Source: LINK.md "Time".
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final


if TYPE_CHECKING:
    from relayrpc.link.call import Call


__all__ = ["DeadlineBuckets"]

_TICKS_PER_S: Final = 100
# Deadlines nearer than this have a bucket a tick.
_FINE_S: Final = 2.0


class DeadlineBuckets:
    """Calls by deadline; precise to a hundredth of a second, never early."""

    __slots__ = ("_buckets", "_keys")

    def __init__(self) -> None:
        # Kept when emptied: a bucket lives until its time, then goes.
        self._buckets: dict[int, dict[Call, None]] = {}
        self._keys: list[int] = []

    def add(self, call: Call, *, now_s: float) -> None:
        """Watch a call that has a deadline."""
        deadline_s = call.deadline_s
        assert deadline_s is not None
        key = int(deadline_s * _TICKS_PER_S) + 1
        left_s = deadline_s - now_s
        if left_s >= _FINE_S:
            # Rounded down: looked at early, then put into a finer bucket.
            key -= key % (25 if left_s < 6.0 else 100 if left_s < 600.0 else 3_000)
        call.deadline_key = key
        bucket = self._buckets.get(key)
        if bucket is None:
            self._buckets[key] = bucket = {}
            heapq.heappush(self._keys, key)
        bucket[call] = None

    def discard(self, call: Call) -> None:
        """Stop watching a call that may be watched: its `deadline_key` is not 0."""
        bucket = self._buckets.get(call.deadline_key)
        call.deadline_key = 0
        if bucket is not None:
            bucket.pop(call, None)

    def next_s(self) -> float | None:
        """Return when `expired` has to be called next; None: never."""
        keys = self._keys
        while keys and not self._buckets[keys[0]]:
            del self._buckets[heapq.heappop(keys)]
        return keys[0] / _TICKS_PER_S if keys else None

    def expired(self, *, now_s: float) -> list[Call]:
        """Take out the calls whose deadline has passed, earliest first."""
        due: list[Call] = []
        keys = self._keys
        while keys and keys[0] / _TICKS_PER_S <= now_s:
            for call in self._buckets.pop(heapq.heappop(keys)):
                if call.deadline_s is not None and call.deadline_s <= now_s:
                    due.append(call)
                else:
                    self.add(call, now_s=now_s)
        due.sort(key=lambda call: (call.deadline_s, call.id))
        return due
