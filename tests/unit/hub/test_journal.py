"""
What a hub remembers of what happened. Goal: numbers without a gap, within its bounds, and never a
gap that is not owned up to.

Method: a hub's core with peers around it; and, as a property, a watcher who comes and goes beside
one who never left.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayrpc.errors import CarrierLostError
from relayrpc.hub.journal import Journal
from relayrpc.hub.routing import Registration
from relayrpc.limits import Limits
from relayrpc.v1 import hub_pb2 as pb
from relayrpc.v1 import link_pb2
from tests.support.hub_core import SERVICE, CorePeer, HubCore


Kind = pb.HostEvent
ALL = 10**9


class JournalledHub(HubCore):
    """A hub's core with a journal."""

    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__(limits or Limits())
        self.wall_s = 1_700_000_000.25
        self.journal = Journal(
            epoch=self.table.epoch,
            limits=self.limits,
            hosts_of=self.forwarder.router.of_link,
            wall_clock=lambda: self.wall_s,
        )
        self.forwarder.observers.add(self.journal)

    def host(self, instance: str, address: str = "a") -> CorePeer:
        return self.peer(instance, address=address)

    def registration(self, peer: CorePeer) -> Registration:
        (registration,) = self.forwarder.router.of_link(peer.hub_link)
        return registration

    def all(self) -> list[pb.HostEvent]:
        events = self.journal.after(self.journal.epoch, 0, bytes_max=ALL)
        assert events is not None
        return events

    def kinds(self) -> list[int]:
        return [event.kind for event in self.all()]


def test_journal_tells_a_host_that_came_with_its_contract() -> None:
    hub = JournalledHub()
    host = hub.host("h1", "contoso/a")
    (event,) = hub.all()
    assert (event.number, event.kind) == (1, Kind.KIND_CAME)
    assert event.time_unix_ms == 1_700_000_000_250
    assert event.host.link_id == host.hub_link.link_id.hex()
    assert (event.host.instance, event.host.address) == ("h1", "contoso/a")
    assert [service.name for service in event.host.services] == [SERVICE]
    assert event.host.state == pb.HOST_STATE_SERVING


def test_journal_tells_a_host_that_went_by_name_and_what_it_was_found_by() -> None:
    hub = JournalledHub()
    host = hub.peer("h1")
    service = link_pb2.ServiceDescription(
        name=SERVICE, fingerprint=bytes(32), methods=[link_pb2.Method(name="Call")]
    )
    host.link.announce(1, "a", [service], slots=3, labels={"region": "eu"})
    hub.settle()
    host.link.withdraw(1)
    hub.settle()
    assert hub.kinds() == [Kind.KIND_CAME, Kind.KIND_WENT]
    came, went = (event.host for event in hub.all())
    assert came.services == [service]
    assert dict(came.labels) == {"region": "eu"}
    assert went == pb.HostInfo(
        link_id=came.link_id,
        announcement_id=1,
        instance="h1",
        address="a",
        services=[link_pb2.ServiceDescription(name=SERVICE, fingerprint=bytes(32))],
        labels={"region": "eu"},
    )


def test_journal_tells_every_host_of_a_link_that_ended() -> None:
    hub = JournalledHub()
    host = hub.host("h1", "a")
    host.link.announce(2, "b", [link_pb2.ServiceDescription(name=SERVICE)])
    hub.settle()
    host.link.close()
    hub.settle()
    assert [event.host.address for event in hub.all() if event.kind == Kind.KIND_WENT] == ["a", "b"]


def test_journal_tells_a_parked_host_once_and_its_return() -> None:
    hub = JournalledHub()
    host = hub.host("h1")
    for _ in range(2):
        hub.journal.link_parked(host.hub_link, CarrierLostError("cut"))
    hub.journal.link_resumed(host.hub_link, "websocket")
    assert hub.kinds() == [Kind.KIND_CAME, Kind.KIND_PARKED, Kind.KIND_RETURNED]
    parked = hub.all()[1].host
    assert parked.link_id == host.hub_link.link_id.hex()
    assert parked.instance == "h1"


def test_journal_does_not_call_a_move_a_return() -> None:
    hub = JournalledHub()
    host = hub.host("h1")
    hub.journal.link_resumed(host.hub_link, "websocket")
    assert hub.kinds() == [Kind.KIND_CAME]


def test_journal_forgets_a_parked_link_that_ended() -> None:
    hub = JournalledHub()
    host = hub.host("h1")
    hub.journal.link_parked(host.hub_link, None)
    hub.journal.link_ended(host.hub_link, None)
    hub.journal.link_resumed(host.hub_link, "websocket")
    assert hub.kinds() == [Kind.KIND_CAME, Kind.KIND_PARKED]


def test_journal_tells_drained_and_undrained() -> None:
    hub = JournalledHub()
    registration = hub.registration(hub.host("h1"))
    for is_drained in (True, False):
        hub.forwarder.hosts.set_drained(registration, is_drained=is_drained, now_s=hub.now_s)
    assert hub.kinds() == [Kind.KIND_CAME, Kind.KIND_DRAINED, Kind.KIND_UNDRAINED]


def test_journal_tells_a_host_that_leaves() -> None:
    hub = JournalledHub()
    host = hub.host("h1")
    host.link.go_away(reason="stopping", time_left_s=1.0)
    hub.settle()
    assert hub.kinds() == [Kind.KIND_CAME, Kind.KIND_LEAVING]


def test_journal_leaves_out_callers() -> None:
    hub = JournalledHub()
    caller = hub.peer("c1")
    hub.journal.link_parked(caller.hub_link, None)
    hub.journal.link_resumed(caller.hub_link, "websocket")
    caller.link.go_away(reason="stopping", time_left_s=1.0)
    hub.settle()
    assert not hub.all()


def test_journal_leaves_out_parts_of_the_hub() -> None:
    hub = JournalledHub()
    part = hub.peer("p1")
    part.hub_link.is_local = True
    part.link.announce(1, "$part", [link_pb2.ServiceDescription(name=SERVICE)])
    hub.settle()
    hub.journal.link_parked(part.hub_link, None)
    part.link.close()
    hub.settle()
    assert not hub.all()


def test_journal_wakes_its_listeners_after_each_event() -> None:
    hub = JournalledHub()
    numbers: list[int] = []
    hub.journal.listeners[lambda: numbers.append(hub.journal.number)] = None
    hub.host("h1")
    hub.host("h2")
    assert numbers == [1, 2]


@pytest.mark.parametrize(("number", "left"), [(0, 3), (1, 2), (3, 0)])
def test_journal_goes_on_behind_a_number(number: int, left: int) -> None:
    hub = JournalledHub()
    for instance in ("h1", "h2", "h3"):
        hub.host(instance)
    events = hub.journal.after(hub.journal.epoch, number, bytes_max=ALL)
    assert events is not None
    assert [event.number for event in events] == [1, 2, 3][3 - left :]


@pytest.mark.parametrize(("epoch", "number"), [("", 0), ("00" * 16, 1), (None, 2)])
def test_journal_cannot_go_on_from_another_run_or_a_number_not_reached(
    epoch: str | None, number: int
) -> None:
    hub = JournalledHub()
    hub.host("h1")
    epoch = hub.journal.epoch if epoch is None else epoch
    assert hub.journal.after(epoch, number, bytes_max=ALL) is None


def test_journal_keeps_no_more_events_than_its_bound() -> None:
    hub = JournalledHub(replace(Limits(), journal_events_max=2))
    for instance in ("h1", "h2", "h3"):
        hub.host(instance)
    epoch = hub.journal.epoch
    assert hub.journal.after(epoch, 0, bytes_max=ALL) is None
    kept = hub.journal.after(epoch, 1, bytes_max=ALL)
    assert [event.host.instance for event in kept or ()] == ["h2", "h3"]


def test_journal_keeps_no_more_bytes_than_its_bound() -> None:
    measured = JournalledHub()
    measured.host("h1")
    size = measured.all()[0].ByteSize()
    hub = JournalledHub(replace(Limits(), journal_bytes_max=2 * size + size // 2))
    for instance in ("h1", "h2", "h3"):
        hub.host(instance)
    epoch = hub.journal.epoch
    assert hub.journal.after(epoch, 0, bytes_max=ALL) is None
    assert len(hub.journal.after(epoch, 1, bytes_max=ALL) or ()) == 2


def test_journal_without_memory_numbers_all_the_same() -> None:
    hub = JournalledHub(replace(Limits(), journal_bytes_max=1))
    hub.host("h1")
    assert hub.journal.number == 1
    assert hub.journal.after(hub.journal.epoch, 0, bytes_max=ALL) is None
    assert hub.journal.after(hub.journal.epoch, 1, bytes_max=ALL) == []


def test_journal_tells_at_least_one_event_at_a_time() -> None:
    hub = JournalledHub()
    hub.host("h1")
    hub.host("h2")
    events = hub.journal.after(hub.journal.epoch, 0, bytes_max=1)
    assert [event.number for event in events or ()] == [1]


@given(
    acts=st.lists(st.sampled_from(["came", "went", "drained", "look"]), max_size=60),
    events_max=st.integers(1, 8),
    bytes_max=st.integers(1, 400),
)
def test_watcher_who_comes_back_knows_what_one_knows_who_stayed(
    acts: list[str], events_max: int, bytes_max: int
) -> None:
    """Or is told that there is a gap; then the hosts there are now stand for what it missed."""
    hub = JournalledHub(replace(Limits(), journal_events_max=events_max))
    epoch = hub.journal.epoch
    hosts: list[CorePeer] = []
    known: set[str] = set()
    number = 0
    for act in [*acts, "look"]:
        if act == "came":
            hosts.append(hub.host(f"h{len(hub.peers)}"))
        elif act == "went" and hosts:
            hosts.pop(0).link.close()
            hub.settle()
        elif act == "drained" and hosts:
            hub.forwarder.hosts.set_drained(
                hub.registration(hosts[0]), is_drained=True, now_s=hub.now_s
            )
        elif act == "look":
            while number < hub.journal.number:
                events = hub.journal.after(epoch, number, bytes_max=bytes_max)
                if events is None:
                    assert number < hub.journal.number - events_max
                    known = {entry.link.instance for entry in hub.forwarder.router.registrations}
                    number = hub.journal.number
                    break
                assert [event.number for event in events] == list(
                    range(number + 1, number + 1 + len(events))
                )
                for event in events:
                    number = event.number
                    if event.kind == Kind.KIND_CAME:
                        known.add(event.host.instance)
                    elif event.kind == Kind.KIND_WENT:
                        known.remove(event.host.instance)
            assert known == {host.link.instance for host in hosts}
