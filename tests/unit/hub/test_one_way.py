"""
One-way calls at the hub. Goal: the caller is told once the hub holds its call and not before, and
the call goes on as any does until a host was handed it; what is lost then is told to whoever
listens. Method: a hub between hand-joined links.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from relayrpc.hub.observer import HubObserver
from relayrpc.hub.routing import Registration
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.link.call import (
    STATUS_OK,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
    STATUS_UNKNOWN,
    Call,
)
from relayrpc.link.events import CallEnded, CallOpened
from relayrpc.link.messages import encode_message
from relayrpc.v1 import link_pb2 as pb
from tests.support.hub_core import CorePeer, HubCore


class Listener(HubObserver):
    """Statuses of the calls that are over at the hub."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, bool]] = []
        self.opened = 0

    def call_opened(self, call: Call, opening: pb.Open) -> None:
        self.opened += 1

    def call_ended(
        self, call: Call, end: pb.End, registration: Registration | None, duration_s: float
    ) -> None:
        self.ends.append((end.status, end.not_executed))


@pytest.fixture
def hub() -> HubCore:
    return HubCore()


@pytest.fixture
def listener(hub: HubCore) -> Listener:
    listener = Listener()
    hub.forwarder.observers.add(listener)
    return listener


def _send(hub: HubCore, caller: CorePeer, data: bytes = b"event", **options: Any) -> Call:
    options.setdefault("half_close", True)
    call = hub.open(caller, "a", data=encode_message(data), one_way=True, **options)
    assert isinstance(call, Call)
    hub.settle()
    return call


def _opened(peer: CorePeer) -> list[CallOpened]:
    return [event for event in peer.events if isinstance(event, CallOpened)]


def _ends(peer: CorePeer) -> list[tuple[int, bytes]]:
    ends = [event.frame.end for event in peer.events if isinstance(event, CallEnded)]
    return [(end.status, end.data) for end in ends]


OK = (STATUS_OK, encode_message(b""))


def test_caller_is_told_before_the_handler_returns(hub: HubCore, listener: Listener) -> None:
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    _send(hub, caller, deadline_s=hub.now_s + 5)
    assert _ends(caller) == [OK]
    assert listener.ends == []
    (came,) = _opened(host)
    assert came.data == encode_message(b"event")
    assert came.frame.open.one_way
    assert came.call.deadline_s is None
    host.link.end_call(came.call, status=STATUS_UNKNOWN, details="failed")
    hub.settle()
    assert _ends(caller) == [OK]
    assert listener.ends == [(STATUS_UNKNOWN, False)]
    assert listener.opened == 1


def test_one_without_a_host_is_refused_and_one_that_may_wait_is_held(
    hub: HubCore, listener: Listener
) -> None:
    caller = hub.peer("caller")
    _send(hub, caller)
    assert [status for status, _ in _ends(caller)] == [STATUS_UNAVAILABLE]
    assert listener.ends == [(STATUS_UNAVAILABLE, True)]
    _send(hub, caller, wait_for_ready=True)
    assert _ends(caller)[1:] == [OK]
    host = hub.peer("host", address="a")
    assert len(_opened(host)) == 1


def test_one_whose_request_is_not_complete_is_an_ordinary_call(hub: HubCore) -> None:
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    call = _send(hub, caller, half_close=False)
    assert _ends(caller) == []
    caller.link.half_close(call)
    hub.settle()
    (came,) = _opened(host)
    host.link.end_call(came.call, data=encode_message(b"reply"))
    hub.settle()
    assert _ends(caller) == [(STATUS_OK, encode_message(b"reply"))]


def test_a_host_that_was_not_handed_it_is_replaced(hub: HubCore, listener: Listener) -> None:
    """Also after the caller is gone, and after a while without any host."""
    first, caller = hub.peer("first", address="a"), hub.peer("caller")
    first.takes = False
    _send(hub, caller)
    assert _ends(caller) == [OK]
    caller.link.close()
    hub.settle()
    first.hub_link.close()
    hub.forwarder.handle(
        first.hub_link, first.hub_link.events_received(), now_s=hub.now_s
    )
    assert listener.ends == []
    second = hub.peer("second", address="a")
    (came,) = _opened(second)
    second.link.end_call(came.call)
    hub.settle()
    assert listener.ends == [(STATUS_OK, False)]


def test_what_a_host_had_when_it_was_lost_is_lost_and_told(
    hub: HubCore, listener: Listener
) -> None:
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    _send(hub, caller)
    host.link.close()
    hub.settle()
    assert listener.ends == [(STATUS_UNAVAILABLE, False)]
    assert _ends(caller) == [OK]


def test_one_that_waits_too_long_is_lost_and_told(hub: HubCore, listener: Listener) -> None:
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    hub.park(host)
    _send(hub, caller)
    _send(hub, caller)
    assert _ends(caller) == [OK, OK]
    queue = hub.forwarder.queue
    due_s = queue.next_end_s()
    assert due_s == hub.now_s + hub.limits.one_way_wait_s
    hub.forwarder.expire_queued(now_s=due_s)
    assert listener.ends == [(STATUS_UNAVAILABLE, True)] * 2
    assert len(queue) == 0


def test_an_impatient_call_behind_a_patient_one_ends_first(hub: HubCore) -> None:
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    hub.park(host)
    _send(hub, caller)
    hub.open(caller, "a")
    hub.settle()
    assert hub.forwarder.queue.next_end_s() == hub.now_s + hub.limits.parked_wait_s


def test_full_means_waiting_and_then_refusal() -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, calls_open_max=2, queue_calls_max=3)
    hub = HubCore(limits)
    listener = Listener()
    hub.forwarder.observers.add(listener)
    host = hub.peer("host", address="a")
    callers = [hub.peer(f"caller-{number}") for number in range(6)]
    for caller in callers:
        _send(hub, caller)
    assert [_ends(caller)[0][0] for caller in callers] == [
        STATUS_OK,
        STATUS_OK,
        STATUS_OK,
        STATUS_OK,
        STATUS_OK,
        STATUS_RESOURCE_EXHAUSTED,
    ]
    done = 0
    while len(_opened(host)) > done:
        host.link.end_call(_opened(host)[done].call)
        done += 1
        hub.settle()
    assert done == 5
    assert listener.ends == [(STATUS_RESOURCE_EXHAUSTED, True)] + [(STATUS_OK, False)] * 5


def test_a_session_keeps_its_order(hub: HubCore) -> None:
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    session = hub.open(caller, "a")
    assert isinstance(session, Call)
    hub.settle()
    sent = [b"%d" % number + b"x" * (number * 997 % 50_000) for number in range(20)]
    for data in sent:
        _send(hub, caller, data, anchor=session)
    assert [event.data for event in _opened(host)[1:]] == [encode_message(data) for data in sent]
    assert _ends(caller) == [OK] * 20


def test_a_callback_may_be_one_way(hub: HubCore) -> None:
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    hub.open(caller, "a")
    hub.settle()
    (came,) = _opened(host)
    _send(hub, host, anchor=came.call)
    assert len(_opened(caller)) == 1
    assert _ends(host) == [OK]


def test_nothing_is_left_charged(hub: HubCore) -> None:
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    for _ in range(3):
        _send(hub, caller, b"x" * 10_000)
    for event in _opened(host):
        host.link.send_data(event.call, b"unwanted")
        host.link.end_call(event.call, data=b"x")
    hub.settle()
    for peer in (host, caller):
        assert peer.hub_link.budget is not None
        assert peer.hub_link.budget.used_bytes == 0
        assert peer.hub_link.calls_open_count == 0
