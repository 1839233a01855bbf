"""
The calls of one link. Goal: every frame of a call at every moment does what link.proto says, late
and wrong ones too, and ends claim only what is known. Method: hand-written frames against one end.
"""

from __future__ import annotations

import dataclasses

import pytest

from relayrpc.errors import FlowControlError, FrameDecodeError, ProtocolError, UsageError
from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.link.call import (
    RETRY_PUSHBACK_KEY,
    STATUS_CANCELLED,
    STATUS_DEADLINE_EXCEEDED,
    STATUS_INTERNAL,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
    Call,
    CallState,
)
from relayrpc.link.events import (
    BeginReceived,
    CallEnded,
    CallOpened,
    DataReceived,
    DeadlinePassed,
    Event,
    GrantReceived,
    HalfCloseReceived,
    LinkEnded,
    SendReady,
)
from relayrpc.link.link import Link, LinkState
from relayrpc.v1 import link_pb2 as pb
from tests.support.link_pair import link_pair, open_call, opened_pair, pump, take_batches


class Bench:
    """An acceptor, and a peer that is written by hand."""

    def __init__(self, *, is_hub: bool = False, limits: Limits = DEFAULT_LIMITS) -> None:
        self.link = Link(
            is_dialler=False, limits=limits, instance="i", is_hub=is_hub, now_s=0.0
        )
        hello = pb.Hello(versions=[1], instance="i")
        self.link.accept(hello, link_id=bytes(16), secret=bytes(32), epoch=bytes(16))
        take_batches(self.link)
        self._number = 0

    def receive(self, *frames: pb.Frame, now_s: float = 0.0, age_ms: int = 0) -> list[Event]:
        """Hand over one batch; returns its events."""
        self._number += 1
        batch = pb.Batch(number=self._number, age_ms=age_ms, frames=frames)
        self.link.receive_batch(batch.SerializeToString(), attempt=0, now_s=now_s)
        return self.link.events_received()

    def sent(self) -> list[pb.Frame]:
        """Take the frames the link has to say, without names."""
        frames: list[pb.Frame] = []
        for batch in take_batches(self.link):
            frames += pb.Batch.FromString(batch).frames
        return [frame for frame in frames if not frame.HasField("name")]

    def opened(self, call_id: int = 1, **parts: object) -> Call:
        """Have the peer open a call."""
        (event,) = self.receive(_open(call_id, **parts))
        assert isinstance(event, CallOpened)
        return event.call

    def opens(self, **parts: object) -> Call:
        """Open a call and send its OPEN: call number 2."""
        call = open_call(self.link, **parts)
        self.sent()
        return call


def _open(call_id: int, **parts: object) -> pb.Frame:
    text = {"method_text": "s/m", "address_text": "a"}
    return pb.Frame(call_id=call_id, open=pb.Open(**{**text, **parts}))  # type: ignore[arg-type]


def _fault(events: list[Event]) -> Exception | None:
    ended = events[-1]
    assert isinstance(ended, LinkEnded), events
    return ended.error


def _end(events: list[Event]) -> pb.End:
    (ended,) = events
    assert isinstance(ended, CallEnded), events
    return ended.frame.end


# --- OPEN ---


def test_open_is_told_with_what_it_says() -> None:
    bench = Bench()
    (event,) = bench.receive(
        _open(1, shape=pb.SHAPE_STREAM_UNARY, data=b"x", credit_bytes=5, time_left_us=2_000_000),
        now_s=7.0,
    )
    assert isinstance(event, CallOpened)
    call = event.call
    assert (call.id, call.method, call.address) == (1, "s/m", "a")
    assert (call.send_credit_bytes, call.deadline_s) == (5, 9.0)
    assert call.state == CallState.SERVING
    assert (event.data, event.has_metadata) == (b"x", False)
    assert not call.is_ended
    assert "s/m" in repr(call)


def test_age_of_a_batch_sent_again_is_taken_off_the_time_left() -> None:
    bench = Bench()
    (event,) = bench.receive(_open(1, time_left_us=2_000_000), now_s=7.0, age_ms=1500)
    assert isinstance(event, CallOpened)
    assert event.call.deadline_s == 7.5


def test_empty_address_is_the_service() -> None:
    assert Bench().opened(address_text="", method_text="p.S/m").address == "p.S"


@pytest.mark.parametrize(
    ("frames", "error"),
    [
        ([_open(2)], ProtocolError),
        ([_open(0)], ProtocolError),
        ([_open(3), _open(1)], ProtocolError),
        ([_open(1), _open(1)], ProtocolError),
        ([_open(1, method_text="")], FrameDecodeError),
        ([_open(1, method_text="m" * 513)], FrameDecodeError),
        ([_open(1, address_text="a" * 513)], FrameDecodeError),
        ([_open(1, method=1)], ProtocolError),
        ([_open(1, data=bytes(64 * 1024 + 1))], FlowControlError),
        ([_open(1, credit_bytes=2**31)], FrameDecodeError),
        ([_open(1, order_key="k" * 129)], FrameDecodeError),
        ([_open(1, dedupe_key="k" * 129)], FrameDecodeError),
        (
            [_open(1, metadata=[pb.Metadatum(key="k", value=bytes(16 * 1024))])],
            ProtocolError,
        ),
    ],
)
def test_wrong_open_ends_the_link(frames: list[pb.Frame], error: type[Exception]) -> None:
    fault = _fault(Bench().receive(*frames))
    assert isinstance(fault, error)


def test_one_call_too_many_is_refused_unexecuted() -> None:
    bench = Bench(limits=dataclasses.replace(DEFAULT_LIMITS, calls_open_max=1))
    bench.opened(1)
    assert bench.receive(_open(3)) == []
    (frame,) = bench.sent()
    assert (frame.call_id, frame.end.status) == (3, STATUS_RESOURCE_EXHAUSTED)
    assert frame.end.not_executed
    (trailing,) = frame.end.trailing_metadata
    assert (trailing.key, trailing.value) == (RETRY_PUSHBACK_KEY, b"1000")
    assert bench.link.calls_open_count == 1


def test_opener_beyond_what_the_peer_takes_is_told_by_event() -> None:
    dialler, _ = link_pair(acceptor_limits=dataclasses.replace(DEFAULT_LIMITS, calls_open_max=1))
    open_call(dialler)
    assert not dialler.has_room_for_call
    late = open_call(dialler, deadline_s=9.0)
    end = _end(dialler.events_received())
    assert (end.status, end.not_executed) == (STATUS_RESOURCE_EXHAUSTED, True)
    assert end.origin == pb.End.ORIGIN_CALLER
    assert [entry.key for entry in end.trailing_metadata] == [RETRY_PUSHBACK_KEY]
    assert late.is_ended
    assert dialler.calls_open_count == 1


def test_closed_link_opens_nothing() -> None:
    dialler, _ = link_pair()
    dialler.close()
    with pytest.raises(UsageError):
        open_call(dialler)


@pytest.mark.parametrize("size", [3, 100_000])
def test_call_is_opened_again_on_another_link_with_all_it_had(size: int) -> None:
    """The first link had run out of names, and cut what the OPEN holds off its data."""
    data = b"x" * size
    first, _ = opened = link_pair(dataclasses.replace(DEFAULT_LIMITS, names_max=1))
    call = open_call(first, data=data, half_close=True, sticky_key="k", deadline_s=9.0)
    frame = call.open_frame
    assert frame is not None
    pump(*opened)
    second, peer = link_pair()
    again = second.open_again(call, frame, app="app", data=data, half_close=True, now_s=4.0)
    assert again.app == "app"
    events = pump(second, peer, now_s=4.0)
    assert isinstance(events[0], CallOpened)
    came = events[0].call
    assert (came.method, came.address, came.deadline_s) == ("s/m", "a", 9.0)
    assert events[0].frame.open.sticky_key == "k"
    pieces = [event.data for event in events if isinstance(event, (CallOpened, DataReceived))]
    assert b"".join(pieces) == data[: DEFAULT_LIMITS.initial_credit_bytes]
    assert came.state == (CallState.ANSWERING if size == 3 else CallState.SERVING)


def test_call_opened_again_is_bounded_as_any() -> None:
    dialler, _ = link_pair(acceptor_limits=dataclasses.replace(DEFAULT_LIMITS, calls_open_max=1))
    call = open_call(dialler)
    frame = call.open_frame
    assert frame is not None
    late = dialler.open_again(call, frame, app=None, data=b"", half_close=True, now_s=0.0)
    assert late.is_ended
    assert _end(dialler.events_received()).status == STATUS_RESOURCE_EXHAUSTED


# --- data and credit ---


def test_data_within_credit_is_told_and_beyond_it_costs_the_call_only() -> None:
    bench = Bench()
    call = bench.opened()
    bench.link.grant(call, 5)
    other = bench.opened(3)
    (data,) = bench.receive(pb.Frame(call_id=1, data=b"12345"))
    assert isinstance(data, DataReceived)
    assert data.data == b"12345"
    end = _end(bench.receive(pb.Frame(call_id=1, data=b"6")))
    assert end.status == STATUS_INTERNAL
    sent = [frame for frame in bench.sent() if frame.HasField("end")]
    assert [(frame.call_id, frame.end.status) for frame in sent] == [(1, STATUS_INTERNAL)]
    assert bench.link.state is LinkState.OPEN
    assert not other.is_ended
    # What was still on its way is late.
    assert bench.receive(pb.Frame(call_id=1, data=b"7")) == []


@pytest.mark.parametrize("body", ["data", "end"])
def test_responder_that_overruns_is_cancelled(body: str) -> None:
    bench = Bench()
    call = bench.opens(credit_bytes=2)
    frame = pb.Frame(call_id=2, data=b"123")
    if body == "end":
        frame = pb.Frame(call_id=2, end=pb.End(data=b"123"))
    assert _end(bench.receive(frame)).status == STATUS_INTERNAL
    assert call.is_ended
    assert [frame.WhichOneof("body") for frame in bench.sent()] == ["cancel"]


def test_grant_wakes_data_that_waits() -> None:
    bench = Bench()
    call = bench.opened(credit_bytes=2)
    bench.link.send_data(call, b"12345")
    assert [frame.data for frame in bench.sent()] == [b"12"]
    (event,) = bench.receive(pb.Frame(call_id=1, grant=2))
    assert isinstance(event, GrantReceived)
    assert event.credit_bytes == 2
    assert [frame.data for frame in bench.sent()] == [b"34"]


@pytest.mark.parametrize("grant", [0, 2**31 - 5, 2**63])
def test_grant_out_of_range_ends_the_link(grant: int) -> None:
    bench = Bench()
    bench.opened(credit_bytes=5)
    assert isinstance(_fault(bench.receive(pb.Frame(call_id=1, grant=grant))), FlowControlError)


def test_writer_above_the_mark_is_told_when_it_may_go_on() -> None:
    bench = Bench(limits=dataclasses.replace(DEFAULT_LIMITS, send_queue_bytes_high=100))
    call = bench.opened(credit_bytes=50)
    bench.link.send_data(call, bytes(120))
    bench.sent()
    assert [type(event) for event in bench.link.events_received()] == [SendReady]
    bench.sent()
    assert bench.link.events_received() == []


def test_nothing_is_granted_to_an_ended_call_and_nothing_is_no_grant() -> None:
    bench = Bench()
    call = bench.opened()
    bench.link.grant(call, 0)
    assert bench.sent() == []
    bench.link.end_call(call)
    bench.sent()
    bench.link.grant(call, 5)
    assert bench.sent() == []


# --- the rest of a call, from its responder ---


def test_begin_is_sent_once_and_before_data() -> None:
    bench = Bench()
    call = bench.opened()
    bench.link.begin_call(call, [("k", b"v")], instance="host")
    (frame,) = bench.sent()
    begin = pb.Begin(metadata=[pb.Metadatum(key="k", value=b"v")], instance="host")
    assert frame == pb.Frame(call_id=1, begin=begin)
    with pytest.raises(UsageError):
        bench.link.begin_call(call)
    bench.link.end_call(call)
    bench.link.begin_call(call)
    assert [frame.WhichOneof("body") for frame in bench.sent()] == ["end"]


def test_end_goes_behind_data_and_takes_the_last_bytes_along() -> None:
    bench = Bench()
    call = bench.opened(credit_bytes=10)
    bench.link.send_data(call, b"abcdefgh")
    bench.link.end_call(call, data=b"ijkl", details="ignored for OK")
    (first,) = bench.sent()
    assert first.data == b"abcdefghij"
    # Ended here, and still there: its END waits for credit, and data of the peer is late.
    assert bench.link.calls_open_count == 1
    assert bench.receive(pb.Frame(call_id=1, data=b"late")) == []
    assert bench.receive(pb.Frame(call_id=1, half_close=True)) == []
    assert bench.receive(pb.Frame(call_id=1, grant=9)) == []
    (last,) = bench.sent()
    assert (last.end.data, last.end.details) == (b"kl", "")
    assert bench.link.calls_open_count == 0


def test_cancel_discards_an_end_that_waits_and_is_told_to_nobody() -> None:
    bench = Bench()
    call = bench.opened()
    bench.link.end_call(call, data=b"x")
    assert bench.receive(pb.Frame(call_id=1, cancel=pb.Cancel())) == []
    assert bench.sent() == []
    assert bench.link.calls_open_count == 0


def test_long_details_are_cut_at_a_letter() -> None:
    bench = Bench()
    bench.link.end_call(bench.opened(), status=2, details="ä" * 3000)
    (frame,) = bench.sent()
    assert frame.end.details == "ä" * 2048


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (pb.Cancel.REASON_UNSPECIFIED, STATUS_CANCELLED),
        (pb.Cancel.REASON_CANCELLED, STATUS_CANCELLED),
        (pb.Cancel.REASON_DEADLINE, STATUS_DEADLINE_EXCEEDED),
        (9, STATUS_CANCELLED),
    ],
)
def test_cancel_ends_the_call_at_its_responder(reason: pb.Cancel.Reason, status: int) -> None:
    bench = Bench()
    bench.opened(time_left_us=5_000_000)
    end = _end(bench.receive(pb.Frame(call_id=1, cancel=pb.Cancel(reason=reason))))
    assert (end.status, end.origin) == (status, pb.End.ORIGIN_CALLER)
    assert bench.link._deadlines.next_s() is None


def test_half_close_is_told() -> None:
    bench = Bench()
    call = bench.opened()
    (event,) = bench.receive(pb.Frame(call_id=1, half_close=True))
    assert isinstance(event, HalfCloseReceived)
    assert call.state == CallState.ANSWERING


@pytest.mark.parametrize(
    "frames",
    [
        [pb.Frame(call_id=1, half_close=True), pb.Frame(call_id=1, half_close=True)],
        [pb.Frame(call_id=1, half_close=True), pb.Frame(call_id=1, data=b"x")],
        [pb.Frame(call_id=1, begin=pb.Begin())],
        [pb.Frame(call_id=1, end=pb.End())],
    ],
)
def test_frame_a_responder_may_not_see_ends_the_link(frames: list[pb.Frame]) -> None:
    bench = Bench()
    bench.link.grant(bench.opened(), 100)
    assert isinstance(_fault(bench.receive(*frames)), ProtocolError)


# --- the rest of a call, from its opener ---


def test_begin_data_and_end_are_told_in_order() -> None:
    bench = Bench()
    bench.opens()
    events = bench.receive(
        pb.Frame(call_id=2, begin=pb.Begin(instance="h")),
        pb.Frame(call_id=2, data=b"x"),
        pb.Frame(call_id=2, end=pb.End(status=5, data=b"y")),
    )
    assert [type(event) for event in events] == [BeginReceived, DataReceived, CallEnded]
    assert isinstance(events[2], CallEnded)
    assert events[2].frame.end.data == b"y"
    assert bench.link.calls_open_count == 0


@pytest.mark.parametrize(
    "frames",
    [
        [pb.Frame(call_id=2, begin=pb.Begin()), pb.Frame(call_id=2, begin=pb.Begin())],
        [pb.Frame(call_id=2, data=b"x"), pb.Frame(call_id=2, begin=pb.Begin())],
        [pb.Frame(call_id=2, half_close=True)],
        [pb.Frame(call_id=2, cancel=pb.Cancel())],
        [
            pb.Frame(
                call_id=2,
                end=pb.End(trailing_metadata=[pb.Metadatum(key="k", value=bytes(16384))]),
            )
        ],
        [
            pb.Frame(
                call_id=2, begin=pb.Begin(metadata=[pb.Metadatum(key="k", value=bytes(16384))])
            )
        ],
    ],
)
def test_frame_an_opener_may_not_see_ends_the_link(frames: list[pb.Frame]) -> None:
    bench = Bench()
    bench.opens()
    assert isinstance(_fault(bench.receive(*frames)), ProtocolError)


@pytest.mark.parametrize(
    ("is_hub", "wrote", "reads"),
    [
        (False, pb.End.ORIGIN_HUB, pb.End.ORIGIN_HUB),
        (False, pb.End.ORIGIN_CALLER, pb.End.ORIGIN_HOST),
        (True, pb.End.ORIGIN_HUB, pb.End.ORIGIN_HOST),
        (True, pb.End.ORIGIN_CALLER, pb.End.ORIGIN_HOST),
    ],
)
def test_only_a_hub_speaks_for_hubs(
    is_hub: bool, wrote: pb.End.Origin, reads: pb.End.Origin
) -> None:
    bench = Bench(is_hub=is_hub)
    bench.opens()
    assert _end(bench.receive(pb.Frame(call_id=2, end=pb.End(origin=wrote)))).origin == reads


def test_cancel_is_sent_only_for_a_call_whose_open_was() -> None:
    bench = Bench()
    waiting = open_call(bench.link)
    bench.link.cancel_call(waiting)
    assert bench.sent() == []
    call = bench.opens()
    bench.link.cancel_call(call, reason=pb.Cancel.REASON_DEADLINE)
    bench.link.cancel_call(call)
    assert bench.sent() == [
        pb.Frame(call_id=2, cancel=pb.Cancel(reason=pb.Cancel.REASON_DEADLINE))
    ]
    assert bench.link.calls_open_count == 0


def test_what_a_program_sends_after_the_end_is_nothing() -> None:
    bench = Bench()
    call = bench.opens()
    bench.receive(pb.Frame(call_id=2, end=pb.End()))
    bench.link.send_data(call, b"x")
    bench.link.half_close(call)
    bench.link.cancel_call(call)
    assert bench.sent() == []


def test_end_discards_what_the_opener_had_not_sent() -> None:
    bench = Bench()
    call = bench.opens()
    bench.link.send_data(call, b"waits for credit")
    bench.link.half_close(call)
    bench.receive(pb.Frame(call_id=2, end=pb.End()))
    assert call.unsent_bytes == 0
    assert bench.sent() == []


# --- late frames ---


@pytest.mark.parametrize(
    "body",
    [
        {"data": b"x"},
        {"grant": 5},
        {"half_close": True},
        {"cancel": pb.Cancel()},
        {"begin": pb.Begin()},
        {"end": pb.End()},
    ],
    ids=lambda body: next(iter(body)),
)
@pytest.mark.parametrize("call_id", [1, 2])
def test_frame_for_a_call_that_is_over_is_late_and_for_none_a_fault(
    body: dict[str, object], call_id: int
) -> None:
    bench = Bench()
    bench.link.end_call(bench.opened())
    bench.opens()
    bench.receive(pb.Frame(call_id=2, end=pb.End()))
    frame = pb.Frame(call_id=call_id, **body)  # type: ignore[arg-type]
    assert bench.receive(frame) == []
    frame.call_id += 2
    assert isinstance(_fault(bench.receive(frame)), ProtocolError)


# --- deadlines and the loss of the link ---


def test_opener_ends_its_call_at_the_deadline_and_cancels_it() -> None:
    bench = Bench()
    bench.opens(deadline_s=1.0)
    bench.link.handle_timeout(now_s=0.99)
    assert bench.link.events_received() == []
    due_s = bench.link.next_deadline_s()
    assert due_s is not None
    bench.link.handle_timeout(now_s=due_s)
    end = _end(bench.link.events_received())
    assert (end.status, end.not_executed) == (STATUS_DEADLINE_EXCEEDED, False)
    (frame,) = bench.sent()
    assert frame.cancel.reason == pb.Cancel.REASON_DEADLINE


def test_call_past_its_deadline_is_never_sent() -> None:
    bench = Bench()
    open_call(bench.link, deadline_s=1.0)
    assert bench.link.batch_to_send(attempt=0, now_s=1.0) is not None  # Its names.
    bench.link.handle_timeout(now_s=1.02)
    assert _end(bench.link.events_received()).not_executed
    assert bench.sent() == []
    assert bench.link.calls_open_count == 0


def test_responder_is_told_of_the_deadline_and_answers() -> None:
    bench = Bench()
    call = bench.opened(time_left_us=500_000)
    bench.link.handle_timeout(now_s=0.52)
    (event,) = bench.link.events_received()
    assert isinstance(event, DeadlinePassed)
    assert event.call is call


def test_ends_of_a_lost_link_claim_only_what_is_known() -> None:
    dialler, acceptor = link_pair()
    given, served = opened_pair(dialler, acceptor)
    waiting = open_call(dialler)
    answered = open_call(acceptor)
    for link in (dialler, acceptor):
        link.close()
    ends = {
        event.call: event.frame.end
        for link in (dialler, acceptor)
        for event in link.events_received()
        if isinstance(event, CallEnded)
    }
    assert {call: (end.status, end.not_executed) for call, end in ends.items()} == {
        given: (STATUS_UNAVAILABLE, False),
        waiting: (STATUS_UNAVAILABLE, True),
        answered: (STATUS_UNAVAILABLE, True),
        served: (STATUS_CANCELLED, False),
    }


def test_open_given_and_not_received_at_the_resume_was_not_executed() -> None:
    """What the resume shows not to have arrived, and was not given again, is known."""
    dialler, acceptor = link_pair()
    opened_pair(dialler, acceptor)
    call = open_call(dialler)
    take_batches(dialler)
    assert dialler.was_given(call)
    dialler.carrier_lost(0, now_s=1.0)
    dialler.carrier_opened(now_s=1.0)
    dialler.batch_to_send(attempt=1, now_s=1.0)
    welcome = pb.Batch(frames=[pb.Frame(welcome=pb.Welcome(received=1))])
    dialler.receive_batch(welcome.SerializeToString(), attempt=1, now_s=1.0)
    assert not dialler.was_given(call)
    # For as long as the link lives it is given again, even when the call is over here.
    assert dialler.may_be_given(call)
    take_batches(dialler, now_s=1.0)
    assert dialler.was_given(call)


@pytest.mark.parametrize("is_closed", [False, True])
def test_call_that_ends_between_a_resume_and_its_open_may_be_executed(is_closed: bool) -> None:
    """The OPEN goes out again before the CANCEL, unless the link ends first."""
    dialler, acceptor = link_pair()
    call = open_call(dialler, deadline_s=3.0)
    take_batches(dialler)
    dialler.carrier_lost(0, now_s=1.0)
    dialler.carrier_opened(now_s=1.0)
    resume = dialler.batch_to_send(attempt=1, now_s=1.0)
    assert resume is not None
    assert acceptor.accept_resume(pb.Batch.FromString(resume).frames[0].resume, now_s=1.0) == ""
    (welcome,) = take_batches(acceptor, now_s=1.0)
    dialler.receive_batch(welcome, attempt=1, now_s=1.0)
    assert not dialler.was_given(call)
    if is_closed:
        dialler.close()
    else:
        dialler.handle_timeout(now_s=3.1)
    ended = dialler.events_received()[1]
    assert isinstance(ended, CallEnded)
    assert ended.frame.end.not_executed == is_closed
    received = pump(dialler, acceptor, now_s=3.1)
    assert any(isinstance(each, CallOpened) for each in received) == (not is_closed)


def test_resume_within_a_move_says_nothing_about_what_is_on_its_way() -> None:
    """The dialler may yet receive it on the carrier before; one that is lost delivers no more."""
    dialler, acceptor = link_pair()
    opened_pair(dialler, acceptor)
    call = open_call(acceptor)
    take_batches(acceptor)
    for attempt, is_given in ((1, True), (2, False)):
        if attempt == 2:
            dialler.carrier_lost(0, now_s=1.0)
        dialler.carrier_opened(now_s=1.0)
        first = dialler.batch_to_send(attempt=attempt, now_s=1.0)
        assert first is not None
        resume = pb.Batch.FromString(first).frames[0].resume
        assert acceptor.accept_resume(resume, now_s=1.0) == ""
        assert acceptor.was_given(call) == is_given


def test_call_whose_end_was_waiting_is_forgotten_with_its_link() -> None:
    bench = Bench()
    bench.link.end_call(bench.opened(), data=b"waits for credit")
    bench.link.close()
    assert [type(event) for event in bench.link.events_received()] == [LinkEnded]
    assert bench.link.calls_open_count == 0


def test_waiting_calls_fail_when_dialling_does_unless_they_asked_to_wait() -> None:
    link = Link(is_dialler=True, limits=DEFAULT_LIMITS, instance="i", now_s=0.0)
    hasty, patient = open_call(link), open_call(link, wait_for_ready=True)
    link.fail_waiting("nobody is there")
    (event,) = link.events_received()
    assert isinstance(event, CallEnded)
    assert event.call is hasty
    end = event.frame.end
    assert (end.status, end.details) == (STATUS_UNAVAILABLE, "nobody is there")
    assert (end.origin, end.not_executed) == (pb.End.ORIGIN_CALLER, True)
    assert not patient.is_ended


def test_both_ends_open_calls_with_ids_of_their_own() -> None:
    dialler, acceptor = link_pair()
    ids = []
    for link, other in ((dialler, acceptor), (acceptor, dialler)) * 2:
        call, seen = opened_pair(link, other)
        assert call.id == seen.id
        ids.append(call.id)
    assert ids == [1, 2, 3, 4]


def test_flush_hook_may_be_left_alone() -> None:
    """A link without a driver is driven by hand."""
    dialler, acceptor = link_pair()
    dialler.flush_soon()
    assert pump(dialler, acceptor) == []
