"""
The hub's metrics: their names in one table, what counts them, and the text that Prometheus reads.
Pure: no clock, no I/O.

Owns: names, types, labels and help; buckets; the bound on series; the text format. Does not own:
when what is counted (hub/metrics.py), where it is served (hub/http_door.py).
Written here rather than by `prometheus_client`, which is for tests: its writer takes the loop of a
full hub for a tenth of a second.
Source: Prometheus text format 0.0.4; docs/reference/metrics.md, which is made from the table.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal


__all__ = [
    "BOUNDS_S",
    "CONTENT_TYPE",
    "METRICS",
    "OTHER",
    "CappedSeries",
    "Histogram",
    "Metric",
    "Page",
]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OTHER: Final = "other"
"""The label value of what is beyond the bound on series."""
BOUNDS_S: Final = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
"""Upper ends of every histogram's buckets, seconds; one more takes the rest."""

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the table."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: Labels
    help: str


_TABLE: Final = (
    Metric(
        "relayrpc_calls_total",
        "counter",
        ("address", "method", "status"),
        "Calls that ended, by gRPC's name of their status.",
    ),
    Metric(
        "relayrpc_call_duration_seconds",
        "histogram",
        ("address", "method"),
        "From a call's OPEN to its end at the hub, the time in the queue included.",
    ),
    Metric(
        "relayrpc_call_failures_total",
        "counter",
        ("status", "origin", "may_have_executed"),
        "Calls that ended with another status than OK: who ended them (caller, hub or host), and "
        "whether the handler may have run.",
    ),
    Metric(
        "relayrpc_one_way_lost_total",
        "counter",
        ("address", "method", "status"),
        "One-way calls that the hub held and that are lost: they did not run, or nobody knows.",
    ),
    Metric(
        "relayrpc_calls_in_flight",
        "gauge",
        ("address",),
        "Calls handed to hosts and not over. A host without a path counts at its first service.",
    ),
    Metric(
        "relayrpc_queue_calls",
        "gauge",
        ("address",),
        "Calls that wait for a host, by the address where one has to come, or, one-way, to be "
        "tried again; at the address \"\", those whose requests the hub checks before a host has "
        "them.",
    ),
    Metric(
        "relayrpc_queue_seconds",
        "histogram",
        (),
        "How long calls waited that were handed to a host in the end.",
    ),
    Metric(
        "relayrpc_reroutes_total",
        "counter",
        (),
        "Calls taken back from a host that was never given them, and routed again.",
    ),
    Metric("relayrpc_hosts", "gauge", ("address",), "Hosts that listen."),
    Metric(
        "relayrpc_links",
        "gauge",
        ("carrier",),
        "Links that have a carrier, by its kind; memory: parts of the hub itself.",
    ),
    Metric("relayrpc_links_parked", "gauge", (), "Links that lost their carrier and may be back."),
    Metric("relayrpc_links_opened_total", "counter", ("carrier",), "Links that were opened."),
    Metric(
        "relayrpc_link_parks_total", "counter", (), "Carriers lost by links that outlived them."
    ),
    Metric(
        "relayrpc_link_resumes_total",
        "counter",
        ("carrier",),
        "Links that went on over a new carrier of this kind, after a loss or because they moved.",
    ),
    Metric(
        "relayrpc_links_ended_total",
        "counter",
        ("reason",),
        "Links that are over: closed, or the name of the error as in errors.md.",
    ),
    Metric(
        "relayrpc_link_bytes_total",
        "counter",
        ("carrier", "direction"),
        "Bytes of batches as the hub received and sent them, without what the carrier adds.",
    ),
    Metric(
        "relayrpc_link_batches_total",
        "counter",
        ("carrier", "direction"),
        "Batches that these bytes came in.",
    ),
    Metric(
        "relayrpc_handshakes_open", "gauge", (), "Carriers whose first batch has not come yet."
    ),
    Metric(
        "relayrpc_credit_stalls_total",
        "counter",
        (),
        "Times that credit had to wait for room in a link's budget.",
    ),
    Metric("relayrpc_credit_waiting", "gauge", (), "Legs of calls whose credit waits so now."),
    Metric("relayrpc_draining", "gauge", (), "1 while the hub drains, else 0."),
    Metric(
        "relayrpc_build_info", "gauge", ("version",), "Always 1; which relayrpc the hub runs."
    ),
    Metric(
        "relayrpc_metrics_folded_total",
        "counter",
        ("metric",),
        "Times that labels were replaced by `other`, because the metric has as many series as it "
        "may: Limits.metric_series_max.",
    ),
)
METRICS: Final[Mapping[str, Metric]] = MappingProxyType({entry.name: entry for entry in _TABLE})
"""Every metric by its name, in the order in which they are written."""


class Histogram:
    """How many values fell into each bucket, and their sum."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    @property
    def count(self) -> int:
        """All values."""
        return sum(self.counts)

    def observe(self, value_s: float) -> None:
        """Count a value."""
        self.counts[bisect_left(BOUNDS_S, value_s)] += 1
        self.sum_s += value_s

    def add(self, other: Histogram) -> None:
        """Count another one's values too."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum_s += other.sum_s


class CappedSeries:
    """The numbers of one gauge by address; beyond the bound they count as OTHER."""

    def __init__(self, series_max: int) -> None:
        self._series_max = series_max
        self.values: dict[Labels, int] = {}
        self.folded_count = 0
        """How often an address was replaced."""

    def add(self, address: str, value: int = 1) -> None:
        """Add to the number of an address."""
        labels = (address,)
        if labels not in self.values and len(self.values) >= self._series_max:
            labels = (OTHER,)
            self.folded_count += 1
        self.values[labels] = self.values.get(labels, 0) + value


class Page:
    """The text of one scrape."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def encode(self) -> bytes:
        """Return the text."""
        return "".join(self._lines).encode()

    def add(self, name: str, values: Mapping[Labels, float]) -> None:
        """
        Write a counter or gauge.

        Args:
            name: Of the table.
            values: By the values of its labels, in the order of the table.
        """
        metric = self._head(name)
        self._lines += [
            f"{name}{_braced(_pairs(metric, labels))} {value}\n" for labels, value in values.items()
        ]

    def add_one(self, name: str, value: float) -> None:
        """Write a counter or gauge without labels."""
        self.add(name, {(): value})

    def add_histograms(self, name: str, values: Iterable[tuple[Labels, Histogram]]) -> None:
        """Write a histogram."""
        metric = self._head(name)
        lines = self._lines
        for labels, histogram in values:
            pairs = _pairs(metric, labels)
            start = f"{name}_bucket{{{pairs}{',' if pairs else ''}le="
            count = 0
            for bound, in_bucket in zip(_BOUND_TEXTS, histogram.counts, strict=True):
                count += in_bucket
                lines.append(f"{start}{bound}{count}\n")
            braced = _braced(pairs)
            lines.append(f"{name}_sum{braced} {histogram.sum_s}\n")
            lines.append(f"{name}_count{braced} {count}\n")

    def _head(self, name: str) -> Metric:
        metric = METRICS[name]
        text = metric.help.replace("\\", r"\\").replace("\n", r"\n")
        self._lines.append(f"# HELP {name} {text}\n# TYPE {name} {metric.kind}\n")
        return metric


_BOUND_TEXTS: Final = (*[f'"{bound}"}} ' for bound in BOUNDS_S], '"+Inf"} ')
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def _pairs(metric: Metric, labels: Labels) -> str:
    return ",".join(
        f'{name}="{value.translate(_ESCAPES)}"'
        for name, value in zip(metric.labels, labels, strict=True)
    )


def _braced(pairs: str) -> str:
    return f"{{{pairs}}}" if pairs else ""
