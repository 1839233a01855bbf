"""
Which calls a link has, and how this end of it ends them. Pure: time is an argument.

Owns: call ids, the table of calls, deadlines, what an end may claim. Does not own: how calls are
opened and what is sent on them (calls.py), what the peer's frames do to them (call_receiver.py);
both build on this.
Source: protos/relayrpc/v1/link.proto, "Sequence of one call"; LINK.md "What a call's end may
claim".
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from relayrpc.link.batch_log import BatchLog
from relayrpc.link.call import (
    STATUS_CANCELLED,
    STATUS_DEADLINE_EXCEEDED,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
    Call,
    CallState,
    make_end,
)
from relayrpc.link.deadlines import DeadlineBuckets
from relayrpc.link.events import CallEnded, CallReturned, DeadlinePassed, Event
from relayrpc.link.flow import Budget
from relayrpc.link.frames import MetadataPairs, add_metadata, encode_frame
from relayrpc.link.names import NamesIn, NamesOut
from relayrpc.link.outbox import Outbox
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from collections.abc import Callable

    from relayrpc.limits import Limits


__all__ = ["CallTable"]

# A plain int: enum members are slower to compare and to index with.
_ENDED: Final = int(CallState.ENDED)


class CallTable:
    """
    The calls of a link, in both directions. Not used by itself: on it build LinkCalls, with what
    the local program does, on that CallReceiver, with what the peer does, and on that Link, with
    batches and carriers. What the first three know of a link is kept here.

    Attributes for reading: `limits`, `is_dialler`, `is_hub`, `is_draining`, `is_closed`,
    `has_carried` (a call or an announcement), `budget` (hub only).
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

    @property
    def calls_waiting(self) -> list[Call]:
        """Calls opened here that are in no batch yet, in order."""
        return list(self._calls_waiting)

    @property
    def calls_received(self) -> list[Call]:
        """Calls opened by the peer that this side has not ended, in order."""
        return [call for call in self._calls.values() if not (call.is_opener or call.is_ended)]

    def take_call_id(self, call: Call) -> int:
        """Give a call its id: its OPEN goes into a batch now (Outbox only)."""
        self._call_id_last = call.id = self._call_id_last + 2
        del self._calls_waiting[call]
        self._calls[call.id] = call
        return call.id

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

    # --- what the peer may hold ---

    def was_given(self, call: Call) -> bool:
        """Say whether the peer may hold the OPEN of a call opened here."""
        return call.open_number > 0 and self.log.was_given(call.open_number)

    def may_be_given(self, call: Call) -> bool:
        """
        Say whether the peer may hold the OPEN of a call opened here, or will: while the link lives,
        what is in a batch goes out, and so does a call that ends here before.
        """
        return call.open_number > 0 and (not self.is_closed or self.was_given(call))

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

    # --- ends that the local program makes ---

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

    # --- ends by time, by bounds, and with the link ---

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

    def _own_origin(self, call: Call) -> pb.End.Origin:
        if self.is_hub:
            return pb.End.ORIGIN_HUB
        return pb.End.ORIGIN_CALLER if call.is_opener else pb.End.ORIGIN_HOST

    def _cut_details(self, text: str) -> str:
        if len(text) * 4 <= self.limits.details_bytes_max:
            return text
        return text.encode()[: self.limits.details_bytes_max].decode(errors="ignore")


def _nothing() -> None:
    """Stand in for the driver."""
