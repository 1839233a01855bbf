"""
The simulated applications at both ends of a call: they follow the script and check what arrives.

Owns: reading with a real ReceiveWindow, writing as far as the link wants, the check of every byte.
Does not own: links (processes.py), what must hold at the end (ledger.py).
Source: relayrpc/link/call.py, CallApp.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from relayrpc.errors import FrameTooLargeError
from relayrpc.link.flow import ReceiveWindow
from relayrpc.link.messages import LENGTH_BYTES, MessageReader, encode_message
from tests.simulation.scripts import IDENTITY_KEY, message_bytes


if TYPE_CHECKING:
    from relayrpc.link.call import Call
    from relayrpc.v1 import link_pb2 as pb
    from tests.simulation.ledger import CallRecord, Handling
    from tests.simulation.processes import Peer
    from tests.simulation.scripts import ReaderPlan


__all__ = ["CallerApp", "HostApp"]


class _Reader:
    """One direction's receiving end."""

    def __init__(
        self, app: CallerApp | HostApp, sizes: tuple[int, ...], plan: ReaderPlan, *, credit: int
    ) -> None:
        self.app = app
        self.world = app.peer.world
        self.sizes = sizes
        self.plan = plan
        limits = app.peer.limits
        self.window = ReceiveWindow(
            credit_bytes=credit,
            window_bytes=limits.initial_credit_bytes,
            window_bytes_max=limits.window_bytes_max,
        )
        self.reader = MessageReader(limits.message_bytes_max)
        self.granted_bytes = credit
        self.received_bytes = 0
        self.settled_bytes = 0
        self.arrived_count = 0
        self.read_count = 0
        self.unread: deque[int] = deque()
        self.complete_bytes = 0
        self.is_read_due = False

    def receive(self, data: bytes, *, is_free: bool = False) -> None:
        """Take bytes; `is_free` for those of an OPEN, which need no credit."""
        world, call_id = self.world, self.app.call_id
        now_s = self.app.peer.clock()
        if is_free:
            self.granted_bytes += len(data)
        self.received_bytes += len(data)
        if self.received_bytes > self.granted_bytes:
            world.fail(
                "credit",
                f"{call_id}: {self.received_bytes} bytes arrived, {self.granted_bytes} granted",
            )
        self.window.received(len(data), now_s=now_s)
        try:
            messages = self.reader.receive_data(data)
        except FrameTooLargeError as exc:
            world.fail("message-intact", f"{call_id}: {self.app.reads}: {exc}")
            return
        for message in messages:
            index = self.arrived_count
            if index >= len(self.sizes):
                world.fail("message-intact", f"{call_id}: one {self.app.reads} too many")
            expected = message_bytes(call_id, self.app.reads, index, self.sizes[index])
            if message != expected:
                world.fail(
                    "message-intact",
                    f"{call_id}: {self.app.reads} {index} is not what was sent: "
                    f"{message[:40]!r} for {expected[:40]!r}",
                )
            self.arrived_count += 1
            self.unread.append(len(message) + LENGTH_BYTES)
            self.complete_bytes += len(message) + LENGTH_BYTES
        self.read()

    def read(self) -> None:
        """Read what the plan allows now."""
        plan = self.plan
        while self.unread and not self.is_read_due:
            if (
                plan.stuck_after is not None
                and self.read_count >= plan.stuck_after
                and not self.app.peer.are_readers_free
            ):
                break
            if plan.pause_s:
                self.is_read_due = True
                self.world.call_later(plan.pause_s, self._read_one)
                break
            self._take_one()
        self._settle()

    def _read_one(self) -> None:
        self.is_read_due = False
        if self.unread:
            self._take_one()
        self.read()

    def _take_one(self) -> None:
        self.unread.popleft()
        self.read_count += 1
        self.app.message_read(self.read_count)

    def _settle(self) -> None:
        """Grant for what was consumed: messages read, and part of one while none waits."""
        waiting = 0
        if self.unread:
            waiting = sum(self.unread) + self.received_bytes - self.complete_bytes
        settled = max(self.settled_bytes, self.received_bytes - waiting)
        if not self.app.is_over:
            self.grant(settled - self.settled_bytes)
        self.settled_bytes = settled

    def grant(self, consumed_bytes: int) -> None:
        """Count bytes as consumed and grant what is due."""
        app = self.app
        credit = self.window.consumed(consumed_bytes, now_s=app.peer.clock())
        if credit:
            self.granted_bytes += credit
            app.call.link.grant(app.call, credit)
            app.call.link.flush_soon()


class _Writer:
    """One direction's sending end: writes as far as the link wants."""

    def __init__(self, app: CallerApp | HostApp, sizes: tuple[int, ...], *, pause_s: float) -> None:
        self.app = app
        self.world = app.peer.world
        self.sizes = sizes
        self.pause_s = pause_s
        self.written_count = 0
        # How many may be written by now.
        self.allowed_count = 0
        self.is_waiting_ready = False
        self.is_write_due = False

    @property
    def is_done(self) -> bool:
        return self.written_count == len(self.sizes)

    def message(self) -> bytes:
        """Make the next message, with its length before it."""
        index = self.written_count
        self.written_count += 1
        return encode_message(
            message_bytes(self.app.call_id, self.app.writes, index, self.sizes[index])
        )

    def allow(self, count: int) -> None:
        """Let this many be written in all, and write."""
        self.allowed_count = min(max(count, self.allowed_count), self._bound())
        self.go_on()

    def _bound(self) -> int:
        return len(self.sizes) - self.app.held_back_count

    def go_on(self) -> None:
        """Write until the link has enough, the allowance is used up or a pause is due."""
        app = self.app
        while (
            not app.is_over
            and not self.is_waiting_ready
            and not self.is_write_due
            and self.written_count < self.allowed_count
        ):
            call = app.call
            call.link.send_data(call, self.message())
            app.note_written(self.written_count)
            call.link.flush_soon()
            if call.unsent_bytes > app.peer.limits.send_queue_bytes_high:
                self.is_waiting_ready = True
            if self.pause_s:
                self.is_write_due = True
                self.world.call_later(self.pause_s, self._pause_over)
        if not app.is_over and not self.is_waiting_ready and not self.is_write_due:
            app.write_progress()

    def _pause_over(self) -> None:
        self.is_write_due = False
        self.go_on()

    def ready(self) -> None:
        """Go on after the link said that it takes more."""
        self.is_waiting_ready = False
        self.go_on()


class CallerApp:
    """The caller's program for one call; `call` is set when the link made it."""

    reads = "response"
    writes = "request"
    held_back_count = 0

    def __init__(self, peer: Peer, record: CallRecord) -> None:
        script = record.script
        self.peer = peer
        self.record = record
        self.call_id = script.call_id
        self.call: Call = None  # type: ignore[assignment]  # set right after it is opened
        self.writer = _Writer(self, script.requests, pause_s=script.request_pause_s)
        credit = script.credit_bytes
        if credit is None:
            credit = peer.limits.initial_credit_bytes
        self.credit_bytes = min(credit, peer.limits.initial_credit_bytes)
        self.reader = _Reader(
            self, script.responses, script.caller_reader, credit=self.credit_bytes
        )
        self.has_begin = False
        # The peer's turn in which this end ended the call.
        self.over_turn = 0

    @property
    def is_over(self) -> bool:
        return self.record.is_over

    def first_data(self) -> tuple[bytes, bool]:
        """Return what goes with the OPEN, and whether that is all."""
        script, writer = self.record.script, self.writer
        count = min(script.first_requests, len(script.requests))
        data = b"".join(writer.message() for _ in range(count))
        writer.allowed_count = writer.written_count
        self.note_written(writer.written_count)
        is_all = writer.is_done and writer.written_count > 0
        self.record.is_half_closed = is_all
        return data, is_all

    def opened(self) -> None:
        """Go on after the call was made."""
        self.reader.grant(0)
        if self.call.unsent_bytes > self.peer.limits.send_queue_bytes_high:
            self.writer.is_waiting_ready = True
        self.writer.allow(len(self.record.script.requests))

    def note_written(self, count: int) -> None:
        self.record.requests_count = count

    def write_progress(self) -> None:
        if self.writer.is_done and not self.record.is_half_closed:
            self.record.is_half_closed = True
            self.call.link.half_close(self.call)
            self.call.link.flush_soon()

    def message_read(self, count: int) -> None:
        """Cancel from within the event, where the script says so."""
        if count == self.record.script.cancel_after_responses:
            self.cancel()

    def cancel(self) -> None:
        """Cancel as the script says."""
        if self.is_over or self.call.is_ended:
            # Over already; its end may be on its way up, in the same turn.
            return
        was_sent = self.call.id != 0
        self.peer.world.seen["cancel"] += 1
        self.over_turn = self.peer.turn
        self.call.link.cancel_call(self.call)
        self.call.link.flush_soon()
        self.peer.ledger.caller_cancelled(self.record, was_sent=was_sent)

    # --- what the link tells ---

    def begin_received(self, begin: pb.Begin) -> None:
        world = self.peer.world
        if self.has_begin or self.reader.received_bytes or self.is_over:
            world.fail("agreement", f"{self.call_id}: initial metadata twice or late")
        self.has_begin = True
        if [(e.key, e.value) for e in begin.metadata] != [("sim-initial", self.call_id.encode())]:
            world.fail("agreement", f"{self.call_id}: initial metadata is not the host's")

    def data_received(self, data: bytes) -> None:
        if self.is_over:
            self.peer.world.fail("caller-ends-once", f"{self.call_id}: data after the end")
        self.reader.receive(data)
        self._note_read()

    def half_close_received(self) -> None:
        self.peer.world.fail("agreement", f"{self.call_id}: a caller was half closed")

    def send_ready(self) -> None:
        self.writer.ready()

    def call_ended(self, end: pb.End) -> None:
        if end.data and not self.is_over:
            self.reader.receive(end.data)
        self._note_read()
        self.peer.ledger.caller_ended(self.record, end)

    def _note_read(self) -> None:
        self.record.responses_count = self.reader.arrived_count
        self.record.is_mid_message = not self.reader.reader.is_idle


class HostApp:
    """The handler of one call on a host."""

    reads = "request"
    writes = "response"

    def __init__(self, peer: Peer, call: Call, record: CallRecord, handling: Handling) -> None:
        script = record.script
        self.peer = peer
        self.call = call
        self.record = record
        self.handling = handling
        self.call_id = script.call_id
        self.held_back_count = 1 if script.end_with_last and script.responses else 0
        self.writer = _Writer(self, script.responses, pause_s=0.0)
        self.reader = _Reader(self, script.requests, script.host_reader, credit=0)
        self.has_begun = False
        self.over_turn = 0
        self.is_paused = script.handler_pause_s > 0

    @property
    def is_over(self) -> bool:
        return self.handling.is_over

    def start(self, opening: pb.Open) -> None:
        """Take the OPEN."""
        script, world = self.record.script, self.peer.world
        call = self.call
        if (
            (call.method, call.address, opening.shape)
            != (script.method, script.address, script.shape)
            or opening.caller_identity != self.record.caller
        ):
            world.fail("agreement", f"{self.call_id}: method, address, shape or caller changed")
        if not opening.half_close:
            self.reader.grant(0)
        if opening.data:
            self.reader.receive(opening.data, is_free=True)
            self.handling.requests_count = self.reader.arrived_count
        if opening.half_close and not self.is_over:
            self.half_close_received()
        if self.is_paused:
            world.call_later(script.handler_pause_s, self._pause_over)
        else:
            self._go_on()

    def _pause_over(self) -> None:
        self.is_paused = False
        self._go_on()

    def note_written(self, count: int) -> None:
        self.handling.responses_count = count

    def message_read(self, count: int) -> None:
        self._go_on()

    def _go_on(self) -> None:
        """Write what is due, or end."""
        if self.is_over or self.is_paused:
            return
        script = self.record.script
        if script.ends_after is not None and self.reader.read_count >= script.ends_after:
            self._end(early=True)
            return
        if script.has_begin and not self.has_begun:
            self.has_begun = True
            metadata = [("sim-initial", self.call_id.encode())]
            self.call.link.begin_call(self.call, metadata)
            self.call.link.flush_soon()
        count = len(script.responses)
        if script.answer == "at_once" or self._has_all():
            self.writer.allow(count)
        elif script.answer == "in_turn":
            self.writer.allow(min(self.reader.read_count, count))
        else:
            self.writer.go_on()

    def _has_all(self) -> bool:
        return self.handling.has_half_close and not self.reader.unread

    def write_progress(self) -> None:
        if self.is_paused or self.record.script.ends_after is not None:
            return
        if self._has_all() and self.writer.written_count == self.writer._bound():
            self._end(early=False)

    def _end(self, *, early: bool) -> None:
        script = self.record.script
        data = b""
        if not early and self.held_back_count and not self.writer.is_done:
            data = self.writer.message()
            self.note_written(self.writer.written_count)
        handling = self.handling
        handling.end_status = script.status
        self.over_turn = self.peer.turn
        link = self.call.link
        self.peer.ledger.host_ended(self.record, handling, told=None)
        link.end_call(
            self.call,
            status=script.status,
            details=f"status of {self.call_id}" if script.status else "",
            data=data,
            trailing_metadata=[("sim-trailer", self.call_id.encode())],
        )
        link.flush_soon()

    # --- what the link tells ---

    def begin_received(self, begin: pb.Begin) -> None:
        self.peer.world.fail("agreement", f"{self.call_id}: a host received initial metadata")

    def data_received(self, data: bytes) -> None:
        if self.is_over:
            self.peer.world.fail("host-ends-once", f"{self.call_id}: data after the host's end")
        self.reader.receive(data)
        self.handling.requests_count = self.reader.arrived_count
        self._go_on()

    def half_close_received(self) -> None:
        handling = self.handling
        if handling.has_half_close or self.is_over:
            self.peer.world.fail("agreement", f"{self.call_id}: half closed twice")
        handling.has_half_close = True
        if not self.reader.reader.is_idle:
            self.peer.world.fail("message-lost", f"{self.call_id}: half closed within a message")
        self._go_on()

    def send_ready(self) -> None:
        self.writer.ready()

    def call_ended(self, end: pb.End) -> None:
        self.peer.ledger.host_ended(self.record, self.handling, told=end.status)


def identity_of(opening: pb.Open) -> str:
    """Read a call's identity from its metadata."""
    for entry in opening.metadata:
        if entry.key == IDENTITY_KEY:
            return entry.value.decode()
    return ""
