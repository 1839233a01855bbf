"""
The hub's decisions about calls. Goal: what passes, what is taken out, what each end is told and
what it may claim, per DESIGN.md "What a caller is told". Method: a hub between hand-joined links,
with frames looked at as they leave.
"""

from __future__ import annotations

import dataclasses

import pytest

from relayrpc.limits import DEFAULT_LIMITS, KIB
from relayrpc.link.call import (
    STATUS_CANCELLED,
    STATUS_DEADLINE_EXCEEDED,
    STATUS_OK,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
    STATUS_UNIMPLEMENTED,
    Call,
)
from relayrpc.link.events import (
    AnnouncedReceived,
    BeginReceived,
    CallEnded,
    CallOpened,
    DataReceived,
    HalfCloseReceived,
)
from relayrpc.v1 import link_pb2 as pb
from tests.support.hub_core import SERVICE, CorePeer, HubCore


def _opened(host: CorePeer) -> CallOpened:
    event = host.of(CallOpened)[-1]
    assert isinstance(event, CallOpened)
    return event


def _end(caller: CorePeer) -> pb.End:
    (event,) = caller.of(CallEnded)
    assert isinstance(event, CallEnded)
    return event.frame.end


def _call(hub: HubCore, caller: CorePeer, **options: object) -> tuple[Call, CallOpened]:
    """Open a call that reaches the host, peer number 0."""
    call = hub.open(caller, "a", **options)
    assert isinstance(call, Call)
    hub.settle()
    return call, _opened(hub.peers[0])


@pytest.fixture
def hub() -> HubCore:
    return HubCore()


@pytest.fixture
def host(hub: HubCore) -> CorePeer:
    return hub.peer("host-1", address="a")


@pytest.fixture
def caller(hub: HubCore, host: CorePeer) -> CorePeer:
    return hub.peer("caller-1")


def test_open_reaches_the_host_with_what_the_hub_vouches_for(
    hub: HubCore, caller: CorePeer
) -> None:
    """What the caller says of itself is overwritten; what it says of the call is kept."""
    frame = pb.Frame(call_id=1)
    opening = frame.open
    opening.method_text = f"{SERVICE}/Call"
    opening.address_text = "a"
    opening.shape = pb.SHAPE_UNARY_STREAM
    opening.data = b"request"
    opening.half_close = True
    opening.credit_bytes = 1000
    opening.order_key = "session"
    opening.caller_identity = "root"
    opening.caller_peer = "ipv4:9.9.9.9:9"
    for key, value in (("k", b"1"), ("relay-address", b"x"), ("k", b"2"), ("bin-bin", b"\x00\xff")):
        opening.metadata.add(key=key, value=value)
    batch = pb.Batch(number=1, frames=[frame]).SerializeToString()
    caller.hub_link.receive_batch(batch, attempt=0, now_s=hub.now_s)
    events = caller.hub_link.events_received()
    hub.forwarder.handle(caller.hub_link, events, now_s=hub.now_s)
    hub.settle()
    event = _opened(hub.peers[0])
    got = event.frame.open
    assert (event.call.method, event.call.address) == (f"{SERVICE}/Call", "a")
    assert (got.shape, got.data, got.half_close) == (pb.SHAPE_UNARY_STREAM, b"request", True)
    assert (got.credit_bytes, got.order_key) == (1000, "session")
    assert (got.caller_identity, got.caller_peer) == ("caller-1", "test:caller-1")
    assert [(entry.key, entry.value) for entry in got.metadata] == [
        ("k", b"1"),
        ("k", b"2"),
        ("bin-bin", b"\x00\xff"),
    ]


def test_data_and_half_close_pass_both_ways_in_order(hub: HubCore, caller: CorePeer) -> None:
    host = hub.peers[0]
    call, opened = _call(hub, caller)
    host.link.grant(opened.call, 100)
    hub.settle()
    caller.link.send_data(call, b"one")
    caller.link.send_data(call, b"two")
    caller.link.half_close(call)
    hub.settle()
    host.link.send_data(opened.call, b"three")
    hub.settle()
    host.link.end_call(opened.call, data=b"four")
    hub.settle()
    assert b"".join(e.data for e in host.events if isinstance(e, DataReceived)) == b"onetwo"
    assert len(host.of(HalfCloseReceived)) == 1
    assert [e.data for e in caller.events if isinstance(e, DataReceived)] == [b"three"]
    assert _end(caller).data == b"four"


def test_credit_granted_in_the_batch_of_the_end_is_not_charged(hub: HubCore) -> None:
    """Of a peer that calls itself: GRANT for one leg and END of the other come in one batch."""
    peer = hub.peer("both", address="own")
    call = hub.open(peer, "own")
    assert isinstance(call, Call)
    hub.settle()
    opened = _opened(peer)
    peer.takes = False
    peer.link.grant(call, 1000)
    peer.link.send_data(opened.call, b"x" * 40_000)
    peer.link.end_call(opened.call)
    hub.to_hub(peer)
    budget = peer.hub_link.budget
    assert budget is not None
    assert budget.used_bytes == 40_000


def test_begin_names_the_host_and_loses_the_relays_own_keys(
    hub: HubCore, caller: CorePeer
) -> None:
    host = hub.peers[0]
    _, opened = _call(hub, caller)
    host.link.begin_call(
        opened.call, [("a", b"1"), ("relay-origin", b"hub")], instance="somebody else"
    )
    hub.settle()
    (event,) = caller.of(BeginReceived)
    assert isinstance(event, BeginReceived)
    begin = event.frame.begin
    assert begin.instance == "host-1"
    assert [(entry.key, entry.value) for entry in begin.metadata] == [("a", b"1")]


def test_end_of_a_host_passes_whole_but_speaks_for_the_host_only(
    hub: HubCore, caller: CorePeer
) -> None:
    host = hub.peers[0]
    _, opened = _call(hub, caller)
    host.link.end_call(
        opened.call,
        status=5,
        details="no such thing",
        data=b"last",
        initial_metadata=[("relay-x", b""), ("i", b"1")],
        trailing_metadata=[("t", b"1"), ("relay-may-have-executed", b"false"), ("t", b"2")],
        origin=pb.End.ORIGIN_HUB,
    )
    hub.settle()
    end = _end(caller)
    assert (end.status, end.details, end.data) == (5, "no such thing", b"last")
    assert end.origin == pb.End.ORIGIN_HOST
    assert not end.not_executed
    assert [(e.key, e.value) for e in end.initial_metadata] == [("i", b"1")]
    assert [(e.key, e.value) for e in end.trailing_metadata] == [("t", b"1"), ("t", b"2")]


@pytest.mark.parametrize(
    ("address", "method", "status"),
    [
        ("nowhere", f"{SERVICE}/Call", STATUS_UNAVAILABLE),
        ("a", "test.Other/Call", STATUS_UNIMPLEMENTED),
    ],
)
def test_call_without_a_host_ends_in_one_round_trip_unexecuted(
    hub: HubCore, caller: CorePeer, address: str, method: str, status: int
) -> None:
    caller.link.open_call(
        method, address, shape=pb.SHAPE_UNARY_UNARY, app=None, data=b"x", now_s=hub.now_s
    )
    hub.settle()
    end = _end(caller)
    assert (end.status, end.origin) == (status, pb.End.ORIGIN_HUB)
    assert end.not_executed
    assert address in end.details


def test_cancel_passes_with_its_reason(hub: HubCore, caller: CorePeer) -> None:
    call, _ = _call(hub, caller)
    caller.link.cancel_call(call)
    hub.settle()
    assert _end(hub.peers[0]).status == STATUS_CANCELLED


@pytest.mark.parametrize("was_given", [True, False])
def test_hub_ends_a_call_at_its_deadline(hub: HubCore, caller: CorePeer, was_given: bool) -> None:
    """Even if the host is silent; and it says whether the host may have had it."""
    host = hub.peers[0]
    if not was_given:
        host.hub_link.carrier_lost(0, now_s=hub.now_s)
        host.takes = False
    # The caller's own clock is slow: its timer does not come first.
    hub.open(caller, "a", deadline_s=hub.now_s + 1.0)
    hub.settle()
    hub.now_s += 1.02
    caller.hub_link.handle_timeout(now_s=hub.now_s)
    events = caller.hub_link.events_received()
    hub.forwarder.handle(caller.hub_link, events, now_s=hub.now_s)
    hub.settle()
    end = _end(caller)
    assert (end.status, end.origin) == (STATUS_DEADLINE_EXCEEDED, pb.End.ORIGIN_HUB)
    assert end.not_executed == (not was_given)
    if was_given:
        assert _end(host).status == STATUS_DEADLINE_EXCEEDED
    else:
        assert host.hub_link.calls_open_count == 0


def test_time_in_the_hub_is_taken_off_the_time_left(hub: HubCore, caller: CorePeer) -> None:
    host = hub.peers[0]
    host.takes = False
    hub.open(caller, "a", deadline_s=hub.now_s + 10.0)
    hub.settle()
    hub.now_s += 4.0
    host.takes = True
    hub.settle()
    assert _opened(host).frame.open.time_left_us == 6_000_000


def _lose(hub: HubCore, peer: CorePeer) -> None:
    """The hub's link of a peer is over for good."""
    peer.hub_link.close()
    events = peer.hub_link.events_received()
    assert not hub.forwarder.handle(peer.hub_link, events, now_s=hub.now_s)
    peer.takes = False
    hub.table.remove(peer.hub_link)
    hub.peers.remove(peer)


def test_host_lost_after_it_had_the_call_may_have_executed(
    hub: HubCore, host: CorePeer, caller: CorePeer
) -> None:
    hub.open(caller, "a")
    hub.settle()
    _lose(hub, host)
    hub.settle()
    end = _end(caller)
    assert (end.status, end.origin) == (STATUS_UNAVAILABLE, pb.End.ORIGIN_HUB)
    assert not end.not_executed
    assert not hub.forwarder.router.registrations


def test_host_lost_before_it_had_the_call_has_not_executed(
    hub: HubCore, host: CorePeer, caller: CorePeer
) -> None:
    host.takes = False
    hub.open(caller, "a")
    hub.settle()
    _lose(hub, host)
    hub.settle()
    assert _end(caller).not_executed


def test_caller_lost_cancels_its_calls_at_the_host(
    hub: HubCore, host: CorePeer, caller: CorePeer
) -> None:
    hub.open(caller, "a")
    hub.settle()
    _lose(hub, caller)
    hub.settle()
    assert _end(host).status == STATUS_CANCELLED
    assert host.hub_link.calls_open_count == 0
    assert [entry.calls_open_count for entry in hub.forwarder.router.registrations] == [0]


def test_end_made_by_the_hub_overtakes_what_waits_for_the_caller(
    hub: HubCore, host: CorePeer, caller: CorePeer
) -> None:
    hub.open(caller, "a", credit_bytes=60_000)
    hub.settle()
    caller.takes = False
    host.link.send_data(_opened(host).call, bytes(60_000))
    hub.settle()
    _lose(hub, host)
    caller.takes = True
    hub.settle()
    assert _end(caller).status == STATUS_UNAVAILABLE
    assert not caller.of(DataReceived)
    budget = caller.hub_link.budget
    assert budget is not None
    assert budget.used_bytes == 0


def test_host_that_goes_away_gets_no_new_calls(hub: HubCore, caller: CorePeer) -> None:
    host = hub.peers[0]
    host.hub_link.go_away(reason="the hub stops", time_left_s=5.0)
    hub.open(caller, "a")
    hub.settle()
    end = _end(caller)
    assert (end.status, end.not_executed) == (STATUS_UNAVAILABLE, True)


def test_withdrawn_host_gets_no_new_calls_and_finishes_old_ones(
    hub: HubCore, host: CorePeer, caller: CorePeer
) -> None:
    _, opened = _call(hub, caller)
    host.link.withdraw(1)
    hub.settle()
    hub.open(caller, "a")
    hub.settle()
    assert _end(caller).status == STATUS_UNAVAILABLE
    caller.events.clear()
    host.link.end_call(opened.call)
    hub.settle()
    assert _end(caller).status == STATUS_OK


def test_call_that_does_not_fit_the_hosts_budget_is_refused_unexecuted() -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, link_budget_bytes=64 * KIB, calls_open_max=16)
    hub = HubCore(limits)
    host = hub.peer("host", address="a")
    caller = hub.peer("caller")
    host.takes = False
    for _ in range(2):
        hub.open(caller, "a", data=bytes(20_000))
    hub.settle()
    end = _end(caller)
    assert (end.status, end.not_executed) == (STATUS_RESOURCE_EXHAUSTED, True)


def test_credit_the_budget_withheld_is_passed_on_when_there_is_room() -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, link_budget_bytes=64 * KIB, calls_open_max=16)
    hub = HubCore(limits)
    host = hub.peer("host", address="a")
    caller = hub.peer("caller")
    caller.takes = False
    hub.open(caller, "a", credit_bytes=64 * KIB)
    hub.settle()
    opened = _opened(host)
    first = opened.frame.open.credit_bytes
    assert 0 < first < 64 * KIB
    assert hub.forwarder.starved_count == 1
    host.link.send_data(opened.call, bytes(60 * KIB))
    hub.settle()
    budget = caller.hub_link.budget
    assert budget is not None
    assert budget.used_bytes <= budget.limit_bytes
    caller.takes = True
    hub.settle()
    received = sum(len(e.data) for e in caller.events if isinstance(e, DataReceived))
    assert received == 60 * KIB
    # All of the caller's 64 KiB are passed on in the end.
    host.link.send_data(opened.call, bytes(4 * KIB))
    hub.settle()
    assert hub.forwarder.starved_count == 0
    assert sum(len(e.data) for e in caller.events if isinstance(e, DataReceived)) == 64 * KIB


def test_many_calls_that_have_what_they_need_cost_nothing_to_serve() -> None:
    """Of a thousand calls most got less credit than their caller gave: none waits for it."""
    hub = HubCore()
    hub.peer("host", address="a")
    caller = hub.peer("caller")
    for _ in range(1000):
        hub.open(caller, "a", half_close=True)
    hub.settle()
    assert hub.forwarder.starved_count > 500
    tried = 0
    pass_withheld = hub.forwarder.credit._pass_withheld

    def count(leg: Call) -> bool:
        nonlocal tried
        tried += 1
        return pass_withheld(leg)

    hub.forwarder.credit._pass_withheld = count  # type: ignore[method-assign]
    (host, _) = hub.peers
    for event in host.of(CallOpened):
        assert isinstance(event, CallOpened)
        host.link.end_call(event.call, data=b"x" * 100)
    hub.settle()
    assert len(caller.of(CallEnded)) == 1000
    assert hub.forwarder.starved_count == 0
    assert tried == 0


@pytest.mark.parametrize(
    ("announce", "says"),
    [
        (pb.Announce(id=2, address="/x", services=[pb.ServiceDescription(name="s")]), "no path"),
        (pb.Announce(id=2, address="$hub", services=[pb.ServiceDescription(name="s")]), "reserved"),
        (pb.Announce(id=2, address="b"), "without services"),
        (
            pb.Announce(id=2, address="b", services=[pb.ServiceDescription(name="s")] * 257),
            "more than 256",
        ),
        (
            pb.Announce(
                id=2,
                address="b",
                services=[pb.ServiceDescription(name="s", methods=[pb.Method(name="m")] * 4097)],
            ),
            "4096 methods",
        ),
        (
            pb.Announce(id=2, address="b", services=[pb.ServiceDescription(name="")]),
            "a service without a name",
        ),
        (
            pb.Announce(
                id=2, address="b", services=[pb.ServiceDescription(name="s", fingerprint=b"short")]
            ),
            "a fingerprint that has not 32 bytes",
        ),
        (
            pb.Announce(
                id=2, address="b", services=[pb.ServiceDescription(name="s")], labels={"a b": ""}
            ),
            "'a b' is no name of a label",
        ),
    ],
)
def test_wrong_announcement_is_refused_with_the_reason(
    hub: HubCore, host: CorePeer, announce: pb.Announce, says: str
) -> None:
    host.link.announce(2, announce.address, list(announce.services), labels=announce.labels)
    hub.settle()
    event = host.of(AnnouncedReceived)[-1]
    assert isinstance(event, AnnouncedReceived)
    assert event.announced.status == 3
    assert says in event.announced.details
    assert len(hub.forwarder.router.registrations) == 1


def test_calls_are_shared_out_among_hosts(hub: HubCore, caller: CorePeer) -> None:
    other = hub.peer("host-2", address="a")
    for _ in range(10):
        hub.open(caller, "a")
        hub.settle()
    assert len(hub.peers[0].of(CallOpened)) == len(other.of(CallOpened)) == 5


@pytest.mark.parametrize("first", ["caller", "host"])
def test_what_crosses_the_end_of_a_call_at_the_hub_is_dropped(
    hub: HubCore, host: CorePeer, caller: CorePeer, first: str
) -> None:
    """Caller and host both end the call; the hub reads both before it acts on either."""
    call, opened = _call(hub, caller)
    host.link.grant(opened.call, 100)
    hub.settle()
    caller.link.send_data(call, b"x")
    caller.link.half_close(call)
    caller.link.grant(call, 5)
    said = [caller.link.batch_to_send(attempt=0, now_s=hub.now_s)]
    caller.link.cancel_call(call)
    said.append(caller.link.batch_to_send(attempt=0, now_s=hub.now_s))
    host.link.begin_call(opened.call)
    host.link.grant(opened.call, 5)
    host.link.send_data(opened.call, b"y")
    answered = [host.link.batch_to_send(attempt=0, now_s=hub.now_s)]
    host.link.end_call(opened.call)
    answered.append(host.link.batch_to_send(attempt=0, now_s=hub.now_s))
    for peer, batches in ((caller, said), (host, answered)):
        for batch in batches:
            assert batch is not None
            peer.hub_link.receive_batch(batch, attempt=0, now_s=hub.now_s)
    events = {peer: peer.hub_link.events_received() for peer in (caller, host)}
    order = (caller, host) if first == "caller" else (host, caller)
    for peer in order:
        assert hub.forwarder.handle(peer.hub_link, events[peer], now_s=hub.now_s)
    hub.settle()
    for peer in order:
        assert peer.hub_link.calls_open_count == 0
        assert _used_bytes(peer) == 0
    assert hub.forwarder.starved_count == 0
    assert [entry.calls_open_count for entry in hub.forwarder.router.registrations] == [0]


def _used_bytes(peer: CorePeer) -> int:
    assert peer.hub_link.budget is not None
    return peer.hub_link.budget.used_bytes


def test_starved_call_that_ends_is_starved_no_more() -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, link_budget_bytes=64 * KIB, calls_open_max=16)
    hub = HubCore(limits)
    host = hub.peer("host", address="a")
    caller = hub.peer("caller")
    call, opened = _call(hub, caller, credit_bytes=64 * KIB)
    host.link.grant(opened.call, 64 * KIB)
    hub.settle()
    assert hub.forwarder.starved_count == 2
    # More credit for those who wait already changes nothing.
    caller.link.grant(call, 10)
    hub.settle()
    assert hub.forwarder.starved_count == 2
    caller.link.half_close(call)
    hub.settle()
    assert hub.forwarder.starved_count == 1
    caller.link.cancel_call(call)
    hub.settle()
    assert hub.forwarder.starved_count == 0


def test_deadline_of_a_call_without_a_host_leg_is_answered_unexecuted(
    hub: HubCore, caller: CorePeer
) -> None:
    """The call was told of and its deadline passed in one batch: it is already past."""
    frame = pb.Frame(call_id=1)
    frame.open.method_text = f"{SERVICE}/Call"
    frame.open.address_text = "a"
    frame.open.time_left_us = 1
    batch = pb.Batch(number=1, age_ms=5000, frames=[frame]).SerializeToString()
    caller.hub_link.receive_batch(batch, attempt=0, now_s=hub.now_s)
    caller.hub_link.handle_timeout(now_s=hub.now_s + 0.02)
    events = caller.hub_link.events_received()
    hub.forwarder.handle(caller.hub_link, events, now_s=hub.now_s + 0.02)
    (sent,) = pb.Batch.FromString(
        caller.hub_link.batch_to_send(attempt=0, now_s=hub.now_s) or b""
    ).frames
    assert sent.end.status == STATUS_DEADLINE_EXCEEDED
    assert sent.end.not_executed


def test_host_is_told_who_ended_a_call_a_caller_or_its_loss(
    hub: HubCore, host: CorePeer, caller: CorePeer
) -> None:
    """A call with a dedupe key is worth finishing for a caller that may come back."""
    told = []
    for is_lost in (False, True):
        call, opened = _call(hub, caller)
        if is_lost:
            caller.link.close()
        else:
            caller.link.cancel_call(call)
        hub.settle()
        (end,) = [
            event.frame.end
            for event in host.of(CallEnded)
            if isinstance(event, CallEnded) and event.call is opened.call
        ]
        told.append((end.status, end.origin))
    assert told == [
        (STATUS_CANCELLED, pb.End.ORIGIN_CALLER),
        (STATUS_CANCELLED, pb.End.ORIGIN_HUB),
    ]
