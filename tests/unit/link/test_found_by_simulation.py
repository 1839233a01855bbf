"""
What the simulation found wrong in the link's core, each in the fewest steps that show it.

Method: two ends joined by hand, no carrier and no clock.
"""

from __future__ import annotations

import dataclasses

from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.link.events import (
    AnnouncedReceived,
    AnnounceReceived,
    CallOpened,
    Event,
    GrantReceived,
    LinkEnded,
    WithdrawReceived,
)
from relayrpc.link.link import Link
from relayrpc.v1 import link_pb2 as pb


def _pair(limits: Limits = DEFAULT_LIMITS) -> tuple[Link, Link]:
    """A dialler and an acceptor after their handshake."""
    dialler = Link(is_dialler=True, limits=limits, instance="i", now_s=0.0)
    acceptor = Link(is_dialler=False, limits=limits, instance="i", now_s=0.0)
    dialler.carrier_opened(now_s=0.0)
    hello = dialler.batch_to_send(attempt=0, now_s=0.0)
    assert hello is not None
    acceptor.accept(
        pb.Batch.FromString(hello).frames[0].hello,
        link_id=bytes(16),
        secret=bytes(32),
        epoch=bytes(16),
    )
    _pump(acceptor, dialler)
    return dialler, acceptor


def _pump(sender: Link, receiver: Link, *, now_s: float = 0.0) -> list[Event]:
    """Move everything that is to be sent; returns what the receiver makes of it."""
    while (batch := sender.batch_to_send(attempt=sender.attempt, now_s=now_s)) is not None:
        receiver.receive_batch(batch, attempt=0, now_s=now_s)
    return receiver.events_received()


def test_link_sends_a_grant_behind_the_open_of_its_call() -> None:
    dialler, acceptor = _pair()
    call = dialler.open_call(
        "s/m", "a", shape=pb.SHAPE_UNARY_STREAM, app=None, data=b"x", half_close=True, now_s=0.0
    )
    dialler.grant(call, 5)
    events = _pump(dialler, acceptor)
    assert [type(event) for event in events] == [CallOpened, GrantReceived], events
    assert not any(isinstance(event, LinkEnded) for event in events)


def test_link_waits_for_its_carrier_with_an_ack_that_is_due() -> None:
    """Else the driver's timer fires again and again until the carrier takes the ack."""
    dialler, acceptor = _pair()
    dialler.open_call("s/m", "a", shape=pb.SHAPE_UNARY_UNARY, app=None, data=b"x", now_s=0.0)
    _pump(dialler, acceptor)
    ack_due_s = acceptor.next_deadline_s()
    assert ack_due_s == DEFAULT_LIMITS.ack_after_s
    assert acceptor.next_deadline_s(can_send=False) == DEFAULT_LIMITS.keepalive_interval_s


def test_link_resumes_though_more_was_acknowledged_after_resume_was_sent() -> None:
    """A link that moves goes on receiving, and acknowledging, on the older carrier."""
    dialler, acceptor = _pair()
    attempt = dialler.carrier_opened(now_s=0.0)
    resume = dialler.batch_to_send(attempt=attempt, now_s=0.0)
    assert resume is not None
    acceptor.go_away(reason="", time_left_s=1.0)
    _pump(acceptor, dialler)
    ack = dialler.batch_to_send(attempt=0, now_s=1.0)
    assert ack is not None
    acceptor.receive_batch(ack, attempt=0, now_s=1.0)
    frame = pb.Batch.FromString(resume).frames[0]
    assert acceptor.accept_resume(frame.resume, now_s=1.0) == ""


def test_link_withdraws_only_what_it_announced() -> None:
    """A live link may take back what it announced on the link before: a fault on this one."""
    dialler, acceptor = _pair()
    dialler.withdraw(1)
    dialler.announce(2, "a", [pb.ServiceDescription(name="s")])
    dialler.withdraw(2)
    dialler.withdraw(2)
    events = _pump(dialler, acceptor)
    assert [type(event) for event in events] == [AnnounceReceived, WithdrawReceived], events


def test_link_pings_when_its_deadline_is_reached_however_it_rounds() -> None:
    """Else the driver's timer fires again and again without a word being sent."""
    limits = dataclasses.replace(DEFAULT_LIMITS, keepalive_interval_s=0.1)
    for step in range(200):
        start_s = 1.0 + step / 7
        link = Link(is_dialler=False, limits=limits, instance="i", now_s=start_s)
        due_s = link.next_deadline_s()
        assert due_s is not None
        assert not link.handle_timeout(now_s=due_s)
        assert (link.next_deadline_s() or 0) > due_s


def test_parked_link_ends_when_the_resume_window_does() -> None:
    """The window is longer than two keepalives: its end is not taken for the end of a sleep."""
    dialler, _ = _pair()
    dialler.announce(1, "a", [pb.ServiceDescription(name="s")])
    dialler.carrier_lost(0, now_s=1.0)
    now_s = 1.0
    while not dialler.is_closed:
        due_s = dialler.next_deadline_s()
        assert due_s is not None
        assert due_s > now_s
        now_s = due_s
        dialler.handle_timeout(now_s=now_s)
    assert now_s == 1.0 + DEFAULT_LIMITS.resume_window_s


def test_link_drops_a_welcome_on_a_first_carrier_it_gave_up() -> None:
    link = Link(is_dialler=True, limits=DEFAULT_LIMITS, instance="i", now_s=0.0)
    link.carrier_opened(now_s=0.0)
    link.carrier_lost(0, now_s=2.0)
    welcome = pb.Welcome(version=1, link_id=bytes(16), secret=bytes(32), epoch=bytes(16))
    late = pb.Batch(frames=[pb.Frame(welcome=welcome)]).SerializeToString()
    link.receive_batch(late, attempt=0, now_s=2.0)
    assert link.events_received() == []
    assert not link.is_closed


def test_announcement_too_large_for_a_batch_is_refused_at_once() -> None:
    """Else it would wait for room for ever, and everything behind it."""
    dialler, acceptor = _pair()
    methods = [pb.Method(name="M" * 80, shape=pb.SHAPE_UNARY_UNARY)] * 64
    services = [pb.ServiceDescription(name=f"s{i}", methods=methods) for i in range(64)]
    dialler.announce(1, "a", services)
    (refused,) = dialler.events_received()
    assert isinstance(refused, AnnouncedReceived)
    assert refused.announced.status == 8
    dialler.announce(2, "a", services[:20])
    assert [type(event) for event in _pump(dialler, acceptor)] == [AnnounceReceived]
