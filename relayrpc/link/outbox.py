"""
What one link has to send, and in which order it goes into batches. Pure.

Names and grants go first, then small frames, then calls in turn, up to a full fragment each: with
fragments cut to the
quantum, deficit round robin is plain rotation. Every batch takes at least one turn of bulk, so that
a flood of small
frames cannot starve it. Within a call nothing changes places.
Source: LINK.md "Credit, budget, fairness".
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from relayrpc.link.frames import encode_data, encode_frame
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.limits import Limits
    from relayrpc.link.call import Call
    from relayrpc.link.flow import Budget


__all__ = ["Outbox"]

# Values of Call.queue_turn: which list the call stands in.
_NONE: Final = 0
_OPENING: Final = 1
_SMALL: Final = 2
_BULK: Final = 3

# Two processes that wait for each other's whole turn use one core. Batches of this many frames keep
# both at work; smaller ones cost more in system calls than they gain (docs/performance.md).
_FULL_BATCH_FRAMES: Final = 32
_STALE_MAX: Final = 1024

# Header of a batch, and tag, length, call id and data field of a frame.
_BATCH_OVERHEAD_BYTES: Final = 64
_FRAME_OVERHEAD_BYTES: Final = 32
# With more room than this, an OPEN with as much data as it may have fits without being measured.
_OPENING_BYTES_MAX: Final = 96 * 1024
# 285 years; the field holds more, but a float that came from near its top may round to beyond it.
_TIME_LEFT_US_MAX: Final = 2**53


class Outbox:
    """Frames and calls of one link that wait for a batch."""

    __slots__ = (
        "_budget",
        "_bulk",
        "_control",
        "_fragment_bytes_max",
        "_grants",
        "_names",
        "_small",
        "_small_bytes_max",
        "_stale_count",
        "_target_bytes",
        "batch_bytes_max",
        "control_bytes",
        "initial_credit_bytes",
        "ready_bytes",
        "ready_calls",
    )

    def __init__(self, limits: Limits, *, budget: Budget | None) -> None:
        self._budget = budget
        self._fragment_bytes_max = limits.fragment_bytes_max
        self._small_bytes_max = limits.small_bytes_max
        self._target_bytes = limits.batch_bytes_target
        self.ready_bytes = limits.send_queue_bytes_high
        # The peer's; set when the handshake is done.
        self.batch_bytes_max = limits.batch_bytes_max
        self.initial_credit_bytes = limits.initial_credit_bytes
        self._names: list[bytes] = []
        self._grants: dict[Call, int] = {}
        # Encoded small frames, and calls whose small OPEN is due, in order.
        self._control: list[bytes | Call] = []
        self.control_bytes = 0
        """Size of the encoded ones."""
        self._small: deque[Call] = deque()
        self._bulk: deque[Call] = deque()
        # Places in the lists above that belong to calls that are over.
        self._stale_count = 0
        # Calls whose writer waits and may go on; the link turns them into events.
        self.ready_calls: list[Call] = []

    def is_empty(self) -> bool:
        """True when nothing could go into a batch now."""
        return not (self._control or self._small or self._bulk or self._grants or self._names)

    @property
    def frame_bytes_max(self) -> int:
        """What a small frame may measure, so that every batch has room for it beside bulk."""
        return (self.batch_bytes_max - _BATCH_OVERHEAD_BYTES) * 3 // 4

    def has_full_batch(self) -> bool:
        """True when enough small frames wait to be worth a batch of their own."""
        return len(self._control) >= _FULL_BATCH_FRAMES

    # --- filling ---

    def add_name(self, frame: bytes) -> None:
        """Queue an encoded NAME; it leaves before anything that was queued after it."""
        self._names.append(frame)

    def add_control(self, frame: bytes) -> None:
        """Queue one encoded small frame."""
        self._control.append(frame)
        self.control_bytes += len(frame)

    def add_grant(self, call: Call, credit_bytes: int) -> None:
        """Queue credit; one frame a call, however often."""
        self._grants[call] = self._grants.get(call, 0) + credit_bytes

    def add_opening(self, call: Call, *, data_bytes: int, is_ordered: bool) -> None:
        """
        Queue the OPEN of a call.

        One that is ordered goes with the small frames, whose order is that of their queueing.
        """
        if data_bytes <= self._small_bytes_max or is_ordered:
            call.queue_turn = _OPENING
            self._control.append(call)
        else:
            call.queue_turn = _BULK
            self._bulk.append(call)

    def schedule(self, call: Call) -> None:
        """
        Give a call with unsent bytes or a tail its turn, if it has none, its OPEN is out and its
        credit allows.
        """
        if call.queue_turn or not call.id or (call.unsent_bytes and call.send_credit_bytes <= 0):
            return
        if call.dependents_count and not call.unsent_bytes:
            # The last of them schedules it.
            return
        if call.unsent_bytes <= self._small_bytes_max:
            call.queue_turn = _SMALL
            self._small.append(call)
        else:
            call.queue_turn = _BULK
            self._bulk.append(call)

    def discard(self, call: Call) -> None:
        """Forget what an ended call had not sent; its place goes stale and is skipped."""
        if call.queue_turn:
            self._stale_count += 1
            if self._stale_count > _STALE_MAX:
                self._sweep()
        if self._grants:
            self._grants.pop(call, None)
        if call.open_frame is not None and call.anchor is not None:
            self._anchored_left(call.anchor)
        call.open_frame = None
        call.queue = None
        call.tail = None
        call.unsent_bytes = 0
        if self._budget is not None and call.charged_bytes:
            self._budget.release(call, call.charged_bytes)

    def _anchored_left(self, anchor: Call) -> None:
        """One less waits to be opened that belongs to a call."""
        anchor.dependents_count -= 1
        if anchor.tail is not None and not anchor.dependents_count:
            self.schedule(anchor)

    def _sweep(self) -> None:
        """
        Drop stale places, so that calls which come and go while nothing can be sent leave nothing
        behind.
        """
        self._stale_count = 0
        self._control = [
            item for item in self._control if isinstance(item, bytes) or item.open_frame is not None
        ]
        self._small = deque(call for call in self._small if call.unsent_bytes or call.tail)
        self._bulk = deque(
            call for call in self._bulk if call.unsent_bytes or call.tail or call.open_frame
        )

    # --- cutting ---

    def cut(self, *, number: int, now_s: float, is_full: bool) -> list[bytes]:
        """
        Make the frames of batch `number`.

        Args:
            number: The batch's number, noted in the calls whose OPEN it carries.
            now_s: Monotonic seconds, for the time left of deadlines.
            is_full: The unacknowledged window is used up: only GRANT, CANCEL, BEGIN and END may go.

        Returns:
            Encoded frames; empty when nothing may go.
        """
        parts: list[bytes] = []
        room = self.batch_bytes_max - _BATCH_OVERHEAD_BYTES
        if self._grants:
            room = self._cut_grants(parts, room)
        if is_full:
            self._cut_control_only(parts, room)
            return parts
        if self._names:
            room = self._cut_names(parts, room)
            if self._names:
                # What refers to a name must not overtake it.
                return parts
        reserve = min(self._fragment_bytes_max, room // 4) if self._bulk else 0
        if self._control:
            room = self._cut_control(parts, room - reserve, number, now_s) + reserve
        if self._small:
            room = self._cut_small(parts, room - reserve) + reserve
        if self._bulk:
            self._cut_bulk(parts, room, number, now_s)
        return parts

    def _cut_grants(self, parts: list[bytes], room: int) -> int:
        grants = self._grants
        for call in list(grants):
            if room <= _FRAME_OVERHEAD_BYTES:
                break
            if not call.id:
                # Its OPEN goes first.
                continue
            part = encode_frame(pb.Frame(call_id=call.id, grant=grants.pop(call)))
            parts.append(part)
            room -= len(part)
        return room

    def _cut_names(self, parts: list[bytes], room: int) -> int:
        taken = 0
        for part in self._names:
            if len(part) > room:
                break
            parts.append(part)
            room -= len(part)
            taken += 1
        del self._names[:taken]
        return room

    def _cut_control_only(self, parts: list[bytes], room: int) -> None:
        kept: list[bytes | Call] = []
        for item in self._control:
            if isinstance(item, bytes) and len(item) <= room:
                parts.append(item)
                room -= len(item)
                self.control_bytes -= len(item)
            else:
                kept.append(item)
        self._control = kept

    def _cut_control(self, parts: list[bytes], room: int, number: int, now_s: float) -> int:
        taken = 0
        taken_bytes = 0
        for item in self._control:
            if type(item) is bytes:
                part = item
                if len(part) > room:
                    break
                taken_bytes += len(part)
            else:
                assert not isinstance(item, bytes)
                if room < _OPENING_BYTES_MAX and (
                    self._opening_bytes(item, is_first=not taken) > room
                ):
                    break
                part = self._cut_opening(item, room, number, now_s)
            if part:
                parts.append(part)
                room -= len(part)
            taken += 1
        self.control_bytes -= taken_bytes
        if taken == len(self._control):
            self._control.clear()
        else:
            del self._control[:taken]
        return room

    def _cut_opening(self, call: Call, room: int, number: int, now_s: float) -> bytes:
        """Encode the OPEN of a call with what data is at hand; empty when the call is over."""
        frame = call.open_frame
        call.queue_turn = _NONE
        if frame is None:
            return b""
        opening = frame.open
        if call.deadline_s is not None:
            left_us = int(min(_TIME_LEFT_US_MAX, (call.deadline_s - now_s) * 1e6))
            if left_us <= 0:
                # Never sent; the deadline ends the call in a moment.
                return b""
            opening.time_left_us = left_us
        if call.anchor is not None:
            # In a batch before this one, or before this one in the batch; else over, and 0.
            opening.anchor = call.anchor.id
            self._anchored_left(call.anchor)
        if not call.unsent_bytes:
            if call.charged_bytes and self._budget is not None:
                # Of a call that was not opened yet, nothing but this data is charged.
                self._budget.release(call, call.charged_bytes)
        elif not opening.data:
            size = min(
                call.unsent_bytes,
                self.initial_credit_bytes,
                room - opening.ByteSize() - _FRAME_OVERHEAD_BYTES,
            )
            opening.data = b"".join(self._take(call, size))
        if call.tail is not None and not (call.unsent_bytes or call.dependents_count):
            opening.half_close = True
            call.tail = None
        call.open_frame = None
        call.open_number = number
        frame.call_id = call.link.take_call_id(call)
        if call.unsent_bytes or call.tail is not None:
            self.schedule(call)
        return encode_frame(frame)

    def _cut_small(self, parts: list[bytes], room: int) -> int:
        small = self._small
        for _ in range(len(small)):
            call = small[0]
            if call.unsent_bytes > self._small_bytes_max:
                small.popleft()
                call.queue_turn = _BULK
                self._bulk.append(call)
                continue
            if call.unsent_bytes + self._fixed_bytes(call) + 2 * _FRAME_OVERHEAD_BYTES > room:
                break
            small.popleft()
            call.queue_turn = _NONE
            room -= self._cut_data(parts, call, call.unsent_bytes, room)
            if call.unsent_bytes or call.tail is not None:
                self.schedule(call)
        return room

    def _cut_bulk(self, parts: list[bytes], room: int, number: int, now_s: float) -> None:
        bulk = self._bulk
        left = self._target_bytes
        while bulk and left > 0 and room > self._small_bytes_max:
            call = bulk.popleft()
            if self._fixed_bytes(call) + 2 * _FRAME_OVERHEAD_BYTES > room:
                bulk.appendleft(call)
                return
            call.queue_turn = _NONE
            if call.open_frame is not None:
                part = self._cut_opening(call, room, number, now_s)
                if part:
                    parts.append(part)
                size = len(part)
            else:
                size = min(self._fragment_bytes_max, room - _FRAME_OVERHEAD_BYTES)
                size = self._cut_data(parts, call, size, room)
                if call.unsent_bytes or call.tail is not None:
                    self.schedule(call)
            room -= size
            left -= size

    def _cut_data(self, parts: list[bytes], call: Call, size_max: int, room: int) -> int:
        """
        Cut up to `size_max` of a call's unsent bytes, and its tail when nothing is left before it.

        Returns:
            The bytes it took in the batch.
        """
        size = min(call.unsent_bytes, call.send_credit_bytes, size_max)
        tail = call.tail
        if size <= 0:
            if tail is None or call.unsent_bytes or call.dependents_count:
                # Ended, or out of credit: a grant gives it its turn back.
                return 0
            part = self._cut_tail(call, tail)
            parts.append(part)
            return len(part)
        pieces = self._take(call, size)
        call.send_credit_bytes -= size
        is_last = (
            tail is not None
            and not (call.unsent_bytes or call.dependents_count)
            and size + tail.ByteSize() + 2 * _FRAME_OVERHEAD_BYTES <= room
        )
        if tail is not None and is_last and tail.HasField("end"):
            tail.end.data = b"".join(pieces)
            part = self._cut_tail(call, tail)
            parts.append(part)
            return len(part)
        head = encode_data(call.id, size)
        parts.append(head)
        parts.extend(pieces)
        taken = len(head) + size
        if tail is not None and is_last:
            part = self._cut_tail(call, tail)
            parts.append(part)
            taken += len(part)
        return taken

    def _cut_tail(self, call: Call, tail: pb.Frame) -> bytes:
        tail.call_id = call.id
        call.tail = None
        if tail.HasField("end"):
            call.link.forget(call)
        return encode_frame(tail)

    def _fixed_bytes(self, call: Call) -> int:
        """Bytes of what cannot be cut in pieces: an OPEN without its data, or the tail."""
        frame = call.open_frame or call.tail
        return 0 if frame is None else frame.ByteSize()

    def _opening_bytes(self, call: Call, *, is_first: bool) -> int:
        """
        Bytes that a batch has to have room for before an OPEN goes: of a one-way call with its
        data, for the hub takes those that come in one piece. The first goes as it fits.
        """
        size = self._fixed_bytes(call) + 2 * _FRAME_OVERHEAD_BYTES
        frame = call.open_frame
        if frame is not None and frame.open.one_way and not is_first:
            size += min(call.unsent_bytes, self.initial_credit_bytes)
        return size

    def _take(self, call: Call, size: int) -> list[bytes]:
        """Take bytes from the front of a call's queue, in pieces."""
        queue = call.queue
        assert queue is not None
        if size == call.unsent_bytes:
            pieces = list(queue)
            queue.clear()
        else:
            pieces = _take_front(queue, size)
        call.unsent_bytes -= size
        if call.charged_bytes and self._budget is not None:
            self._budget.release(call, size)
        if call.is_waiting_ready and call.unsent_bytes <= self.ready_bytes:
            call.is_waiting_ready = False
            self.ready_calls.append(call)
        return pieces


def _take_front(queue: deque[bytes], size: int) -> list[bytes]:
    pieces: list[bytes] = []
    while size > 0:
        first = queue.popleft()
        if len(first) > size:
            # Views, which join() reads like bytes: a message of many fragments is copied once.
            view = memoryview(first)
            queue.appendleft(view[size:])  # type: ignore[arg-type]
            first = view[:size]  # type: ignore[assignment]
        pieces.append(first)
        size -= len(first)
    return pieces
