"""
One-way calls at the hub. Goal: the caller is told once the hub holds its call and not before; the
call goes on as any does until a host was handed it, and to another host where that one says that it
did not run; none runs twice; what is lost is told to whoever listens. Method: a hub between
hand-joined links.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from relayrpc.hub.observer import HubObserver
from relayrpc.hub.one_way import is_lost
from relayrpc.hub.routing import Registration
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.link.call import (
    STATUS_DEADLINE_EXCEEDED,
    STATUS_FAILED_PRECONDITION,
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
        self.lost_count = 0
        self.opened = 0

    def call_opened(self, call: Call, opening: pb.Open) -> None:
        self.opened += 1

    def call_ended(
        self, call: Call, end: pb.End, registration: Registration | None, duration_s: float
    ) -> None:
        self.ends.append((end.status, end.not_executed))
        self.lost_count += is_lost(call, end)


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
    assert listener.lost_count == 0
    assert listener.opened == 1


def test_one_without_a_host_is_refused_and_one_that_may_wait_is_held(
    hub: HubCore, listener: Listener
) -> None:
    caller = hub.peer("caller")
    _send(hub, caller)
    assert [status for status, _ in _ends(caller)] == [STATUS_UNAVAILABLE]
    assert listener.ends == [(STATUS_UNAVAILABLE, True)]
    assert listener.lost_count == 0
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
    assert listener.lost_count == 1
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
    assert listener.lost_count == 2
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
    assert listener.lost_count == 0


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


# --- hosts that refuse one ---


def _refuse(hub: HubCore, host: CorePeer, status: int = STATUS_RESOURCE_EXHAUSTED) -> None:
    """Have a host end the call that it was handed last, not executed."""
    host.link.end_call(_opened(host)[-1].call, status=status, not_executed=True)
    hub.settle()


def _pass(hub: HubCore, time_s: float) -> None:
    hub.now_s += time_s
    hub.forwarder.expire_queued(now_s=hub.now_s)
    hub.settle()


@pytest.mark.parametrize("status", [STATUS_RESOURCE_EXHAUSTED, STATUS_UNAVAILABLE])
def test_one_that_its_host_refused_goes_to_another_after_a_pause(
    status: int, hub: HubCore, listener: Listener
) -> None:
    first, caller = hub.peer("first", address="a"), hub.peer("caller")
    data = b"x" * 60_000
    _send(hub, caller, data, metadata=[("k", b"v")])
    caller.link.close()
    hub.settle()
    _refuse(hub, first, status)
    hub.forwarder.hosts.set_drained(
        hub.forwarder.router.of_link(first.hub_link)[0], is_drained=True, now_s=hub.now_s
    )
    second = hub.peer("second", address="a")
    _pass(hub, hub.limits.retry_after_s * 0.9)
    assert _opened(second) == []
    assert hub.forwarder.queue.next_end_s() is not None
    _pass(hub, hub.limits.retry_after_s * 0.2)
    (came,) = _opened(second)
    assert came.data == encode_message(data)
    assert [entry.key for entry in came.frame.open.metadata] == ["k"]
    assert came.frame.open.half_close
    assert listener.ends == []
    second.link.end_call(came.call)
    hub.settle()
    assert (listener.ends, listener.lost_count) == ([(STATUS_OK, False)], 0)
    assert len(_opened(first)) == 1
    assert hub.forwarder.held.kept_bytes == 0


def test_one_that_is_refused_over_and_over_is_lost_in_the_end(
    hub: HubCore, listener: Listener
) -> None:
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    _send(hub, caller)
    hub.now_s += 1000
    began_s = hub.now_s
    while not listener.ends:
        _refuse(hub, host)
        _pass(hub, hub.limits.retry_after_s)
    assert listener.ends == [(STATUS_RESOURCE_EXHAUSTED, True)]
    assert listener.lost_count == 1
    assert began_s + hub.limits.one_way_wait_s <= hub.now_s <= began_s + 62
    assert len(_opened(host)) == 61
    assert len(hub.forwarder.queue) == 0


def test_one_that_was_refused_waits_no_longer_for_a_host_that_goes(
    hub: HubCore, listener: Listener
) -> None:
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    _send(hub, caller)
    _refuse(hub, host, STATUS_UNAVAILABLE)
    host.link.close()
    hub.settle()
    _pass(hub, hub.limits.retry_after_s)
    assert listener.ends == []
    _pass(hub, hub.limits.one_way_wait_s - hub.limits.retry_after_s)
    assert (listener.ends, listener.lost_count) == ([(STATUS_UNAVAILABLE, True)], 1)


@pytest.mark.parametrize(
    ("status", "not_executed", "lost_count"),
    [
        (STATUS_FAILED_PRECONDITION, True, 1),
        (STATUS_UNAVAILABLE, False, 1),
        (STATUS_DEADLINE_EXCEEDED, False, 1),
        (STATUS_RESOURCE_EXHAUSTED, False, 0),
        (STATUS_UNKNOWN, False, 0),
    ],
)
def test_what_may_have_run_or_never_will_is_not_tried_again(
    status: int, not_executed: bool, lost_count: int, hub: HubCore, listener: Listener
) -> None:
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    _send(hub, caller)
    (came,) = _opened(host)
    host.link.end_call(came.call, status=status, not_executed=not_executed)
    hub.settle()
    assert (listener.ends, listener.lost_count) == ([(status, not_executed)], lost_count)
    assert len(hub.forwarder.queue) == 0


def test_one_of_a_session_is_tried_nowhere_again(hub: HubCore, listener: Listener) -> None:
    """Those behind it have gone to the host: its order would be lost."""
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    session = hub.open(caller, "a")
    hub.settle()
    _send(hub, caller, anchor=session)
    _refuse(hub, host)
    assert (listener.ends, listener.lost_count) == ([(STATUS_RESOURCE_EXHAUSTED, True)], 1)


def test_an_ordinary_call_is_its_callers_to_make_again(hub: HubCore) -> None:
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    hub.open(caller, "a", half_close=True)
    hub.settle()
    _refuse(hub, host)
    assert [status for status, _ in _ends(caller)] == [STATUS_RESOURCE_EXHAUSTED]
    assert len(hub.forwarder.queue) == 0


def test_what_is_kept_is_bounded() -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, one_way_kept_bytes_max=3000)
    hub = HubCore(limits)
    listener = Listener()
    hub.forwarder.observers.add(listener)
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    for _ in range(3):
        _send(hub, caller, b"x" * 1200)
    for event in _opened(host):
        host.link.end_call(event.call, status=STATUS_UNAVAILABLE, not_executed=True)
    hub.settle()
    assert (listener.ends, listener.lost_count) == ([(STATUS_UNAVAILABLE, True)], 1)
    assert len(hub.forwarder.queue) == 2
    assert hub.forwarder.held.kept_bytes == 0


def test_those_that_pause_come_back_one_after_the_other_and_are_bounded() -> None:
    hub = HubCore(dataclasses.replace(DEFAULT_LIMITS, queue_calls_max=4))
    listener = Listener()
    hub.forwarder.observers.add(listener)
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    for number in range(5):
        _send(hub, caller, b"%d" % number)
    for event in _opened(host):
        host.link.end_call(event.call, status=STATUS_RESOURCE_EXHAUSTED, not_executed=True)
    hub.settle()
    assert (listener.ends, listener.lost_count) == ([(STATUS_RESOURCE_EXHAUSTED, True)], 1)
    host.events.clear()
    _pass(hub, hub.limits.retry_after_s)
    for count in range(1, 5):
        assert len(_opened(host)) == count
        _pass(hub, hub.limits.retry_after_s / 4)
    assert [event.data for event in _opened(host)] == [encode_message(b"%d" % n) for n in range(4)]


def test_those_that_pause_end_with_the_hub(hub: HubCore, listener: Listener) -> None:
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    for _ in range(2):
        _send(hub, caller)
    first, second = _opened(host)
    host.link.end_call(first.call, status=STATUS_UNAVAILABLE, not_executed=True)
    hub.settle()
    hub.forwarder.drain(now_s=hub.now_s)
    assert (listener.ends, listener.lost_count) == ([(STATUS_UNAVAILABLE, True)], 1)
    host.link.end_call(second.call, status=STATUS_RESOURCE_EXHAUSTED, not_executed=True)
    hub.settle()
    assert listener.lost_count == 2
    assert len(hub.forwarder.queue) == 0


def test_one_for_which_its_hosts_link_has_no_room_pauses() -> None:
    """It had waited for a slot, and its caller was told that the hub holds it."""
    hub = HubCore(dataclasses.replace(DEFAULT_LIMITS, link_budget_bytes=200_000))
    listener = Listener()
    hub.forwarder.observers.add(listener)
    host, caller = hub.peer("host", address="a", slots=1), hub.peer("caller")
    _send(hub, caller)
    _send(hub, caller, b"second" * 10_000)
    (running,) = _opened(host)
    budget = host.hub_link.budget
    assert budget is not None
    taken = Call(host.hub_link, is_opener=True, state=0)
    budget.charge(taken, 90_000)
    host.link.end_call(running.call)
    hub.settle()
    assert listener.ends == [(STATUS_OK, False)]
    assert len(hub.forwarder.queue) == 1
    budget.release(taken, 90_000)
    _pass(hub, hub.limits.retry_after_s)
    assert encode_message(b"second" * 10_000) in [event.data for event in _opened(host)]


def test_the_contracts_timeout_begins_when_the_host_has_it(
    hub: HubCore, listener: Listener
) -> None:
    """However long it waited before, also behind a connection that is stuck."""
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    (registration,) = hub.forwarder.router.of_link(host.hub_link)
    registration.timeouts_max_s["test.Service/Call"] = 2.0
    host.takes = False
    _send(hub, caller)
    hub.now_s += 10
    host.takes = True
    hub.settle()
    (came,) = _opened(host)
    assert came.call.deadline_s == pytest.approx(hub.now_s + 2.0)
    _refuse(hub, host)
    registration.timeouts_max_s.clear()
    _pass(hub, hub.limits.retry_after_s)
    assert _opened(host)[-1].call.deadline_s is None
    assert listener.ends == []


@pytest.mark.parametrize("seed", range(6))
def test_every_one_runs_once_or_is_told_to_be_lost(seed: int) -> None:
    """Hosts refuse, run, fail, come and go as they like."""
    draw = random.Random(seed)
    hub = HubCore(dataclasses.replace(DEFAULT_LIMITS, queue_calls_max=20, one_way_wait_s=10.0))
    listener = Listener()
    hub.forwarder.observers.add(listener)
    caller = hub.peer("caller")
    hosts: list[CorePeer] = []
    ran: list[bytes] = []
    held_count = 0
    for step in range(150):
        if len(hosts) < 3 and draw.random() < 0.1:
            hosts.append(hub.peer(f"host-{step}", address="a", slots=draw.choice((0, 2))))
        before = len(_ends(caller))
        _send(hub, caller, b"%d" % step, wait_for_ready=draw.random() < 0.5)
        held_count += _ends(caller)[before:] == [OK]
        for host in list(hosts):
            for event in _opened(host):
                if event.call.is_ended:
                    continue
                match draw.randrange(6):
                    case 0 | 1:
                        status = draw.choice((STATUS_UNAVAILABLE, STATUS_RESOURCE_EXHAUSTED))
                        host.link.end_call(event.call, status=status, not_executed=True)
                    case 2 | 3:
                        ran.append(event.data)
                        status = draw.choice((STATUS_OK, STATUS_UNKNOWN))
                        host.link.end_call(event.call, status=status)
            if draw.random() < 0.03:
                hub.settle()
                host.link.close()
                hosts.remove(host)
        _pass(hub, draw.random())
    for host in hosts:
        host.link.close()
    hub.settle()
    _pass(hub, 11)
    _pass(hub, 11)
    assert len(hub.forwarder.queue) == 0
    assert hub.forwarder.held.kept_bytes == 0
    assert len(set(ran)) == len(ran)
    assert held_count == len(ran) + listener.lost_count
    assert listener.lost_count
