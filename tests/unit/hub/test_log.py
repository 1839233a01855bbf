"""
What a hub says of calls. Goal: every failure is told or counted, and no text of a peer's program
is. Method: a hub's core with peers around it, and a log on a clock moved by hand.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from relayrpc.hub.log import HubLog
from relayrpc.limits import Limits
from relayrpc.link.events import CallOpened
from tests.support.hub_core import SERVICE, CorePeer, HubCore
from tests.support.log_records import LoggedEvent, hub_records


METHOD = f"{SERVICE}/Call"


@pytest.fixture
def said() -> Iterator[list[LoggedEvent]]:
    with hub_records() as events:
        yield events


def of_calls(said: list[LoggedEvent]) -> list[LoggedEvent]:
    return [event for event in said if "call_id" in event.fields]


class NoTimer:
    """Never due."""

    def cancel(self) -> None: ...


def logged_hub(*, logs_every_call: bool = False, **limits: Any) -> tuple[HubCore, HubLog]:
    core = HubCore(Limits(**limits))
    log = HubLog(
        limits=core.limits,
        clock=lambda: core.now_s,
        call_later=lambda delay_s, due: NoTimer(),
        logs_every_call=logs_every_call,
    )
    core.forwarder.observers.add(log)
    return core, log


def serve(core: HubCore, host: CorePeer, *, status: int = 0, details: str = "") -> None:
    """Have a host end every call that it was handed."""
    for event in host.of(CallOpened):
        leg = event.call  # type: ignore[attr-defined]
        if not leg.is_ended:
            host.link.end_call(leg, status=status, details=details)
    core.settle()


def call(core: HubCore, caller: CorePeer, address: str = "a") -> None:
    core.open(caller, address)
    core.settle()


def test_a_call_that_ends_well_is_not_told(said: list[LoggedEvent]) -> None:
    core, _ = logged_hub()
    host = core.peer("h", address="a")
    call(core, core.peer("c"))
    serve(core, host)
    assert of_calls(said) == []


def test_every_call_is_told_when_asked(said: list[LoggedEvent]) -> None:
    core, _ = logged_hub(logs_every_call=True, log_records_per_s_max=1)
    host = core.peer("h", address="a")
    caller = core.peer("c")
    for _ in range(3):
        call(core, caller)
    core.now_s += 2.5
    serve(core, host)
    ended = of_calls(said)
    assert [event.message for event in ended] == ["call ended"] * 3
    assert ended[0].level == logging.INFO
    assert ended[0].fields == {
        "link_id": caller.hub_link.link_id.hex(),
        "call_id": 1,
        "peer": "test:c",
        "address": "a",
        "method": METHOD,
        "status": "OK",
        "duration_s": 2.5,
        "origin": "host",
        "may_have_executed": True,
        "instance": "h",
    }


def test_failures_are_told_with_what_the_hub_says_of_them(said: list[LoggedEvent]) -> None:
    core, _ = logged_hub()
    call(core, core.peer("c"), "nowhere")
    (event,) = said
    assert (event.message, event.level) == ("call failed", logging.WARNING)
    assert event.fields["status"] == "UNAVAILABLE"
    assert event.fields["origin"] == "hub"
    assert event.fields["may_have_executed"] is False
    assert event.fields["details"] == "no host listens at 'nowhere'"
    assert "instance" not in event.fields


@pytest.mark.parametrize(
    ("status", "name", "message"),
    [
        (5, "NOT_FOUND", "call ended"),
        (7, "PERMISSION_DENIED", "call ended"),
        (8, "RESOURCE_EXHAUSTED", "call failed"),
        (13, "INTERNAL", "call failed"),
        (99, "UNKNOWN", "call failed"),
    ],
)
def test_what_a_handler_says_is_its_own(
    status: int, name: str, message: str, said: list[LoggedEvent]
) -> None:
    core, _ = logged_hub()
    host = core.peer("h", address="a")
    call(core, core.peer("c"))
    serve(core, host, status=status, details="card number 1234")
    (event,) = of_calls(said)
    assert (event.message, event.fields["status"]) == (message, name)
    assert event.fields["origin"] == "host"
    assert "details" not in event.fields


def test_more_of_the_same_is_counted(said: list[LoggedEvent]) -> None:
    core, log = logged_hub(log_records_per_s_max=2)
    caller = core.peer("c")
    for address in ("x", "y"):
        for _ in range(5):
            core.open(caller, address)
    core.settle()
    assert [event.fields["address"] for event in said] == ["x", "x", "y", "y"]
    said.clear()
    log.close()
    assert [(event.message, event.fields) for event in said] == [
        (
            "records held back",
            {"count": 3, "of": "call failed", "status": "UNAVAILABLE", "address": address},
        )
        for address in ("x", "y")
    ]


def test_what_the_level_leaves_out_is_not_counted_as_held_back(said: list[LoggedEvent]) -> None:
    core, log = logged_hub(log_records_per_s_max=1)
    host = core.peer("h", address="a")
    caller = core.peer("c")
    logging.getLogger("relayrpc.hub").setLevel(logging.WARNING)
    for _ in range(3):
        call(core, caller)
    serve(core, host, status=5)
    log.close()
    assert of_calls(said) == []
    assert "records held back" not in [event.message for event in said]


def test_addresses_that_callers_make_up_do_not_flood_the_log(said: list[LoggedEvent]) -> None:
    core, log = logged_hub(log_records_per_s_max=1, log_keys_max=3)
    caller = core.peer("c")
    for number in range(100):
        core.open(caller, f"made/up/{number}")
    core.settle()
    log.close()
    assert [event.message for event in said] == ["call failed"] * 4 + ["records held back"]
    assert said[-1].fields == {"count": 96, "of": "others"}


def test_a_one_way_call_that_is_lost_is_told_as_that(said: list[LoggedEvent]) -> None:
    """One whose handler failed has run; one that is refused is its caller's to know of."""
    core, log = logged_hub(log_records_per_s_max=2)
    host, caller = core.peer("h", address="a"), core.peer("c")
    options: dict[str, Any] = {"one_way": True, "half_close": True, "data": b"\0\0\0\0\0"}
    core.open(caller, "nowhere", **options)
    core.open(caller, "a", **options)
    core.settle()
    serve(core, host, status=2)
    for _ in range(3):
        core.open(caller, "a", **options)
    core.settle()
    host.link.close()
    core.settle()
    log.close()
    failed, raised, *lost, held_back = [
        event for event in said if not event.message.startswith(("link", "host"))
    ]
    assert (failed.message, failed.fields["status"]) == ("call failed", "UNAVAILABLE")
    assert (raised.message, raised.fields["status"]) == ("call failed", "UNKNOWN")
    assert [(event.message, event.level) for event in lost] == [
        ("one-way call lost", logging.WARNING)
    ] * 2
    assert lost[0].fields["may_have_executed"] is True
    kind = {"of": "one-way call lost", "status": "UNAVAILABLE", "address": "a"}
    assert (held_back.message, held_back.fields) == ("records held back", {"count": 1, **kind})
