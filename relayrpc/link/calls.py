"""
The calls of one link: opening, frames in, frames out, ends. Pure: time is an argument.

Owns: call ids, the table of calls, credit counters, deadlines. Does not own: batches, carriers, the
link's own frames (link.py,
which builds on this), the order in which frames leave (outbox.py).
Source: protos/relayrpc/v1/link.proto, "Sequence of one call"; LINK.md "Late and wrong frames".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from relayrpc.errors import FlowControlError, FrameDecodeError, ProtocolError, UsageError
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
    BeginReceived,
    CallEnded,
    CallOpened,
    CallReturned,
    DataReceived,
    DeadlinePassed,
    Event,
    GrantReceived,
    HalfCloseReceived,
)
from relayrpc.link.flow import Budget
from relayrpc.link.frames import MetadataPairs, add_metadata, check_metadata, encode_frame
from relayrpc.link.names import NamesIn, NamesOut
from relayrpc.link.outbox import Outbox
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.limits import Limits


__all__ = ["LinkCalls"]

_CREDIT_BYTES_MAX: Final = 2**31 - 1
_KEY_BYTES_MAX: Final = 128

# Plain ints: enum members are slower to compare and to index with.
_ENDED: Final = int(CallState.ENDED)
_CALLING: Final = int(CallState.CALLING)
_AWAITING: Final = int(CallState.AWAITING)
_SERVING: Final = int(CallState.SERVING)
_ANSWERING: Final = int(CallState.ANSWERING)
_SEND_DATA: Final = int(CallInput.SEND_DATA)
_RECEIVE_DATA: Final = int(CallInput.RECEIVE_DATA)
_RECEIVE_END: Final = int(CallInput.RECEIVE_END)


class LinkCalls:
    """
    What a Link knows of its calls. Not used by itself: Link adds batches and carriers.

    Attributes for reading: `limits`, `is_dialler`, `is_hub`, `is_draining`, `is_closed`,
    `has_carried` (a call or an announcement),
    `budget` (hub only).
    """

    def __init__(self, *, is_dialler: bool, limits: Limits, is_hub: bool) -> None:
        self.limits = limits
        self.is_dialler = is_dialler
        self.is_hub = is_hub
        self.is_closed = False
        self.is_draining = False
        self.has_carried = False
        # Hub: the peer is a part of the hub itself.
        self.is_local = False
        # What a hub vouches for to hosts; set by the hub.
        self.peer_identity = ""
        self.peer_address = ""
        # Hub: what the peer's program says it is.
        self.peer_agent = ""
        self.budget = (
            # Calls of both directions leave by this link, and each has its share.
            Budget(limit_bytes=limits.link_budget_bytes, calls_max=2 * limits.calls_open_max)
            if is_hub
            else None
        )
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
        self._names_in = NamesIn(limits)
        self._names_out = NamesOut(limits, self._outbox)
        # Called after local actions so that they go out this turn; the driver sets it.
        self.flush_soon: Callable[[], None] = _nothing

    @property
    def calls_open_count(self) -> int:
        """
        Calls of either direction that are not over, those still waiting for their first batch
        included.
        """
        return len(self._calls) + len(self._calls_waiting)

    @property
    def peer_calls_count(self) -> int:
        """Of these, the ones that the peer opened."""
        return self._peer_calls_count

    @property
    def has_room_for_call(self) -> bool:
        """True while the peer takes another call from here."""
        return self._own_calls_count < self._own_calls_max

    def has_full_batch(self) -> bool:
        """Say whether enough small frames wait to be sent before the turn ends."""
        return self._outbox.has_full_batch()

    # --- receiving ---

    def _receive_open(self, frame: pb.Frame, sent_s: float, now_s: float) -> None:
        call_id = frame.call_id
        # The peer's parity, and above all it opened before.
        if (call_id & 1) == self.is_dialler or call_id <= self._peer_call_id_last:
            raise ProtocolError(f"open with call id {call_id}", call_id=call_id)
        self._peer_call_id_last = call_id
        opening = frame.open
        call = Call(self, is_opener=False, state=_ANSWERING if opening.half_close else _SERVING)
        call.id = call_id
        names = self._names_in
        number = opening.method
        call.method = names.by_number(number) if number else names.in_full(opening.method_text)
        number = opening.address
        if number:
            call.address = names.by_number(number)
        else:
            text = opening.address_text
            call.address = names.in_full(text) if text else call.method.partition("/")[0]
        data = opening.data
        credit = opening.credit_bytes
        if len(data) > self.limits.initial_credit_bytes:
            raise FlowControlError(f"open with {len(data)} bytes of data")
        if (
            credit > _CREDIT_BYTES_MAX
            or len(opening.order_key) > _KEY_BYTES_MAX
            or len(opening.sticky_key) > _KEY_BYTES_MAX
            or len(opening.instance) > _KEY_BYTES_MAX
            or len(opening.dedupe_key) > _KEY_BYTES_MAX
        ):
            raise FrameDecodeError("open with a field outside its range")
        has_metadata = bool(opening.metadata)
        if has_metadata:
            check_metadata(opening.metadata, self.limits)
        call.send_credit_bytes = credit
        self.has_carried = True
        self._calls[call_id] = call
        self._peer_calls_count += 1
        if self._peer_calls_count > self.limits.calls_open_max:
            self.forward_end(call, self._make_too_many(call, self.limits.calls_open_max))
            return
        if opening.HasField("anchor"):
            # Found now: its END may follow in this batch.
            call.anchor = anchor = self._calls.get(opening.anchor)
            if anchor is None or anchor.state == _ENDED:
                self.forward_end(call, self._make_unanchored(call))
                return
        left_us = opening.time_left_us
        if left_us:
            call.deadline_s = sent_s + left_us / 1e6
            self._deadlines.add(call, now_s=now_s)
        self._events.append(CallOpened(call, frame, data, has_metadata))

    def _receive_end(self, frame: pb.Frame) -> None:
        call = self._calls.get(frame.call_id)
        if call is None:
            self._check_late(frame.call_id)
            return
        if NEXT_STATE[call.state][_RECEIVE_END] == NO_STATE:
            raise ProtocolError(f"end for call {call.id} in {CallState(call.state).name}")
        end = frame.end
        has_metadata = False
        if end.initial_metadata or end.trailing_metadata:
            has_metadata = True
            check_metadata(end.initial_metadata, self.limits)
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
        self._events.append(CallEnded(call, frame, has_metadata))

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
            elif frame.cancel.reason == pb.Cancel.REASON_CALLER_LOST:
                end = make_end(
                    STATUS_CANCELLED, "the caller was lost", origin=pb.End.ORIGIN_HUB
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
        """Let a frame pass that crossed its call's end; a call that never was is a fault."""
        opened_here = (call_id & 1) == self.is_dialler
        if not 0 < call_id <= (self._call_id_last if opened_here else self._peer_call_id_last):
            raise ProtocolError(
                f"frame for call {call_id}, which was never opened", call_id=call_id
            )

    # --- the local program: calls opened here ---

    def open_call(
        self,
        method: str,
        address: str,
        *,
        shape: pb.Shape,
        app: object,
        metadata: MetadataPairs = (),
        deadline_s: float | None = None,
        data: bytes = b"",
        half_close: bool = False,
        order_key: str = "",
        sticky_key: str = "",
        instance: str = "",
        dedupe_key: str = "",
        wait_for_ready: bool = False,
        anchor: Call | None = None,
        one_way: bool = False,
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
            sticky_key: Calls of one key go to the same host.
            instance: The only host instance that will do; empty: any.
            dedupe_key: The host runs calls of one key once; empty: each.
            wait_for_ready: Wait for a host.
            anchor: The call on this link that this one belongs to; None: none.
            one_way: It is over once the hub holds it.
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
        if sticky_key:
            opening.sticky_key = sticky_key
        if instance:
            opening.instance = instance
        if dedupe_key:
            opening.dedupe_key = dedupe_key
        if wait_for_ready:
            opening.wait_for_ready = True
        if one_way:
            opening.one_way = True
        if credit_bytes is None:
            credit_bytes = self.limits.initial_credit_bytes
        opening.credit_bytes = credit_bytes
        if half_close:
            opening.half_close = True
        if data and len(data) <= self.limits.small_bytes_max:
            opening.data = data
        call = self._open(frame, opening, method, address, app, data, credit_bytes, anchor)
        if deadline_s is not None:
            call.deadline_s = deadline_s
            self._deadlines.add(call, now_s=now_s)
        if self._own_calls_count > self._own_calls_max:
            self._refuse_own(call)
        return call

    def open_again(
        self,
        ended: Call,
        frame: pb.Frame,
        *,
        app: object,
        data: bytes,
        half_close: bool,
        now_s: float,
    ) -> Call:
        """
        Open a call once more that `open_call` opened, here or on another link, and that has ended.

        Args:
            ended: The call as it was.
            frame: Its OPEN; taken over.
            app: Kept in Call.app.
            data: The whole request stream so far.
            half_close: No more requests follow.
            now_s: Monotonic seconds.

        Returns:
            As `open_call`.

        Raises:
            UsageError: The link is closed or draining.
        """
        opening = frame.open
        opening.method_text = opening.address_text = ""
        opening.data = data if len(data) <= self.limits.small_bytes_max else b""
        opening.half_close = half_close
        call = self._open(
            frame, opening, ended.method, ended.address, app, data, opening.credit_bytes, None
        )
        if ended.deadline_s is not None:
            call.deadline_s = ended.deadline_s
            self._deadlines.add(call, now_s=now_s)
        if self._own_calls_count > self._own_calls_max:
            self._refuse_own(call)
        return call

    def _refuse_own(self, call: Call) -> None:
        """End a call that is one more than the peer takes, by event."""
        self.forget(call)
        self._events.append(CallEnded(call, self._make_too_many(call, self._own_calls_max)))

    def forward_open(
        self,
        frame: pb.Frame,
        came: Call,
        *,
        data: bytes,
        credit_bytes: int,
        anchor: Call | None = None,
    ) -> Call:
        """
        Open a call with the OPEN that arrived as `came` on another link (hub only); the frame is
        taken over.

        The deadline is watched on the leg it came on; here only the time spent in the queue is
        taken off.

        Args:
            frame: The OPEN.
            came: Its call; becomes the `app` of the new one.
            data: What the OPEN holds.
            credit_bytes: What of the opener's first credit is passed on now.
            anchor: The call on this link that it belongs to; None: none.

        Raises:
            UsageError: The link is closed or draining.
        """
        opening = frame.open
        opening.credit_bytes = credit_bytes
        if len(data) > self.limits.small_bytes_max:
            opening.data = b""
        call = self._open(
            frame, opening, came.method, came.address, came, data, credit_bytes, anchor
        )
        call.deadline_s = came.deadline_s
        return call

    def _open(
        self,
        frame: pb.Frame,
        opening: pb.Open,
        method: str,
        address: str,
        app: object,
        data: bytes,
        credit_bytes: int,
        anchor: Call | None,
    ) -> Call:
        """Make the call of an OPEN; small data is in the frame already, other goes by the queue."""
        if self.is_closed or self.is_draining:
            raise UsageError("the link takes no new calls")
        names = self._names_out
        numbers = names.numbers
        opening.method = number = numbers.get(method) or names.define(method)
        if not number:
            opening.method_text = method
        if address:
            opening.address = number = numbers.get(address) or names.define(address)
            if not number:
                opening.address_text = address
        half_close = opening.half_close
        call = Call(self, is_opener=True, state=_AWAITING if half_close else _CALLING)
        call.method = method
        call.address = address
        call.app = app
        if anchor is not None:
            call.anchor = anchor
            anchor.dependents_count += 1
        call.open_frame = frame
        call.receive_credit_bytes = credit_bytes
        size = len(data)
        if size > self.limits.small_bytes_max:
            call.queue = deque((data,))
            call.unsent_bytes = size
            call.is_waiting_ready = size > self._outbox.ready_bytes
            if half_close:
                # Behind the data; the OPEN takes it along again when all of it fits.
                opening.half_close = False
                call.tail = pb.Frame(half_close=True)
        self._calls_waiting[call] = None
        self._own_calls_count += 1
        self.has_carried = True
        is_ordered = anchor is not None or opening.order_key != "" or opening.one_way
        self._outbox.add_opening(call, data_bytes=size, is_ordered=is_ordered)
        return call

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

    def cancel_call(
        self, call: Call, *, reason: pb.Cancel.Reason = pb.Cancel.REASON_CANCELLED
    ) -> None:
        """
        End a call opened here at once. No event follows; idempotent.

        The peer hears of it only if its OPEN was sent.
        """
        if call.state == _ENDED:
            return
        call_id = call.id
        self.forget(call)
        if call_id and not self.is_closed:
            self._outbox.add_control(
                encode_frame(pb.Frame(call_id=call_id, cancel=pb.Cancel(reason=reason)))
            )

    @property
    def calls_waiting(self) -> list[Call]:
        """Calls opened here that are in no batch yet, in order."""
        return list(self._calls_waiting)

    @property
    def calls_received(self) -> list[Call]:
        """Calls opened by the peer that this side has not ended, in order."""
        return [call for call in self._calls.values() if not (call.is_opener or call.is_ended)]

    def take_back(self, call: Call) -> pb.Frame:
        """
        Take back a call whose OPEN is in no batch yet: the peer never hears of it.

        Returns:
            The OPEN, with the data that waited behind it.
        """
        frame = call.open_frame
        assert frame is not None
        opening = frame.open
        if call.queue:
            opening.data += b"".join(call.queue)
        if call.tail is not None:
            opening.half_close = True
        self.forget(call)
        return frame

    def _opens_not_given(self) -> dict[int, pb.Frame]:
        """
        Return the OPENs, by call id and with what followed them, of batches that the peer is known
        not to hold.
        """
        frames: dict[int, pb.Frame] = {}
        for data in self.log.batches_not_given():
            for frame in pb.Batch.FromString(data).frames:
                body = frame.WhichOneof("body")
                if body == "open":
                    frames[frame.call_id] = frame
                elif frame.call_id in frames:
                    opening = frames[frame.call_id].open
                    if body == "data":
                        opening.data += frame.data
                    elif body == "half_close":
                        opening.half_close = True
        return frames

    def was_given(self, call: Call) -> bool:
        """Say whether the peer may hold the OPEN of a call opened here."""
        return call.open_number > 0 and self.log.was_given(call.open_number)

    def may_be_given(self, call: Call) -> bool:
        """
        Say whether the peer may hold the OPEN of a call opened here, or will: while the link lives,
        what is in a batch goes out, and so does a call that ends here before.
        """
        return call.open_number > 0 and (not self.is_closed or self.was_given(call))

    # --- the local program: either side ---

    def send_data(self, call: Call, data: bytes) -> None:
        """
        Queue bytes of the call's message stream; no-op once the call has ended.

        A writer that finds `call.unsent_bytes` above Limits.send_queue_bytes_high should wait for
        SendReady.
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

    def begin_call(
        self,
        call: Call,
        metadata: MetadataPairs = (),
        *,
        instance: str = "",
        remembers: bool = False,
    ) -> None:
        """
        Send initial metadata now; no-op once the call has ended.

        Raises:
            UsageError: It was sent before, or data was.
        """
        if call.state == _ENDED:
            return
        frame = pb.Frame(begin=pb.Begin(instance=instance, remembers=remembers))
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
        origin: pb.End.Origin = pb.End.ORIGIN_HOST,
        not_executed: bool = False,
    ) -> None:
        """End a call opened by the peer, behind all data sent before; no-op once it has ended."""
        frame = pb.Frame()
        end = frame.end
        # An END with nothing in it is an END all the same.
        end.SetInParent()
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
        if call.deadline_key:
            self._deadlines.discard(call)
        if discard:
            self._outbox.discard(call)
        data = frame.end.data
        size = len(data)
        if (
            call.unsent_bytes
            or size > call.send_credit_bytes
            or size > self.limits.small_bytes_max
            or call.dependents_count
        ):
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
        if call.deadline_key:
            self._deadlines.discard(call)
        self._outbox.discard(call)

    def fail_waiting(self, details: str) -> None:
        """
        End the calls that wait for a first carrier and did not ask to (dialler, before its first
        Welcome).
        """
        for call in list(self._calls_waiting):
            if call.open_frame is not None and call.open_frame.open.wait_for_ready:
                continue
            self.forget(call)
            frame = make_end(
                STATUS_UNAVAILABLE, details, origin=pb.End.ORIGIN_CALLER, not_executed=True
            )
            self._events.append(CallEnded(call, frame))

    # --- ending ---

    def bound_deadline(self, call: Call, deadline_s: float, *, now_s: float) -> None:
        """Let the deadline of a call that the peer opened be no later than this."""
        if call.deadline_s is not None and call.deadline_s <= deadline_s:
            return
        if call.deadline_key:
            self._deadlines.discard(call)
        call.deadline_s = deadline_s
        self._deadlines.add(call, now_s=now_s)

    def _deadline_passed(self, call: Call) -> None:
        if not call.is_opener:
            self._events.append(DeadlinePassed(call))
            return
        frame = make_end(
            STATUS_DEADLINE_EXCEEDED,
            "Deadline Exceeded",
            origin=self._own_origin(call),
            not_executed=not self.may_be_given(call),
        )
        self.cancel_call(call, reason=pb.Cancel.REASON_DEADLINE)
        self._events.append(CallEnded(call, frame))

    def _own_origin(self, call: Call) -> pb.End.Origin:
        if self.is_hub:
            return pb.End.ORIGIN_HUB
        return pb.End.ORIGIN_CALLER if call.is_opener else pb.End.ORIGIN_HOST

    def _make_too_many(self, call: Call, calls_max: int) -> pb.Frame:
        return make_end(
            STATUS_RESOURCE_EXHAUSTED,
            f"{calls_max} calls are open on this link",
            origin=self._own_origin(call),
            not_executed=True,
            retry_after_s=self.limits.retry_after_s,
        )

    def _make_unanchored(self, call: Call) -> pb.Frame:
        return make_end(
            STATUS_UNAVAILABLE,
            "the call that this one belongs to is over",
            origin=self._own_origin(call),
            not_executed=True,
        )

    def _cut_details(self, text: str) -> str:
        if len(text) * 4 <= self.limits.details_bytes_max:
            return text
        return text.encode()[: self.limits.details_bytes_max].decode(errors="ignore")

    def _end_calls(self, reason: str) -> None:
        """End every call with the link; at a hub, those that the peer never had come back."""
        not_given = self._opens_not_given() if self.is_hub else {}
        for call in [*self._calls.values(), *self._calls_waiting]:
            if call.state == _ENDED:
                # Its END was still waiting; nobody is left to tell.
                self.forget(call)
                continue
            if self.is_hub and call.is_opener and not self.was_given(call):
                if call.id in not_given:
                    call.open_frame = not_given[call.id]
                if call.open_frame is not None:
                    self._events.append(CallReturned(call, self.take_back(call)))
                    continue
            frame = make_end(
                STATUS_UNAVAILABLE if call.is_opener else STATUS_CANCELLED,
                self._cut_details(reason),
                origin=self._own_origin(call),
                not_executed=call.is_opener and not self.was_given(call),
            )
            self.forget(call)
            self._events.append(CallEnded(call, frame))


def _nothing() -> None:
    """Stand in for the driver."""
