"""
The link itself: handshake, carriers, keepalive, announcements, drain, ends. Goal: each rule of
LINK.md about a link, one by one. Method: the other side of the wire is hand-written frames.
"""

from __future__ import annotations

import dataclasses

import pytest

from relayrpc.errors import (
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
from relayrpc.limits import DEFAULT_LIMITS, KIB
from relayrpc.link.call import STATUS_UNAVAILABLE
from relayrpc.link.events import (
    AnnouncedReceived,
    AnnounceReceived,
    CallEnded,
    Event,
    GoingAwayReceived,
    LinkEnded,
    WelcomeReceived,
    WithdrawReceived,
)
from relayrpc.link.link import Link, LinkState
from relayrpc.v1 import link_pb2 as pb
from tests.support.link_pair import link_pair, open_call, pump, take_batches


WELCOME = pb.Welcome(
    version=1, link_id=b"i" * 16, secret=b"s" * 32, epoch=b"e" * 16, resume_window_ms=7000
)


def _batch(*frames: pb.Frame, **header: int) -> bytes:
    return pb.Batch(frames=frames, **header).SerializeToString()


def _dialler() -> Link:
    """A dialler that has sent Hello."""
    link = Link(is_dialler=True, limits=DEFAULT_LIMITS, instance="i", now_s=0.0)
    link.carrier_opened(now_s=0.0)
    link.batch_to_send(attempt=0, now_s=0.0)
    return link


def _open_dialler() -> Link:
    link = _dialler()
    link.receive_batch(_batch(pb.Frame(welcome=WELCOME)), attempt=0, now_s=0.0)
    link.events_received()
    return link


def _frames(batch: bytes | None) -> list[pb.Frame]:
    assert batch is not None
    return list(pb.Batch.FromString(batch).frames)


def _ended(link: Link) -> RelayError | None:
    """The link's end, which must be its last event."""
    assert link.state is LinkState.CLOSED
    ended = link.events_received()[-1]
    assert isinstance(ended, LinkEnded)
    return ended.error


def _said(link: Link) -> pb.Close:
    """The Close a link that failed sends."""
    (frame,) = _frames(link.batch_to_send(attempt=link.attempt, now_s=0.0))
    assert frame.HasField("close")
    return frame.close


# --- handshake ---


def test_dialler_says_hello_first_and_nothing_before_welcome() -> None:
    link = Link(is_dialler=True, limits=DEFAULT_LIMITS, instance="host-1", now_s=0.0)
    open_call(link)
    assert link.batch_to_send(attempt=0, now_s=0.0) is None
    attempt = link.carrier_opened(now_s=0.0)
    (frame,) = _frames(link.batch_to_send(attempt=attempt, now_s=0.0))
    hello = frame.hello
    assert (list(hello.versions), hello.instance) == ([1], "host-1")
    assert hello.limits == pb.LinkLimits(
        batch_bytes_max=256 * KIB,
        initial_credit_bytes=64 * KIB,
        calls_open_max=4096,
        keepalive_interval_ms=10_000,
    )
    assert link.batch_to_send(attempt=attempt, now_s=0.0) is None
    assert link.state is LinkState.CONNECTING


def test_welcome_opens_the_link_with_what_it_says() -> None:
    link = _dialler()
    welcome = pb.Welcome()
    welcome.CopyFrom(WELCOME)
    welcome.limits.batch_bytes_max = 100 * KIB
    welcome.limits.initial_credit_bytes = 10 * KIB
    welcome.limits.calls_open_max = 1
    link.receive_batch(_batch(pb.Frame(welcome=welcome)), attempt=0, now_s=0.0)
    (event,) = link.events_received()
    assert isinstance(event, WelcomeReceived)
    assert not event.is_resumed
    assert (link.state, link.attempt, link.version) == (LinkState.OPEN, 0, 1)
    assert (link.link_id, link.secret, link.epoch) == (b"i" * 16, b"s" * 32, b"e" * 16)
    assert link.resume_window_s == 7.0
    open_call(link, data=bytes(300 * KIB))
    assert not link.has_room_for_call
    batches = take_batches(link)
    assert max(map(len, batches)) <= 100 * KIB
    (opening,) = [f.open for b in batches for f in _frames(b) if f.HasField("open")]
    assert len(opening.data) == 10 * KIB


@pytest.mark.parametrize(
    ("batch", "error"),
    [
        (b"\xff\xff", FrameDecodeError),
        (_batch(), ProtocolError),
        (_batch(pb.Frame(ping=1)), ProtocolError),
        (_batch(pb.Frame(hello=pb.Hello())), ProtocolError),
        (_batch(pb.Frame(welcome=WELCOME), number=1), ProtocolError),
        (_batch(pb.Frame(welcome=pb.Welcome(version=9))), VersionError),
        (_batch(pb.Frame(welcome=pb.Welcome(version=1))), FrameDecodeError),
        (
            _batch(pb.Frame(welcome=pb.Welcome(version=1, link_id=bytes(16), secret=b"short"))),
            FrameDecodeError,
        ),
        (bytes(DEFAULT_LIMITS.batch_bytes_max + 1), FrameTooLargeError),
    ],
)
def test_wrong_answer_to_hello_ends_the_link(batch: bytes, error: type[ProtocolError]) -> None:
    link = _dialler()
    call = open_call(link)
    link.receive_batch(batch, attempt=0, now_s=0.0)
    events = link.events_received()
    assert [type(event) for event in events] == [CallEnded, LinkEnded]
    assert isinstance(events[0], CallEnded)
    assert events[0].call is call
    assert events[0].frame.end.not_executed
    assert isinstance(events[1], LinkEnded)
    assert type(events[1].error) is error
    assert _said(link).code == error.close_code


def test_close_in_the_handshake_tells_why() -> None:
    link = _dialler()
    close = pb.Close(code=pb.Close.CODE_REFUSED, reason="not you")
    link.receive_batch(_batch(pb.Frame(close=close)), attempt=0, now_s=0.0)
    error = _ended(link)
    assert isinstance(error, LinkRefusedError)
    assert error.detail == {"code": pb.Close.CODE_REFUSED}
    assert "not you" in str(error)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (pb.Close.CODE_LIMIT, "the peer closed the link: limit"),
        (77, "the peer closed the link: code 77"),
    ],
)
def test_close_without_a_reason_is_read_from_its_code(code: pb.Close.Code, text: str) -> None:
    link = _open_dialler()
    link.receive_batch(_batch(pb.Frame(close=pb.Close(code=code))), attempt=0, now_s=0.0)
    assert str(_ended(link)) == text


def test_version_nobody_speaks_is_refused_by_the_acceptor() -> None:
    link = Link(is_dialler=False, limits=DEFAULT_LIMITS, instance="i", now_s=0.0)
    with pytest.raises(VersionError):
        link.accept(pb.Hello(versions=[2]), link_id=b"", secret=b"", epoch=b"")


# --- resume and move ---


def test_dialler_resumes_with_what_proves_it_and_what_it_has() -> None:
    link = _open_dialler()
    name = pb.Frame(name=pb.Name(number=1, text="x"))
    link.receive_batch(_batch(name, number=1), attempt=0, now_s=0.0)
    link.carrier_lost(0, now_s=1.0)
    assert link.state is LinkState.PARKED
    assert link.carrier_opened(now_s=2.0) == 1
    (frame,) = _frames(link.batch_to_send(attempt=1, now_s=2.0))
    assert frame.resume == pb.Resume(
        link_id=b"i" * 16, secret=b"s" * 32, epoch=b"e" * 16, attempt=1, received=1, instance="i"
    )
    # No early data.
    open_call(link)
    assert link.batch_to_send(attempt=1, now_s=2.0) is None


def test_batches_the_hub_lacks_are_sent_again_with_their_age() -> None:
    link = _open_dialler()
    sent = []
    for _ in range(3):
        open_call(link, data=b"x", deadline_s=50.0)
        sent += take_batches(link, now_s=1.0)
    link.carrier_lost(0, now_s=2.0)
    link.carrier_opened(now_s=3.0)
    link.batch_to_send(attempt=1, now_s=3.0)
    link.receive_batch(_batch(pb.Frame(welcome=pb.Welcome(received=1))), attempt=1, now_s=3.5)
    again = [pb.Batch.FromString(batch) for batch in take_batches(link, now_s=3.5)]
    assert [batch.number for batch in again] == [2, 3]
    assert [batch.age_ms for batch in again] == [2500, 2500]
    assert [list(batch.frames) for batch in again] == [_frames(batch) for batch in sent[1:]]
    (event,) = link.events_received()
    assert isinstance(event, WelcomeReceived)
    assert event.is_resumed


def test_resume_answered_with_a_batch_not_held_is_a_protocol_error() -> None:
    link = _open_dialler()
    link.carrier_lost(0, now_s=1.0)
    link.carrier_opened(now_s=2.0)
    link.receive_batch(_batch(pb.Frame(welcome=pb.Welcome(received=9))), attempt=1, now_s=2.0)
    assert isinstance(_ended(link), ProtocolError)


def test_expired_ends_the_link_with_its_calls() -> None:
    link = _open_dialler()
    open_call(link)
    take_batches(link)
    link.carrier_lost(0, now_s=1.0)
    link.carrier_opened(now_s=2.0)
    expired = pb.Expired(reason="unknown link")
    link.receive_batch(_batch(pb.Frame(expired=expired)), attempt=1, now_s=2.0)
    ended, over = link.events_received()
    assert isinstance(ended, CallEnded)
    assert ended.frame.end.status == STATUS_UNAVAILABLE
    assert not ended.frame.end.not_executed
    assert isinstance(over, LinkEnded)
    assert isinstance(over.error, LinkRefusedError)


def test_hub_that_is_busy_ends_only_the_carrier_of_a_resume() -> None:
    """Else a storm of reconnects would cost the links that come too early."""
    link = _open_dialler()
    open_call(link)
    take_batches(link)
    link.carrier_lost(0, now_s=1.0)
    link.carrier_opened(now_s=2.0)
    busy = _batch(pb.Frame(close=pb.Close(code=pb.Close.CODE_LIMIT)))
    link.receive_batch(busy, attempt=1, now_s=2.0)
    link.carrier_lost(1, now_s=2.0)
    assert link.state is LinkState.PARKED
    assert link.events_received() == []
    assert link.carrier_opened(now_s=3.0) == 2


def test_older_carrier_stays_in_use_until_welcome_and_is_dropped_then() -> None:
    link = _open_dialler()
    link.carrier_opened(now_s=1.0)
    open_call(link, data=b"a")
    assert pb.Batch.FromString(take_batches(link, now_s=1.0)[0]).number == 1
    link.receive_batch(_batch(pb.Frame(welcome=pb.Welcome(received=1))), attempt=1, now_s=1.0)
    link.events_received()
    late = _batch(pb.Frame(name=pb.Name(number=1, text="x")), number=1)
    link.receive_batch(late, attempt=0, now_s=1.0)
    link.carrier_lost(0, now_s=1.0)
    assert link.state is LinkState.OPEN
    open_call(link, data=b"b")
    assert link.batch_to_send(attempt=0, now_s=1.0) is None
    batch = pb.Batch.FromString(take_batches(link, now_s=1.0)[0])
    # The late batch was dropped unacknowledged.
    assert (batch.number, batch.ack) == (2, 0)


def test_carrier_lost_in_a_move_leaves_the_link_where_it_is() -> None:
    link = _open_dialler()
    attempt = link.carrier_opened(now_s=1.0)
    link.carrier_lost(attempt, now_s=1.0)
    assert link.state is LinkState.OPEN
    assert link.batch_to_send(attempt=attempt, now_s=1.0) is None
    open_call(link)
    assert take_batches(link)


def test_closed_link_takes_no_carrier() -> None:
    link = _open_dialler()
    link.close()
    with pytest.raises(UsageError):
        link.carrier_opened(now_s=1.0)


def test_acceptor_that_carried_nothing_does_not_park() -> None:
    _, acceptor = link_pair()
    acceptor.carrier_lost(0, now_s=1.0)
    assert isinstance(_ended(acceptor), CarrierLostError)


def test_draining_link_does_not_park() -> None:
    dialler, acceptor = link_pair()
    open_call(dialler)
    pump(dialler, acceptor)
    acceptor.go_away(reason="stop", time_left_s=3.0)
    acceptor.carrier_lost(0, now_s=1.0)
    assert "is draining" in str(_ended(acceptor))


def test_size_error_twice_on_one_batch_ends_the_link_and_names_the_size() -> None:
    link = _open_dialler()
    open_call(link, data=bytes(1000))
    take_batches(link)
    link.carrier_lost(0, now_s=1.0, is_size_error=True)
    assert link.state is LinkState.PARKED
    link.carrier_opened(now_s=1.0)
    link.receive_batch(_batch(pb.Frame(welcome=pb.Welcome())), attempt=1, now_s=1.0)
    take_batches(link)
    link.events_received()
    link.carrier_lost(1, now_s=1.0, is_size_error=True)
    error = _ended(link)
    assert isinstance(error, FrameTooLargeError)
    assert 1000 < int(error.detail["size_bytes"]) < 1200


def test_size_errors_on_different_batches_are_ordinary_cuts() -> None:
    link = _open_dialler()
    for attempt in range(3):
        open_call(link, data=b"x")
        take_batches(link)
        link.carrier_lost(attempt, now_s=1.0, is_size_error=True)
        assert link.state is LinkState.PARKED
        link.carrier_opened(now_s=1.0)
        welcome = pb.Welcome(received=attempt + 1)
        link.receive_batch(_batch(pb.Frame(welcome=welcome)), attempt=attempt + 1, now_s=1.0)


# --- numbered and unnumbered ---


@pytest.mark.parametrize(
    ("batch", "error"),
    [
        (_batch(number=2), ProtocolError),
        (_batch(ack=1), ProtocolError),
        (_batch(pb.Frame(ping=1), number=1), ProtocolError),
        (_batch(pb.Frame(hello=pb.Hello()), number=1), ProtocolError),
        (_batch(pb.Frame(hello=pb.Hello())), ProtocolError),
        (_batch(pb.Frame(resume=pb.Resume())), ProtocolError),
        (_batch(pb.Frame(welcome=WELCOME)), ProtocolError),
        (_batch(pb.Frame(expired=pb.Expired())), ProtocolError),
        (_batch(pb.Frame(call_id=2, open=pb.Open())), ProtocolError),
        (_batch(pb.Frame(call_id=1, grant=1)), ProtocolError),
        (b"\x0a", FrameDecodeError),
        (bytes(DEFAULT_LIMITS.batch_bytes_max + 1), FrameTooLargeError),
    ],
)
def test_batch_out_of_sequence_ends_the_link_and_is_told(
    batch: bytes, error: type[ProtocolError]
) -> None:
    link = _open_dialler()
    link.receive_batch(batch, attempt=0, now_s=0.0)
    assert type(_ended(link)) is error
    assert _said(link).code == pb.Close.CODE_PROTOCOL_ERROR
    # Over: nothing more is taken, and nothing more is said.
    link.receive_batch(_batch(pb.Frame(ping=1)), attempt=0, now_s=0.0)
    assert link.batch_to_send(attempt=0, now_s=0.0) is None
    assert link.events_received() == []
    assert link.next_deadline_s() is None
    assert not link.handle_timeout(now_s=1e6)


def test_unknown_frames_and_fields_are_ignored() -> None:
    link = _open_dialler()
    unknown = b"\x22\x03\xc2\x3e\x00"  # A frame whose only field has a number nobody defined.
    link.receive_batch(_batch(number=1) + unknown, attempt=0, now_s=0.0)
    link.receive_batch(_batch() + unknown, attempt=0, now_s=0.0)
    assert link.state is LinkState.OPEN
    assert link.log.received_number == 1


def test_duplicate_batch_is_dropped_and_acknowledged_at_once() -> None:
    link = _open_dialler()
    batch = _batch(pb.Frame(going_away=pb.GoingAway()), number=1)
    for _ in range(2):
        link.receive_batch(batch, attempt=0, now_s=1.0)
    assert [type(event) for event in link.events_received()] == [GoingAwayReceived]
    (answer,) = take_batches(link, now_s=1.0)
    assert pb.Batch.FromString(answer) == pb.Batch(ack=1)


def test_ack_goes_alone_after_its_delay() -> None:
    link = _open_dialler()
    link.receive_batch(_batch(number=1), attempt=0, now_s=1.0)
    assert link.batch_to_send(attempt=0, now_s=1.0) is None
    due_s = link.next_deadline_s()
    assert due_s == pytest.approx(1.1)
    assert due_s is not None
    assert pb.Batch.FromString(take_batches(link, now_s=due_s)[0]) == pb.Batch(ack=1)


# --- keepalive ---


def test_ping_is_answered_by_its_number() -> None:
    link = _open_dialler()
    link.receive_batch(_batch(pb.Frame(ping=7), pb.Frame(pong=3)), attempt=0, now_s=0.0)
    (frame,) = _frames(link.batch_to_send(attempt=0, now_s=0.0))
    assert frame == pb.Frame(pong=7)


def test_flood_of_pings_is_answered_in_part() -> None:
    link = _open_dialler()
    pings = [pb.Frame(ping=number) for number in range(1000)]
    link.receive_batch(_batch(*pings), attempt=0, now_s=0.0)
    assert len(_frames(link.batch_to_send(attempt=0, now_s=0.0))) <= 16


def test_silence_is_answered_by_a_ping_and_ends_the_carrier() -> None:
    link = _open_dialler()
    open_call(link)
    take_batches(link)
    assert link.next_deadline_s() == 10.0
    assert not link.handle_timeout(now_s=10.0)
    assert _frames(link.batch_to_send(attempt=0, now_s=10.0))[0].HasField("ping")
    assert link.next_deadline_s() == 20.0
    assert not link.handle_timeout(now_s=19.9)
    assert link.batch_to_send(attempt=0, now_s=19.9) is None
    assert link.handle_timeout(now_s=20.0)
    assert link.state is LinkState.OPEN


def test_anything_received_is_a_sign_of_life() -> None:
    link = _open_dialler()
    link.handle_timeout(now_s=10.0)
    link.receive_batch(_batch(), attempt=0, now_s=19.0)
    assert not link.handle_timeout(now_s=20.0)
    assert link.next_deadline_s() == 29.0


def test_process_that_slept_asks_before_it_trusts_its_timers() -> None:
    link = _open_dialler()
    assert not link.handle_timeout(now_s=500.0)
    assert _frames(link.batch_to_send(attempt=0, now_s=500.0))[0].HasField("ping")
    assert link.handle_timeout(now_s=520.0)


def test_parked_link_of_a_process_that_slept_gets_another_chance() -> None:
    link = _open_dialler()
    link.carrier_lost(0, now_s=1.0)
    link.handle_timeout(now_s=500.0)
    assert link.state is LinkState.PARKED
    link.handle_timeout(now_s=509.9)
    assert link.state is LinkState.PARKED
    link.handle_timeout(now_s=510.0)
    assert isinstance(_ended(link), KeepaliveTimeoutError)


# --- announcements ---


def _announce(link: Link, announcement_id: int, number: int) -> list[Event]:
    announce = pb.Announce(
        id=announcement_id, address="a", services=[pb.ServiceDescription(name="s")]
    )
    link.receive_batch(_batch(pb.Frame(announce=announce), number=number), attempt=0, now_s=0.0)
    return link.events_received()


def test_announcement_is_told_answered_and_taken_back() -> None:
    link = _open_dialler()
    (event,) = _announce(link, 4, 1)
    assert isinstance(event, AnnounceReceived)
    assert event.announce.address == "a"
    link.answer_announce(4)
    (batch,) = take_batches(link)
    assert _frames(batch) == [pb.Frame(announced=pb.Announced(id=4))]
    withdraw = _batch(pb.Frame(withdraw=pb.Withdraw(id=4)), number=2)
    link.receive_batch(withdraw, attempt=0, now_s=0.0)
    (taken,) = link.events_received()
    assert isinstance(taken, WithdrawReceived)
    assert taken.announcement_id == 4


def test_withdraw_of_a_refused_announcement_crosses_and_is_dropped() -> None:
    link = _open_dialler()
    _announce(link, 1, 1)
    link.answer_announce(1, status=3, details="no")
    link.receive_batch(
        _batch(pb.Frame(withdraw=pb.Withdraw(id=1)), number=2), attempt=0, now_s=0.0
    )
    assert link.events_received() == []
    assert link.state is LinkState.OPEN


@pytest.mark.parametrize("again", [1, 2])
def test_announcement_ids_grow(again: int) -> None:
    link = _open_dialler()
    _announce(link, 2, 1)
    (event,) = _announce(link, again, 2)
    assert isinstance(event, LinkEnded)


def test_withdraw_of_what_was_never_announced_is_a_protocol_error() -> None:
    link = _open_dialler()
    link.receive_batch(
        _batch(pb.Frame(withdraw=pb.Withdraw(id=1)), number=1), attempt=0, now_s=0.0
    )
    assert isinstance(_ended(link), ProtocolError)


def test_one_announcement_too_many_is_refused_and_the_link_goes_on() -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, announcements_max=1)
    dialler, acceptor = link_pair(limits)
    for announcement_id in (1, 2):
        dialler.announce(announcement_id, "a", [pb.ServiceDescription(name="s")])
    assert len(pump(dialler, acceptor)) == 1
    (refused,) = pump(acceptor, dialler)
    assert isinstance(refused, AnnouncedReceived)
    assert (refused.announced.id, refused.announced.status) == (2, 8)


# --- drain and end ---


def test_going_away_is_told_once_and_forbids_new_calls_here() -> None:
    dialler, acceptor = link_pair()
    for _ in range(2):
        acceptor.go_away(reason="the hub stops", time_left_s=2.5)
    (event,) = pump(acceptor, dialler)
    assert isinstance(event, GoingAwayReceived)
    assert event.going_away == pb.GoingAway(time_left_ms=2500, reason="the hub stops")
    assert dialler.is_draining
    for link in (dialler, acceptor):
        with pytest.raises(UsageError):
            open_call(link)


def test_time_left_of_a_drain_that_is_over_is_none() -> None:
    dialler, acceptor = link_pair()
    acceptor.go_away(reason="", time_left_s=-1.0)
    (event,) = pump(acceptor, dialler)
    assert isinstance(event, GoingAwayReceived)
    assert event.going_away.time_left_ms == 0


def test_parked_link_that_is_to_go_away_ends() -> None:
    dialler, acceptor = link_pair()
    open_call(dialler)
    pump(dialler, acceptor)
    acceptor.carrier_lost(0, now_s=1.0)
    acceptor.go_away(reason="the hub stops", time_left_s=2.5)
    assert isinstance(_ended(acceptor), CarrierLostError)


def test_orderly_close_ends_both_ends_without_an_error() -> None:
    dialler, acceptor = link_pair()
    open_call(dialler)
    pump(dialler, acceptor)
    dialler.close()
    dialler.close()
    assert dialler.has_farewell
    assert _ended(dialler) is None
    *_, ended = pump(dialler, acceptor)
    assert not dialler.has_farewell
    assert isinstance(ended, LinkEnded)
    assert ended.error is None
    assert ended.close == pb.Close()


def test_close_with_a_code_is_an_error_at_both_ends() -> None:
    dialler, acceptor = link_pair()
    dialler.close(code=pb.Close.CODE_SHUTDOWN, reason="bye")
    assert isinstance(_ended(dialler), LinkRefusedError)
    pump(dialler, acceptor)
    assert acceptor.state is LinkState.CLOSED


def test_idle_link_is_one_with_nothing_open_unsent_or_unacknowledged() -> None:
    dialler, acceptor = link_pair()
    assert dialler.is_idle
    assert dialler.held_bytes == 0
    assert dialler.round_trip_s is None
    call = open_call(dialler)
    assert not dialler.is_idle
    pump(dialler, acceptor)
    dialler.cancel_call(call)
    assert not dialler.is_idle
    pump(dialler, acceptor)
    assert dialler.calls_open_count == 0
    assert not dialler.is_idle
    assert dialler.held_bytes > 0
    pump(acceptor, dialler, now_s=0.2)
    assert dialler.is_idle
    assert dialler.round_trip_s == pytest.approx(0.2)


def test_frames_behind_one_that_ended_the_link_are_not_looked_at() -> None:
    link = _open_dialler()
    frames = [pb.Frame(call_id=4, data=b"x"), pb.Frame(going_away=pb.GoingAway())]
    link.receive_batch(_batch(*frames, number=1), attempt=0, now_s=0.0)
    assert [type(event) for event in link.events_received()] == [LinkEnded]


def test_welcome_without_a_resume_window_leaves_the_default() -> None:
    link = _dialler()
    welcome = pb.Welcome()
    welcome.CopyFrom(WELCOME)
    welcome.resume_window_ms = 0
    link.receive_batch(_batch(pb.Frame(welcome=welcome)), attempt=0, now_s=0.0)
    assert link.resume_window_s == DEFAULT_LIMITS.resume_window_s


def test_driver_is_told_when_a_flush_is_of_use() -> None:
    link = _open_dialler()
    assert not link.is_flush_due(now_s=0.0)
    link.receive_batch(_batch(number=1), attempt=0, now_s=0.0)
    assert not link.is_flush_due(now_s=0.05)
    assert link.is_flush_due(now_s=0.1)
    assert not link.has_full_batch()
    for _ in range(40):
        open_call(link)
    assert link.is_flush_due(now_s=0.0)
    assert link.has_full_batch()


def test_next_deadline_is_the_earliest_of_all() -> None:
    link = _open_dialler()
    open_call(link, deadline_s=1.0)
    assert link.next_deadline_s() == pytest.approx(1.0, abs=0.02)
    take_batches(link)
    link.carrier_lost(0, now_s=0.0)
    # The call's deadline is nearer than the turn a parked link takes, and then the turn is.
    assert link.next_deadline_s() == pytest.approx(1.0, abs=0.02)
    link.handle_timeout(now_s=1.1)
    assert link.next_deadline_s() == pytest.approx(7.0)


def test_link_that_waits_for_its_first_carrier_has_nothing_to_time_but_calls() -> None:
    link = Link(is_dialler=True, limits=DEFAULT_LIMITS, instance="i", now_s=0.0)
    assert link.next_deadline_s() is None
    open_call(link, deadline_s=30.0)
    assert not link.handle_timeout(now_s=30.02)
    (event,) = link.events_received()
    assert isinstance(event, CallEnded)
    assert event.frame.end.not_executed
