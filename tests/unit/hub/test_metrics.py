"""
What counts where. Goal: true numbers, and no more series than allowed, whatever callers make up.
Method: a hub's core with peers around it, and the page read by Prometheus's parser.
"""

from __future__ import annotations

import random
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from relayrpc.hub.metrics import HubMetrics
from relayrpc.hub.session import HubSessions
from relayrpc.limits import Limits
from relayrpc.link.events import CallOpened
from tests.support.hub_core import SERVICE, CorePeer, HubCore


METHOD = f"{SERVICE}/Call"


class CountedHub(HubCore):
    """A hub's core that is counted."""

    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__(limits or Limits())
        sessions = HubSessions(
            limits=self.limits,
            clock=lambda: self.now_s,
            random=random.Random(1),
            token_bytes=random.Random(1).randbytes,
        )
        sessions.forwarder = self.forwarder
        self.metrics = HubMetrics(sessions)
        self.forwarder.observers.add(self.metrics)

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """The samples of one name, by the values of their labels."""
        return {
            tuple(sample.labels.values()): sample.value
            for family in text_string_to_metric_families(self.metrics.render().decode())
            for sample in family.samples
            if sample.name == f"relayrpc_{name}"
        }

    def call(self, caller: CorePeer, address: str, **options: Any) -> None:
        self.open(caller, address, **options)
        self.settle()


def serve(hub: HubCore, host: CorePeer, status: int = 0) -> None:
    """Have a host end every call that it was handed."""
    for event in host.of(CallOpened):
        leg = event.call  # type: ignore[attr-defined]
        if not leg.is_ended:
            host.link.end_call(leg, status=status)
    hub.settle()


def test_calls_below_a_hosts_address_count_at_that_address() -> None:
    hub = CountedHub()
    host, caller = hub.peer("h", address="a"), hub.peer("c")
    for address in ("a", "a/1", "a/2"):
        hub.call(caller, address)
    assert hub.values("calls_in_flight") == {("a",): 3}
    serve(hub, host)
    assert hub.values("calls_total") == {("a", METHOD, "OK"): 3}
    assert hub.values("calls_in_flight") == {("a",): 0}


def test_calls_count_elsewhere_when_a_host_comes_below() -> None:
    hub = CountedHub()
    host, caller = hub.peer("h", address="a"), hub.peer("c")
    hub.call(caller, "a/1")
    serve(hub, host)
    nearer = hub.peer("n", address="a/1")
    hub.call(caller, "a/1")
    serve(hub, nearer)
    assert hub.values("calls_total") == {("a", METHOD, "OK"): 1, ("a/1", METHOD, "OK"): 1}


def test_calls_beyond_the_bound_count_as_other_and_are_counted() -> None:
    hub = CountedHub(Limits(metric_series_max=2))
    caller = hub.peer("c")
    for address in ("a", "b", "c", "d"):
        host = hub.peer(f"h-{address}", address=address)
        hub.call(caller, address)
        hub.call(caller, address)
        serve(hub, host)
    assert hub.values("calls_total") == {
        ("a", METHOD, "OK"): 2,
        ("b", METHOD, "OK"): 2,
        ("other", "other", "OK"): 4,
    }
    assert hub.values("call_duration_seconds_count")["other", "other"] == 4
    assert hub.values("hosts") == {("a",): 1, ("b",): 1, ("other",): 2}
    assert hub.values("metrics_folded_total")[("relayrpc_calls_total",)] == 4


def test_a_number_that_is_no_status_counts_as_unknown() -> None:
    hub = CountedHub()
    host, caller = hub.peer("h", address="a"), hub.peer("c")
    for status in (2, 17, 4_000_000_000):
        hub.call(caller, "a")
        serve(hub, host, status)
    assert hub.values("calls_total") == {("a", METHOD, "UNKNOWN"): 3}
    assert hub.values("call_failures_total") == {("UNKNOWN", "host", "true"): 3}


def test_queue_tells_who_waits_and_how_long_it_took() -> None:
    hub = CountedHub()
    host, caller = hub.peer("h", address="a", slots=1), hub.peer("c")
    hub.call(caller, "a")
    hub.call(caller, "a")
    assert hub.values("queue_calls") == {("a",): 1}
    hub.now_s += 2
    serve(hub, host)
    serve(hub, host)
    assert hub.values("queue_calls") == {}
    assert hub.values("queue_seconds_sum") == {(): 2}
    assert hub.values("call_duration_seconds_sum") == {("a", METHOD): 4}


def test_a_call_that_waited_in_vain_lasted_as_long_as_it_waited() -> None:
    hub = CountedHub()
    host, caller = hub.peer("h", address="a"), hub.peer("c")
    hub.park(host)
    hub.call(caller, "a")
    hub.now_s += hub.limits.parked_wait_s
    hub.forwarder.expire_queued(now_s=hub.now_s)
    assert hub.values("call_failures_total") == {("UNAVAILABLE", "hub", "false"): 1}
    duration_s = hub.values("call_duration_seconds_sum")["a", "unserved"]
    assert duration_s == hub.limits.parked_wait_s


def test_a_call_that_is_routed_again_is_counted() -> None:
    hub = CountedHub()
    first = hub.peer("h1", address="a")
    caller = hub.peer("c")
    first.takes = False
    hub.call(caller, "a")
    assert hub.values("reroutes_total") == {(): 0}
    second = hub.peer("h2", address="a")
    hub.park(first)
    hub.settle()
    serve(hub, second)
    assert hub.values("reroutes_total") == {(): 1}
    assert hub.values("calls_total") == {("a", METHOD, "OK"): 1}


def test_one_way_calls_that_are_lost_count_one_by_one() -> None:
    hub = CountedHub(Limits(metric_series_max=3))
    host, caller = hub.peer("h", address="a/b"), hub.peer("c")
    options: dict[str, Any] = {"one_way": True, "half_close": True, "data": b"\0\0\0\0\0"}
    hub.call(caller, "nowhere", **options)
    hub.call(caller, "a/b/c", **options)
    serve(hub, host, status=2)
    assert hub.values("one_way_lost_total") == {}
    for _ in range(50):
        hub.call(caller, "a/b/c", **options)
    host.link.close()
    hub.settle()
    assert hub.values("one_way_lost_total") == {("a/b", METHOD, "UNAVAILABLE"): 50}
    for address in ("x", "y", "z"):
        host = hub.peer("h", address=address)
        hub.call(caller, address, **options)
        host.link.close()
        hub.settle()
    assert hub.values("one_way_lost_total") == {
        ("a/b", METHOD, "UNAVAILABLE"): 50,
        ("x", METHOD, "UNAVAILABLE"): 1,
        ("y", METHOD, "UNAVAILABLE"): 1,
        ("other", "other", "UNAVAILABLE"): 1,
    }
    assert hub.values("metrics_folded_total")[("relayrpc_one_way_lost_total",)] == 1
