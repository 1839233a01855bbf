"""Whoever listens to a hub is told of everything once, in order, and of nothing else."""

from __future__ import annotations

from typing import Any

from relayrpc.hub.observer import HubObserver
from relayrpc.limits import Limits
from relayrpc.link.events import CallOpened
from tests.support.hub_core import SERVICE, CorePeer, HubCore


class Heard(HubObserver):
    """Remembers what it is told of calls and hosts."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []

    def host_came(self, registration: Any) -> None:
        self.log.append(("came", registration.link.instance))

    def host_went(self, registration: Any) -> None:
        self.log.append(("went", registration.link.instance))

    def host_drained(self, registration: Any) -> None:
        self.log.append(("drained", registration.link.instance, registration.is_drained))

    def call_opened(self, call: Any, opening: Any) -> None:
        self.log.append(("opened", call.method, opening.caller_peer))

    def call_dequeued(self, call: Any, waited_s: float) -> None:
        self.log.append(("dequeued", call.method, waited_s))

    def call_ended(self, call: Any, end: Any, registration: Any, duration_s: float) -> None:
        instance = None if registration is None else registration.link.instance
        self.log.append(("ended", call.method, end.status, instance, duration_s))


METHOD = f"{SERVICE}/Call"


def heard_hub(limits: Limits | None = None) -> tuple[HubCore, Heard]:
    core = HubCore(limits or Limits())
    heard = Heard()
    core.forwarder.observers.add(heard)
    return core, heard


def call(hub: HubCore, caller: CorePeer, address: str = "a") -> None:
    hub.open(caller, address)
    hub.settle()


def answer(hub: HubCore, host: CorePeer) -> None:
    """Have a host end the oldest call that it has not ended."""
    for event in host.of(CallOpened):
        leg = event.call  # type: ignore[attr-defined]
        if not leg.is_ended:
            host.link.end_call(leg)
            break
    hub.settle()


def test_a_served_call_is_told_twice() -> None:
    core, heard = heard_hub()
    host = core.peer("h", address="a")
    call(core, core.peer("c"))
    core.now_s += 3
    answer(core, host)
    assert heard.log == [
        ("came", "h"),
        ("opened", METHOD, "test:c"),
        ("ended", METHOD, 0, "h", 3),
    ]


def test_a_call_nobody_serves_ends_without_a_host() -> None:
    core, heard = heard_hub()
    call(core, core.peer("c"), "nowhere")
    assert heard.log == [("opened", METHOD, "test:c"), ("ended", METHOD, 14, None, 0)]


def test_a_call_that_waited_says_how_long() -> None:
    core, heard = heard_hub()
    host = core.peer("h", address="a", slots=1)
    caller = core.peer("c")
    call(core, caller)
    call(core, caller)
    heard.log.clear()
    core.now_s += 2
    answer(core, host)
    answer(core, host)
    assert heard.log == [
        ("ended", METHOD, 0, "h", 2),
        ("dequeued", METHOD, 2),
        ("ended", METHOD, 0, "h", 2),
    ]


def test_what_nobody_overrode_is_not_called() -> None:
    core = HubCore()
    core.forwarder.observers.add(HubObserver())
    assert not any(vars(core.forwarder.observers).values())
