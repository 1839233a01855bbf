"""
What a Link tells the layer above it. Pure data; the order of events is the order in which things
happened.

Frames are handed over as decoded, so that a hub can pass them on without taking them apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from relayrpc.errors import RelayError
    from relayrpc.link.call import Call
    from relayrpc.v1 import link_pb2 as pb


__all__ = [
    "AnnounceReceived",
    "AnnouncedReceived",
    "BeginReceived",
    "CallEnded",
    "CallOpened",
    "CallReturned",
    "DataReceived",
    "DeadlinePassed",
    "Event",
    "GoingAwayReceived",
    "GrantReceived",
    "HalfCloseReceived",
    "LinkEnded",
    "SendReady",
    "WelcomeReceived",
    "WithdrawReceived",
]


class Event:
    """Root of all events."""

    __slots__ = ()


class CallOpened(Event):
    """
    The peer opened a call; `frame.open` as received.

    `data` and `has_metadata` say again what the frame holds: reading it twice costs more.
    """

    __slots__ = ("call", "data", "frame", "has_metadata")

    def __init__(self, call: Call, frame: pb.Frame, data: bytes, has_metadata: bool) -> None:
        self.call = call
        self.frame = frame
        self.data = data
        self.has_metadata = has_metadata


class CallReturned(Event):
    """
    The link ended, and the peer never had this call that was opened here (hub only); in place of
    CallEnded.

    `frame` is its OPEN with all data that was written, good to be opened on another link.
    """

    __slots__ = ("call", "frame")

    def __init__(self, call: Call, frame: pb.Frame) -> None:
        self.call = call
        self.frame = frame


class BeginReceived(Event):
    """Initial metadata arrived for a call opened here; `frame.begin`."""

    __slots__ = ("call", "frame")

    def __init__(self, call: Call, frame: pb.Frame) -> None:
        self.call = call
        self.frame = frame


class DataReceived(Event):
    """Bytes of the peer's message stream arrived; credit for them is used up."""

    __slots__ = ("call", "data")

    def __init__(self, call: Call, data: bytes) -> None:
        self.call = call
        self.data = data


class HalfCloseReceived(Event):
    """The opener sends no more."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call


class GrantReceived(Event):
    """The peer takes more of our message stream; the call's own credit is already raised."""

    __slots__ = ("call", "credit_bytes")

    def __init__(self, call: Call, credit_bytes: int) -> None:
        self.call = call
        self.credit_bytes = credit_bytes


class CallEnded(Event):
    """
    A call is over and this side did not end it.

    `frame.end` is the peer's, or one made here: deadline, cancellation by the peer, loss of the
    link, a fault of the peer. `has_metadata` says again what the frame holds.
    """

    __slots__ = ("call", "frame", "has_metadata")

    def __init__(self, call: Call, frame: pb.Frame, has_metadata: bool = False) -> None:
        self.call = call
        self.frame = frame
        self.has_metadata = has_metadata


class DeadlinePassed(Event):
    """The deadline of a call opened by the peer has passed; answer with Link.end_call."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call


class SendReady(Event):
    """The unsent bytes of a call fell to the mark after they were above it."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call


class AnnounceReceived(Event):
    """The peer wants to serve; answer with Link.answer_announce."""

    __slots__ = ("announce",)

    def __init__(self, announce: pb.Announce) -> None:
        self.announce = announce


class AnnouncedReceived(Event):
    """The peer answered an announcement."""

    __slots__ = ("announced",)

    def __init__(self, announced: pb.Announced) -> None:
        self.announced = announced


class WithdrawReceived(Event):
    """The peer takes an announcement back."""

    __slots__ = ("announcement_id",)

    def __init__(self, announcement_id: int) -> None:
        self.announcement_id = announcement_id


class GoingAwayReceived(Event):
    """The peer stops: open new links for new calls."""

    __slots__ = ("going_away",)

    def __init__(self, going_away: pb.GoingAway) -> None:
        self.going_away = going_away


class WelcomeReceived(Event):
    """The handshake on a new carrier is done (dialler only)."""

    __slots__ = ("is_resumed", "welcome")

    def __init__(self, welcome: pb.Welcome, *, is_resumed: bool) -> None:
        self.welcome = welcome
        self.is_resumed = is_resumed


class LinkEnded(Event):
    """The link is over; the last event. `error` is None after an orderly Close."""

    __slots__ = ("close", "error")

    def __init__(self, error: RelayError | None, close: pb.Close | None = None) -> None:
        self.error = error
        # The peer's Close, when that is what ended the link.
        self.close = close
