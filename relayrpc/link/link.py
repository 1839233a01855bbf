"""
The link: calls multiplexed over numbered batches that survive their carriers. Pure: time is an
argument.

Owns: handshake, keepalive, resume, announcements, the end of the link. Does not own: its calls
(call_table.py, calls.py and call_receiver.py, on which this builds), the order of what goes out
(outbox.py), carriers (carrier/driver.py), which link a carrier belongs to (hub/links.py), what a
call means (the layer above).
How to drive it: docs/reference/link-core.md. In short: after anything, act on `events_received()`,
then send what
`batch_to_send()` gives until it gives None, then wait no longer than `next_deadline_s()` and call
`handle_timeout()`.
Source: protos/relayrpc/v1/link.proto; LINK.md.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from relayrpc.errors import (
    AbuseError,
    CarrierLostError,
    FrameDecodeError,
    FrameTooLargeError,
    KeepaliveTimeoutError,
    LinkRefusedError,
    ProtocolError,
    RelayError,
    UsageError,
    VersionError,
)
from relayrpc.link.call import STATUS_RESOURCE_EXHAUSTED
from relayrpc.link.call_receiver import CallReceiver
from relayrpc.link.events import (
    AnnouncedReceived,
    AnnounceReceived,
    Event,
    GoingAwayReceived,
    LinkEnded,
    SendReady,
    WelcomeReceived,
    WithdrawReceived,
)
from relayrpc.link.frames import (
    BODY_UNNUMBERED,
    PROTOCOL_VERSION,
    decode_batch,
    encode_again,
    encode_batch,
    encode_frame,
    encode_unnumbered,
)
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.limits import Limits


__all__ = ["Link", "LinkState"]

_BATCH_BYTES_MIN: Final = 64 * 1024
_PONGS_MAX: Final = 16
_REASON_CHARS_MAX: Final = 256


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


class Link(CallReceiver):
    """
    One end of a link.

    Attributes for reading, beside those of CallTable: `state`, `instance` (of the dialling
    process), `link_id`, `secret`, `epoch`,
    `version`, `resumed_count`.
    """

    def __init__(
        self,
        *,
        is_dialler: bool,
        limits: Limits,
        instance: str,
        is_hub: bool = False,
        agent: str = "",
        now_s: float,
    ) -> None:
        """
        Args:
            is_dialler: This end dials; it opens odd call ids and speaks first.
            limits: What this end takes and keeps.
            instance: This process's instance id (dialler), or the peer's from its Hello (acceptor).
            is_hub: Calls are forwarded: ends made here say HUB, and queued data is charged to a
                budget.
            agent: What Hello says this program is, for people and logs (dialler).
            now_s: Monotonic seconds.
        """
        super().__init__(is_dialler=is_dialler, limits=limits, is_hub=is_hub)
        self.state = LinkState.CONNECTING if is_dialler else LinkState.OPEN
        self.instance = instance
        self.resumed_count = 0
        self._agent = agent
        # Set by Welcome (dialler) or accept() (acceptor).
        self.link_id = b""
        self.secret = b""
        self.epoch = b""
        self.version = 0
        self.resume_window_s = limits.resume_window_s
        self._announcements_in: set[int] = set()
        self._announcement_id_last = 0
        self._announcements_out: set[int] = set()
        # The carrier taken last, -1: none yet; batches of older ones are dropped.
        self._attempt = -1
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

    # --- looking in ---

    @property
    def attempt(self) -> int:
        """Number of the carrier taken last; -1 before the first handshake is done."""
        return self._attempt

    @property
    def round_trip_s(self) -> float | None:
        """The least round trip of the last seconds; None before the first acknowledgement."""
        return self.log.path.round_trip_s

    @property
    def held_bytes(self) -> int:
        """
        Bytes kept for this link: batches not acknowledged and, on a hub, what its budget is charged
        with.
        """
        return self.log.kept_bytes + (self.budget.used_bytes if self.budget is not None else 0)

    @property
    def is_idle(self) -> bool:
        """True when no call is open and nothing waits to be sent or acknowledged."""
        return not self.calls_open_count and self._outbox.is_empty() and not self.log.kept_bytes

    @property
    def is_flushed(self) -> bool:
        """True when the peer has all that was sent, and no END waits for what is before it."""
        has_ends = len(self.calls_received) < self.peer_calls_count
        return not has_ends and self._outbox.is_empty() and not self.log.kept_bytes

    @property
    def has_farewell(self) -> bool:
        """True while the link is over and a carrier is still to take its Close."""
        return self.state is LinkState.CLOSED and bool(self._unnumbered)

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
        if not self.is_dialler or self.state is LinkState.CLOSED:
            raise UsageError("link takes no carrier")
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
                    is_move=self.state is LinkState.OPEN,
                )
            )
        else:
            frame = pb.Frame(
                hello=pb.Hello(
                    versions=[PROTOCOL_VERSION],
                    instance=self.instance,
                    limits=_encode_limits(self.limits),
                    agent=self._agent,
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
        Take a new carrier for this link (acceptor only); id, epoch, secret and identity are already
        checked.

        Returns:
            Empty when taken: Welcome and what the peer lacks go out next, and `resume.attempt`
            names the carrier. Else why not: "attempt" (an older one; the carrier is to be closed,
            the link lives on) or "batches" (no longer held: Expired).
        """
        if self.state is LinkState.CLOSED or resume.attempt <= self._attempt:
            return "attempt"
        # What the dialler acknowledged on the older carrier after it had sent Resume counts too.
        received_number = max(resume.received, self.log.acknowledged_number)
        if not self.log.resume(received_number, now_s=now_s, is_final=not resume.is_move):
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
            attempt: As given by carrier_opened() or in the accepted Resume; an older carrier's end
                means nothing.
            now_s: Monotonic seconds.
            is_size_error: It ended because a batch was too large for it; the second time for the
                same batch ends the link.
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
                size = len(first.data)
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
            self._end(
                CarrierLostError(f"the carrier was lost, and a link that {why} does not park")
            )
            return
        self.state = LinkState.PARKED
        self._turn_s = now_s
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
            if attempt == self._attempt_pending:
                # The Close goes where the fault came from.
                self._attempt_pending = None
                self._attempt = attempt
            self._fail(exc)

    def _receive(self, batch: pb.Batch, size_bytes: int, now_s: float) -> None:
        log = self.log
        log.acknowledge(batch.ack, now_s=now_s)
        number = batch.number
        if number:
            if not log.receive(number, size_bytes, now_s=now_s):
                return
            unread_bytes = self._outbox.control_bytes
            if unread_bytes > self.limits.unread_bytes_max:
                raise AbuseError(f"{unread_bytes} bytes of answers wait for a peer that reads none")
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
        is_resumed = bool(self.link_id)
        if body == "close":
            if is_resumed and frame.close.code == pb.Close.CODE_LIMIT:
                # The hub is busy and has not looked at Resume: the link is there for another try.
                self._attempt_pending = None
                return
            self._receive_close(frame.close)
            return
        welcome = frame.welcome
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
        text = close.reason
        if not text:
            is_known = close.code in pb.Close.Code.values()
            text = pb.Close.Code.Name(close.code) if is_known else f"code {close.code}"
            text = text.removeprefix("CODE_").lower().replace("_", " ")
        self._end(LinkRefusedError(f"the peer closed the link: {text}", code=close.code), close)

    # --- receiving: the link ---

    def _receive_name(self, frame: pb.Frame) -> None:
        self._names_in.define(frame.name)

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

    # --- the local program: the link ---

    def announce(
        self,
        announcement_id: int,
        address: str,
        services: list[pb.ServiceDescription],
        *,
        slots: int = 0,
        priority: int = 0,
        labels: Mapping[str, str] | None = None,
        was_accepted: bool = False,
    ) -> None:
        """
        Offer services at an address; AnnouncedReceived tells the outcome.

        One that is too large for a batch is refused here, by the same event.
        """
        announce = pb.Announce(
            id=announcement_id,
            address=address,
            services=services,
            slots=slots,
            priority=priority,
            labels=labels,
            was_accepted=was_accepted,
        )
        frame = encode_frame(pb.Frame(announce=announce))
        limit_bytes = self._outbox.frame_bytes_max
        if len(frame) > limit_bytes:
            details = f"an announcement of {len(frame)} bytes is over {limit_bytes} bytes"
            announced = pb.Announced(
                id=announcement_id, status=STATUS_RESOURCE_EXHAUSTED, details=details
            )
            self._events.append(AnnouncedReceived(announced))
            return
        self.has_carried = True
        self._announcements_out.add(announcement_id)
        self._outbox.add_control(frame)

    def answer_announce(self, announcement_id: int, *, status: int = 0, details: str = "") -> None:
        """Answer AnnounceReceived; any status but 0 refuses."""
        if status:
            self._announcements_in.discard(announcement_id)
        announced = pb.Announced(id=announcement_id, status=status, details=details)
        self._outbox.add_control(encode_frame(pb.Frame(announced=announced)))

    def withdraw(self, announcement_id: int) -> None:
        """Take an announcement back; running calls finish. No-op when this link never made it."""
        if announcement_id not in self._announcements_out:
            return
        self._announcements_out.remove(announcement_id)
        withdraw = pb.Withdraw(id=announcement_id)
        self._outbox.add_control(encode_frame(pb.Frame(withdraw=withdraw)))

    def go_away(self, *, reason: str, time_left_s: float) -> None:
        """Tell the peer to open new links for new calls; running ones finish. Idempotent."""
        if self.is_draining or self.state is LinkState.CLOSED:
            return
        self.is_draining = True
        if self.state is LinkState.PARKED:
            self._end(CarrierLostError(f"{reason}, and the link had no carrier"))
            return
        time_left_ms = max(0, int(time_left_s * 1000))
        going_away = pb.GoingAway(time_left_ms=time_left_ms, reason=reason)
        self._outbox.add_control(encode_frame(pb.Frame(going_away=going_away)))

    def close(self, *, code: pb.Close.Code = pb.Close.CODE_UNSPECIFIED, reason: str = "") -> None:
        """End the link in order: a Close goes out, then the carrier is to be closed. Idempotent."""
        if self.state is not LinkState.CLOSED:
            self._end(
                None if not code else LinkRefusedError(reason, code=code),
                farewell=pb.Close(code=code, reason=reason),
            )

    # --- sending ---

    def batch_to_send(self, *, attempt: int, now_s: float) -> bytes | None:
        """
        Take the next batch for a carrier; None: nothing now.

        What is returned counts as given to the carrier.
        """
        if attempt != self._attempt or attempt == self._attempt_pending:
            if attempt == self._attempt_pending:
                first = self._first_batch
                self._first_batch = None
                return first
            return None
        log = self.log
        if self._unnumbered:
            unnumbered = tuple(self._unnumbered)
            self._unnumbered.clear()
            is_handshake = unnumbered[0].HasField("welcome")
            return encode_unnumbered(*unnumbered, ack=0 if is_handshake else log.ack_to_send())
        if self.state is not LinkState.OPEN:
            return None
        self._turn_s = now_s
        if log.has_batches_again:
            batch = log.next_again()
            age_ms = math.ceil((now_s - batch.sent_at_s) * 1000)
            return encode_again(batch.data, ack=log.ack_to_send(), age_ms=age_ms)
        if not self._outbox.is_empty():
            is_full = log.is_full()
            if (
                not is_full
                or log.kept_bytes < log.path.window_bytes + self.limits.control_reserve_bytes
            ):
                number = log.sent_number + 1
                parts = self._outbox.cut(number=number, now_s=now_s, is_full=is_full)
                if parts:
                    data = encode_batch(parts, number=number, ack=log.ack_to_send())
                    log.add(data, now_s=now_s)
                    return data
        if log.ack_due_s is not None and log.ack_due_s <= now_s:
            return encode_unnumbered(ack=log.ack_to_send())
        return None

    def is_flush_due(self, *, now_s: float) -> bool:
        """Say whether batch_to_send() may have something, or the link is over."""
        ack_due_s = self.log.ack_due_s
        return bool(
            (ack_due_s is not None and ack_due_s <= now_s)
            or not self._outbox.is_empty()
            or self._outbox.ready_calls
            or self._unnumbered
            or self.log.has_batches_again
            or self.state is LinkState.CLOSED
        )

    # --- time ---

    def next_deadline_s(self, *, can_send: bool = True) -> float | None:
        """
        Return when handle_timeout() is due, in monotonic seconds; None: not before something else
        happens.

        Args:
            can_send: The carrier takes a batch now; until it does, an ack that is due must wait.
        """
        if self.state is LinkState.CLOSED:
            return None
        due = self._deadlines.next_s()
        if self.state is LinkState.OPEN:
            interval = self.limits.keepalive_interval_s
            silence = self._received_s + (2 * interval if self._is_pinged else interval)
            if due is None or silence < due:
                due = silence
            ack = self.log.ack_due_s
            if ack is not None and ack < due and can_send:
                due = ack
        elif self._parked_until_s is not None:
            # A turn every so often, or the end of the window would look like the end of a sleep.
            parked = min(self._parked_until_s, self._turn_s + self.limits.keepalive_interval_s)
            if due is None or parked < due:
                due = parked
        return due

    def handle_timeout(self, *, now_s: float) -> bool:
        """
        Do what is due. After calling this, act on events_received() and send.

        Returns:
            True when the carrier is dead by silence: the driver must drop it and call
            carrier_lost().
        """
        if self.state is LinkState.CLOSED:
            return False
        interval = self.limits.keepalive_interval_s
        if now_s - self._turn_s > 2 * interval:
            # The process slept: what the clocks say about the peer means nothing until it had a
            # chance to answer.
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
            # Compared as next_deadline_s() computes them, or rounding makes a timer fire for ever.
            if now_s >= self._received_s + 2 * interval:
                return True
            if now_s >= self._received_s + interval and not self._is_pinged:
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
        self,
        error: RelayError | None,
        close: pb.Close | None = None,
        farewell: pb.Close | None = None,
    ) -> None:
        """End the link and every call on it, truthfully."""
        self._end_calls("the link was closed" if error is None else str(error))
        self.state = LinkState.CLOSED
        self.is_closed = True
        self._parked_until_s = None
        self._unnumbered.clear()
        if farewell is not None:
            self._unnumbered.append(pb.Frame(close=farewell))
        self._events.append(LinkEnded(error, close))

    def _apply_peer_limits(self, peer: pb.LinkLimits) -> None:
        outbox = self._outbox
        if peer.batch_bytes_max:
            outbox.batch_bytes_max = _between(
                peer.batch_bytes_max, _BATCH_BYTES_MIN, outbox.batch_bytes_max
            )
        if peer.initial_credit_bytes:
            outbox.initial_credit_bytes = _between(
                peer.initial_credit_bytes, self.limits.small_bytes_max, outbox.initial_credit_bytes
            )
        if peer.calls_open_max:
            self._own_calls_max = peer.calls_open_max
            if self.is_hub:
                # As many shares as the budget has.
                self._own_calls_max = min(peer.calls_open_max, self.limits.calls_open_max)


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
