"""
Calls that wait at the hub, and calls that come back to it. Goal: DESIGN.md "What a caller is told"
for parked hosts, full hosts, lost hosts that were handed nothing, and wait_for_ready. Method: a hub
between hand-joined links; time is a number.
"""

from __future__ import annotations

import dataclasses

import pytest

from relayrpc.limits import DEFAULT_LIMITS, KIB
from relayrpc.link.call import (
    RETRY_PUSHBACK_KEY,
    STATUS_CANCELLED,
    STATUS_DEADLINE_EXCEEDED,
    STATUS_OK,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
    Call,
)
from relayrpc.link.events import (
    AnnouncedReceived,
    CallEnded,
    CallOpened,
    DataReceived,
    HalfCloseReceived,
)
from relayrpc.v1 import link_pb2 as pb
from tests.support.hub_core import SERVICE, CorePeer, HubCore


@pytest.fixture
def hub() -> HubCore:
    return HubCore()


@pytest.fixture
def caller(hub: HubCore) -> CorePeer:
    return hub.peer("caller-1")


def _open(hub: HubCore, caller: CorePeer, **options: object) -> Call:
    call = hub.open(caller, "a", **options)
    assert isinstance(call, Call)
    hub.settle()
    return call


def _ends(peer: CorePeer) -> list[pb.End]:
    return [event.frame.end for event in peer.of(CallEnded)]  # type: ignore[attr-defined]


def _opens(peer: CorePeer) -> list[pb.Open]:
    return [event.frame.open for event in peer.of(CallOpened)]  # type: ignore[attr-defined]


def _answer(hub: HubCore, host: CorePeer) -> None:
    """Have a host end the oldest call that it has not ended."""
    for event in host.of(CallOpened):
        if not event.call.is_ended:  # type: ignore[attr-defined]
            host.link.end_call(event.call)  # type: ignore[attr-defined]
            break
    hub.settle()


def _leave(hub: HubCore, peer: CorePeer) -> None:
    """The hub's link of a peer is over for good."""
    peer.hub_link.close()
    events = peer.hub_link.events_received()
    hub.forwarder.handle(peer.hub_link, events, now_s=hub.now_s)
    peer.takes = False
    hub.table.remove(peer.hub_link)
    hub.peers.remove(peer)
    hub.settle()


def _is_clean(hub: HubCore) -> bool:
    queue = hub.forwarder.queue
    budgets = [peer.hub_link.budget for peer in hub.peers]
    return (
        not len(queue)
        and not queue.places
        and not queue._used_bytes
        and not hub.forwarder.starved_count
        and all(budget is not None and budget.used_bytes == 0 for budget in budgets)
        and not any(entry.calls_open_count for entry in hub.forwarder.router.registrations)
    )


# --- parked hosts ---


def test_call_waits_for_the_only_host_while_it_is_parked(hub: HubCore, caller: CorePeer) -> None:
    host = hub.peer("host", address="a")
    hub.park(host)
    _open(hub, caller, data=b"x" * 20_000, half_close=True)
    assert not _ends(caller)
    hub.now_s += 1.9
    hub.resume(host)
    hub.settle()
    (opening,) = _opens(host)
    assert opening.data == b"x" * 20_000
    assert opening.half_close
    _answer(hub, host)
    assert [end.status for end in _ends(caller)] == [STATUS_OK]
    assert _is_clean(hub)


def test_call_that_waited_two_seconds_for_a_parked_host_is_told_so(
    hub: HubCore, caller: CorePeer
) -> None:
    host = hub.peer("host", address="a")
    hub.park(host)
    _open(hub, caller)
    assert hub.forwarder.queue.next_end_s() == hub.now_s + 2.0
    hub.now_s += 2.0
    hub.forwarder.expire_queued(now_s=hub.now_s)
    hub.settle()
    (end,) = _ends(caller)
    assert (end.status, end.not_executed) == (STATUS_UNAVAILABLE, True)
    assert "lost its connection" in end.details
    hub.resume(host)
    hub.settle()
    assert not _opens(host)
    assert _is_clean(hub)


def test_call_with_wait_for_ready_waits_longer_for_a_parked_host(
    hub: HubCore, caller: CorePeer
) -> None:
    host = hub.peer("host", address="a")
    hub.park(host)
    _open(hub, caller, wait_for_ready=True)
    assert hub.forwarder.queue.next_end_s() is None
    hub.resume(host)
    hub.settle()
    assert len(_opens(host)) == 1


def test_other_hosts_go_before_a_parked_one(hub: HubCore, caller: CorePeer) -> None:
    parked, other = hub.peer("host-1", address="a"), hub.peer("host-2", address="a")
    hub.park(parked)
    for _ in range(3):
        _open(hub, caller)
    assert len(_opens(other)) == 3


def test_call_that_had_not_left_when_its_host_was_parked_goes_to_another(
    hub: HubCore, caller: CorePeer
) -> None:
    first = hub.peer("host-1", address="a")
    first.takes = False
    _open(hub, caller, data=b"x" * 30_000)
    other = hub.peer("host-2", address="a")
    hub.park(first)
    hub.settle()
    assert [opening.data for opening in _opens(other)] == [b"x" * 30_000]
    hub.resume(first)
    hub.settle()
    assert not _opens(first)


# --- wait_for_ready without a host ---


def test_call_with_wait_for_ready_waits_for_a_host_to_come(
    hub: HubCore, caller: CorePeer
) -> None:
    call = _open(hub, caller, wait_for_ready=True)
    assert not _ends(caller)
    caller.link.half_close(call)
    caller.link.grant(call, 1000)
    hub.settle()
    hub.peer("elsewhere", address="b")
    assert not _ends(caller)
    host = hub.peer("host", address="a")
    (opening,) = _opens(host)
    assert opening.half_close
    assert opening.credit_bytes == DEFAULT_LIMITS.initial_credit_bytes
    _answer(hub, host)
    assert _is_clean(hub)


def test_host_at_a_prefix_takes_the_calls_that_wait_below_it(
    hub: HubCore, caller: CorePeer
) -> None:
    hub.open(caller, "a/b/c", wait_for_ready=True)
    hub.open(caller, "ab", wait_for_ready=True)
    hub.settle()
    host = hub.peer("host", address="a/b")
    assert len(_opens(host)) == 1
    assert len(hub.forwarder.queue) == 1


def test_deadline_and_cancellation_end_a_call_that_waits(hub: HubCore, caller: CorePeer) -> None:
    _open(hub, caller, wait_for_ready=True, deadline_s=hub.now_s + 1.0)
    cancelled = _open(hub, caller, wait_for_ready=True)
    caller.link.cancel_call(cancelled)
    hub.settle()
    assert len(hub.forwarder.queue) == 1
    hub.now_s += 1.1
    caller.hub_link.handle_timeout(now_s=hub.now_s)
    hub.forwarder.handle(
        caller.hub_link, caller.hub_link.events_received(), now_s=hub.now_s
    )
    hub.settle()
    (end,) = _ends(caller)
    assert (end.status, end.not_executed) == (STATUS_DEADLINE_EXCEEDED, True)
    assert _is_clean(hub)


def test_caller_that_leaves_takes_its_waiting_calls_along(hub: HubCore) -> None:
    caller = hub.peer("caller")
    _open(hub, caller, wait_for_ready=True)
    _leave(hub, caller)
    host = hub.peer("host", address="a")
    assert not _opens(host)
    assert _is_clean(hub)


# --- slots ---


def test_calls_beyond_the_slots_wait_their_turn(hub: HubCore, caller: CorePeer) -> None:
    host = hub.peer("host", address="a", slots=2)
    for number in range(5):
        _open(hub, caller, data=b"%d" % number, half_close=True)
    assert [opening.data for opening in _opens(host)] == [b"0", b"1"]
    for _ in range(3):
        _answer(hub, host)
    assert [opening.data for opening in _opens(host)] == [b"0", b"1", b"2", b"3", b"4"]
    for _ in range(2):
        _answer(hub, host)
    assert len(_ends(caller)) == 5
    assert _is_clean(hub)


def test_call_that_waits_for_a_slot_goes_to_a_host_that_comes(
    hub: HubCore, caller: CorePeer
) -> None:
    hub.peer("host-1", address="a", slots=1)
    for _ in range(3):
        _open(hub, caller)
    other = hub.peer("host-2", address="a", slots=1)
    assert len(_opens(other)) == 1
    assert len(hub.forwarder.queue) == 1


def test_call_for_one_full_instance_does_not_hold_up_the_others(
    hub: HubCore, caller: CorePeer
) -> None:
    left = hub.peer("left", address="a", slots=1)
    right = hub.peer("right", address="a", slots=1)
    for _ in range(2):
        _open(hub, caller)
    _open(hub, caller, instance="left", data=b"pinned")
    _open(hub, caller, data=b"any")
    _answer(hub, right)
    assert _opens(right)[-1].data == b"any"
    _answer(hub, left)
    assert _opens(left)[-1].data == b"pinned"


def test_queue_is_bounded_in_calls_and_bytes(caller: CorePeer) -> None:
    limits = dataclasses.replace(
        DEFAULT_LIMITS, queue_calls_max=2, queue_bytes_max=30 * KIB
    )
    hub = HubCore(limits)
    caller = hub.peer("caller")
    for _ in range(3):
        _open(hub, caller, wait_for_ready=True)
    (end,) = _ends(caller)
    assert (end.status, end.not_executed) == (STATUS_RESOURCE_EXHAUSTED, True)
    assert end.details == "no host listens at 'a', and 2 calls wait already"
    (trailing,) = end.trailing_metadata
    assert (trailing.key, trailing.value) == (RETRY_PUSHBACK_KEY, b"1000")
    hub.open(caller, "b", wait_for_ready=True, data=bytes(30 * KIB))
    hub.settle()
    assert "hold 30720 bytes already" in _ends(caller)[1].details


# --- hosts that leave ---


def test_call_that_never_left_is_handed_to_another_host_when_the_first_is_lost(
    hub: HubCore, caller: CorePeer
) -> None:
    first = hub.peer("host-1", address="a")
    first.takes = False
    call = _open(hub, caller, data=b"x" * 9000)
    caller.link.half_close(call)
    hub.settle()
    other = hub.peer("host-2", address="a")
    _leave(hub, first)
    (opening,) = _opens(other)
    assert opening.data + b"".join(event.data for event in other.of(DataReceived)) == b"x" * 9000  # type: ignore[attr-defined]
    assert opening.half_close or other.of(HalfCloseReceived)
    _answer(hub, other)
    assert [end.status for end in _ends(caller)] == [STATUS_OK]
    assert _is_clean(hub)


def test_call_that_a_resume_showed_missing_is_handed_to_another_host(
    hub: HubCore, caller: CorePeer
) -> None:
    first = hub.peer("host-1", address="a")
    first.takes = False
    _open(hub, caller, data=b"x" * 9000, half_close=True)
    lost = first.hub_link.batch_to_send(attempt=first.hub_link.attempt, now_s=hub.now_s)
    assert lost is not None
    other = hub.peer("host-2", address="a")
    hub.park(first)
    hub.resume(first)
    # Welcome arrived, nothing else did.
    _leave(hub, first)
    (opening,) = _opens(other)
    assert opening.data + b"".join(event.data for event in other.of(DataReceived)) == b"x" * 9000  # type: ignore[attr-defined]
    _answer(hub, other)
    assert [end.status for end in _ends(caller)] == [STATUS_OK]
    assert _is_clean(hub)


def test_call_that_a_lost_host_may_hold_is_not_handed_to_another(
    hub: HubCore, caller: CorePeer
) -> None:
    first = hub.peer("host-1", address="a")
    _open(hub, caller)
    other = hub.peer("host-2", address="a")
    _leave(hub, first)
    (end,) = _ends(caller)
    assert (end.status, end.not_executed) == (STATUS_UNAVAILABLE, False)
    assert not _opens(other)


def test_withdrawing_host_is_told_when_no_more_calls_come(hub: HubCore, caller: CorePeer) -> None:
    host, other = hub.peer("host-1", address="a"), hub.peer("host-2", address="a")
    host.takes = False
    other.hub_link.is_draining = True
    _open(hub, caller)
    other.hub_link.is_draining = False
    host.link.withdraw(1)
    hub.settle()
    assert len(_opens(other)) == 1
    host.takes = True
    hub.settle()
    assert not _opens(host)
    answer = host.of(AnnouncedReceived)[-1]
    assert isinstance(answer, AnnouncedReceived)
    assert (answer.announced.id, answer.announced.status) == (1, STATUS_CANCELLED)


def test_drained_host_finishes_its_calls_and_gets_no_more(hub: HubCore, caller: CorePeer) -> None:
    host, other = hub.peer("host-1", address="a"), hub.peer("host-2", address="a", priority=1)
    _open(hub, caller)
    (registration,) = hub.forwarder.router.of_link(host.hub_link)
    hub.forwarder.hosts.set_drained(registration, is_drained=True, now_s=hub.now_s)
    _open(hub, caller)
    assert (len(_opens(host)), len(_opens(other))) == (1, 1)
    hub.forwarder.hosts.set_drained(registration, is_drained=False, now_s=hub.now_s)
    _open(hub, caller)
    assert len(_opens(host)) == 2


def test_calls_that_wait_for_a_slot_learn_at_once_that_the_host_goes_away(
    hub: HubCore, caller: CorePeer
) -> None:
    host = hub.peer("host", address="a", slots=1)
    _open(hub, caller)
    _open(hub, caller)
    host.link.go_away(reason="stopping", time_left_s=1.0)
    hub.settle()
    (end,) = _ends(caller)
    assert (end.status, end.not_executed) == (STATUS_UNAVAILABLE, True)
    assert len(_opens(host)) == 1


# --- drain ---


def test_hub_that_drains_refuses_the_calls_that_wait_and_those_that_come(
    hub: HubCore, caller: CorePeer
) -> None:
    """A host would have to come for them, and hosts go to other hubs now."""
    host = hub.peer("host", address="a", slots=1)
    _open(hub, caller)
    _open(hub, caller)
    _open(hub, caller, wait_for_ready=True)
    late = hub.peer("late")
    for peer in hub.peers:
        if peer is not late:
            peer.hub_link.go_away(reason="the hub stops", time_left_s=5.0)
    hub.forwarder.drain(now_s=hub.now_s)
    hub.settle()
    hub.open(late, "a", wait_for_ready=True)
    hub.settle()
    for end in (*_ends(caller), *_ends(late)):
        assert (end.status, end.origin) == (STATUS_UNAVAILABLE, pb.End.ORIGIN_HUB)
        assert end.not_executed
    assert (len(_ends(caller)), len(_ends(late))) == (2, 1)
    _answer(hub, host)
    assert [end.status for end in _ends(caller)][-1] == STATUS_OK
    assert _is_clean(hub)


@pytest.mark.parametrize("was_given", [True, False])
def test_drain_that_is_over_ends_calls_truthfully(
    hub: HubCore, caller: CorePeer, was_given: bool
) -> None:
    host = hub.peer("host", address="a")
    host.takes = was_given
    _open(hub, caller)
    hub.forwarder.end_calls(caller.hub_link, "the hub stopped", now_s=hub.now_s)
    hub.settle()
    (end,) = _ends(caller)
    assert (end.status, end.details) == (STATUS_UNAVAILABLE, "the hub stopped")
    assert (end.origin, end.not_executed) == (pb.End.ORIGIN_HUB, not was_given)
    assert [end.status for end in _ends(host)] == [STATUS_CANCELLED] * was_given
    assert _is_clean(hub)


def test_order_key_keeps_calls_of_one_link_on_one_host(hub: HubCore, caller: CorePeer) -> None:
    hosts = [hub.peer(f"host-{number}", address="a") for number in range(4)]
    for _ in range(8):
        _open(hub, caller, order_key="session")
    assert sorted(len(_opens(host)) for host in hosts) == [0, 0, 0, 8]
    assert all(opening.method for host in hosts for opening in _opens(host))
    assert SERVICE


def test_queue_counts_metadata(caller: CorePeer) -> None:
    """A call may hold 16 KiB of it, and what it counted is given back whatever came meanwhile."""
    hub = HubCore(dataclasses.replace(DEFAULT_LIMITS, queue_bytes_max=30 * KIB))
    caller = hub.peer("caller")
    metadata = [("k", bytes(15 * KIB))]
    call = _open(hub, caller, wait_for_ready=True, metadata=metadata)
    _open(hub, caller, wait_for_ready=True, metadata=metadata)
    (end,) = _ends(caller)
    assert "hold 30720 bytes already" in end.details
    caller.link.half_close(call)
    hub.settle()
    caller.link.cancel_call(call)
    hub.settle()
    assert _is_clean(hub)
