"""
One-way calls once the hub holds them: the caller's part of them, taken over by the hub. Pure.

Owns: what stands in the caller's place, what is kept of calls that hosts have, which calls count as
lost. Does not own: when a call is taken over (forward.py), where it goes then (placing.py).
Source: link.proto, Open.one_way; docs/reference/one-way.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from relayrpc.link.call import (
    STATUS_DEADLINE_EXCEEDED,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
    Call,
    CallState,
)
from relayrpc.link.messages import encode_message
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.limits import Limits


__all__ = ["HeldCalls", "hold", "is_held", "is_lost", "take_over", "was_taken_over"]

_EMPTY_REPLY: Final = encode_message(b"")
# With these a host refuses a call that another one, or itself a while later, may take.
_PASSING: Final = (STATUS_UNAVAILABLE, STATUS_RESOURCE_EXHAUSTED)
# With these a host ends what it has begun or not: it stops, or the time is over.
_UNCLEAR: Final = (STATUS_UNAVAILABLE, STATUS_DEADLINE_EXCEEDED)


class _Unbounded:
    """The budget of a link that nothing leaves by."""

    def charge_credit(self, call: Call, credit_bytes: int) -> int:
        """Take nothing from it."""
        return credit_bytes

    def release(self, call: Call, credit_bytes: int) -> None:
        """Nothing was taken."""


_UNBOUNDED = _Unbounded()


class _HubsOwn:
    """
    Stands for the link of a caller that need not wait: answers go nowhere, but for a refusal before
    the hub has taken the call over.
    """

    def __init__(self, came: Call) -> None:
        link: Any = came.link
        self._came: Call | None = came
        self._link = link
        self.link_id = link.link_id
        self.instance = link.instance
        self.peer_identity = link.peer_identity
        self.peer_address = link.peer_address
        self.is_local = link.is_local
        self.budget = _UNBOUNDED
        # Its OPEN, while a host has it that may refuse it; empty: it is not kept.
        self.kept = b""
        # Monotonic seconds, when it was refused first; None: it was not.
        self.refused_s: float | None = None

    @property
    def is_acknowledged(self) -> bool:
        """True once the caller has been told that the hub holds its call."""
        return self._came is None

    def acknowledge(self) -> None:
        """End the caller's call: from now on it is the hub's."""
        came, self._came = self._came, None
        assert came is not None
        frame = pb.Frame()
        frame.end.data = _EMPTY_REPLY
        frame.end.origin = pb.End.ORIGIN_HUB
        self._link.forward_end(came, frame)

    def forward_end(self, call: Call, frame: pb.Frame, *, discard: bool = False) -> None:
        """End it; a caller that still waits is told."""
        call.state = CallState.ENDED
        if self._came is not None:
            self._link.forward_end(self._came, frame, discard=discard)

    def forward_begin(self, call: Call, frame: pb.Frame) -> None:
        """Drop it."""

    def send_data(self, call: Call, data: bytes) -> None:
        """Drop it."""

    def grant(self, call: Call, credit_bytes: int) -> None:
        """Drop it: the request is complete."""

    def flush_soon(self) -> None:
        """Have the caller told, where it is."""
        self._link.flush_soon()


def hold(came: Call) -> Call:
    """Make what stands in the place of the leg that a one-way call came on."""
    own: Any = _HubsOwn(came)
    call = Call(own, is_opener=False, state=CallState.ANSWERING)
    call.id = came.id
    call.method = came.method
    call.address = came.address
    call.anchor = came.anchor
    call.opened_s = came.opened_s
    return call


def take_over(held: Call) -> None:
    """Tell the caller that the hub holds its call: from now on it is the hub's own."""
    own: Any = held.link
    own.acknowledge()


def is_held(call: Call) -> bool:
    """Say whether a call is a one-way call that the hub holds, or is about to."""
    return isinstance(call.link, _HubsOwn)


def was_taken_over(call: Call) -> bool:
    """Say whether a call is the hub's own: nobody is left to be refused."""
    return isinstance(call.link, _HubsOwn) and call.link.is_acknowledged


def is_lost(call: Call, end: pb.End) -> bool:
    """
    Say of a call that is over whether it is a one-way call that is lost: the hub held it, and it
    did not run, or nobody knows. What a handler ended by an error of its own has run.
    """
    return (
        bool(end.status)
        and was_taken_over(call)
        and (end.not_executed or end.origin == pb.End.ORIGIN_HUB or end.status in _UNCLEAR)
    )


class HeldCalls:
    """The one-way calls of one hub: what is kept of those that hosts have, and who is refused."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.kept_bytes = 0
        """What all that is kept holds."""

    def keep(self, held: Call, frame: pb.Frame) -> None:
        """Keep the OPEN of a call that goes to a host, as far as there is room."""
        own: Any = held.link
        kept = frame.open.SerializeToString()
        if self.kept_bytes + len(kept) <= self._limits.one_way_kept_bytes_max:
            own.kept = kept
            self.kept_bytes += len(kept)

    def let_go(self, call: Call) -> None:
        """Drop what is kept of a call, if something is."""
        own: Any = call.link
        if isinstance(own, _HubsOwn):
            self.kept_bytes -= len(own.kept)
            own.kept = b""

    def take_back(self, call: Call, end: pb.End) -> pb.Frame | None:
        """
        Take back a call that a host has ended.

        Returns:
            Its OPEN, where a host may take it yet; None: it is over.
        """
        own: Any = call.link
        if not (end.not_executed and end.status in _PASSING and is_held(call) and own.kept):
            return None
        frame = pb.Frame()
        frame.open.ParseFromString(own.kept)
        self.let_go(call)
        return frame

    def refused(self, call: Call, *, paused_count: int, now_s: float) -> tuple[float, float] | None:
        """
        Take note that there was a host for a call, which did not take it.

        Args:
            call: The hub's own.
            paused_count: How many others pause beside it: they come back one after the other.
            now_s: Monotonic seconds.

        Returns:
            When it was refused first, and when to try again; None: it has waited enough.
        """
        own: Any = call.link
        limits = self._limits
        if own.refused_s is None:
            own.refused_s = now_s
        again_s = now_s + limits.retry_after_s * (1 + paused_count / max(1, limits.queue_calls_max))
        if again_s > own.refused_s + limits.one_way_wait_s:
            return None
        return own.refused_s, again_s
