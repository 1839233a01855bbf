"""
Announcements that wait at the gate. Goal: a host gets calls when it was let in and not before, is
answered once, and nothing waits for one that is gone. Method: a hub's core and a gate by hand.
"""

from __future__ import annotations

from relayrpc.hub.observer import HubObserver
from relayrpc.hub.routing import Registration
from relayrpc.link.call import STATUS_FAILED_PRECONDITION
from relayrpc.link.events import AnnouncedReceived, CallEnded, CallOpened
from relayrpc.link.link import Link
from relayrpc.v1 import link_pb2 as pb
from tests.support.hub_core import SERVICE, CorePeer, HubCore


class Gate:
    """Has every announcement wait."""

    def __init__(self, hub: HubCore) -> None:
        self._hub = hub
        self.waiting: dict[int, tuple[Link, pb.Announce]] = {}
        hub.forwarder.hosts.gate = self

    def may_register(self, link: Link, announce: pb.Announce) -> bool:
        self.waiting[announce.id] = link, announce
        return False

    def withdrawn(self, link: Link, announcement_id: int) -> bool:
        return self.waiting.pop(announcement_id, None) is not None

    def link_over(self, link: Link) -> None:
        self.waiting.clear()

    def let_in(self) -> None:
        _, (link, announce) = self.waiting.popitem()
        self._hub.forwarder.hosts.register(link, announce, now_s=self._hub.now_s)
        self._hub.settle()

    def send_away(self) -> None:
        _, (link, announce) = self.waiting.popitem()
        self._hub.forwarder.hosts.refuse(
            link, announce, status=STATUS_FAILED_PRECONDITION, details="it breaks callers"
        )
        self._hub.settle()


class Told(HubObserver):
    """What is told of hosts."""

    def __init__(self, hub: HubCore) -> None:
        self.told: list[str] = []
        hub.forwarder.observers.add(self)

    def host_came(self, registration: Registration) -> None:
        self.told.append("came")

    def host_refused(self, link: Link, announce: pb.Announce, reason: str) -> None:
        self.told.append(f"refused: {reason}")

    def host_went(self, registration: Registration) -> None:
        self.told.append("went")


def answers(peer: CorePeer) -> list[tuple[int, int, str]]:
    events = peer.of(AnnouncedReceived)
    told = [event.announced for event in events]  # type: ignore[attr-defined]
    return [(each.id, each.status, each.details) for each in told]


def call(hub: HubCore, caller: CorePeer, **options: object) -> None:
    hub.open(caller, "a", **options)
    hub.settle()


def ends(caller: CorePeer) -> list[str]:
    return [event.frame.end.details for event in caller.of(CallEnded)]  # type: ignore[attr-defined]


def test_host_gets_calls_once_it_is_let_in() -> None:
    hub = HubCore()
    gate, told = Gate(hub), Told(hub)
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    assert (answers(host), told.told) == ([], [])
    call(hub, caller)
    assert ends(caller) == ["no host listens at 'a'"]
    call(hub, caller, wait_for_ready=True)
    assert not host.of(CallOpened)
    gate.let_in()
    assert (answers(host), told.told) == ([(1, 0, "")], ["came"])
    assert len(host.of(CallOpened)) == 1


def test_host_that_is_sent_away_is_told_why() -> None:
    hub = HubCore()
    gate, told = Gate(hub), Told(hub)
    host = hub.peer("host", address="a")
    gate.send_away()
    assert answers(host) == [(1, STATUS_FAILED_PRECONDITION, "it breaks callers")]
    assert told.told == ["refused: it breaks callers"]
    assert not hub.forwarder.router.registrations
    # The link is as before, and may announce something else.
    host.link.announce(2, "a", [pb.ServiceDescription(name=SERVICE)])
    hub.settle()
    gate.let_in()
    assert answers(host)[1:] == [(2, 0, "")]


def test_what_is_withdrawn_while_it_waits_is_answered_and_forgotten() -> None:
    hub = HubCore()
    gate, told = Gate(hub), Told(hub)
    host = hub.peer("host", address="a")
    host.link.withdraw(1)
    hub.settle()
    assert answers(host) == [(1, 1, "withdrawn")]
    assert (gate.waiting, told.told) == ({}, [])


def test_what_is_withdrawn_is_withdrawn_once() -> None:
    hub = HubCore()
    gate, told = Gate(hub), Told(hub)
    host = hub.peer("host", address="a")
    gate.let_in()
    host.link.withdraw(1)
    hub.settle()
    assert answers(host) == [(1, 0, ""), (1, 1, "withdrawn")]
    assert told.told == ["came", "went"]


def test_nothing_waits_for_a_link_that_is_over() -> None:
    hub = HubCore()
    gate, told = Gate(hub), Told(hub)
    host = hub.peer("host", address="a")
    host.link.close()
    hub.settle()
    assert (gate.waiting, told.told) == ({}, [])


def test_what_has_not_the_form_never_comes_to_the_gate() -> None:
    hub = HubCore()
    gate = Gate(hub)
    host = hub.peer("host", address="/")
    ((_, status, _),) = answers(host)
    assert status == 3
    assert not gate.waiting
