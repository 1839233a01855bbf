"""
What the simulation found wrong in the hub's core, each in the fewest steps that show it.

Method: a hub's real table, router and forwarder between links joined by hand.
"""

from __future__ import annotations

import dataclasses

from relayrpc.limits import DEFAULT_LIMITS, KIB
from relayrpc.link.call import Call
from relayrpc.link.events import CallOpened, SendReady
from relayrpc.link.flow import Budget
from relayrpc.link.link import Link
from tests.support.hub_core import CorePeer, HubCore


def test_hub_charges_nothing_for_a_call_cancelled_in_the_batch_of_its_open() -> None:
    hub = HubCore()
    host = hub.peer("host", address="a")
    caller = hub.peer("caller")
    hub.open(caller, "a", data=b"x" * 6000)
    cancelled = hub.open(caller, "a", data=b"y")
    # Both frames are taken by the hub in one go.
    first = caller.link.batch_to_send(attempt=0, now_s=hub.now_s)
    assert first is not None
    assert isinstance(cancelled, Call)
    caller.link.cancel_call(cancelled)
    second = caller.link.batch_to_send(attempt=0, now_s=hub.now_s)
    assert second is not None
    for batch in (first, second):
        caller.hub_link.receive_batch(batch, attempt=0, now_s=hub.now_s)
    events = caller.hub_link.events_received()
    hub.forwarder.handle(caller.hub_link, events, now_s=hub.now_s)
    hub.settle()
    assert len(host.of(CallOpened)) == 1
    budget = caller.hub_link.budget
    assert budget is not None
    legs = caller.hub_link._calls.values()
    assert budget.used_bytes == sum(leg.charged_bytes for leg in legs)


def test_hub_charges_nothing_for_a_grant_in_the_batch_of_a_cancel() -> None:
    hub = HubCore()
    hub.peer("host", address="a")
    caller = hub.peer("caller")
    call = hub.open(caller, "a")
    assert isinstance(call, Call)
    hub.settle()
    caller.link.grant(call, 5000)
    grant = caller.link.batch_to_send(attempt=0, now_s=hub.now_s)
    caller.link.cancel_call(call)
    cancel = caller.link.batch_to_send(attempt=0, now_s=hub.now_s)
    assert grant is not None
    assert cancel is not None
    for batch in (grant, cancel):
        caller.hub_link.receive_batch(batch, attempt=0, now_s=hub.now_s)
    events = caller.hub_link.events_received()
    hub.forwarder.handle(caller.hub_link, events, now_s=hub.now_s)
    budget = caller.hub_link.budget
    assert budget is not None
    assert budget.used_bytes == 0


def test_link_says_that_a_writer_may_go_on_after_a_large_open() -> None:
    hub = HubCore()
    hub.peer("host", address="a")
    caller = hub.peer("caller")
    call = hub.open(caller, "a", data=b"x" * (DEFAULT_LIMITS.send_queue_bytes_high + 1))
    assert isinstance(call, Call)
    assert call.unsent_bytes > DEFAULT_LIMITS.send_queue_bytes_high
    hub.to_hub(caller)
    assert [type(event) for event in caller.link.events_received()] == [SendReady]


def test_budget_gives_no_crumbs_of_credit() -> None:
    """Else a nearly full budget sends bytes and grants of a few bytes round and round."""
    budget = Budget(limit_bytes=800, calls_max=4)
    link = Link(is_dialler=False, limits=DEFAULT_LIMITS, instance="i", now_s=0.0)
    idle, busy = (Call(link, is_opener=False, state=0) for _ in range(2))
    budget.charge(idle, 480)
    budget.charge(busy, 99)
    assert budget.charge_credit(busy, 500) == 0
    budget.release(busy, 30)
    assert budget.charge_credit(busy, 5) == 5
    assert budget.charge_credit(busy, 500) >= 25


def test_budget_holds_with_calls_of_both_directions_on_one_link() -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, calls_open_max=8, link_budget_bytes=32 * KIB)
    hub = HubCore(limits)
    left, right = hub.peer("left", address="l"), hub.peer("right", address="r")
    # Nothing leaves the hub towards the left.
    left.takes = False
    budget = left.hub_link.budget
    assert budget is not None
    for _ in range(8):
        hub.open(left, "r")
        hub.open(right, "l", data=b"x" * 3 * KIB)
        hub.settle()
        assert budget.used_bytes <= budget.limit_bytes


def test_budget_holds_when_a_peer_calls_itself() -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, calls_open_max=4, link_budget_bytes=64 * KIB)
    hub = HubCore(limits)
    peer = hub.peer("peer", address="a")
    peer.takes = False
    budget = peer.hub_link.budget
    assert budget is not None
    for size in (16 * KIB, 16 * KIB, 12 * KIB):
        # All but what is left of the shared half, to the byte.
        free = budget._shared_bytes_max - budget._shared_used_bytes + budget._share_bytes
        hub.open(peer, "a", data=b"x" * min(size, free))
        hub.settle()
        assert budget._shared_used_bytes <= budget._shared_bytes_max


def _budget(peer: CorePeer) -> Budget:
    budget = peer.hub_link.budget
    assert budget is not None
    return budget


def test_hub_takes_back_credit_when_the_opener_half_closes() -> None:
    """Else a long answer would hold the window of its request in the host's budget."""
    hub = HubCore()
    host = hub.peer("host", address="a")
    caller = hub.peer("caller")
    call = hub.open(caller, "a")
    assert isinstance(call, Call)
    hub.settle()
    (opened,) = host.of(CallOpened)
    assert isinstance(opened, CallOpened)
    host.link.grant(opened.call, 40_000)
    hub.settle()
    assert _budget(host).used_bytes == 40_000
    caller.link.half_close(call)
    hub.settle()
    assert _budget(host).used_bytes == 0
    host.link.grant(opened.call, 40_000)
    hub.settle()
    assert _budget(host).used_bytes == 0


def test_hub_takes_back_credit_when_the_end_waits_for_the_caller() -> None:
    hub = HubCore()
    host = hub.peer("host", address="a")
    caller = hub.peer("caller")
    caller.takes = False
    hub.open(caller, "a", credit_bytes=50_000)
    hub.settle()
    (opened,) = host.of(CallOpened)
    assert isinstance(opened, CallOpened)
    host.link.end_call(opened.call, data=bytes(20_000))
    hub.settle()
    assert _budget(caller).used_bytes == 20_000
