"""
When leases are over. Owns: how long each has, and one timer for the first of them.

Does not own: their keys, and deleting them (the stores). `Leases` is pure; `LeaseTimer` tells it
the loop's time, which may be virtual.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from relayrpc.errors import LeaseError


__all__ = ["LeaseTimer", "Leases"]


@dataclass(slots=True)
class _Lease:
    lease_s: float
    deadline_s: float


class Leases:
    """The leases that are not over."""

    def __init__(self) -> None:
        self._by_id: dict[int, _Lease] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, lease_id: int, lease_s: float, *, now_s: float) -> None:
        """Count a lease's time from now."""
        self._by_id[lease_id] = _Lease(lease_s, now_s + lease_s)

    def check(self, lease_id: int) -> None:
        """
        Raises:
            LeaseError: It is over, or there never was one.
        """
        if lease_id not in self._by_id:
            raise LeaseError(f"lease {lease_id} is over", lease_id=lease_id)

    def keep_alive(self, lease_id: int, *, now_s: float) -> None:
        """
        Count its whole time again.

        Raises:
            LeaseError: It is over.
        """
        self.check(lease_id)
        lease = self._by_id[lease_id]
        lease.deadline_s = now_s + lease.lease_s

    def remove(self, lease_id: int) -> float | None:
        """Count it no more; returns the seconds it was granted, None: it was over."""
        lease = self._by_id.pop(lease_id, None)
        return lease.lease_s if lease else None

    def expired(self, *, now_s: float) -> list[int]:
        """Return the ids of those whose time is over, the earliest first."""
        expired = [
            (lease.deadline_s, lease_id)
            for lease_id, lease in self._by_id.items()
            if lease.deadline_s <= now_s
        ]
        return [lease_id for _, lease_id in sorted(expired)]

    def next_deadline_s(self) -> float | None:
        """Return when the first is over; None: there is none."""
        return min((lease.deadline_s for lease in self._by_id.values()), default=None)


class LeaseTimer:
    """The leases of an open store, on the time of its event loop."""

    def __init__(self, expired: Callable[[int], object]) -> None:
        """
        Args:
            expired: Called with the id of each lease whose time is over; must remove it, and not
                raise.
        """
        self._leases = Leases()
        self._expired = expired
        self._loop = asyncio.get_running_loop()
        # Fires at the first deadline or before it: keeping alive leaves it as it is.
        self._handle: asyncio.TimerHandle | None = None
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._leases)

    def add(self, lease_id: int, lease_s: float) -> None:
        self._leases.add(lease_id, lease_s, now_s=self._loop.time())
        self._arm()

    def check(self, lease_id: int) -> None:
        self._leases.check(lease_id)

    def keep_alive(self, lease_id: int) -> None:
        self._leases.keep_alive(lease_id, now_s=self._loop.time())

    def remove(self, lease_id: int) -> float | None:
        return self._leases.remove(lease_id)

    def close(self) -> None:
        """Call nobody any more."""
        self._is_closed = True
        if self._handle is not None:
            self._handle.cancel()

    def _arm(self) -> None:
        if self._is_closed:
            return
        deadline_s = self._leases.next_deadline_s()
        if self._handle is not None:
            if deadline_s is not None and self._handle.when() <= deadline_s:
                return
            self._handle.cancel()
            self._handle = None
        if deadline_s is not None:
            self._handle = self._loop.call_at(deadline_s, self._fire)

    def _fire(self) -> None:
        assert self._handle is not None
        # A loop may come a moment early.
        now_s = max(self._loop.time(), self._handle.when())
        self._handle = None
        for lease_id in self._leases.expired(now_s=now_s):
            self._expired(lease_id)
        self._arm()
