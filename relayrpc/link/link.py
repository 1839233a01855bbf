"""
The link: calls multiplexed over numbered batches that survive their carriers. Pure: time is an argument.

Owns: ids, names, calls, keepalive, resume, the order of what goes out. Does not own: carriers (carrier/driver.py), which
link a carrier belongs to (hub/links.py), what a call means (the layer above).
How to drive it: docs/reference/link-core.md. In short: after anything, act on `events_received()`, then send what
`batch_to_send()` gives until it gives None, then wait no longer than `next_deadline_s()` and call `handle_timeout()`.
Source: protos/relayrpc/v1/link.proto; LINK.md.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from relayrpc.errors import (
    CarrierLostError,
    FlowControlError,
    FrameDecodeError,
    FrameTooLargeError,
    KeepaliveTimeoutError,
    LinkRefusedError,
    ProtocolError,
    RelayError,
    UsageError,
    VersionError,
)
from relayrpc.link.batch_log import BatchLog
from relayrpc.link.call import (
    NEXT_STATE,
    NO_STATE,
    STATUS_CANCELLED,
    STATUS_DEADLINE_EXCEEDED,
    STATUS_INTERNAL,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
    Call,
    CallInput,
    CallState,
    make_end,
)
from relayrpc.link.deadlines import DeadlineBuckets
from relayrpc.link.events import (
    AnnouncedReceived,
    AnnounceReceived,
    BeginReceived,
    CallEnded,
    CallOpened,
    DataReceived,
    DeadlinePassed,
    Event,
    GoingAwayReceived,
    GrantReceived,
    HalfCloseReceived,
    LinkEnded,
    SendReady,
    WelcomeReceived,
    WithdrawReceived,
)
from relayrpc.link.flow import Budget
from relayrpc.link.frames import (
    BODY_UNNUMBERED,
    PROTOCOL_VERSION,
    MetadataPairs,
    add_metadata,
    check_metadata,
    decode_batch,
    encode_batch,
    encode_frame,
    encode_unnumbered,
)
from relayrpc.link.outbox import Outbox
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.limits import Limits


__all__ = ["Link", "LinkState"]

_CREDIT_BYTES_MAX: Final = 2**31 - 1
_ORDER_KEY_BYTES_MAX: Final = 128

# Plain ints: enum members are slower to compare and to index with.
_ENDED: Final = int(CallState.ENDED)
_CALLING: Final = int(CallState.CALLING)
_AWAITING: Final = int(CallState.AWAITING)
_SERVING: Final = int(CallState.SERVING)
_ANSWERING: Final = int(CallState.ANSWERING)
_SEND_DATA: Final = int(CallInput.SEND_DATA)
_RECEIVE_DATA: Final = int(CallInput.RECEIVE_DATA)
_RECEIVE_END: Final = int(CallInput.RECEIVE_END)


class LinkState(IntEnum):
    """Where a link stands."""

    CONNECTING = 0
    """Dialler, before the first Welcome: calls may be opened and wait."""
    OPEN = 1
    """A carrier is there."""
    PARKED = 2
    """The carrier is lost; the resume window runs."""
    CLOSED = 3
    """Over; never opens again."""


class Link:
    """
    One end of a link.

    Attributes for reading: `state`, `is_dialler`, `is_draining` (GoingAway was sent or received), `peer_instance`,
    `link_id`, `calls_open_count`, `has_carried` (a call or an announcement; only then may the link park),
    `budget` (hub only), `resumed_count`, `round_trip_s`.
    """

    def __init__(
        self,
        *,
        is_dialler: bool,
        limits: Limits,
        instance: str,
        is_hub: bool = False,
        now_s: float,
    ) -> None:
        """
        Args:
            is_dialler: This end dials; it opens odd call ids and speaks first.
            limits: What this end takes and keeps.
            instance: This process's instance id (dialler), or the peer's from its Hello (acceptor).
            is_hub: Calls are forwarded: ends made here say HUB, and queued data is charged to a budget.
            now_s: Monotonic seconds.
        """
        self.state = LinkState.CONNECTING if is_dialler else LinkState.OPEN
        self.is_dialler = is_dialler
        self.limits = limits
        self.instance = instance
        self.is_hub = is_hub
        self.is_draining = False
        self.has_carried = False
        self.resumed_count = 0
        self.budget = (
            Budget(limit_bytes=limits.link_budget_bytes, calls_open_max=limits.calls_open_max)
            if is_hub
            else None
        )
        # What a hub vouches for to hosts; set by the hub.
        self.peer_identity = ""
        self.peer_address = ""
        # Set by Welcome (dialler) or accept() (acceptor).
        self.link_id = b""
        self.secret = b""
        self.epoch = b""
        self.version = 0
        self.resume_window_s = limits.resume_window_s
        self.log = BatchLog(limits)
        self._outbox = Outbox(limits, budget=self.budget)
        self._events: list[Event] = []
        self._calls: dict[int, Call] = {}
        # Calls opened here whose OPEN is not in a batch yet, in order.
        self._calls_waiting: dict[Call, None] = {}
        self._peer_calls_count = 0
        self._own_calls_count = 0
        # What the peer takes; set when the handshake is done.
        self._own_calls_max = limits.calls_open_max
        self._call_id_last = -1 if is_dialler else 0
        self._peer_call_id_last = 0 if is_dialler else -1
        self._deadlines = DeadlineBuckets()
        self._names_out: dict[str, int] = {}
        self._names_in: list[str] = []
        self._announcements_in: set[int] = set()
        self._announcement_id_last = 0
        # The carrier taken last; batches of older ones are dropped.
        self._attempt = 0 if is_dialler else -1
        # Dialler: the carrier that waits for Welcome, and its first batch until it is sent.
        self._attempt_pending: int | None = None
        self._attempt_last = -1
        self._first_batch: bytes | None = None
        # Unnumbered frames to send, in order; they precede numbered batches.
        self._unnumbered: deque[pb.Frame] = deque()
        self._received_s = now_s
        self._turn_s = now_s
        self._is_pinged = False
        self._ping_number = 0
        self._parked_until_s: float | None = None
        self._size_error_number = 0
        self._drain_until_s: float | None = None
        # Called after local actions so that they go out this turn; the driver sets it.
        self.flush_soon: Callable[[], None] = _nothing

    # --- looking in ---

    @property
    def calls_open_count(self) -> int:
        """Calls of either direction that are not over, those still waiting for their first batch included."""
        return len(self._calls) + len(self._calls_waiting)

    @property
    def attempt(self) -> int:
        """Number of the carrier taken last; -1 on an acceptor before accept()."""
        return self._attempt

    @property
    def has_room_for_call(self) -> bool:
        """True while the peer takes another call from here."""
        return self._own_calls_count < self._own_calls_max

    @property
    def round_trip_s(self) -> float | None:
        """The least round trip of the last seconds; None before the first acknowledgement."""
        return self.log.path.round_trip_s

    @property
    def is_idle(self) -> bool:
        """True when no call is open and nothing waits to be sent or acknowledged."""
        return not self.calls_open_count and self._outbox.is_empty() and not self.log.kept_bytes

    def events_received(self) -> list[Event]:
        """Take the events since the last time, in order."""
        if self._outbox.ready_calls:
            self._take_ready()
        events = self._events
        if events:
            self._events = []
        return events

    def _take_ready(self) -> None:
        self._events.extend(SendReady(call) for call in self._outbox.ready_calls)
        self._outbox.ready_calls.clear()

    # --- carriers and handshake ---

    def carrier_opened(self, *, now_s: float) -> int:
        """
        Start the handshake on a new carrier (dialler only): Hello for a new link, else Resume.

        The carrier before stays in use until Welcome arrives on this one.

        Returns:
            The attempt number to pass with everything this carrier delivers.
        """
        self._require(self.is_dialler and self.state is not LinkState.CLOSED, "link takes no carrier")
        self._attempt_last += 1
        self._attempt_pending = self._attempt_last
        if self.link_id:
            frame = pb.Frame(
                resume=pb.Resume(
                    link_id=self.link_id,
                    secret=self.secret,
                    epoch=self.epoch,
                    attempt=self._attempt_last,
                    received=self.log.received_number,
                    instance=self.instance,
                )
            )
        else:
            frame = pb.Frame(
                hello=pb.Hello(
                    versions=[PROTOCOL_VERSION],
                    instance=self.instance,
                    limits=_encode_limits(self.limits),
                )
            )
        self._first_batch = encode_unnumbered(frame)
        if self.state is not LinkState.OPEN:
            self._received_s = now_s
        self._turn_s = now_s
        return self._attempt_last

    def accept(
        self,
        hello: pb.Hello,
        *,
        link_id: bytes,
        secret: bytes,
        epoch: bytes,
        websocket_url: str = "",
    ) -> None:
        """
        Answer Hello with Welcome (acceptor only); attempt 0 is the carrier it came on.

        Raises:
            VersionError: No version in common.
            FrameDecodeError: A field is outside its range.
        """
        if PROTOCOL_VERSION not in hello.versions:
            raise VersionError(
                f"peer speaks versions {list(hello.versions)}, this hub {PROTOCOL_VERSION}",
                offered=str(list(hello.versions)),
                supported=str([PROTOCOL_VERSION]),
            )
        self.version = PROTOCOL_VERSION
        self.link_id = link_id
        self.secret = secret
        self.epoch = epoch
        self._attempt = 0
        self._apply_peer_limits(hello.limits)
        self._unnumbered.append(
            pb.Frame(
                welcome=pb.Welcome(
                    version=PROTOCOL_VERSION,
                    link_id=link_id,
                    secret=secret,
                    epoch=epoch,
                    limits=_encode_limits(self.limits),
                    resume_window_ms=int(self.limits.resume_window_s * 1000),
                    websocket_url=websocket_url,
                )
            )
        )

    def accept_resume(self, resume: pb.Resume, *, now_s: float, websocket_url: str = "") -> str:
        """
        Take a new carrier for this link (acceptor only); id, epoch, secret and identity are already checked.

        Returns:
            Empty when taken: Welcome and what the peer lacks go out next, and `resume.attempt` names the carrier. Else why not:
            "attempt" (an older attempt; the carrier is to be closed, the link lives on) or "batches" (no longer held: Expired).
        """
        if self.state is LinkState.CLOSED or resume.attempt <= self._attempt:
            return "attempt"
        if not self.log.resume(resume.received, now_s=now_s):
            return "batches"
        self._attempt = resume.attempt
        self._carrier_taken(now_s)
        self._unnumbered.append(
            pb.Frame(
                welcome=pb.Welcome(received=self.log.received_number, websocket_url=websocket_url)
            )
        )
        return ""

    def _carrier_taken(self, now_s: float) -> None:
        self.state = LinkState.OPEN
        self.resumed_count += 1
        self._parked_until_s = None
        # What was unnumbered belonged to the carrier before.
        self._unnumbered.clear()
        self._is_pinged = False
        self._received_s = now_s

    def carrier_lost(self, attempt: int, *, now_s: float, is_size_error: bool = False) -> None:
        """
        Note that a carrier is over.

        Args:
            attempt: As given by carrier_opened() or in the accepted Resume; an older carrier's end means nothing.
            now_s: Monotonic seconds.
            is_size_error: It ended because a batch was too large for it; the second time for the same batch ends the link.
        """
        if attempt == self._attempt_pending:
            self._attempt_pending = None
            self._first_batch = None
            return
        if attempt != self._attempt or self.state is not LinkState.OPEN:
            return
        first = self.log.first_kept()
        if is_size_error and first is not None:
            if first.number == self._size_error_number:
                size = len(first.frames)
                self._end(
                    FrameTooLargeError(
                        f"batch {first.number} of {size} bytes is too large for the carrier",
                        size_bytes=size,
                    )
                )
                return
            self._size_error_number = first.number
        if self.is_draining or (not self.is_dialler and not self.has_carried):
            why = "is draining" if self.is_draining else "has carried nothing"
            self._end(CarrierLostError(f"the carrier was lost, and a link that {why} does not park"))
            return
        self.state = LinkState.PARKED
        self._parked_until_s = now_s + self.resume_window_s

    # --- receiving ---

    def receive_batch(self, data: bytes, *, attempt: int, now_s: float) -> None:
        """
        Take one carrier message. After calling this, act on events_received() and send.

        A fault of the peer does not raise: the link ends with LinkEnded, after a Close to the peer.
        """
        if self.state is LinkState.CLOSED or (
            attempt != self._attempt_pending and attempt != self._attempt
        ):
            return
        if attempt == self._attempt:
            self._received_s = now_s
            self._is_pinged = False
        self._turn_s = now_s
        try:
            batch = decode_batch(data, batch_bytes_max=self.limits.batch_bytes_max)
            if attempt == self._attempt_pending:
                self._receive_handshake(batch, attempt, now_s)
            else:
                self._receive(batch, len(data), now_s)
        except ProtocolError as exc:
            self._fail(exc)

    def _receive(self, batch: pb.Batch, size_bytes: int, now_s: float) -> None:
        log = self.log
        log.acknowledge(batch.ack, now_s=now_s)
        number = batch.number
        if number:
            if not log.receive(number, size_bytes, now_s=now_s):
                return
            age_s = batch.age_ms / 1000
            for frame in batch.frames:
                body = frame.WhichOneof("body")
                if body == "end":
                    self._receive_end(frame)
                elif body == "open":
                    self._receive_open(frame, now_s - age_s, now_s)
                elif body == "data":
                    self._receive_data(frame)
                elif body in _NUMBERED:
                    _NUMBERED[body](self, frame)
                elif body in BODY_UNNUMBERED:
                    raise ProtocolError(f"{body} in a numbered batch", body=str(body))
                if self.state is LinkState.CLOSED:
                    return
        else:
            for frame in batch.frames:
                self._receive_unnumbered(frame, now_s)

    def _receive_unnumbered(self, frame: pb.Frame, now_s: float) -> None:
        body = frame.WhichOneof("body")
        if body == "ping":
            if len(self._unnumbered) < _PONGS_MAX:
                self._unnumbered.append(pb.Frame(pong=frame.ping))
        elif body == "close":
            self._receive_close(frame.close)
        elif body is not None and body != "pong":
            raise ProtocolError(f"{body} out of sequence", body=body)

    def _receive_handshake(self, batch: pb.Batch, attempt: int, now_s: float) -> None:
        """Take the acceptor's answer on the carrier that waits for it (dialler)."""
        body = batch.frames[0].WhichOneof("body") if batch.frames else None
        if batch.number or body not in ("welcome", "expired", "close"):
            raise ProtocolError(f"{body or 'nothing'} where welcome was due", body=str(body))
        frame = batch.frames[0]
        if body == "expired":
            self._end(LinkRefusedError(f"the hub no longer holds the link: {frame.expired.reason}"))
            return
        if body == "close":
            self._receive_close(frame.close)
            return
        welcome = frame.welcome
        is_resumed = bool(self.link_id)
        if is_resumed:
            if not self.log.resume(welcome.received, now_s=now_s):
                raise ProtocolError(
                    f"resumed at batch {welcome.received}, which is not held",
                    received=welcome.received,
                )
            self._attempt_pending = None
            self._attempt = attempt
            self._carrier_taken(now_s)
        else:
            if welcome.version != PROTOCOL_VERSION:
                raise VersionError(
                    f"the hub chose version {welcome.version}", offered=str(welcome.version)
                )
            if len(welcome.link_id) != 16 or len(welcome.secret) < 16:
                raise FrameDecodeError("welcome without link id and secret")
            self._attempt_pending = None
            self._attempt = attempt
            self.version = welcome.version
            self.link_id = welcome.link_id
            self.secret = welcome.secret
            self.epoch = welcome.epoch
            if welcome.resume_window_ms:
                self.resume_window_s = welcome.resume_window_ms / 1000
            self._apply_peer_limits(welcome.limits)
            self.state = LinkState.OPEN
            self._received_s = now_s
        self._events.append(WelcomeReceived(welcome, is_resumed=is_resumed))

    def _receive_close(self, close: pb.Close) -> None:
        if close.code == pb.Close.CODE_UNSPECIFIED:
            self._end(None, close)
            return
        name = pb.Close.Code.Name(close.code) if close.code <= pb.Close.CODE_SHUTDOWN else "CODE"
        text = close.reason or name.removeprefix("CODE_").lower().replace("_", " ")
        self._end(LinkRefusedError(f"the peer closed the link: {text}", code=close.code), close)

    # --- receiving: one call ---

    def _receive_open(self, frame: pb.Frame, sent_s: float, now_s: float) -> None:
        call_id = frame.call_id
        # The peer's parity, and above all it opened before.
        if (call_id & 1) == self.is_dialler or call_id <= self._peer_call_id_last:
            raise ProtocolError(f"open with call id {call_id}", call_id=call_id)
        self._peer_call_id_last = call_id
        opening = frame.open
        call = Call(
            self, is_opener=False, state=_ANSWERING if opening.half_close else _SERVING
        )
        call.id = call_id
        call.method = self._name(opening.method, opening.method_text)
        if opening.address or opening.address_text:
            call.address = self._name(opening.address, opening.address_text)
        else:
            call.address = call.method.partition("/")[0]
        if len(opening.data) > self.limits.initial_credit_bytes:
            raise FlowControlError(f"open with {len(opening.data)} bytes of data")
        if opening.credit_bytes > _CREDIT_BYTES_MAX or len(opening.order_key) > _ORDER_KEY_BYTES_MAX:
            raise FrameDecodeError("open with a field outside its range")
        if opening.metadata:
            check_metadata(opening.metadata, self.limits)
        call.send_credit_bytes = opening.credit_bytes
        self.has_carried = True
        self._calls[call_id] = call
        self._peer_calls_count += 1
        if self._peer_calls_count > self.limits.calls_open_max:
            self.end_call(
                call,
                status=STATUS_RESOURCE_EXHAUSTED,
                details=f"{self.limits.calls_open_max} calls are open on this link",
                origin=pb.End.ORIGIN_HUB if self.is_hub else pb.End.ORIGIN_HOST,
                not_executed=True,
            )
            return
        if opening.time_left_us:
            call.deadline_s = sent_s + opening.time_left_us / 1e6
            self._deadlines.add(call, now_s=now_s)
        self._events.append(CallOpened(call, frame))

    def _receive_end(self, frame: pb.Frame) -> None:
        call = self._calls.get(frame.call_id)
        if call is None:
            self._check_late(frame.call_id)
            return
        if NEXT_STATE[call.state][_RECEIVE_END] == NO_STATE:
            raise ProtocolError(f"end for call {call.id} in {CallState(call.state).name}")
        end = frame.end
        if end.initial_metadata:
            check_metadata(end.initial_metadata, self.limits)
        if end.trailing_metadata:
            check_metadata(end.trailing_metadata, self.limits)
        if end.origin and (self.is_hub or end.origin == pb.End.ORIGIN_CALLER):
            # A host speaks for itself only, and nobody but this process for the caller.
            end.origin = pb.End.ORIGIN_HOST
        size = len(end.data)
        if size > call.receive_credit_bytes:
            self._overrun(call, size)
            return
        call.receive_credit_bytes -= size
        self.forget(call)
        self._events.append(CallEnded(call, frame))

    def _receive_data(self, frame: pb.Frame) -> None:
        call = self._calls.get(frame.call_id)
        if call is None:
            self._check_late(frame.call_id)
            return
        state = call.state
        if state == _ENDED:
            # Our END waits for credit; what the opener still sends is late.
            return
        state = NEXT_STATE[state][_RECEIVE_DATA]
        if state == NO_STATE:
            raise ProtocolError(f"data for call {call.id} in {CallState(call.state).name}")
        call.state = state
        data = frame.data
        size = len(data)
        if size > call.receive_credit_bytes:
            self._overrun(call, size)
            return
        call.receive_credit_bytes -= size
        self._events.append(DataReceived(call, data))

    def _overrun(self, call: Call, size_bytes: int) -> None:
        """End a call whose peer sent more than it was granted; the link goes on."""
        text = f"{size_bytes} bytes with {call.receive_credit_bytes} bytes of credit"
        frame = make_end(STATUS_INTERNAL, text, origin=self._own_origin(call))
        if call.is_opener:
            self.cancel_call(call)
        else:
            self.end_call(call, status=STATUS_INTERNAL, details=text, origin=frame.end.origin)
        self._events.append(CallEnded(call, frame))

    def _receive_half_close(self, frame: pb.Frame) -> None:
        call = self._advance(frame, CallInput.RECEIVE_HALF_CLOSE)
        if call is not None:
            self._events.append(HalfCloseReceived(call))

    def _receive_begin(self, frame: pb.Frame) -> None:
        call = self._advance(frame, CallInput.RECEIVE_BEGIN)
        if call is not None:
            check_metadata(frame.begin.metadata, self.limits)
            self._events.append(BeginReceived(call, frame))

    def _receive_grant(self, frame: pb.Frame) -> None:
        call = self._calls.get(frame.call_id)
        if call is None:
            self._check_late(frame.call_id)
            return
        credit = frame.grant
        if not 0 < credit <= _CREDIT_BYTES_MAX - call.send_credit_bytes:
            raise FlowControlError(f"grant of {credit} bytes for call {call.id}")
        call.send_credit_bytes += credit
        if call.unsent_bytes:
            self._outbox.schedule(call)
        if call.state != _ENDED:
            self._events.append(GrantReceived(call, credit))

    def _receive_cancel(self, frame: pb.Frame) -> None:
        call = self._calls.get(frame.call_id)
        if call is None:
            self._check_late(frame.call_id)
            return
        if call.is_opener:
            raise ProtocolError(f"cancel for call {call.id} from its responder")
        is_over = call.state == _ENDED
        self.forget(call)
        if not is_over:
            if frame.cancel.reason == pb.Cancel.REASON_DEADLINE:
                end = make_end(
                    STATUS_DEADLINE_EXCEEDED, "Deadline Exceeded", origin=pb.End.ORIGIN_CALLER
                )
            else:
                end = make_end(
                    STATUS_CANCELLED, "the caller cancelled", origin=pb.End.ORIGIN_CALLER
                )
            self._events.append(CallEnded(call, end))

    def _advance(self, frame: pb.Frame, act: CallInput) -> Call | None:
        """Find the call and move its state; None for a late frame."""
        call = self._calls.get(frame.call_id)
        if call is None:
            self._check_late(frame.call_id)
            return None
        if call.state == _ENDED:
            return None
        state = NEXT_STATE[call.state][act]
        if state == NO_STATE:
            raise ProtocolError(
                f"{act.name.removeprefix('RECEIVE_').lower()} for call {call.id} "
                f"in {CallState(call.state).name}",
                call_id=call.id,
            )
        call.state = state
        return call

    def _check_late(self, call_id: int) -> None:
        """Let a frame pass that crossed its call's end; a call that never was is a fault of the peer."""
        opened_here = (call_id & 1) == self.is_dialler
        if not 0 < call_id <= (self._call_id_last if opened_here else self._peer_call_id_last):
            raise ProtocolError(f"frame for call {call_id}, which was never opened", call_id=call_id)

    # --- receiving: the link ---

    def _receive_name(self, frame: pb.Frame) -> None:
        name = frame.name
        names = self._names_in
        if name.number != len(names) + 1 or name.number > self.limits.names_max:
            raise ProtocolError(f"name {name.number} after {len(names)}", number=name.number)
        if not 0 < len(name.text.encode()) <= self.limits.name_bytes_max:
            raise FrameDecodeError(f"name of {len(name.text)} characters")
        names.append(name.text)

    def _name(self, number: int, text: str) -> str:
        if number:
            if number > len(self._names_in):
                raise ProtocolError(f"name {number} is not defined", number=number)
            return self._names_in[number - 1]
        if not 0 < len(text.encode()) <= self.limits.name_bytes_max:
            raise FrameDecodeError(f"name of {len(text)} characters")
        return text

    def _receive_announce(self, frame: pb.Frame) -> None:
        announce = frame.announce
        if announce.id <= self._announcement_id_last:
            raise ProtocolError(f"announcement id {announce.id} again", id=announce.id)
        self._announcement_id_last = announce.id
        if len(self._announcements_in) >= self.limits.announcements_max:
            self.answer_announce(
                announce.id,
                status=STATUS_RESOURCE_EXHAUSTED,
                details=f"{self.limits.announcements_max} announcements are live on this link",
            )
            return
        self._announcements_in.add(announce.id)
        self.has_carried = True
        self._events.append(AnnounceReceived(announce))

    def _receive_announced(self, frame: pb.Frame) -> None:
        self._events.append(AnnouncedReceived(frame.announced))

    def _receive_withdraw(self, frame: pb.Frame) -> None:
        if frame.withdraw.id in self._announcements_in:
            self._announcements_in.remove(frame.withdraw.id)
            self._events.append(WithdrawReceived(frame.withdraw.id))
        elif frame.withdraw.id > self._announcement_id_last:
            raise ProtocolError(f"withdraw of announcement {frame.withdraw.id}")

    def _receive_going_away(self, frame: pb.Frame) -> None:
        self.is_draining = True
        self._events.append(GoingAwayReceived(frame.going_away))

    # --- the local program: calls opened here ---

    def open_call(
        self,
        method: str,
        address: str,
        *,
        shape: pb.Shape.ValueType,
        app: object,
        metadata: MetadataPairs = (),
        deadline_s: float | None = None,
        data: bytes = b"",
        half_close: bool = False,
        order_key: str = "",
        wait_for_ready: bool = False,
        credit_bytes: int | None = None,
        now_s: float,
    ) -> Call:
        """
        Open a call; it is queued until a carrier takes it. After calling this, send.

        Args:
            method: "pkg.Service/Method".
            address: Path of the address; empty: the service's name.
            shape: As the stub has it.
            app: Kept in Call.app.
            metadata: (key, value bytes) pairs in order.
            deadline_s: Monotonic seconds, or None.
            data: First bytes of the request stream.
            half_close: No more requests follow.
            order_key: Calls of one key are started in the order of their opening.
            wait_for_ready: Wait for a host.
            credit_bytes: First credit for the responses; None: the default.
            now_s: Monotonic seconds.

        Returns:
            The call; one more than the peer takes ends at once, by event, with RESOURCE_EXHAUSTED.

        Raises:
            UsageError: The link is closed or draining.
        """
        frame = pb.Frame()
        opening = frame.open
        opening.shape = shape
        if metadata:
            add_metadata(opening.metadata, metadata)
        if order_key:
            opening.order_key = order_key
        if wait_for_ready:
            opening.wait_for_ready = True
        opening.credit_bytes = (
            self.limits.initial_credit_bytes if credit_bytes is None else credit_bytes
        )
        opening.half_close = half_close
        call = self._open(frame, method, address, app, data)
        if deadline_s is not None:
            call.deadline_s = deadline_s
            self._deadlines.add(call, now_s=now_s)
        if self._own_calls_count > self._own_calls_max:
            self.forget(call)
            end = make_end(
                STATUS_RESOURCE_EXHAUSTED,
                f"{self._own_calls_max} calls are open on this link",
                origin=self._own_origin(call),
                not_executed=True,
            )
            self._events.append(CallEnded(call, end))
        return call

    def forward_open(self, frame: pb.Frame, came: Call, *, credit_bytes: int) -> Call:
        """
        Open a call with the OPEN that arrived as `came` on another link (hub only); the frame is taken over.

        The deadline is watched on the leg it came on; here only the time spent in the queue is taken off.

        Args:
            frame: The OPEN.
            came: Its call; becomes the `app` of the new one.
            credit_bytes: What of the opener's first credit is passed on now.

        Raises:
            UsageError: The link is closed or draining.
        """
        opening = frame.open
        data = opening.data
        if len(data) > self.limits.small_bytes_max:
            opening.data = b""
        else:
            data = b""
        opening.credit_bytes = credit_bytes
        if not (opening.method and opening.address):
            opening.method_text = opening.address_text = ""
        call = self._open(frame, came.method, came.address, came, data)
        call.deadline_s = came.deadline_s
        return call

    def _open(self, frame: pb.Frame, method: str, address: str, app: object, data: bytes) -> Call:
        if self.state is LinkState.CLOSED or self.is_draining:
            raise UsageError("the link takes no new calls")
        opening = frame.open
        names = self._names_out
        number = names.get(method) or self._define_name(method)
        opening.method = number
        if not number:
            opening.method_text = method
        if address:
            number = names.get(address) or self._define_name(address)
            opening.address = number
            if not number:
                opening.address_text = address
        call = Call(self, is_opener=True, state=_AWAITING if opening.half_close else _CALLING)
        call.method = method
        call.address = address
        call.app = app
        call.open_frame = frame
        call.receive_credit_bytes = opening.credit_bytes
        if data:
            call.queue = deque((data,))
            call.unsent_bytes = len(data)
            if opening.half_close:
                # Behind the data; the OPEN takes it along again when all of it fits.
                opening.half_close = False
                call.tail = pb.Frame(half_close=True)
        self._calls_waiting[call] = None
        self._own_calls_count += 1
        self.has_carried = True
        self._outbox.add_opening(call, data_bytes=len(data), is_ordered=bool(opening.order_key))
        return call

    def _define_name(self, text: str) -> int:
        """Number a string and tell the peer; 0 when the table is full."""
        number = len(self._names_out) + 1
        if number > self.limits.names_max:
            return 0
        self._names_out[text] = number
        self._outbox.add_name(encode_frame(pb.Frame(name=pb.Name(number=number, text=text))))
        return number

    def take_call_id(self, call: Call) -> int:
        """Give a call its id: its OPEN goes into a batch now (Outbox only)."""
        self._call_id_last = call.id = self._call_id_last + 2
        del self._calls_waiting[call]
        self._calls[call.id] = call
        return call.id

    def half_close(self, call: Call) -> None:
        """Say that no more requests follow; no-op once the call has ended or was half closed."""
        state = NEXT_STATE[call.state][CallInput.SEND_HALF_CLOSE]
        if state == NO_STATE:
            return
        call.state = state
        call.tail = pb.Frame(half_close=True)
        self._outbox.schedule(call)

    def cancel_call(self, call: Call, *, is_deadline: bool = False) -> None:
        """
        End a call opened here at once. No event follows; idempotent.

        The peer hears of it only if its OPEN was sent.
        """
        if call.state == _ENDED:
            return
        call_id = call.id
        self.forget(call)
        if call_id and self.state is not LinkState.CLOSED:
            reason = pb.Cancel.REASON_DEADLINE if is_deadline else pb.Cancel.REASON_CANCELLED
            self._outbox.add_control(
                encode_frame(pb.Frame(call_id=call_id, cancel=pb.Cancel(reason=reason)))
            )

    def was_given(self, call: Call) -> bool:
        """Say whether the peer may hold the OPEN of a call opened here."""
        return call.open_number > 0 and self.log.was_given(call.open_number)

    # --- the local program: either side ---

    def send_data(self, call: Call, data: bytes) -> None:
        """
        Queue bytes of the call's message stream; no-op once the call has ended.

        A writer that finds `call.unsent_bytes` above Limits.send_queue_bytes_high should wait for SendReady.
        """
        state = NEXT_STATE[call.state][_SEND_DATA]
        if state == NO_STATE:
            return
        call.state = state
        if call.queue is None:
            call.queue = deque()
        call.queue.append(data)
        call.unsent_bytes += len(data)
        if call.unsent_bytes > self._outbox.ready_bytes:
            call.is_waiting_ready = True
        self._outbox.schedule(call)

    def grant(self, call: Call, credit_bytes: int) -> None:
        """Let the peer send `credit_bytes` more; no-op once the call has ended or when it is 0."""
        if credit_bytes <= 0 or call.state == _ENDED:
            return
        call.receive_credit_bytes += credit_bytes
        self._outbox.add_grant(call, credit_bytes)

    # --- the local program: calls opened by the peer ---

    def begin_call(self, call: Call, metadata: MetadataPairs = (), *, instance: str = "") -> None:
        """
        Send initial metadata now; no-op once the call has ended.

        Raises:
            UsageError: It was sent before, or data was.
        """
        if call.state == _ENDED:
            return
        frame = pb.Frame(begin=pb.Begin(instance=instance))
        add_metadata(frame.begin.metadata, metadata)
        self.forward_begin(call, frame)

    def forward_begin(self, call: Call, frame: pb.Frame) -> None:
        """Send a BEGIN that arrived on another link, or was made here."""
        if call.state == _ENDED:
            return
        state = NEXT_STATE[call.state][CallInput.SEND_BEGIN]
        if state == NO_STATE:
            raise UsageError("initial metadata was sent already")
        call.state = state
        frame.call_id = call.id
        self._outbox.add_control(encode_frame(frame))

    def end_call(
        self,
        call: Call,
        *,
        status: int = 0,
        details: str = "",
        data: bytes = b"",
        initial_metadata: MetadataPairs = (),
        trailing_metadata: MetadataPairs = (),
        origin: pb.End.Origin.ValueType = pb.End.ORIGIN_HOST,
        not_executed: bool = False,
    ) -> None:
        """End a call opened by the peer, behind all data sent before; no-op once it has ended."""
        frame = pb.Frame()
        end = frame.end
        if status:
            end.status = status
            end.details = self._cut_details(details)
        if origin:
            end.origin = origin
        if not_executed:
            end.not_executed = True
        if initial_metadata:
            add_metadata(end.initial_metadata, initial_metadata)
        if trailing_metadata:
            add_metadata(end.trailing_metadata, trailing_metadata)
        if data:
            end.data = data
        self.forward_end(call, frame)

    def forward_end(self, call: Call, frame: pb.Frame, *, discard: bool = False) -> None:
        """
        Send an END that arrived on another link, or was made here; the frame is taken over.

        Args:
            call: A call opened by the peer; no-op once it has ended.
            frame: Its END.
            discard: It overtakes and discards data not yet sent: the ends a hub makes itself.
        """
        if call.state == _ENDED:
            return
        call.state = _ENDED
        if call.deadline_s is not None:
            self._deadlines.discard(call)
        if discard:
            self._outbox.discard(call)
        data = frame.end.data
        size = len(data)
        if call.unsent_bytes or size > call.send_credit_bytes or size > self.limits.small_bytes_max:
            if size:
                if call.queue is None:
                    call.queue = deque()
                call.queue.append(data)
                call.unsent_bytes += size
                frame.end.data = b""
            call.tail = frame
            self._outbox.schedule(call)
            return
        frame.call_id = call.id
        self._outbox.add_control(encode_frame(frame))
        self.forget(call)

    def forget(self, call: Call) -> None:
        """Take a call out of every table: it is over on this link."""
        call.state = _ENDED
        if call.is_opener:
            if call.id:
                del self._calls[call.id]
            else:
                del self._calls_waiting[call]
            self._own_calls_count -= 1
        else:
            del self._calls[call.id]
            self._peer_calls_count -= 1
        if call.deadline_s is not None:
            self._deadlines.discard(call)
        self._outbox.discard(call)

    # --- the local program: the link ---

    def announce(
        self,
        announcement_id: int,
        address: str,
        services: list[pb.ServiceDescription],
        *,
        slots: int = 0,
    ) -> None:
        """Offer services at an address; AnnouncedReceived tells the outcome."""
        self.has_carried = True
        announce = pb.Announce(id=announcement_id, address=address, services=services, slots=slots)
        self._outbox.add_control(encode_frame(pb.Frame(announce=announce)))

    def answer_announce(self, announcement_id: int, *, status: int = 0, details: str = "") -> None:
        """Answer AnnounceReceived; any status but 0 refuses."""
        if status:
            self._announcements_in.discard(announcement_id)
        announced = pb.Announced(id=announcement_id, status=status, details=details)
        self._outbox.add_control(encode_frame(pb.Frame(announced=announced)))

    def withdraw(self, announcement_id: int) -> None:
        """Take an announcement back; running calls finish."""
        withdraw = pb.Withdraw(id=announcement_id)
        self._outbox.add_control(encode_frame(pb.Frame(withdraw=withdraw)))

    def go_away(self, *, reason: str, time_left_s: float) -> None:
        """Tell the peer to open new links for new calls; calls of this one may finish. Idempotent."""
        if self.is_draining or self.state is LinkState.CLOSED:
            return
        self.is_draining = True
        going_away = pb.GoingAway(time_left_ms=int(time_left_s * 1000), reason=reason)
        self._outbox.add_control(encode_frame(pb.Frame(going_away=going_away)))

    def close(self, *, code: pb.Close.Code.ValueType = pb.Close.CODE_UNSPECIFIED, reason: str = "") -> None:
        """End the link in order: a Close goes out, then the carrier is to be closed. Idempotent."""
        if self.state is not LinkState.CLOSED:
            self._end(
                None if not code else LinkRefusedError(reason, code=code),
                farewell=pb.Close(code=code, reason=reason),
            )

    def fail_waiting(self, details: str) -> None:
        """End the calls that wait for a first carrier and did not ask to (dialler, before its first Welcome)."""
        for call in list(self._calls_waiting):
            if call.open_frame is not None and call.open_frame.open.wait_for_ready:
                continue
            self.forget(call)
            frame = make_end(
                STATUS_UNAVAILABLE, details, origin=pb.End.ORIGIN_CALLER, not_executed=True
            )
            self._events.append(CallEnded(call, frame))

    # --- sending ---

    def batch_to_send(self, *, attempt: int, now_s: float) -> bytes | None:
        """
        Take the next batch for a carrier; None: nothing now.

        What is returned counts as given to the carrier.
        """
        if attempt != self._attempt or attempt == self._attempt_pending:
            if attempt == self._attempt_pending:
                first, self._first_batch = self._first_batch, None
                return first
            return None
        log = self.log
        if self._unnumbered:
            frames = tuple(self._unnumbered)
            self._unnumbered.clear()
            is_handshake = frames[0].HasField("welcome")
            return encode_unnumbered(*frames, ack=0 if is_handshake else log.ack_to_send())
        if self.state is not LinkState.OPEN:
            return None
        self._turn_s = now_s
        if log.has_batches_again:
            batch = log.next_again()
            age_ms = math.ceil((now_s - batch.sent_at_s) * 1000)
            return encode_batch(
                batch.frames, number=batch.number, ack=log.ack_to_send(), age_ms=age_ms
            )
        if not self._outbox.is_empty():
            is_full = log.is_full()
            if not is_full or log.kept_bytes < log.path.window_bytes + self.limits.control_reserve_bytes:
                frames = self._outbox.cut(number=log.sent_number + 1, now_s=now_s, is_full=is_full)
                if frames:
                    number = log.add(frames, now_s=now_s)
                    return encode_batch(frames, number=number, ack=log.ack_to_send())
        if log.ack_due_s is not None and log.ack_due_s <= now_s:
            return encode_unnumbered(ack=log.ack_to_send())
        return None

    # --- time ---

    def next_deadline_s(self) -> float | None:
        """Return when handle_timeout() is due, in monotonic seconds; None: not before something else happens."""
        if self.state is LinkState.CLOSED:
            return None
        due = self._deadlines.next_s()
        if self.state is LinkState.OPEN:
            interval = self.limits.keepalive_interval_s
            silence = self._received_s + (2 * interval if self._is_pinged else interval)
            if due is None or silence < due:
                due = silence
            ack = self.log.ack_due_s
            if ack is not None and ack < due:
                due = ack
        elif self._parked_until_s is not None and (due is None or self._parked_until_s < due):
            due = self._parked_until_s
        return due

    def handle_timeout(self, *, now_s: float) -> bool:
        """
        Do what is due. After calling this, act on events_received() and send.

        Returns:
            True when the carrier is dead by silence: the driver must drop it and call carrier_lost().
        """
        if self.state is LinkState.CLOSED:
            return False
        interval = self.limits.keepalive_interval_s
        if now_s - self._turn_s > 2 * interval:
            # The process slept: what the clocks say about the peer means nothing until it had a chance to answer.
            self._received_s = now_s
            self._is_pinged = False
            if self.state is LinkState.OPEN:
                self._ping()
            elif self._parked_until_s is not None and self._parked_until_s <= now_s:
                self._parked_until_s = now_s + interval
        self._turn_s = now_s
        for call in self._deadlines.expired(now_s=now_s):
            self._deadline_passed(call)
        if self.state is LinkState.OPEN:
            silence_s = now_s - self._received_s
            if silence_s >= 2 * interval:
                return True
            if silence_s >= interval and not self._is_pinged:
                self._ping()
        elif self._parked_until_s is not None and self._parked_until_s <= now_s:
            self._end(
                KeepaliveTimeoutError(
                    f"the link was without a carrier for {self.resume_window_s:g} s"
                )
            )
        return False

    def _ping(self) -> None:
        self._is_pinged = True
        self._ping_number += 1
        self._unnumbered.append(pb.Frame(ping=self._ping_number))

    def _deadline_passed(self, call: Call) -> None:
        if not call.is_opener:
            self._events.append(DeadlinePassed(call))
            return
        frame = make_end(
            STATUS_DEADLINE_EXCEEDED,
            "Deadline Exceeded",
            origin=self._own_origin(call),
            not_executed=not self.was_given(call),
        )
        self.cancel_call(call, is_deadline=True)
        self._events.append(CallEnded(call, frame))

    # --- ending ---

    def _fail(self, error: ProtocolError) -> None:
        """End the link for a fault of the peer, and tell it."""
        self._end(
            error,
            farewell=pb.Close(
                code=pb.Close.Code.Name(error.close_code), reason=str(error)[:_REASON_CHARS_MAX]
            ),
        )

    def _end(
        self, error: RelayError | None, close: pb.Close | None = None, farewell: pb.Close | None = None
    ) -> None:
        """End the link and every call on it, truthfully."""
        reason = "the link was closed" if error is None else str(error)
        for call in [*self._calls.values(), *self._calls_waiting]:
            if call.state == _ENDED:
                # Its END was still waiting; nobody is left to tell.
                self.forget(call)
                continue
            frame = make_end(
                STATUS_UNAVAILABLE if call.is_opener else STATUS_CANCELLED,
                self._cut_details(reason),
                origin=self._own_origin(call),
                not_executed=call.is_opener and not self.was_given(call),
            )
            self.forget(call)
            self._events.append(CallEnded(call, frame))
        self.state = LinkState.CLOSED
        self._parked_until_s = None
        self._unnumbered.clear()
        if farewell is not None:
            self._unnumbered.append(pb.Frame(close=farewell))
        self._events.append(LinkEnded(error, close))

    def _own_origin(self, call: Call) -> pb.End.Origin.ValueType:
        if self.is_hub:
            return pb.End.ORIGIN_HUB
        return pb.End.ORIGIN_CALLER if call.is_opener else pb.End.ORIGIN_HOST

    def _cut_details(self, text: str) -> str:
        if len(text) * 4 <= self.limits.details_bytes_max:
            return text
        return text.encode()[: self.limits.details_bytes_max].decode(errors="ignore")

    def _apply_peer_limits(self, peer: pb.LinkLimits) -> None:
        outbox = self._outbox
        if peer.batch_bytes_max:
            outbox.batch_bytes_max = _between(peer.batch_bytes_max, _BATCH_BYTES_MIN, outbox.batch_bytes_max)
        if peer.initial_credit_bytes:
            outbox.initial_credit_bytes = _between(
                peer.initial_credit_bytes, self.limits.small_bytes_max, outbox.initial_credit_bytes
            )
        if peer.calls_open_max:
            self._own_calls_max = peer.calls_open_max

    def _require(self, condition: bool, text: str) -> None:
        if not condition:
            raise UsageError(text)


_BATCH_BYTES_MIN: Final = 64 * 1024
_PONGS_MAX: Final = 16
_REASON_CHARS_MAX: Final = 256

_NUMBERED: Final[dict[str, Callable[[Link, pb.Frame], None]]] = {
    "begin": Link._receive_begin,
    "grant": Link._receive_grant,
    "half_close": Link._receive_half_close,
    "cancel": Link._receive_cancel,
    "name": Link._receive_name,
    "announce": Link._receive_announce,
    "announced": Link._receive_announced,
    "withdraw": Link._receive_withdraw,
    "going_away": Link._receive_going_away,
}


def _encode_limits(limits: Limits) -> pb.LinkLimits:
    return pb.LinkLimits(
        batch_bytes_max=limits.batch_bytes_max,
        initial_credit_bytes=limits.initial_credit_bytes,
        calls_open_max=limits.calls_open_max,
        keepalive_interval_ms=int(limits.keepalive_interval_s * 1000),
    )


def _between(value: int, low: int, high: int) -> int:
    if value < low:
        raise FrameDecodeError(f"limit of {value} is below {low}")
    return min(value, high)


def _nothing() -> None:
    """Stand in for the driver."""
