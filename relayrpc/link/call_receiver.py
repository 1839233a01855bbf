"""
What the peer's frames do to the calls of one link. Pure: time is an argument.

Owns: what is legal at each moment of a call, late and wrong frames, credit as the peer uses it.
Does not own: the table of calls and their ends (call_table.py), what the local program does
(calls.py), batches and the link's own frames (link.py, which builds on this).
Source: protos/relayrpc/v1/link.proto, "Sequence of one call"; LINK.md "Late and wrong frames".
"""

from __future__ import annotations

from typing import Final

from relayrpc.errors import FlowControlError, FrameDecodeError, ProtocolError
from relayrpc.link.call import (
    NEXT_STATE,
    NO_STATE,
    STATUS_CANCELLED,
    STATUS_DEADLINE_EXCEEDED,
    STATUS_INTERNAL,
    Call,
    CallInput,
    CallState,
    make_end,
)
from relayrpc.link.calls import LinkCalls
from relayrpc.link.events import (
    BeginReceived,
    CallEnded,
    CallOpened,
    DataReceived,
    GrantReceived,
    HalfCloseReceived,
)
from relayrpc.link.frames import check_metadata
from relayrpc.v1 import link_pb2 as pb


__all__ = ["CallReceiver"]

_CREDIT_BYTES_MAX: Final = 2**31 - 1
_KEY_BYTES_MAX: Final = 128

# Plain ints: enum members are slower to compare and to index with.
_ENDED: Final = int(CallState.ENDED)
_SERVING: Final = int(CallState.SERVING)
_ANSWERING: Final = int(CallState.ANSWERING)
_RECEIVE_DATA: Final = int(CallInput.RECEIVE_DATA)
_RECEIVE_END: Final = int(CallInput.RECEIVE_END)


class CallReceiver(LinkCalls):
    """
    The calls of a link, with what the peer does to them. Its state is CallTable's; Link hands it
    the frames.
    """

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

    def _receive_begin(self, frame: pb.Frame) -> None:
        call = self._advance(frame, CallInput.RECEIVE_BEGIN)
        if call is not None:
            check_metadata(frame.begin.metadata, self.limits)
            self._events.append(BeginReceived(call, frame))

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

    def _receive_half_close(self, frame: pb.Frame) -> None:
        call = self._advance(frame, CallInput.RECEIVE_HALF_CLOSE)
        if call is not None:
            self._events.append(HalfCloseReceived(call))

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

    def _overrun(self, call: Call, size_bytes: int) -> None:
        """End a call whose peer sent more than it was granted; the link goes on."""
        text = f"{size_bytes} bytes with {call.receive_credit_bytes} bytes of credit"
        frame = make_end(STATUS_INTERNAL, text, origin=self._own_origin(call))
        if call.is_opener:
            self.cancel_call(call)
        else:
            self.end_call(call, status=STATUS_INTERNAL, details=text, origin=frame.end.origin)
        self._events.append(CallEnded(call, frame))
