"""
Two links and a carrier that loses batches. Goal: every byte arrives once, in order, in both
directions, however often the carrier is cut, replaced, or overtaken in the handshake.

Method: a state machine that moves single batches between two real links.
"""

from __future__ import annotations

import dataclasses
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from relayrpc.limits import DEFAULT_LIMITS, KIB
from relayrpc.link.call import Call
from relayrpc.link.events import (
    CallEnded,
    CallOpened,
    DataReceived,
    HalfCloseReceived,
    LinkEnded,
)
from relayrpc.link.link import Link, LinkState
from relayrpc.v1 import link_pb2 as pb


LIMITS = dataclasses.replace(
    DEFAULT_LIMITS,
    batch_bytes_target=2 * KIB,
    fragment_bytes_max=KIB,
    small_bytes_max=512,
    initial_credit_bytes=4 * KIB,
    unacknowledged_bytes_min=6 * KIB,
    ack_after_batches=3,
    names_max=2,
)


class _Stream:
    """One call: what each end sent and received."""

    def __init__(self, order: int) -> None:
        self.order = order
        self.sent = {"request": b"", "response": b""}
        self.received = {"request": b"", "response": b""}
        self.is_half_closed = False
        self.is_ended = False
        self.has_half_close = False
        self.has_end = False
        self.served: Call | None = None


class _Carrier:
    """What is on its way, and which ends still listen."""

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt
        self.to_acceptor: deque[bytes] = deque()
        self.to_dialler: deque[bytes] = deque()
        self.is_taken = False


class TwoLinks(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.dialler = Link(is_dialler=True, limits=LIMITS, instance="i", now_s=0.0)
        self.acceptor: Link | None = None
        self.carriers: list[_Carrier] = []
        self.streams: list[_Stream] = []
        self.calls: dict[Call, _Stream] = {}
        self.dial()

    @initialize(is_linked=st.sampled_from((True, True, True, False)))
    def link_up(self, is_linked: bool) -> None:
        """Most worlds begin with a link and a few calls on it."""
        if is_linked:
            for tag in range(3):
                self.open_call(700, tag)
            self.let_send(1)
            self.deliver(1)
            self.let_send(1)
            self.deliver(1)

    # --- the programs ---

    @rule(size=st.integers(0, 3000), tag=st.integers(0, 255))
    def open_call(self, size: int, tag: int) -> None:
        stream = _Stream(len(self.streams))
        self.streams.append(stream)
        stream.sent["request"] = bytes([tag]) * size
        call = self.dialler.open_call(
            f"s/m{len(self.streams) % 4}",
            "a",
            shape=pb.SHAPE_STREAM_STREAM,
            app=None,
            data=stream.sent["request"],
            metadata=[("order", b"%d" % stream.order)],
            now_s=self.now_s,
        )
        self.calls[call] = stream

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), size=st.integers(1, 3000), tag=st.integers(0, 255))
    def send(self, data: st.DataObject, size: int, tag: int) -> None:
        call = data.draw(st.sampled_from(list(self.calls)))
        stream = self.calls[call]
        piece = bytes([tag]) * size
        if call.is_opener and not stream.is_half_closed and not stream.is_ended:
            stream.sent["request"] += piece
        elif not call.is_opener and not stream.is_ended:
            stream.sent["response"] += piece
        else:
            return
        call.link.send_data(call, piece)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(list(self.calls)))
        stream = self.calls[call]
        if call.is_opener:
            if not call.is_ended:
                stream.is_half_closed = True
                call.link.half_close(call)
        elif not stream.is_ended:
            stream.is_ended = True
            stream.sent["response"] += b"last"
            call.link.end_call(call, data=b"last")

    # --- the carriers ---

    @rule()
    def dial(self) -> None:
        """A second one while the first is healthy is a move."""
        if len(self.carriers) < 3:
            self.carriers.append(_Carrier(self.dialler.carrier_opened(now_s=self.now_s)))

    @precondition(lambda self: self.carriers)
    @rule(data=st.data(), is_noticed=st.booleans())
    def cut(self, data: st.DataObject, is_noticed: bool) -> None:
        self._lose(data.draw(st.sampled_from(self.carriers)), is_noticed=is_noticed)

    def _lose(self, carrier: _Carrier, *, is_noticed: bool) -> None:
        self.carriers.remove(carrier)
        self.dialler.carrier_lost(carrier.attempt, now_s=self.now_s)
        if is_noticed and self.acceptor is not None:
            self.acceptor.has_carried = True
            self.acceptor.carrier_lost(carrier.attempt, now_s=self.now_s)

    @rule(count=st.integers(1, 4))
    def let_send(self, count: int) -> None:
        for carrier in self.carriers:
            for link, way in self._ends(carrier):
                for _ in range(count):
                    batch = link.batch_to_send(attempt=carrier.attempt, now_s=self.now_s)
                    if batch is not None:
                        way.append(batch)

    @rule(count=st.integers(1, 4))
    def deliver(self, count: int) -> None:
        for carrier in list(self.carriers):
            for _ in range(count):
                if carrier.to_acceptor:
                    self._at_acceptor(carrier, carrier.to_acceptor.popleft())
                if carrier.to_dialler:
                    batch = carrier.to_dialler.popleft()
                    self.dialler.receive_batch(batch, attempt=carrier.attempt, now_s=self.now_s)
            self._take_events()

    @rule(sent=st.integers(1, 6), delivered=st.integers(0, 4))
    def go_on(self, sent: int, delivered: int) -> None:
        """What is not delivered is under way when the next cut comes."""
        self.let_send(sent)
        self.deliver(delivered)

    @rule(is_noticed=st.booleans(), delivered=st.integers(0, 3))
    def replace(self, is_noticed: bool, delivered: int) -> None:
        """Lose every carrier, with what is under way, and take up on another one."""
        self.let_send(delivered + 1)
        self.deliver(delivered)
        for carrier in list(self.carriers):
            self._lose(carrier, is_noticed=is_noticed)
        self.dial()
        for _ in range(2):
            self.let_send(1)
            self.deliver(1)

    @rule(sent=st.integers(1, 3), delivered=st.integers(0, 6))
    def move(self, sent: int, delivered: int) -> None:
        """Resume onto another carrier while batches still arrive on the one before."""
        self.dial()
        self.let_send(sent)
        self.deliver(delivered)
        self.let_send(sent)
        self.deliver(delivered)

    @rule(seconds=st.floats(0.0, 0.5))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    def _ends(self, carrier: _Carrier) -> list[tuple[Link, deque[bytes]]]:
        ends = [(self.dialler, carrier.to_acceptor)]
        if carrier.is_taken and self.acceptor is not None:
            ends.append((self.acceptor, carrier.to_dialler))
        return ends

    def _at_acceptor(self, carrier: _Carrier, batch: bytes) -> None:
        if carrier.is_taken:
            assert self.acceptor is not None
            self.acceptor.receive_batch(batch, attempt=carrier.attempt, now_s=self.now_s)
            return
        frame = pb.Batch.FromString(batch).frames[0]
        if frame.HasField("hello"):
            if self.acceptor is None or not self.dialler.link_id:
                # A link whose Welcome was lost is replaced by the next Hello; nothing was on it.
                self.acceptor = Link(
                    is_dialler=False, limits=LIMITS, instance="i", now_s=self.now_s
                )
                self.acceptor.accept(
                    frame.hello, link_id=bytes(16), secret=bytes(32), epoch=bytes(16)
                )
                # The link counts carriers from its Hello on, whatever the dialler counts.
                self.acceptor._attempt = carrier.attempt
                carrier.is_taken = True
                for other in self.carriers:
                    if other is not carrier:
                        other.is_taken = False
            return
        assert self.acceptor is not None
        refusal = self.acceptor.accept_resume(frame.resume, now_s=self.now_s)
        assert refusal in ("", "attempt"), refusal
        carrier.is_taken = not refusal

    # --- what arrives ---

    def _take_events(self) -> None:
        for link in filter(None, (self.dialler, self.acceptor)):
            for event in link.events_received():
                assert not isinstance(event, LinkEnded), event.error
                if isinstance(event, CallOpened):
                    (entry,) = event.frame.open.metadata
                    stream = self.streams[int(entry.value)]
                    assert stream.served is None, "a call was opened twice"
                    stream.served = event.call
                    self.calls[event.call] = stream
                    self._received(stream, event.call, event.data)
                    if event.frame.open.half_close:
                        stream.has_half_close = True
                elif isinstance(event, DataReceived):
                    self._received(self.calls[event.call], event.call, event.data)
                    link.grant(event.call, len(event.data))
                elif isinstance(event, HalfCloseReceived):
                    stream = self.calls[event.call]
                    assert not stream.has_half_close
                    stream.has_half_close = True
                    assert stream.received["request"] == stream.sent["request"]
                elif isinstance(event, CallEnded):
                    stream = self.calls[event.call]
                    assert not stream.has_end
                    stream.has_end = True
                    self._received(stream, event.call, event.frame.end.data)
                    assert stream.received["response"] == stream.sent["response"]

    def _received(self, stream: _Stream, call: Call, data: bytes) -> None:
        way = "response" if call.is_opener else "request"
        received = stream.received[way] + data
        assert stream.sent[way].startswith(received)
        stream.received[way] = received
        if not call.is_opener and not call.is_ended and call.receive_credit_bytes < 4 * KIB:
            call.link.grant(call, 4 * KIB - call.receive_credit_bytes)

    @invariant()
    def nobody_gave_up(self) -> None:
        assert self.dialler.state is not LinkState.CLOSED
        assert self.acceptor is None or self.acceptor.state is not LinkState.CLOSED

    # --- the end: a carrier that holds ---

    def teardown(self) -> None:
        self._take_events()
        for carrier in list(self.carriers):
            self._lose(carrier, is_noticed=False)
        for call, stream in list(self.calls.items()):
            if call.is_opener:
                stream.is_half_closed = True
                call.link.half_close(call)
        self.dial()
        for _ in range(400):
            self.let_send(8)
            self.deliver(8)
            for call, stream in list(self.calls.items()):
                if not call.is_opener and stream.has_half_close and not stream.is_ended:
                    self._end(call, stream)
            self.now_s += 0.2
            if self._is_all_over():
                break
        assert self._is_all_over()
        assert self.dialler.is_idle

    def _end(self, call: Call, stream: _Stream) -> None:
        stream.is_ended = True
        call.link.end_call(call)

    def _is_all_over(self) -> bool:
        return self.dialler.is_idle and all(stream.has_end for stream in self.streams)


TwoLinks.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestTwoLinks = TwoLinks.TestCase
