"""
Counts what happens in a hub, for /metrics.

Owns: which call and link counts where; what is read from the hub's tables when somebody asks. Does
not own: names and text (observe/metrics.py).
What is done for every call is a look into one dict and a few additions.
Source: docs/reference/metrics.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Final

from relayrpc import __version__
from relayrpc.endpoint.rpc_error import STATUS_BY_NUMBER, status_name
from relayrpc.hub.observer import HubObserver
from relayrpc.hub.one_way import is_lost
from relayrpc.link.call import ORIGINS, STATUS_UNIMPLEMENTED, STATUS_UNKNOWN
from relayrpc.observe.metrics import BOUNDS_S, OTHER, CappedSeries, Histogram, Page
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.errors import CarrierLostError, RelayError
    from relayrpc.hub.routing import Place, Registration
    from relayrpc.hub.session import HubSessions
    from relayrpc.link.call import Call
    from relayrpc.link.link import Link


__all__ = ["UNSERVED", "HubMetrics"]

UNSERVED: Final = "unserved"
"""
Stands for the address and method of calls that no host stood for, and for methods that their host
does not have: callers may make up any number of them.
"""
_PARKED: Final = "parked"
_CALLS: Final = "relayrpc_calls_total"
_LOST: Final = "relayrpc_one_way_lost_total"


class HubMetrics(HubObserver):
    """The numbers of one hub."""

    def __init__(self, sessions: HubSessions) -> None:
        """
        Args:
            sessions: What is counted; the caller adds this to its observers.
        """
        self._sessions = sessions
        self._series_max = sessions.limits.metric_series_max
        # By address, method and status as they are written.
        self._calls: dict[tuple[str, str, str], Histogram] = {}
        # The same by address and method as called, and the status's number: no more entries than
        # there may be series, and emptied when hosts come or go, which may change what is written.
        self._calls_found: dict[tuple[str, str, int], Histogram] = {}
        # By metric: how often labels were replaced.
        self._folded: Counter[tuple[str, ...]] = Counter({(_CALLS,): 0, (_LOST,): 0})
        # One-way calls, by address, method and status as they are written.
        self._lost: Counter[tuple[str, ...]] = Counter()
        # By status, origin and not_executed, as in an END.
        self._failures: Counter[tuple[int, int, bool]] = Counter()
        self._queue = Histogram()
        # By link: its carrier's kind, or _PARKED.
        self._link_states: dict[Link, str] = {}
        self._opened: Counter[tuple[str, ...]] = Counter()
        self._resumed: Counter[tuple[str, ...]] = Counter()
        self._ended: Counter[tuple[str, ...]] = Counter()
        self._parked_count = 0

    # --- links and hosts ---

    def link_opened(self, link: Link, carrier_kind: str) -> None:
        self._link_states[link] = carrier_kind
        self._opened[(carrier_kind,)] += 1

    def link_resumed(self, link: Link, carrier_kind: str) -> None:
        self._link_states[link] = carrier_kind
        self._resumed[(carrier_kind,)] += 1

    def link_parked(self, link: Link, error: CarrierLostError | None) -> None:
        self._link_states[link] = _PARKED
        self._parked_count += 1

    def link_ended(self, link: Link, error: RelayError | None) -> None:
        self._link_states.pop(link, None)
        self._ended[("closed" if error is None else type(error).__name__,)] += 1

    def host_came(self, registration: Registration) -> None:
        self._calls_found.clear()

    def host_went(self, registration: Registration) -> None:
        self._calls_found.clear()

    # --- calls ---

    def call_dequeued(self, call: Call, waited_s: float) -> None:
        self._queue.observe(waited_s)

    def call_ended(
        self, call: Call, end: pb.End, registration: Registration | None, duration_s: float
    ) -> None:
        status = end.status
        series = self._calls_found.get((call.address, call.method, status))
        if series is None:
            series = self._find_calls(call, status, registration)
        # As Histogram.observe, written out.
        series.counts[bisect_left(BOUNDS_S, duration_s)] += 1
        series.sum_s += duration_s
        if status:
            # Peers may send any number; what is unknown counts as CallOutcome reads it.
            origin = end.origin if end.origin < len(ORIGINS) else pb.End.ORIGIN_HOST
            known = status if status in STATUS_BY_NUMBER else STATUS_UNKNOWN
            self._failures[(known, origin, end.not_executed)] += 1
            if is_lost(call, end):
                self._count_lost(call, status, registration)

    def _find_calls(self, call: Call, status: int, registration: Registration | None) -> Histogram:
        place = self._sessions.forwarder.router.place_of(call.address, call.method)
        address, method = self._called(call, status, registration, place)
        name = status_name(status)
        series = self._calls.get((address, method, name))
        if series is None:
            if len(self._calls) >= self._series_max:
                self._folded[(_CALLS,)] += 1
                series = self._calls.get((OTHER, OTHER, name))
                if series is None:
                    series = self._calls[(OTHER, OTHER, name)] = Histogram()
                return series
            series = self._calls[(address, method, name)] = Histogram()
        if (
            # What may count elsewhere next time is not remembered.
            place is not None
            and method == call.method
            and status in STATUS_BY_NUMBER
            and len(self._calls_found) < self._series_max
        ):
            self._calls_found[(call.address, call.method, status)] = series
        return series

    def _count_lost(self, call: Call, status: int, registration: Registration | None) -> None:
        place = self._sessions.forwarder.router.place_of(call.address, call.method)
        labels = (*self._called(call, status, registration, place), status_name(status))
        if labels not in self._lost and len(self._lost) >= self._series_max:
            self._folded[(_LOST,)] += 1
            labels = (OTHER, OTHER, status_name(status))
        self._lost[labels] += 1

    def _called(
        self, call: Call, status: int, registration: Registration | None, place: Place | None
    ) -> tuple[str, str]:
        """Say under which address and method a call counts; `place`: where its hosts stand."""
        if place is not None:
            address = place[0]
        elif registration is not None:
            # It went while the call ran.
            address = _address(registration)
        else:
            return UNSERVED, UNSERVED
        pair = (address, call.method)
        if status == STATUS_UNIMPLEMENTED or registration is None:
            is_known = any((*pair, status_name(number)) in self._calls for number in _NUMBERS)
            return pair if is_known else (address, UNSERVED)
        return pair

    # --- the page ---

    def render(self) -> bytes:
        """Return the text of one scrape."""
        sessions = self._sessions
        forwarder = sessions.forwarder
        page = Page()
        page.add(_CALLS, {labels: each.count for labels, each in self._calls.items()})
        page.add_histograms("relayrpc_call_duration_seconds", self._durations().items())
        page.add(
            "relayrpc_call_failures_total",
            {
                (status_name(status), ORIGINS[origin], "false" if not_executed else "true"): count
                for (status, origin, not_executed), count in self._failures.items()
            },
        )
        page.add(_LOST, self._lost)
        gauges = self._by_address()
        for name, gauge in gauges.items():
            page.add(name, gauge.values)
        page.add_histograms("relayrpc_queue_seconds", [((), self._queue)])
        page.add_one("relayrpc_reroutes_total", forwarder.reroutes_count)
        states = Counter(self._link_states.values())
        page.add_one("relayrpc_links_parked", states.pop(_PARKED, 0))
        page.add("relayrpc_links", {(kind,): count for kind, count in states.items()})
        page.add("relayrpc_links_opened_total", self._opened)
        page.add_one("relayrpc_link_parks_total", self._parked_count)
        page.add("relayrpc_link_resumes_total", self._resumed)
        page.add("relayrpc_links_ended_total", self._ended)
        page.add(
            "relayrpc_link_bytes_total",
            {
                (kind, direction): count
                for kind, each in sessions.traffic.items()
                for direction, count in (
                    ("received", each.received_bytes),
                    ("sent", each.sent_bytes),
                )
            },
        )
        page.add(
            "relayrpc_link_batches_total",
            {
                (kind, direction): count
                for kind, each in sessions.traffic.items()
                for direction, count in (
                    ("received", each.received_count),
                    ("sent", each.sent_count),
                )
            },
        )
        page.add_one("relayrpc_handshakes_open", sessions.handshakes_count)
        page.add_one("relayrpc_credit_stalls_total", forwarder.credit.stalls_count)
        page.add_one("relayrpc_credit_waiting", forwarder.starved_count)
        page.add_one("relayrpc_draining", int(sessions.is_draining))
        page.add("relayrpc_build_info", {(__version__,): 1})
        for name, gauge in gauges.items():
            self._folded[(name,)] += gauge.folded_count
        page.add("relayrpc_metrics_folded_total", self._folded)
        return page.encode()

    def _durations(self) -> dict[tuple[str, ...], Histogram]:
        """Put together what differs by status only."""
        durations: dict[tuple[str, ...], Histogram] = {}
        for (address, method, _), series in self._calls.items():
            durations.setdefault((address, method), Histogram()).add(series)
        return durations

    def _by_address(self) -> dict[str, CappedSeries]:
        """Count what stands in the hub's tables now."""
        in_flight, queue, hosts = (CappedSeries(self._series_max) for _ in range(3))
        forwarder = self._sessions.forwarder
        for registration in forwarder.router.registrations:
            in_flight.add(_address(registration), registration.calls_open_count)
            for address in {address for address, _ in registration.places}:
                hosts.add(address)
        for place in forwarder.queue.places:
            queue.add(place[0], len(forwarder.queue.at(place)))
        return {
            "relayrpc_calls_in_flight": in_flight,
            "relayrpc_queue_calls": queue,
            "relayrpc_hosts": hosts,
        }


_NUMBERS: Final = tuple(STATUS_BY_NUMBER)


def _address(registration: Registration) -> str:
    return registration.places[0][0]
