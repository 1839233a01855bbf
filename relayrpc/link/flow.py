"""
Who may send how much: the credit window of one receiver, and the budget of what leaves by one link.
Pure.

Owns: how credit follows round trip times rate, and how a link's budget is shared. Does not own: the
credit counters
of a call (call.py) or when frames are cut (outbox.py).
Source: LINK.md "Credit, budget, fairness"; docs/adr/0003-credit.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final


if TYPE_CHECKING:
    from relayrpc.link.call import Call


__all__ = ["Budget", "PathEstimator", "ReceiveWindow"]

_ROUND_TRIP_KEPT_S: Final = 10.0
# Twice the product would do on a path without processes in it; theirs is waiting, too.
_WINDOW_ROUND_TRIPS: Final = 4


class PathEstimator:
    """
    Bandwidth-delay product of a path, from samples of (bytes delivered, time taken).

    The round trip is the least seen in the last ten seconds, so that a queue on the path does not
    pass for distance.
    """

    __slots__ = ("_renew_at_s", "round_trip_s", "window_bytes", "window_bytes_max")

    def __init__(self, *, window_bytes: int, window_bytes_max: int) -> None:
        self.window_bytes = window_bytes
        self.window_bytes_max = window_bytes_max
        # None until the first sample.
        self.round_trip_s: float | None = None
        self._renew_at_s = 0.0

    def add_round_trip(self, round_trip_s: float, *, now_s: float) -> None:
        """Take one measured round trip."""
        least = self.round_trip_s
        if least is None or round_trip_s <= least or now_s > self._renew_at_s:
            self.round_trip_s = round_trip_s
            self._renew_at_s = now_s + _ROUND_TRIP_KEPT_S

    def add_delivery(self, delivered_bytes: int, *, took_s: float) -> None:
        """Take one measured rate; the window grows to four times round trip times rate."""
        if delivered_bytes * 4 < self.window_bytes or self.round_trip_s is None or took_s <= 0.0:
            # So little that it says nothing about what the path could carry.
            return
        wanted = int(_WINDOW_ROUND_TRIPS * delivered_bytes * self.round_trip_s / took_s)
        if wanted > self.window_bytes:
            self.window_bytes = min(wanted, self.window_bytes_max)


class ReceiveWindow:
    """
    The receiver's side of one direction of one call: when to grant, and how much.

    A grant is due when half the window has been consumed. The round trip is taken when the sender
    had used up all its
    credit: from the grant that woke it to the bytes that came of it.
    """

    __slots__ = (
        "_consumed_bytes",
        "_credit_bytes",
        "_delivered_bytes",
        "_granted_at_s",
        "_path",
        "_rate_from_s",
    )

    def __init__(self, *, credit_bytes: int, window_bytes: int, window_bytes_max: int) -> None:
        """
        Args:
            credit_bytes: What the sender already has.
            window_bytes: What it shall have at the start.
            window_bytes_max: What it may come to have.
        """
        self._path = PathEstimator(window_bytes=window_bytes, window_bytes_max=window_bytes_max)
        # What the sender may still send.
        self._credit_bytes = credit_bytes
        # Consumed and not granted again; starts with what the first window lacks.
        self._consumed_bytes = max(0, window_bytes - credit_bytes)
        self._delivered_bytes = 0
        self._rate_from_s: float | None = None
        # When the grant was made that is to wake a sender without credit.
        self._granted_at_s: float | None = None

    @property
    def window_bytes(self) -> int:
        """The window now, in bytes."""
        return self._path.window_bytes

    def received(self, size_bytes: int, *, now_s: float) -> None:
        """Count bytes that arrived."""
        self._credit_bytes -= size_bytes
        if self._granted_at_s is not None:
            self._path.add_round_trip(now_s - self._granted_at_s, now_s=now_s)
            self._granted_at_s = None
        if self._rate_from_s is None:
            self._rate_from_s = now_s
        else:
            self._delivered_bytes += size_bytes

    def consumed(self, size_bytes: int, *, now_s: float) -> int:
        """
        Count bytes the application took.

        Returns:
            Credit to grant now, in bytes; 0: nothing yet.
        """
        self._consumed_bytes += size_bytes
        path = self._path
        before = path.window_bytes
        if self._consumed_bytes * 2 < before:
            return 0
        if self._rate_from_s is not None:
            path.add_delivery(self._delivered_bytes, took_s=now_s - self._rate_from_s)
            self._rate_from_s = now_s
            self._delivered_bytes = 0
        granted = self._consumed_bytes + path.window_bytes - before
        if self._credit_bytes <= 0:
            self._granted_at_s = now_s
        self._consumed_bytes = 0
        self._credit_bytes += granted
        return granted


class Budget:
    """
    Bytes queued plus credit given out and not yet used, of all calls whose data leaves by one link.

    Half of it is shared out evenly beforehand, so that every call can always move; the other half
    goes to those who ask, never more than a sixteenth of what is free at once, so that early calls
    which then idle cannot starve later ones.
    """

    __slots__ = (
        "_grant_bytes_min",
        "_share_bytes",
        "_shared_bytes_max",
        "_shared_used_bytes",
        "limit_bytes",
        "releases_count",
        "used_bytes",
    )

    def __init__(self, *, limit_bytes: int, calls_max: int) -> None:
        """
        Args:
            limit_bytes: The budget.
            calls_max: Calls that may share it, opened by either end.
        """
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        # Grows whenever bytes are given back: who got nothing before may get something now.
        self.releases_count = 0
        self._share_bytes = limit_bytes // 2 // calls_max
        # Of less no part is given: crumbs would go round for ever, a frame for a few bytes. A call
        # without credit has its whole share free as soon as its bytes have left.
        self._grant_bytes_min = self._share_bytes // 4
        self._shared_bytes_max = limit_bytes - self._share_bytes * calls_max
        self._shared_used_bytes = 0

    def charge_credit(self, call: Call, wanted_bytes: int) -> int:
        """Charge a call for as much of the credit it wants as it may have now; returns that."""
        own = self._share_bytes - call.charged_bytes
        if wanted_bytes > own:
            free = self._shared_bytes_max - self._shared_used_bytes
            allowed = (own if own > 0 else 0) + (free >> 4 if free > 0 else 0)
            if allowed < wanted_bytes:
                wanted_bytes = allowed if allowed >= self._grant_bytes_min else 0
        self.charge(call, wanted_bytes)
        return wanted_bytes

    def has_room(self, size_bytes: int) -> bool:
        """Say whether data that is already here still fits, for a call that has nothing yet."""
        return size_bytes - self._share_bytes <= self._shared_bytes_max - self._shared_used_bytes

    def charge(self, call: Call, size_bytes: int) -> None:
        """Charge bytes to a call."""
        before = call.charged_bytes
        call.charged_bytes = after = before + size_bytes
        self.used_bytes += size_bytes
        share = self._share_bytes
        if after > share:
            self._shared_used_bytes += after - (before if before > share else share)

    def release(self, call: Call, size_bytes: int) -> None:
        """Give bytes back; never more than the call was charged."""
        before = call.charged_bytes
        if size_bytes > before:
            size_bytes = before
        call.charged_bytes = after = before - size_bytes
        self.used_bytes -= size_bytes
        self.releases_count += 1
        share = self._share_bytes
        if before > share:
            self._shared_used_bytes -= before - (after if after > share else share)
