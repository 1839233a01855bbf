"""
Calls that wait at the hub for a host: for a free slot, for a host that lost its connection, with
wait_for_ready for one to come, or for their next attempt. Pure.

Owns: their order, their bounds, how long they wait. Does not own: which host they get (routing.py),
deadlines (the link they came on watches those).
Source: LINK.md "Resume, takeover, expiry"; DESIGN.md "What a caller is told".
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final


if TYPE_CHECKING:
    from collections.abc import Iterable

    from relayrpc.hub.routing import Place
    from relayrpc.limits import Limits
    from relayrpc.link.call import Call
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["CallQueue", "QueuedCall"]

# Counted for every call beside what its OPEN holds.
_CALL_BYTES: Final = 1024


@dataclass(eq=False, slots=True)
class QueuedCall:
    """One call that waits."""

    call: Call
    """The leg it came on."""
    frame: pb.Frame
    """Its OPEN, with the data in it."""
    credit_bytes: int
    """What its caller takes of the responses."""
    since_s: float
    place: Place = ("", "")
    """Where its host has to come."""
    details: str = ""
    """What it lacks."""
    until_s: float | None = None
    """When it has waited enough; None: it waits to its deadline."""
    is_paused: bool = False
    """It waits for nothing but `until_s`, and is tried again then."""
    size_bytes: int = 0
    """What it counts in the queue's bound, while it is in the queue."""
    is_choosy: bool = field(init=False)
    """Not every host at its place will do."""

    def __post_init__(self) -> None:
        opening = self.frame.open
        self.is_choosy = bool(
            opening.instance or opening.sticky_key or opening.dedupe_key or opening.order_key
        )


class CallQueue:
    """All waiting calls of one hub, in order of arrival at each place."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_call: dict[Call, QueuedCall] = {}
        self._by_place: dict[Place, dict[Call, QueuedCall]] = {}
        self._used_bytes = 0
        # How many of those at a place are choosy, where there are some.
        self._choosy: dict[Place, int] = {}
        # Those with an end to their patience, a heap with the earliest first; the number tells
        # equal ones apart. A call that left the queue or waits for something else by now is
        # skipped.
        self._impatient: list[tuple[float, int, QueuedCall]] = []
        self._added_count = 0

    def __len__(self) -> int:
        return len(self._by_call)

    @property
    def places(self) -> list[Place]:
        """Where calls wait."""
        return list(self._by_place)

    def get(self, call: Call) -> QueuedCall | None:
        """Return the entry of a call; None when it does not wait."""
        return self._by_call.get(call)

    def at(self, place: Place) -> list[QueuedCall]:
        """Return who waits at a place, first come first."""
        return list(self._by_place.get(place, {}).values())

    def count(self, place: Place) -> int:
        """Return how many wait at a place."""
        return len(self._by_place.get(place, ()))

    def has_choosy(self, place: Place) -> bool:
        """Say whether somebody waits at a place for whom not every host there will do."""
        return place in self._choosy

    def at_or_below(self, places: Iterable[Place]) -> list[Place]:
        """
        Return the places with waiting calls for which hosts that stand at `places` may do: those at
        or below one, and at a service's full name, which its default address may stand for.
        """
        standing = set(places)
        return [
            (address, service)
            for address, service in self._by_place
            if any(
                service == name
                and (address in (path, service) or address.startswith(f"{path}/"))
                for path, name in standing
            )
        ]

    def add(self, entry: QueuedCall) -> str:
        """Have a call wait at `entry.place`; returns why it cannot, empty when it does."""
        waiting = self._by_place.get(entry.place, {})
        limits = self._limits
        if len(waiting) >= limits.queue_calls_max:
            return f"{limits.queue_calls_max} calls wait already"
        entry.size_bytes = entry.frame.ByteSize() + _CALL_BYTES
        if self._used_bytes + entry.size_bytes > limits.queue_bytes_max:
            return f"calls that wait hold {limits.queue_bytes_max} bytes already"
        self._by_place.setdefault(entry.place, waiting)[entry.call] = entry
        self._by_call[entry.call] = entry
        self._used_bytes += entry.size_bytes
        if entry.is_choosy:
            self._choosy[entry.place] = self._choosy.get(entry.place, 0) + 1
        if entry.until_s is not None:
            self._added_count += 1
            heapq.heappush(self._impatient, (entry.until_s, self._added_count, entry))
        return ""

    def take(self, call: Call) -> QueuedCall | None:
        """Take a call out; None when it does not wait."""
        entry = self._by_call.pop(call, None)
        if entry is None:
            return None
        waiting = self._by_place[entry.place]
        del waiting[call]
        if not waiting:
            del self._by_place[entry.place]
        if entry.is_choosy:
            self._choosy[entry.place] -= 1
            if not self._choosy[entry.place]:
                del self._choosy[entry.place]
        self._used_bytes -= entry.size_bytes
        return entry

    def next_end_s(self) -> float | None:
        """Return when the first call will have waited enough; None: none will."""
        impatient = self._impatient
        while impatient and not self._waits_so(impatient[0]):
            heapq.heappop(impatient)
        return impatient[0][0] if impatient else None

    def _waits_so(self, item: tuple[float, int, QueuedCall]) -> bool:
        until_s, _, entry = item
        return self._by_call.get(entry.call) is entry and entry.until_s == until_s

    def expired(self, *, now_s: float) -> list[QueuedCall]:
        """Take out the calls that have waited enough, those that paused among them."""
        due: list[QueuedCall] = []
        while (end_s := self.next_end_s()) is not None and end_s <= now_s:
            _, _, entry = heapq.heappop(self._impatient)
            self.take(entry.call)
            due.append(entry)
        return due
