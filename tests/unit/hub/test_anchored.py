"""
Calls that belong to another one by its anchor. Goal: they go where the other end of that one is, in
the order of their opening, and nowhere else; they end with the truth when it is gone. Method: a hub
between hand-joined links.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.link.call import (
    STATUS_OK,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
    STATUS_UNIMPLEMENTED,
    Call,
)
from relayrpc.link.events import CallEnded, CallOpened, HalfCloseReceived
from relayrpc.link.link import LinkState
from relayrpc.v1 import link_pb2 as pb
from tests.support.hub_core import SERVICE, CorePeer, HubCore


def _opened(peer: CorePeer) -> list[CallOpened]:
    return [event for event in peer.events if isinstance(event, CallOpened)]


def _end(peer: CorePeer, call: Call) -> pb.End:
    (event,) = (e for e in peer.events if isinstance(e, CallEnded) and e.call is call)
    return event.frame.end


def _open(hub: HubCore, peer: CorePeer, address: str = "a", **options: object) -> Call:
    call = hub.open(peer, address, **options)
    assert isinstance(call, Call)
    return call


@pytest.fixture
def hub() -> HubCore:
    return HubCore()


@pytest.fixture
def hosts(hub: HubCore) -> list[CorePeer]:
    return [hub.peer(f"host-{number}", address="a") for number in range(3)]


@pytest.fixture
def caller(hub: HubCore, hosts: list[CorePeer]) -> CorePeer:
    return hub.peer("caller")


def _serving(hosts: list[CorePeer]) -> CorePeer:
    (host,) = (host for host in hosts if _opened(host))
    return host


def test_calls_go_to_the_host_of_the_call_they_belong_to(
    hub: HubCore, hosts: list[CorePeer], caller: CorePeer
) -> None:
    """And read there the id that it has there, in the order of their opening, whatever the size."""
    first = _open(hub, caller)
    hub.settle()
    host = _serving(hosts)
    sizes = [0, 40_000, 10, 60_000, 5] * 4
    for size in sizes:
        _open(hub, caller, anchor=first, data=b"x" * size)
    hub.settle()
    came, *others = _opened(host)
    assert len(others) == len(sizes)
    assert {event.frame.open.anchor for event in others} == {came.call.id}
    assert [event.call.id for event in others] == sorted(event.call.id for event in others)
    assert [len(event.data) > 1000 for event in others] == [size > 1000 for size in sizes]
    assert _serving(hosts) is host


def test_a_call_may_belong_to_one_that_leaves_with_it(hub: HubCore) -> None:
    """A host opens a line to its caller, and calls by it before anything was answered."""
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    _open(hub, caller)
    hub.settle()
    (came,) = _opened(host)
    line = _open(hub, host, "", anchor=came.call)
    by_line = _open(hub, host, "", anchor=line, data=b"event")
    hub.settle()
    first, second = _opened(caller)
    assert (first.frame.open.anchor, second.frame.open.anchor) == (1, first.call.id)
    assert second.frame.open.caller_identity == "host"
    caller.link.end_call(second.call, data=b"heard")
    hub.settle()
    assert _end(host, by_line).data == b"heard"


def test_a_line_outlives_the_call_it_began_with(hub: HubCore) -> None:
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    _open(hub, caller)
    hub.settle()
    (came,) = _opened(host)
    line = _open(hub, host, "", anchor=came.call)
    hub.settle()
    host.link.end_call(came.call)
    hub.settle()
    later = _open(hub, host, "", anchor=line)
    hub.settle()
    caller.link.end_call(_opened(caller)[-1].call)
    hub.settle()
    assert _end(host, later).status == STATUS_OK
    caller.link.close()
    hub.settle()
    assert _end(host, line).status == STATUS_UNAVAILABLE


@pytest.mark.parametrize("moment", ["ended", "cancelled", "never was", "cancelled unsent"])
def test_a_call_without_what_it_belongs_to_is_refused(
    hub: HubCore, hosts: list[CorePeer], caller: CorePeer, moment: str
) -> None:
    first = _open(hub, caller)
    if moment != "cancelled unsent":
        hub.settle()
    if moment == "ended":
        host = _serving(hosts)
        host.link.end_call(_opened(host)[0].call)
        hub.to_hub(host)
    elif moment == "never was":
        first.id = 999
    else:
        caller.link.cancel_call(first)
    late = _open(hub, caller, anchor=first)
    hub.settle()
    end = _end(caller, late)
    assert (end.status, end.not_executed) == (STATUS_UNAVAILABLE, True)
    assert end.details == "the call that this one belongs to is over"


def test_only_what_the_host_serves_there_is_called(hub: HubCore) -> None:
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    first = _open(hub, caller)
    hub.settle()
    other_service = caller.link.open_call(
        "test.Other/Call", "a", shape=pb.SHAPE_UNARY_UNARY, app=None, anchor=first, now_s=0
    )
    other_address = _open(hub, caller, "b", anchor=first)
    hub.settle()
    assert len(_opened(host)) == 1
    for call in (other_service, other_address):
        end = _end(caller, call)
        assert (end.status, end.not_executed) == (STATUS_UNIMPLEMENTED, True)


def test_host_that_withdrew_is_still_called_for_its_running_calls(
    hub: HubCore, hosts: list[CorePeer], caller: CorePeer
) -> None:
    first = _open(hub, caller)
    hub.settle()
    host = _serving(hosts)
    host.link.withdraw(1)
    hub.settle()
    _open(hub, caller, anchor=first)
    hub.settle()
    assert len(_opened(host)) == 2


@pytest.mark.parametrize("address", ["a", "a/b", SERVICE])
@pytest.mark.parametrize("way", ["withdrawn", "drained"])
def test_host_that_takes_no_new_calls_has_those_of_its_running_ones_by_any_address(
    hub: HubCore, address: str, way: str
) -> None:
    """By a path below its own too, and by the default address of its service."""
    host, caller = hub.peer("host"), hub.peer("caller")
    service = pb.ServiceDescription(name=SERVICE, default_address="a")
    host.link.announce(1, "", [service])
    hub.settle()
    first = _open(hub, caller, address)
    hub.settle()
    if way == "withdrawn":
        host.link.withdraw(1)
    else:
        (registration,) = hub.forwarder.router.of_link(host.hub_link)
        hub.forwarder.hosts.set_drained(registration, is_drained=True, now_s=hub.now_s)
    hub.settle()
    _open(hub, caller, address, anchor=first)
    elsewhere = _open(hub, caller, "b", anchor=first)
    hub.settle()
    assert len(_opened(host)) == 2
    assert _end(caller, elsewhere).status == STATUS_UNIMPLEMENTED


def test_calls_of_an_address_that_others_serve_do_not_go_to_the_host_above(hub: HubCore) -> None:
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    first = _open(hub, caller)
    hub.settle()
    below = hub.peer("below", address="a/b")
    late = _open(hub, caller, "a/b", anchor=first)
    hub.settle()
    assert (len(_opened(host)), len(_opened(below))) == (1, 0)
    assert _end(caller, late).status == STATUS_UNIMPLEMENTED


@pytest.mark.parametrize("direction", ["to the host", "to the caller"])
def test_a_peer_that_goes_away_takes_none_of_them(hub: HubCore, direction: str) -> None:
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    first = _open(hub, caller)
    hub.settle()
    opener, leaving, anchor = caller, host, first
    if direction == "to the caller":
        opener, leaving, anchor = host, caller, _opened(host)[0].call
    leaving.link.go_away(reason="stops", time_left_s=30)
    hub.settle()
    late = _open(hub, opener, "a" if opener is caller else "", anchor=anchor)
    hub.settle()
    end = _end(opener, late)
    assert (end.status, end.not_executed) == (STATUS_UNAVAILABLE, True)
    assert end.details == "the peer of the call that this one belongs to goes away"
    assert not anchor.is_ended


@pytest.mark.parametrize("direction", ["to the host", "to the caller"])
def test_a_peer_with_too_many_calls_takes_no_more_of_them(hub: HubCore, direction: str) -> None:
    """And is told when to try again; what the call belongs to goes on."""
    few = replace(DEFAULT_LIMITS, calls_open_max=2)
    to_host = direction == "to the host"
    host = hub.peer("host", address="a", limits=few if to_host else None)
    caller = hub.peer("caller", limits=None if to_host else few)
    first = _open(hub, caller)
    hub.settle()
    opener, anchor = (caller, first) if to_host else (host, _opened(host)[0].call)
    address = "a" if to_host else ""
    # The call itself counts at the host; callbacks are all that the caller has open.
    taken = [_open(hub, opener, address, anchor=anchor) for _ in range(1 if to_host else 2)]
    hub.settle()
    late = _open(hub, opener, address, anchor=anchor)
    hub.settle()
    end = _end(opener, late)
    assert (end.status, end.not_executed) == (STATUS_RESOURCE_EXHAUSTED, True)
    assert end.details == "the peer of the call that this one belongs to has too many calls open"
    assert [entry.key for entry in end.trailing_metadata] == ["grpc-retry-pushback-ms"]
    assert not any(call.is_ended for call in (anchor, *taken))
    opener.link.cancel_call(taken[0])
    hub.settle()
    again = _open(hub, opener, address, anchor=anchor)
    hub.settle()
    assert not again.is_ended


def test_slots_are_not_taken(hub: HubCore) -> None:
    host, caller = hub.peer("host", address="a", slots=1), hub.peer("caller")
    first = _open(hub, caller)
    hub.settle()
    within = [_open(hub, caller, anchor=first) for _ in range(3)]
    _open(hub, caller)
    hub.settle()
    assert len(_opened(host)) == 4
    for call in within:
        caller.link.cancel_call(call)
    hub.settle()
    assert len(_opened(host)) == 4
    caller.link.cancel_call(first)
    hub.settle()
    assert len(_opened(host)) == 5


def test_a_parked_host_gets_them_when_it_is_back(hub: HubCore) -> None:
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    first = _open(hub, caller)
    hub.settle()
    hub.park(host)
    _open(hub, caller, anchor=first)
    hub.settle()
    assert len(_opened(host)) == 1
    hub.resume(host)
    hub.settle()
    assert len(_opened(host)) == 2


def test_a_host_that_does_not_come_back_ends_them(hub: HubCore, hosts: list[CorePeer]) -> None:
    """No other host gets them."""
    caller = hub.peer("caller")
    first = _open(hub, caller)
    hub.settle()
    host = _serving(hosts)
    hub.park(host)
    late = _open(hub, caller, anchor=first)
    hub.settle()
    host.hub_link.close()
    events = host.hub_link.events_received()
    hub.forwarder.handle(host.hub_link, events, now_s=hub.now_s)
    hub.settle()
    assert (_end(caller, first).status, _end(caller, first).not_executed) == (14, False)
    assert (_end(caller, late).status, _end(caller, late).not_executed) == (14, True)
    assert [len(_opened(each)) for each in hosts if each is not host] == [0, 0]


def test_nothing_is_left_charged(hub: HubCore, hosts: list[CorePeer], caller: CorePeer) -> None:
    first = _open(hub, caller)
    hub.settle()
    host = _serving(hosts)
    _open(hub, caller, anchor=first, data=b"x" * 1000)
    _open(hub, host, "", anchor=_opened(host)[0].call, data=b"x" * 1000)
    hub.settle()
    caller.link.close()
    hub.settle()
    for peer in (host, caller):
        assert peer.hub_link.budget is not None
        assert peer.hub_link.budget.used_bytes == 0
    assert not hub.forwarder.starved_count


def test_open_within_nothing_is_an_ordinary_open(hub: HubCore, caller: CorePeer) -> None:
    """Hosts of before the field see no difference."""
    _open(hub, caller)
    hub.settle()
    (event,) = [event for peer in hub.peers for event in _opened(peer)]
    assert not event.frame.open.HasField("anchor")
    assert event.call.method == f"{SERVICE}/Call"


@pytest.mark.parametrize("ending", ["half close", "end"])
def test_what_ends_a_call_goes_behind_those_that_belong_to_it(hub: HubCore, ending: str) -> None:
    """On both legs, also where they do not fit in one batch, and where some are cancelled."""
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    first = _open(hub, caller)
    hub.settle()
    (came,) = _opened(host)
    opener, anchor, address = (
        (caller, first, "a") if ending == "half close" else (host, came.call, "")
    )
    calls = [_open(hub, opener, address, anchor=anchor, data=b"x" * 50_000) for _ in range(20)]
    if ending == "half close":
        caller.link.half_close(first)
    else:
        host.link.end_call(came.call, data=b"bye")
    opener.link.cancel_call(calls.pop())
    hub.settle()
    other = host if ending == "half close" else caller
    kinds = [
        type(event)
        for event in other.events
        if isinstance(event, CallOpened | HalfCloseReceived)
        or (isinstance(event, CallEnded) and event.call is first)
    ]
    last = HalfCloseReceived if ending == "half close" else CallEnded
    assert kinds[-20:] == [CallOpened] * 19 + [last]
    assert not [event for event in opener.events if isinstance(event, CallEnded)]


def test_caller_of_a_one_way_call_is_not_called_back(
    hub: HubCore, hosts: list[CorePeer], caller: CorePeer
) -> None:
    """Nobody waits there; and others on the host's link hear nothing of it."""
    hub.open(caller, "a", one_way=True, half_close=True)
    hub.settle()
    host = _serving(hosts)
    (given,) = _opened(host)
    back = host.link.open_call(
        "test.Events/Tell",
        "",
        shape=pb.SHAPE_UNARY_UNARY,
        app=None,
        anchor=given.call,
        now_s=hub.now_s,
    )
    hub.settle()
    end = _end(host, back)
    assert (end.status, end.not_executed) == (STATUS_UNAVAILABLE, True)
    assert end.details == "the caller of a one-way call does not wait, and is not called back"
    assert host.hub_link.state is LinkState.OPEN
