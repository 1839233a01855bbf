"""
How much of one service a host does at once: calls, sessions, service objects.

Owns: the counts, and who waits. Does not own: when something is admitted (instances.py,
host_session.py).
Source: WCF's ServiceThrottlingBehavior; docs/reference/instances.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from typing import TYPE_CHECKING, Final, Literal

from relayrpc.errors import ConfigError


if TYPE_CHECKING:
    from collections.abc import Mapping


__all__ = ["Throttle", "ThrottledError", "ThrottledKind"]

ThrottledKind = Literal["calls", "sessions", "instances"]
_KINDS: Final[tuple[ThrottledKind, ...]] = ("calls", "sessions", "instances")
_CALLS_PER_CPU: Final = 16
_SESSIONS_PER_CPU: Final = 100


class ThrottledError(Exception):
    """Nothing more of a kind is taken now."""


def _require_count(name: str, value: object, *, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r}, and must be a whole number, at least {least}")


class Throttle:
    """
    Bounds of one service at one host, as WCF has them: 16 calls and 100 sessions for each
    processor, and as many service objects as both together.

    `calls`, `sessions` and `instances` may be changed and everything be read while it is in use, by
    any thread. May be shared by several services of one server.
    """

    def __init__(
        self,
        *,
        calls: int | None = None,
        sessions: int | None = None,
        instances: int | None = None,
        on_full: Literal["queue", "reject"] = "queue",
        queue_max: int = 1_024,
    ) -> None:
        """
        Args:
            calls: At once; None: the default.
            sessions: At once.
            instances: At once; None: as many as calls and sessions together, also when those are
                changed.
            on_full: What becomes of one more: it waits, to its deadline, or ends with
                RESOURCE_EXHAUSTED.
            queue_max: How many wait at most for each of the three; 0: none.

        Raises:
            ConfigError: A bound is no whole number or below 1, `queue_max` below 0; `on_full` is
                neither.
        """
        if on_full not in ("queue", "reject"):
            raise ConfigError(f"on_full is {on_full!r}, and must be 'queue' or 'reject'")
        _require_count("queue_max", queue_max, least=0)
        cpus = os.cpu_count() or 1
        calls = _CALLS_PER_CPU * cpus if calls is None else calls
        sessions = _SESSIONS_PER_CPU * cpus if sessions is None else sessions
        # That of instances only where it was given.
        self._bounds: dict[ThrottledKind, int] = {}
        self._counts: dict[ThrottledKind, int] = dict.fromkeys(_KINDS, 0)
        # Also those that were let in and have not gone on yet.
        self._waiting: dict[ThrottledKind, deque[asyncio.Future[None]]] = {
            kind: deque() for kind in _KINDS
        }
        # That of the server; None: it has asked for nothing yet.
        self._loop: asyncio.AbstractEventLoop | None = None
        self.calls = calls
        self.sessions = sessions
        if instances is not None:
            self.instances = instances
        self.on_full = on_full
        self.queue_max = queue_max

    @property
    def calls(self) -> int:
        """Calls at once."""
        return self._bounds["calls"]

    @calls.setter
    def calls(self, value: int) -> None:
        self._set("calls", value)

    @property
    def sessions(self) -> int:
        """Sessions at once."""
        return self._bounds["sessions"]

    @sessions.setter
    def sessions(self, value: int) -> None:
        self._set("sessions", value)

    @property
    def instances(self) -> int:
        """Service objects at once."""
        given = self._bounds.get("instances")
        return self.calls + self.sessions if given is None else given

    @instances.setter
    def instances(self, value: int) -> None:
        self._set("instances", value)

    @property
    def bounds(self) -> Mapping[ThrottledKind, int]:
        """How many of each there may be."""
        return {kind: self._bound(kind) for kind in _KINDS}

    @property
    def counts(self) -> Mapping[ThrottledKind, int]:
        """How many of each there are now."""
        return dict(self._counts)

    @property
    def waiting_counts(self) -> Mapping[ThrottledKind, int]:
        """How many of each wait."""
        # Copied in one step: the loop's thread may change them meanwhile.
        return {
            kind: sum(not future.done() for future in tuple(waiting))
            for kind, waiting in self._waiting.items()
        }

    def _bound(self, kind: ThrottledKind) -> int:
        bound: int = getattr(self, kind)
        return bound

    def _set(self, kind: ThrottledKind, value: int) -> None:
        _require_count(kind, value, least=1)
        self._bounds[kind] = value
        if self._loop is not None:
            # On one that has ended nobody waits.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._admit_all)

    async def take(self, kind: ThrottledKind) -> None:
        """
        Take a place, in the order of asking; give it back. On the server's loop, as `give()`.

        Raises:
            ThrottledError: All are taken, and one more does not wait.
        """
        # Before a bound is read: whoever changes it afterwards finds the loop.
        self._loop = loop = asyncio.get_running_loop()
        waiting = self._waiting[kind]
        is_free = self._counts[kind] < self._bound(kind)
        if is_free and not waiting:
            self._counts[kind] += 1
            return
        if not is_free and (self.on_full == "reject" or len(waiting) >= self.queue_max):
            beside = f", and {len(waiting)} wait" if waiting else ""
            raise ThrottledError(f"the host has {self._counts[kind]} {kind} at once{beside}")
        # Also where one is free: whoever was let in before has to go on before.
        future = loop.create_future()
        waiting.append(future)
        if is_free:
            loop.call_soon(self._admit, kind)
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():
                # It came in the same turn of the loop.
                self.give(kind)
            raise
        finally:
            waiting.remove(future)

    def give(self, kind: ThrottledKind) -> None:
        """Give a place back."""
        self._counts[kind] -= 1
        self._admit(kind)

    def _admit_all(self) -> None:
        for kind in _KINDS:
            self._admit(kind)

    def _admit(self, kind: ThrottledKind) -> None:
        waiting = self._waiting[kind]
        for future in waiting:
            if self._counts[kind] >= self._bound(kind):
                break
            if not future.done():
                self._counts[kind] += 1
                future.set_result(None)
