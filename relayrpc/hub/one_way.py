"""
One-way calls once the hub holds them: the caller's part of them, taken over by the hub. Pure.

Owns: what stands in the caller's place. Does not own: when a call is taken over, and what becomes
of it (forward.py).
Source: link.proto, Open.one_way; docs/reference/one-way.md.
"""

from __future__ import annotations

from typing import Any

from relayrpc.link.call import Call, CallState
from relayrpc.link.messages import encode_message
from relayrpc.v1 import link_pb2 as pb


__all__ = ["hold", "is_held", "take_over", "was_taken_over"]

_EMPTY_REPLY = encode_message(b"")


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

    def bound_deadline(self, call: Call, deadline_s: float, *, now_s: float) -> None:
        """Tell the host; nobody here waits."""
        call.deadline_s = deadline_s

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
