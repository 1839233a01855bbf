"""
Requests that a hub checks. Goal: no host is given one that breaks rules, callers are told the
truth, and nothing else changes: order, credit, other links' turns.

Method: a hub's core with a contract that has rules, and peers around it; checking turn by turn.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from google.rpc import status_pb2

from relayrpc.contract.descriptors import DescriptorSet, checked
from relayrpc.contract.validation import Validator
from relayrpc.hub.checks import RequestChecks
from relayrpc.hub.observer import HubObserver
from relayrpc.hub.rule_books import RuleBooks
from relayrpc.limits import DEFAULT_LIMITS, KIB, Limits
from relayrpc.link.call import (
    DETAILS_KEY,
    RETRY_PUSHBACK_KEY,
    STATUS_CANCELLED,
    STATUS_DEADLINE_EXCEEDED,
    STATUS_FAILED_PRECONDITION,
    STATUS_INTERNAL,
    STATUS_INVALID_ARGUMENT,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
    Call,
)
from relayrpc.link.events import CallEnded, CallOpened, DataReceived, HalfCloseReceived
from relayrpc.link.messages import encode_message
from relayrpc.v1 import link_pb2 as pb
from tests.support.hub_core import CorePeer, HubCore
from tests.support.ruled_contract import CONTRACT, SERVICE, message_class


Item, Order, Remark = map(message_class, ("Item", "Order", "Remark"))
KNOWN = checked(CONTRACT)
GOOD = encode_message(Item(name="a", count=1).SerializeToString())
BAD = encode_message(Item(name="a", count=10).SerializeToString())
BROKEN_ORDER = encode_message(Order(email="nobody").SerializeToString())
ORDER = encode_message(Order(email="a@b.org").SerializeToString())


class CheckedHub(HubCore):
    """A hub's core that checks what goes to "rules" and below."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(limits)
        self.known: dict[bytes, DescriptorSet] = {KNOWN.fingerprint: KNOWN}
        self.wakes_count = 0
        self.checks = RequestChecks(
            is_checked=lambda address: address == "rules" or address.startswith("rules/"),
            books=RuleBooks(
                descriptors=self.known.get,
                validator=Validator(limits),
                bytes_max=limits.checked_contracts_bytes_max,
            ),
            limits=limits,
        )
        self.checks.woken = self.woken
        self.forwarder.checks = self.checks

    def woken(self) -> None:
        self.wakes_count += 1

    def host(
        self, address: str = "rules", *, fingerprint: bytes = KNOWN.fingerprint, **options: Any
    ) -> CorePeer:
        host = self.peer(options.pop("instance", "host-1"))
        service = pb.ServiceDescription(name=SERVICE, fingerprint=fingerprint)
        host.link.announce(1, address, [service], **options)
        self.settle()
        return host

    def call(
        self, caller: CorePeer, method: str, data: bytes, address: str = "rules", **options: Any
    ) -> Call:
        return caller.link.open_call(
            f"{SERVICE}/{method}",
            address,
            shape=pb.SHAPE_STREAM_STREAM,
            app=None,
            data=data,
            now_s=self.now_s,
            **options,
        )

    def move(self) -> None:
        """Move batches, and check nothing."""
        super().settle()

    def turn(self) -> bool:
        """Check what one turn has time for, and move what comes of it."""
        is_left = self.forwarder.check_some(now_s=self.now_s)
        super().settle()
        return is_left

    def settle(self) -> None:
        super().settle()
        while self.checks.has_waiting:
            self.turn()


@pytest.fixture
def hub() -> CheckedHub:
    return CheckedHub()


@pytest.fixture
def caller(hub: CheckedHub) -> CorePeer:
    return hub.peer("caller-1")


def end_of(caller: CorePeer) -> pb.End:
    (event,) = caller.of(CallEnded)
    assert isinstance(event, CallEnded)
    return event.frame.end


def opened(host: CorePeer) -> list[bytes]:
    """What the calls that a host was given hold."""
    return [event.data for event in host.of(CallOpened) if isinstance(event, CallOpened)]


def received(host: CorePeer) -> bytes:
    """All request bytes that a host was given."""
    data = (event.data for event in host.of(DataReceived) if isinstance(event, DataReceived))
    return b"".join([*opened(host), *data])


# --- one request ---


def host_by_default(hub: CheckedHub, instance: str, default_address: str) -> CorePeer:
    """Link a host that names no address: where its contract says is where it stands."""
    host = hub.peer(instance)
    service = pb.ServiceDescription(
        name=SERVICE, fingerprint=KNOWN.fingerprint, default_address=default_address
    )
    host.link.announce(1, "", [service])
    hub.settle()
    return host


def test_request_that_keeps_to_its_rules_reaches_the_host(
    hub: CheckedHub, caller: CorePeer
) -> None:
    host = hub.host()
    hub.call(caller, "Place", ORDER, half_close=True)
    hub.settle()
    (event,) = host.of(CallOpened)
    assert isinstance(event, CallOpened)
    assert (event.data, event.frame.open.half_close) == (ORDER, True)
    assert not hub.forwarder.queue
    assert hub.wakes_count == 1


def test_request_that_breaks_rules_is_refused_before_a_host_has_it(
    hub: CheckedHub, caller: CorePeer
) -> None:
    host = hub.host()
    hub.call(caller, "Place", BROKEN_ORDER, half_close=True)
    hub.settle()
    assert not opened(host)
    end = end_of(caller)
    assert (end.status, end.origin) == (STATUS_INVALID_ARGUMENT, pb.End.ORIGIN_HUB)
    assert end.not_executed
    assert end.details == "invalid test.rules.Order: email: must be a valid email address"
    (trailer,) = [each for each in end.trailing_metadata if each.key == DETAILS_KEY]
    (detail,) = status_pb2.Status.FromString(trailer.value).details
    assert detail.type_url.endswith("/buf.validate.Violations")
    assert not hub.forwarder.queue


def test_bytes_that_are_no_request_are_refused(hub: CheckedHub, caller: CorePeer) -> None:
    host = hub.host()
    hub.call(caller, "Place", encode_message(b"\xff"), half_close=True)
    hub.settle()
    assert not opened(host)
    assert end_of(caller).status == STATUS_INVALID_ARGUMENT
    assert end_of(caller).details == "the request is no test.rules.Order"


@pytest.mark.parametrize(
    ("method", "address"), [("Place", "elsewhere"), ("Note", "rules"), ("Nothing", "rules/below")]
)
def test_what_is_not_to_be_checked_passes(
    hub: CheckedHub, caller: CorePeer, method: str, address: str
) -> None:
    """Another address; a method without rules, once that is known; one that is not there."""
    host = hub.host(address.partition("/")[0])
    hub.call(caller, method, BROKEN_ORDER, address)
    hub.settle()
    assert opened(host) == [BROKEN_ORDER]
    wakes_count = hub.wakes_count
    hub.call(caller, method, BROKEN_ORDER, address)
    hub.move()
    assert opened(host) == [BROKEN_ORDER] * 2
    assert hub.wakes_count == wakes_count


@pytest.mark.parametrize("address", ["", "rules", SERVICE])
def test_entry_of_a_host_counts_however_it_is_called(
    hub: CheckedHub, caller: CorePeer, address: str
) -> None:
    """A service whose host names no address stands at its default one, and at its name."""
    host = host_by_default(hub, "host-1", "rules")
    hub.call(caller, "Place", BROKEN_ORDER, address)
    hub.settle()
    assert not opened(host)
    assert end_of(caller).status == STATUS_INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("fingerprint", "status", "says"),
    [
        (b"", STATUS_FAILED_PRECONDITION, "its host has none"),
        (bytes(32), STATUS_UNAVAILABLE, "is not here yet"),
    ],
)
def test_calls_are_refused_where_the_contract_is_not_known(
    hub: CheckedHub, caller: CorePeer, fingerprint: bytes, status: int, says: str
) -> None:
    host = hub.host(fingerprint=fingerprint)
    hub.call(caller, "Place", ORDER)
    hub.settle()
    assert not opened(host)
    assert (end_of(caller).status, end_of(caller).not_executed) == (status, True)
    assert says in end_of(caller).details


def test_rules_that_cannot_be_used_let_no_request_pass(hub: CheckedHub, caller: CorePeer) -> None:
    host = hub.peer("host-1")
    service = pb.ServiceDescription(name="test.rules.Broken", fingerprint=KNOWN.fingerprint)
    host.link.announce(1, "rules", [service])
    hub.settle()
    caller.link.open_call(
        "test.rules.Broken/Do",
        "rules",
        shape=pb.SHAPE_UNARY_UNARY,
        app=None,
        data=encode_message(b""),
        now_s=hub.now_s,
    )
    hub.settle()
    assert not opened(host)
    assert end_of(caller).status == STATUS_INTERNAL
    assert "test.rules.Misfit cannot be used" in end_of(caller).details


# --- streams, and requests in pieces ---


def test_large_request_is_checked_when_it_is_whole(hub: CheckedHub, caller: CorePeer) -> None:
    items = [Item(name="x" * 1000, count=1)] * 60
    for count, is_taken in ((1, True), (10, False)):
        host = hub.host(f"rules/{count}", instance=f"host-{count}")
        items[-1] = Item(name="x", count=count)
        data = encode_message(Order(email="a@b.org", items=items).SerializeToString())
        call = hub.call(caller, "Place", data[: 20 * KIB], f"rules/{count}")
        hub.settle()
        (event,) = host.of(CallOpened)
        assert isinstance(event, CallOpened)
        caller.link.send_data(call, data[20 * KIB :])
        caller.link.half_close(call)
        host.link.grant(event.call, 60 * KIB)
        hub.settle()
        if is_taken:
            assert received(host) == data
            assert host.of(HalfCloseReceived)
        else:
            # Its last piece never came.
            assert received(host) != data
            assert data.startswith(received(host))
            (end,) = host.of(CallEnded)
            assert isinstance(end, CallEnded)
            assert end.frame.end.status == STATUS_CANCELLED
    assert end_of(caller).status == STATUS_INVALID_ARGUMENT


def test_stream_passes_up_to_the_request_that_breaks_rules(
    hub: CheckedHub, caller: CorePeer
) -> None:
    host = hub.host()
    call = hub.call(caller, "Chat", GOOD)
    hub.settle()
    (event,) = host.of(CallOpened)
    assert isinstance(event, CallOpened)
    host.link.grant(event.call, KIB)
    hub.settle()
    for data in (GOOD, GOOD + GOOD[:3], GOOD[3:]):
        caller.link.send_data(call, data)
        hub.settle()
    assert received(host) == GOOD * 4
    for data in (GOOD, BAD, GOOD):
        caller.link.send_data(call, data)
        hub.move()
    hub.settle()
    # What was on its way is worth nothing any more.
    assert received(host) == GOOD * 4
    end = end_of(caller)
    assert (end.status, end.not_executed) == (STATUS_INVALID_ARGUMENT, False)
    assert host.of(CallEnded)
    assert call not in hub.checks._calls


def test_credit_that_was_withheld_comes_although_requests_wait_to_be_checked() -> None:
    """A host grants more than the budget of its link lets through at once."""
    limits = replace(DEFAULT_LIMITS, link_budget_bytes=64 * KIB, calls_open_max=16)
    hub = CheckedHub(limits)
    caller, host = hub.peer("caller-1"), hub.host()
    call = hub.call(caller, "Chat", GOOD)
    hub.settle()
    (event,) = host.of(CallOpened)
    assert isinstance(event, CallOpened)
    host.link.grant(event.call, 200 * KIB)
    hub.settle()
    assert hub.forwarder.starved_count
    count = 100 * KIB // len(GOOD)
    for _ in range(count):
        caller.link.send_data(call, GOOD)
    hub.settle()
    assert received(host) == GOOD * (count + 1)


def test_end_of_a_stream_does_not_overtake_its_requests(hub: CheckedHub, caller: CorePeer) -> None:
    host = hub.host()
    call = hub.call(caller, "Collect", b"")
    hub.settle()
    (event,) = host.of(CallOpened)
    assert isinstance(event, CallOpened)
    host.link.grant(event.call, KIB)
    hub.settle()
    caller.link.send_data(call, GOOD)
    caller.link.half_close(call)
    hub.move()
    assert received(host) == b""
    assert not host.of(HalfCloseReceived)
    hub.settle()
    kinds = [type(event) for event in host.events]
    assert kinds[-2:] == [DataReceived, HalfCloseReceived]


def test_end_of_requests_and_credit_reach_a_call_that_waits_to_be_checked(
    hub: CheckedHub, caller: CorePeer
) -> None:
    host = hub.host()
    call = hub.call(caller, "Collect", GOOD, credit_bytes=0)
    hub.move()
    caller.link.half_close(call)
    caller.link.grant(call, 5 * KIB)
    hub.settle()
    (event,) = host.of(CallOpened)
    assert isinstance(event, CallOpened)
    assert event.frame.open.half_close
    host.link.send_data(event.call, b"r" * 5 * KIB)
    hub.settle()
    told = (event.data for event in caller.of(DataReceived) if isinstance(event, DataReceived))
    assert b"".join(told) == b"r" * 5 * KIB


# --- calls that end, wait, or go elsewhere ---


class Counting(HubObserver):
    """Counts calls."""

    def __init__(self) -> None:
        self.opened_count = self.ended_count = 0

    def call_opened(self, call: Any, opening: pb.Open) -> None:
        self.opened_count += 1

    def call_ended(self, call: Any, end: Any, registration: Any, duration_s: float) -> None:
        self.ended_count += 1


@pytest.mark.parametrize("how", ["cancel", "deadline", "link", "drain"])
def test_call_that_ends_while_it_waits_reaches_no_host(
    hub: CheckedHub, caller: CorePeer, how: str
) -> None:
    host = hub.host()
    counting = Counting()
    hub.forwarder.observers.add(counting)
    call = hub.call(caller, "Place", ORDER, deadline_s=hub.now_s + 5)
    hub.move()
    if how == "cancel":
        caller.link.cancel_call(call)
    elif how == "deadline":
        hub.now_s += 6
        caller.hub_link.handle_timeout(now_s=hub.now_s)
    elif how == "link":
        caller.link.close()
    else:
        hub.forwarder.drain(now_s=hub.now_s)
    hub.settle()
    assert not opened(host)
    assert not hub.forwarder.queue
    assert (counting.opened_count, counting.ended_count) == (1, 1)
    if how in ("deadline", "drain"):
        expected = STATUS_DEADLINE_EXCEEDED if how == "deadline" else STATUS_UNAVAILABLE
        assert end_of(caller).status == expected
        assert end_of(caller).not_executed


def test_call_that_waited_for_a_host_is_checked_when_one_comes(
    hub: CheckedHub, caller: CorePeer
) -> None:
    hub.call(caller, "Place", BROKEN_ORDER, wait_for_ready=True)
    hub.call(caller, "Place", ORDER, wait_for_ready=True)
    hub.settle()
    host = hub.host()
    assert opened(host) == [ORDER]
    assert end_of(caller).status == STATUS_INVALID_ARGUMENT


def test_call_that_was_checked_may_still_have_to_wait_for_a_slot(
    hub: CheckedHub, caller: CorePeer
) -> None:
    host = hub.host(slots=1)
    for _ in range(3):
        hub.call(caller, "Place", ORDER, half_close=True)
    hub.settle()
    for count in (1, 2, 3):
        events = [event for event in host.of(CallOpened) if isinstance(event, CallOpened)]
        assert len(events) == count
        host.link.end_call(events[-1].call)
        hub.settle()
    assert [event.frame.end.status for event in caller.of(CallEnded)] == [0, 0, 0]  # type: ignore[attr-defined]


def test_call_that_was_checked_goes_to_another_host_when_its_own_is_lost(
    hub: CheckedHub, caller: CorePeer
) -> None:
    """It is not checked again."""
    first = hub.host(instance="first")
    first.takes = False
    hub.call(caller, "Place", ORDER, half_close=True)
    hub.settle()
    second = hub.host(instance="second")
    wakes_count = hub.wakes_count
    hub.park(first)
    hub.move()
    assert opened(second) == [ORDER]
    assert not opened(first)
    assert (hub.wakes_count, hub.forwarder.reroutes_count) == (wakes_count, 1)


def test_call_goes_unchecked_to_no_host_whose_requests_are_checked(
    hub: CheckedHub, caller: CorePeer
) -> None:
    """It was for one elsewhere, which was lost before it was given the call."""
    first = host_by_default(hub, "first", "elsewhere")
    first.takes = False
    hub.call(caller, "Place", BROKEN_ORDER, SERVICE)
    hub.settle()
    second = host_by_default(hub, "second", "rules")
    hub.park(first)
    hub.settle()
    assert hub.forwarder.reroutes_count == 1
    assert not opened(second)
    assert end_of(caller).status == STATUS_INVALID_ARGUMENT


def test_call_that_only_waited_for_others_goes_unchecked_to_no_host_either(
    hub: CheckedHub, caller: CorePeer
) -> None:
    hub.host()
    first = host_by_default(hub, "first", "elsewhere")
    first.takes = False
    hub.call(caller, "Place", ORDER, order_key="k")
    hub.call(caller, "Place", BROKEN_ORDER, SERVICE, order_key="k")
    hub.move()
    second = host_by_default(hub, "second", "rules")
    hub.park(first)
    hub.settle()
    assert BROKEN_ORDER not in opened(second)
    end = end_of(caller)
    assert (end.status, end.not_executed) == (STATUS_UNAVAILABLE, True)
    assert end.details == "its host went, and the hub checks the requests of the next one"


def test_call_is_half_closed_behind_those_that_belong_to_it(
    hub: CheckedHub, caller: CorePeer
) -> None:
    """A session is closed when its calls have been checked."""
    host = hub.host()
    session = hub.call(caller, "Chat", b"")
    hub.settle()
    for _ in range(40):
        hub.call(caller, "Place", ORDER, anchor=session)
    caller.link.half_close(session)
    hub.move()
    assert len(opened(host)) < 40
    assert not host.of(HalfCloseReceived)
    hub.settle()
    assert len(opened(host)) == 1 + 40
    assert isinstance(host.events[-1], HalfCloseReceived)
    assert not hub.checks._anchors


def test_one_way_call_that_breaks_rules_is_dropped(hub: CheckedHub, caller: CorePeer) -> None:
    """It is over for its caller when the hub holds it."""
    host = hub.host()
    counting = Counting()
    hub.forwarder.observers.add(counting)
    for data in (BROKEN_ORDER, ORDER):
        hub.call(caller, "Place", data, half_close=True, one_way=True)
    hub.settle()
    assert opened(host) == [ORDER]
    assert [event.frame.end.status for event in caller.of(CallEnded)] == [0, 0]  # type: ignore[attr-defined]
    assert (counting.opened_count, counting.ended_count) == (2, 1)


# --- order, turns, bounds ---


def test_calls_with_an_order_do_not_pass_one_that_is_being_checked(
    hub: CheckedHub, caller: CorePeer
) -> None:
    host = hub.host()
    hub.call(caller, "Note", encode_message(b""))
    hub.settle()
    host.events.clear()
    hub.call(caller, "Place", ORDER, order_key="k")
    hub.call(caller, "Note", encode_message(b"\x0a\x01b"), order_key="k")
    hub.call(caller, "Note", encode_message(b"\x0a\x01c"))
    hub.move()
    # The one without an order was not asked to wait.
    assert opened(host) == [encode_message(b"\x0a\x01c")]
    hub.settle()
    assert opened(host)[1:] == [ORDER, encode_message(b"\x0a\x01b")]


def test_a_turn_checks_a_bounded_part_and_links_take_turns(hub: CheckedHub) -> None:
    host = hub.host()
    warm = hub.peer("warm")
    hub.call(warm, "Chat", GOOD)
    hub.settle()
    host.events.clear()
    busy, other = hub.peer("busy"), hub.peer("other")
    hub.call(busy, "Chat", GOOD * 1000)
    hub.move()
    hub.call(other, "Chat", GOOD)
    hub.move()
    turns_count = 1
    while hub.turn():
        turns_count += 1
        if turns_count == 2:
            assert opened(host) == [GOOD]
    assert opened(host) == [GOOD, GOOD * 1000]
    assert 20 < turns_count < 100


def test_what_is_left_of_calls_that_are_over_goes_before_others_and_counts_until_then(
    hub: CheckedHub,
) -> None:
    hub.host()
    busy, other = hub.peer("busy"), hub.peer("other")
    for _ in range(20):
        hub.call(busy, "Chat", GOOD * 100)
    hub.move()
    request = encode_message(Remark(text="x" * 2 * KIB).SerializeToString())
    turns_count = 0
    while True:
        calls = [hub.call(other, "Place", request) for _ in range(20)]
        hub.move()
        for call in calls:
            other.link.cancel_call(call)
        hub.move()
        waiting = [part for parts in hub.checks._waiting.values() for part in parts]
        held_bytes = hub.checks._held_bytes
        assert held_bytes >= sum(len(part.data) for part in waiting)
        if busy.hub_link.link_id not in hub.checks._waiting:
            break
        assert len(waiting) <= 20 + 20
        hub.turn()
        turns_count += 1
    assert turns_count > 20
    hub.settle()
    assert hub.checks._held_bytes == 0


def test_making_rules_ready_takes_turns(hub: CheckedHub, caller: CorePeer) -> None:
    host = hub.host()
    hub.call(caller, "Place", ORDER)
    hub.move()
    assert hub.turn()
    assert not opened(host)
    hub.settle()
    assert opened(host) == [ORDER]


@pytest.mark.parametrize("is_whole", [True, False])
def test_request_over_the_bound_is_refused(is_whole: bool) -> None:
    hub = CheckedHub(replace(DEFAULT_LIMITS, checked_message_bytes_max=KIB))
    caller = hub.peer("caller-1")
    host = hub.host()
    data = encode_message(Remark(text="x" * KIB).SerializeToString())
    hub.call(caller, "Place", data if is_whole else data[:10])
    hub.settle()
    assert not opened(host)
    assert end_of(caller).status == STATUS_RESOURCE_EXHAUSTED
    # To send it again is of no use.
    assert RETRY_PUSHBACK_KEY not in [each.key for each in end_of(caller).trailing_metadata]
    assert end_of(caller).details == (
        f"a request of {len(data) - 4} bytes is over 1024, up to which they are checked here"
    )


def test_requests_that_are_not_whole_are_bounded(hub: CheckedHub) -> None:
    hub = CheckedHub(replace(DEFAULT_LIMITS, checked_bytes_max=100 * KIB))
    caller = hub.peer("caller-1")
    hub.host()
    # Of each, two bytes of a request that is to have 30 KiB.
    piece = encode_message(bytes(30 * KIB))[:6]
    calls = [hub.call(caller, "Chat", piece) for _ in range(4)]
    hub.settle()
    end = end_of(caller)
    assert (end.status, end.not_executed) == (STATUS_RESOURCE_EXHAUSTED, True)
    assert "hold 102400 bytes already" in end.details
    assert RETRY_PUSHBACK_KEY in [each.key for each in end.trailing_metadata]
    caller.link.cancel_call(calls[0])
    hub.settle()
    hub.call(caller, "Chat", piece)
    hub.settle()
    assert len(caller.of(CallEnded)) == 1


def test_calls_that_wait_to_be_checked_are_bounded() -> None:
    hub = CheckedHub(replace(DEFAULT_LIMITS, queue_calls_max=2))
    caller = hub.peer("caller-1")
    host = hub.host()
    for _ in range(3):
        hub.call(caller, "Place", ORDER)
    hub.move()
    assert end_of(caller).status == STATUS_RESOURCE_EXHAUSTED
    assert "the hub is to check the request, and 2 calls wait already" in end_of(caller).details
    hub.settle()
    assert opened(host) == [ORDER] * 2


def test_rules_that_were_not_used_for_longest_go_first() -> None:
    limits = replace(DEFAULT_LIMITS, checked_contracts_bytes_max=len(CONTRACT) + 1)
    hub = CheckedHub(limits)
    caller = hub.peer("caller-1")
    hub.known[bytes(32)] = checked(CONTRACT, limits)
    first = hub.host("rules/1", instance="h1")
    second = hub.host("rules/2", instance="h2", fingerprint=bytes(32))
    for _ in range(2):
        hub.call(caller, "Place", ORDER, "rules/1")
        hub.call(caller, "Place", ORDER, "rules/2")
        hub.settle()
    assert opened(first) == opened(second) == [ORDER] * 2


def test_nothing_is_left_of_calls_that_are_over(hub: CheckedHub, caller: CorePeer) -> None:
    host = hub.host()
    for data in (GOOD, BAD, GOOD[:2]):
        hub.call(caller, "Chat", data)
    hub.settle()
    for event in host.of(CallOpened):
        assert isinstance(event, CallOpened)
        host.link.end_call(event.call)
    hub.settle()
    assert not hub.checks._calls
    assert not hub.checks._waiting
    assert hub.checks._held_bytes == 0
    budget = host.hub_link.budget
    assert budget is not None
    assert budget.used_bytes == 0
