"""
One call on one link: its state, its legal frames, its unsent bytes, and how its end reads. Pure.

Owns: the state table and the per-call counters. Does not own: ids and tables of calls
(call_table.py), frames in flight (batch_log.py), turns (outbox.py).
Source: protos/relayrpc/v1/link.proto, "Sequence of one call"; DESIGN.md "What a caller is told".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from collections import deque

    from relayrpc.link.calls import LinkCalls


__all__ = [
    "DETAILS_KEY",
    "NEXT_STATE",
    "NO_STATE",
    "ORIGINS",
    "RETRY_PUSHBACK_KEY",
    "STATUS_CANCELLED",
    "STATUS_DEADLINE_EXCEEDED",
    "STATUS_FAILED_PRECONDITION",
    "STATUS_INTERNAL",
    "STATUS_INVALID_ARGUMENT",
    "STATUS_NOT_FOUND",
    "STATUS_OK",
    "STATUS_RESOURCE_EXHAUSTED",
    "STATUS_UNAVAILABLE",
    "STATUS_UNIMPLEMENTED",
    "STATUS_UNKNOWN",
    "TRANSITIONS",
    "Call",
    "CallApp",
    "CallInput",
    "CallOutcome",
    "CallState",
    "Origin",
    "make_end",
    "retry_pushback",
]

# gRPC's status numbers, those the relay itself uses.
STATUS_OK: Final = 0
STATUS_CANCELLED: Final = 1
STATUS_UNKNOWN: Final = 2
STATUS_INVALID_ARGUMENT: Final = 3
STATUS_DEADLINE_EXCEEDED: Final = 4
STATUS_NOT_FOUND: Final = 5
STATUS_RESOURCE_EXHAUSTED: Final = 8
STATUS_FAILED_PRECONDITION: Final = 9
STATUS_UNIMPLEMENTED: Final = 12
STATUS_INTERNAL: Final = 13
STATUS_UNAVAILABLE: Final = 14
STATUS_UNAUTHENTICATED: Final = 16
_STATUS_LAST: Final = 16

DETAILS_KEY: Final = "grpc-status-details-bin"
"""Trailer with a google.rpc.Status: rich details of the status."""
RETRY_PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
"""Trailer: milliseconds to wait before calling again; below 0: do not."""

Origin = Literal["host", "hub", "caller"]
ORIGINS: Final[tuple[Origin, ...]] = ("host", "hub", "caller")
"""By the number in pb.End."""


class CallState(IntEnum):
    """
    Where a call stands, seen from one end. "Begun": initial metadata or first response data has
    passed.
    """

    CALLING = 0
    """Opener; may still send."""
    CALLING_BEGUN = 1
    AWAITING = 2
    """Opener; has half closed."""
    AWAITING_BEGUN = 3
    SERVING = 4
    """Responder; requests may still come."""
    SERVING_BEGUN = 5
    ANSWERING = 6
    """Responder; the requests are complete."""
    ANSWERING_BEGUN = 7
    ENDED = 8


class CallInput(IntEnum):
    """What can happen to a call. SEND_*: the local program; RECEIVE_*: a frame of the peer."""

    SEND_DATA = 0
    SEND_HALF_CLOSE = 1
    SEND_BEGIN = 2
    SEND_END = 3
    SEND_CANCEL = 4
    RECEIVE_DATA = 5
    RECEIVE_HALF_CLOSE = 6
    RECEIVE_BEGIN = 7
    RECEIVE_END = 8
    RECEIVE_CANCEL = 9
    RECEIVE_GRANT = 10


def _opener(state: CallState, begun: CallState) -> dict[tuple[CallState, CallInput], CallState]:
    return {
        (state, CallInput.RECEIVE_BEGIN): begun,
        (state, CallInput.RECEIVE_DATA): begun,
        (state, CallInput.RECEIVE_END): CallState.ENDED,
        (state, CallInput.RECEIVE_GRANT): state,
        (state, CallInput.SEND_CANCEL): CallState.ENDED,
    }


def _responder(state: CallState, begun: CallState) -> dict[tuple[CallState, CallInput], CallState]:
    return {
        (state, CallInput.SEND_BEGIN): begun,
        (state, CallInput.SEND_DATA): begun,
        (state, CallInput.SEND_END): CallState.ENDED,
        (state, CallInput.RECEIVE_GRANT): state,
        (state, CallInput.RECEIVE_CANCEL): CallState.ENDED,
    }


def _without(
    table: dict[tuple[CallState, CallInput], CallState], missing: tuple[CallState, CallInput]
) -> dict[tuple[CallState, CallInput], CallState]:
    return {key: state for key, state in table.items() if key != missing}


_S = CallState
_I = CallInput

TRANSITIONS: Final[Mapping[tuple[CallState, CallInput], CallState]] = MappingProxyType(
    {
        **_opener(_S.CALLING, _S.CALLING_BEGUN),
        # A second BEGIN, or one after data, is illegal.
        **_without(
            _opener(_S.CALLING_BEGUN, _S.CALLING_BEGUN), (_S.CALLING_BEGUN, _I.RECEIVE_BEGIN)
        ),
        **_opener(_S.AWAITING, _S.AWAITING_BEGUN),
        **_without(
            _opener(_S.AWAITING_BEGUN, _S.AWAITING_BEGUN), (_S.AWAITING_BEGUN, _I.RECEIVE_BEGIN)
        ),
        (_S.CALLING, _I.SEND_DATA): _S.CALLING,
        (_S.CALLING, _I.SEND_HALF_CLOSE): _S.AWAITING,
        (_S.CALLING_BEGUN, _I.SEND_DATA): _S.CALLING_BEGUN,
        (_S.CALLING_BEGUN, _I.SEND_HALF_CLOSE): _S.AWAITING_BEGUN,
        **_responder(_S.SERVING, _S.SERVING_BEGUN),
        **_without(
            _responder(_S.SERVING_BEGUN, _S.SERVING_BEGUN), (_S.SERVING_BEGUN, _I.SEND_BEGIN)
        ),
        **_responder(_S.ANSWERING, _S.ANSWERING_BEGUN),
        **_without(
            _responder(_S.ANSWERING_BEGUN, _S.ANSWERING_BEGUN), (_S.ANSWERING_BEGUN, _I.SEND_BEGIN)
        ),
        (_S.SERVING, _I.RECEIVE_DATA): _S.SERVING,
        (_S.SERVING, _I.RECEIVE_HALF_CLOSE): _S.ANSWERING,
        (_S.SERVING_BEGUN, _I.RECEIVE_DATA): _S.SERVING_BEGUN,
        (_S.SERVING_BEGUN, _I.RECEIVE_HALF_CLOSE): _S.ANSWERING_BEGUN,
    }
)
"""
What is legal. A missing key is a ProtocolError (RECEIVE_*) or a UsageError (SEND_*); late frames
for an ended call never get here.
"""

NO_STATE: Final = -1
NEXT_STATE: Final[tuple[tuple[int, ...], ...]] = tuple(
    tuple(int(TRANSITIONS.get((state, act), NO_STATE)) for act in CallInput) for state in CallState
)
"""TRANSITIONS as `NEXT_STATE[state][input]`, NO_STATE where illegal: the same table, fast."""


class CallApp(Protocol):
    """
    Who an endpoint's call belongs to; called from the driver when frames arrive. Must not raise and
    must not block.

    After `call_ended` nothing more is called. After the local end_call or cancel_call, what came in
    the same batch may still be handed over, and is to be dropped.
    """

    def begin_received(self, begin: pb.Begin) -> None:
        """Initial metadata arrived before the first message (opener only)."""

    def data_received(self, data: bytes) -> None:
        """More of the peer's message stream arrived, cut anywhere."""

    def half_close_received(self) -> None:
        """The opener sends no more (responder only)."""

    def send_ready(self) -> None:
        """`Call.unsent_bytes` fell to Limits.send_queue_bytes_high after it was above."""

    def call_ended(self, end: pb.End) -> None:
        """
        The call is over: the peer's end, or one made here. `end.data` holds the last bytes of the
        stream.
        """


class Call:
    """One call on one link. Attributes are for reading; only Link writes them."""

    __slots__ = (
        "address",
        "anchor",
        "app",
        "charged_bytes",
        "deadline_key",
        "deadline_s",
        "dependents_count",
        "fed_bytes",
        "id",
        "is_opener",
        "is_waiting_ready",
        "link",
        "method",
        "open_frame",
        "open_number",
        "opened_s",
        "queue",
        "queue_turn",
        "receive_credit_bytes",
        "send_credit_bytes",
        "served_by",
        "state",
        "tail",
        "unsent_bytes",
        "withheld_bytes",
    )

    def __init__(self, link: LinkCalls, *, is_opener: bool, state: int) -> None:
        self.link = link
        self.is_opener = is_opener
        self.state = state
        # 0 until the OPEN is in a batch: ids grow in the order of the Opens on the wire.
        self.id = 0
        # The number of the batch that held the OPEN (opener); 0: none yet.
        self.open_number = 0
        # Who handles the call: a CallApp at an endpoint, the other leg at a hub.
        self.app: Any = None
        self.method = ""
        self.address = ""
        # The call on this link that this one belongs to; None: none.
        self.anchor: Call | None = None
        # Calls opened here that belong to this one and are in no batch yet: what ends this one, or
        # its direction, goes behind them.
        self.dependents_count = 0
        # Monotonic seconds; None: no deadline.
        self.deadline_s: float | None = None
        # Where the deadline is watched; 0: nowhere.
        self.deadline_key = 0
        self.open_frame: pb.Frame | None = None
        # Bytes of the local message stream not yet in a batch; the queue is made when it is first
        # needed.
        self.queue: deque[bytes] | None = None
        self.unsent_bytes = 0
        # END or HALF_CLOSE that goes behind the queue.
        self.tail: pb.Frame | None = None
        # Which of the outbox's lists the call stands in.
        self.queue_turn = 0
        self.is_waiting_ready = False
        self.send_credit_bytes = 0
        self.receive_credit_bytes = 0
        # Hub: what this leg has of its link's budget, and credit the peer granted that was not
        # passed on yet.
        self.charged_bytes = 0
        self.withheld_bytes = 0
        # Hub: what the sender had of credit when some was withheld last.
        self.fed_bytes = 0
        # Hub: when the leg that came in did so, monotonic seconds.
        self.opened_s = 0.0
        # Hub: the registration that was chosen, on the leg that went out.
        self.served_by: Any = None

    @property
    def is_ended(self) -> bool:
        """True once the call is over on this side."""
        return self.state == _ENDED

    def __repr__(self) -> str:
        return f"<Call {self.id} {self.method} {CallState(self.state).name}>"


_ENDED: Final = int(CallState.ENDED)


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """How a call ended: what the public layer turns into gRPC's objects."""

    status: int
    """gRPC status number."""
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]
    origin: Origin
    """Who made this end."""
    may_have_executed: bool
    """False only when it is known that the handler was never started."""

    @classmethod
    def from_end(cls, end: pb.End) -> CallOutcome:
        """Read a call's last frame; unknown numbers become UNKNOWN and HOST."""
        return cls(
            status=end.status if end.status <= _STATUS_LAST else STATUS_UNKNOWN,
            details=end.details,
            trailing_metadata=tuple((entry.key, entry.value) for entry in end.trailing_metadata),
            origin=ORIGINS[end.origin] if end.origin < len(ORIGINS) else "host",
            may_have_executed=not end.not_executed,
        )


def make_end(
    status: int,
    details: str,
    *,
    origin: pb.End.Origin,
    not_executed: bool = False,
    retry_after_s: float | None = None,
    rich_details: bytes = b"",
) -> pb.Frame:
    """
    Make the END of a call that the relay itself ends.

    Args:
        status: gRPC's number.
        details: One sentence.
        origin: Who ends it.
        not_executed: It is known that the handler never started.
        retry_after_s: How long the caller is to wait before it calls again, for one that met a
            bound; None: nothing is said of that.
        rich_details: A serialized google.rpc.Status; empty: there is none.
    """
    frame = pb.Frame()
    end = frame.end
    end.status = status
    end.details = details
    end.origin = origin
    end.not_executed = not_executed
    if retry_after_s is not None:
        key, value = retry_pushback(retry_after_s)
        end.trailing_metadata.add(key=key, value=value.encode())
    if rich_details:
        end.trailing_metadata.add(key=DETAILS_KEY, value=rich_details)
    return frame


def retry_pushback(retry_after_s: float) -> tuple[str, str]:
    """Make the trailer by which gRPC tells a client's retry policy how long to wait."""
    return RETRY_PUSHBACK_KEY, str(int(retry_after_s * 1000))
