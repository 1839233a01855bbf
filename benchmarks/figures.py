"""
From measurements to figures: medians, ratios, and whether the goals are met. Pure.

A ratio is taken within a round, where both of its measurements were taken within seconds of each
other; what is shown is the median of the rounds' ratios. Source: docs/performance.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING, Final, Literal, TypedDict


if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.side import SideName


__all__ = ["FIGURES", "Cell", "Figure", "Measurement", "cells"]


class Measurement(TypedDict):
    """One scenario on one side in one round."""

    round: int
    scenario: str
    side: SideName
    values: dict[str, float]
    """Empty when it failed."""
    error: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Figure:
    """One row of the table."""

    title: str
    scenario: str
    value: str
    """Name of the measured value."""
    unit: str
    over: Literal["direct", "itself", "nothing"] = "direct"
    """What the value is divided by: direct's in the same round, the side's own, or nothing."""
    over_value: str = ""
    """Name of the value to divide by; as `value` when empty."""
    over_scenario: str = ""
    """Where it was measured; in the same scenario when empty."""
    is_more_better: bool = True
    goals: dict[SideName, float] = field(default_factory=dict)
    """At least or at most this, by side; compared with the ratio where there is one."""
    beats_nats: bool = False
    """The goal also asks for better than NATS in the same run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One figure of one side."""

    figure: Figure
    side: SideName
    median: float
    ratio: float | None
    ratio_min: float | None
    ratio_max: float | None
    rounds_count: int
    is_met: bool | None
    """None where no goal was set."""


ROUTING_TITLES: Final = {
    "one_host": "one host",
    "three_hosts": "three hosts",
    "thousand_addresses": "three hosts at each of 1,000 addresses, in turn",
    "sticky_key": "three hosts, by a key",
    "one_host_above": "one host, found three paths above the address",
    "three_hosts_above": "three hosts, found there",
    "thousand_addresses_above": "three hosts above each of 1,000 addresses, in turn",
    "sticky_key_above": "three hosts, found above, by a key",
}
"""By case of routing.py."""

ORDER_TITLES: Final = {"put": "2 KiB requests", "get": "2 KiB responses"}
"""By method of orders.py."""

FIGURES: Final = (
    Figure(
        title="calls/s at 64 in flight, 100-byte echo",
        scenario="calls",
        value="calls_per_s",
        unit="/s",
        goals={"websocket": 9, "grpc": 5, "native": 0.63},
        beats_nats=True,
    ),
    Figure(
        title="calls/s at 64 in flight, generated protobuf stub",
        scenario="stub_calls",
        value="calls_per_s",
        unit="/s",
    ),
    *(
        Figure(
            title=f"calls/s at 64 in flight, {title}, generated protobuf stub",
            scenario="stub_2k",
            value=f"stub_{method}_calls_per_s",
            unit="/s",
        )
        for method, title in ORDER_TITLES.items()
    ),
    *(
        Figure(
            title=f"the same, {title}, over raw bytes",
            scenario="stub_2k",
            value=f"stub_{method}_calls_per_s",
            over="itself",
            over_value=f"raw_{method}_calls_per_s",
            unit="/s",
        )
        for method, title in ORDER_TITLES.items()
    ),
    Figure(
        title="median latency, one at a time",
        scenario="latency",
        value="p50_us",
        unit="µs",
        is_more_better=False,
        goals={"websocket": 0.5, "grpc": 1.3, "native": 1.9},
        beats_nats=True,
    ),
    Figure(
        title="hub CPU per unary call, over direct's server",
        scenario="calls",
        value="hub_us_per_call",
        over_value="host_us_per_call",
        unit="µs",
        is_more_better=False,
        goals={"websocket": 0.08, "grpc": 0.13},
    ),
    Figure(
        title="host CPU per unary call, over direct's server",
        scenario="calls",
        value="host_us_per_call",
        unit="µs",
        is_more_better=False,
    ),
    Figure(
        title="caller CPU per unary call",
        scenario="calls",
        value="caller_us_per_call",
        unit="µs",
        is_more_better=False,
    ),
    Figure(
        title="messages/s of one server stream, 100 bytes",
        scenario="small_stream",
        value="messages_per_s",
        unit="/s",
        goals={"websocket": 5, "grpc": 5},
    ),
    Figure(
        title="MB/s of one server stream, 64 KiB messages",
        scenario="bulk_stream",
        value="mb_per_s",
        unit="MB/s",
        goals={"websocket": 0.6, "grpc": 0.5},
    ),
    Figure(
        title="the same, 50 ms added each way",
        scenario="delayed_stream",
        value="mb_per_s",
        unit="MB/s",
        goals={"websocket": 0.5, "grpc": 0.5},
    ),
    Figure(
        title="neighbours' p99 beside a reader that never reads, over without",
        scenario="stuck_reader",
        value="beside_p99_us",
        over="itself",
        over_value="alone_p99_us",
        unit="µs",
        is_more_better=False,
        goals={"websocket": 1.2, "grpc": 1.2},
    ),
    Figure(
        title="neighbours' p99 beside a 1 GiB transfer, over without",
        scenario="transfer",
        value="beside_p99_us",
        over="itself",
        over_value="alone_p99_us",
        unit="µs",
        is_more_better=False,
        goals={"websocket": 3, "grpc": 3},
    ),
    Figure(
        title="that transfer, over direct's beside the same neighbours",
        scenario="transfer",
        value="mb_per_s",
        unit="MB/s",
        goals={"websocket": 0.5, "grpc": 0.5},
    ),
    Figure(
        title="that transfer, over direct's stream alone",
        scenario="transfer",
        value="mb_per_s",
        over_scenario="bulk_stream",
        unit="MB/s",
        goals={"websocket": 0.5, "grpc": 0.5},
    ),
    Figure(
        title="neighbours' p99 when the transfer shares their link, over without",
        scenario="shared_transfer",
        value="beside_p99_us",
        over="itself",
        over_value="alone_p99_us",
        unit="µs",
        is_more_better=False,
    ),
    Figure(
        title="that transfer, over direct's beside the same neighbours",
        scenario="shared_transfer",
        value="mb_per_s",
        unit="MB/s",
    ),
    Figure(
        title="calls/s of 16 threads with a blocking stub, over grpc's own blocking API",
        scenario="blocking_calls",
        value="calls_per_s",
        unit="/s",
        goals={"websocket": 2},
    ),
    Figure(
        title="their caller's CPU per call",
        scenario="blocking_calls",
        value="caller_us_per_call",
        unit="µs",
        is_more_better=False,
    ),
    Figure(
        title="median latency of a blocking stub, one at a time, over the same",
        scenario="blocking_latency",
        value="p50_us",
        unit="µs",
        is_more_better=False,
        goals={"websocket": 1.5},
    ),
    Figure(
        title="calls/s at 64 in flight to plain handlers, over grpc's own blocking server",
        scenario="plain_host",
        value="calls_per_s",
        unit="/s",
        goals={"websocket": 2},
    ),
    Figure(
        title="their host's CPU per call",
        scenario="plain_host",
        value="host_us_per_call",
        unit="µs",
        is_more_better=False,
    ),
    Figure(
        title="calls/s at 64 in flight within one session",
        scenario="session_calls",
        value="calls_per_s",
        unit="/s",
    ),
    Figure(
        title="median latency within a session, one at a time",
        scenario="session_calls",
        value="p50_us",
        unit="µs",
        is_more_better=False,
    ),
    Figure(
        title="a callback's round trip, over a relayed call's",
        scenario="callbacks",
        value="callback_us",
        over="itself",
        over_value="call_us",
        unit="µs",
        is_more_better=False,
        goals={"websocket": 1.2, "grpc": 1.2},
    ),
    Figure(
        title="one-way calls/s at 64 in flight, over calls that are answered",
        scenario="one_way",
        value="one_way_per_s",
        over="itself",
        over_value="echoes_per_s",
        unit="/s",
        goals={"websocket": 1.5, "grpc": 1.5},
    ),
    *(
        Figure(
            title=f"{role} memory per idle session",
            scenario="idle_sessions",
            value=f"{role}_kib",
            over="nothing",
            unit="KiB",
            is_more_better=False,
        )
        for role in ("hub", "host", "caller")
    ),
    Figure(
        title="callbacks/s to a set of 1,000 callers",
        scenario="callback_set",
        value="events_per_s",
        over="nothing",
        unit="/s",
    ),
    Figure(
        title="the same beside one that is stuck, over without",
        scenario="callback_set",
        value="events_beside_stuck_per_s",
        over="itself",
        over_value="events_per_s",
        unit="/s",
        goals={"websocket": 0.9, "grpc": 0.9},
    ),
    Figure(
        title="calls/s at 64 in flight to an exposed grpc.aio server",
        scenario="expose_calls",
        value="calls_per_s",
        unit="/s",
        goals={"websocket": 0.8},
    ),
    Figure(
        title="agent CPU per call to it, over the server's when called directly",
        scenario="expose_calls",
        value="agent_us_per_call",
        over_value="host_us_per_call",
        unit="µs",
        is_more_better=False,
    ),
    Figure(
        title="hub CPU per such call, over the same",
        scenario="expose_calls",
        value="hub_us_per_call",
        over_value="host_us_per_call",
        unit="µs",
        is_more_better=False,
    ),
    Figure(
        title="calls/s, requests checked by a rule at the host, over not",
        scenario="validated_calls",
        value="host_calls_per_s",
        over="itself",
        over_value="nowhere_calls_per_s",
        unit="/s",
    ),
    Figure(
        title="calls/s, requests checked by that rule at the hub, over not",
        scenario="validated_calls",
        value="hub_calls_per_s",
        over="itself",
        over_value="nowhere_calls_per_s",
        unit="/s",
    ),
    Figure(
        title="hub CPU per call that it checks, over one that it does not",
        scenario="validated_calls",
        value="hub_hub_us_per_call",
        over="itself",
        over_value="nowhere_hub_us_per_call",
        unit="µs",
        is_more_better=False,
    ),
    Figure(
        title="calls/s at 1,000 addresses with 3 hosts each, over one host at one",
        scenario="many_addresses",
        value="many_calls_per_s",
        over="itself",
        over_value="one_calls_per_s",
        unit="/s",
        goals={"websocket": 0.9, "grpc": 0.9},
    ),
    Figure(
        title="the same, over 3 hosts at one address",
        scenario="many_addresses",
        value="many_calls_per_s",
        over="itself",
        over_value="three_calls_per_s",
        unit="/s",
    ),
    Figure(
        title="hub CPU per call at those addresses, over one host at one",
        scenario="many_addresses",
        value="many_hub_us_per_call",
        over="itself",
        over_value="one_hub_us_per_call",
        unit="µs",
        is_more_better=False,
    ),
    Figure(
        title="calls/s with a link for each of those 3,000 hosts, over one host",
        scenario="many_hosts",
        value="many_calls_per_s",
        over="itself",
        over_value="one_calls_per_s",
        unit="/s",
    ),
    Figure(
        title="hub CPU per call with those links, over one host",
        scenario="many_hosts",
        value="many_hub_us_per_call",
        over="itself",
        over_value="one_hub_us_per_call",
        unit="µs",
        is_more_better=False,
    ),
    Figure(
        title="idle hosts on one hub, a link each",
        scenario="idle_hosts",
        value="links_count",
        over="nothing",
        unit="hosts",
        goals={"websocket": 10_000, "grpc": 10_000},
    ),
    Figure(
        title="hub memory per idle host",
        scenario="idle_hosts",
        value="kib_per_link",
        over="nothing",
        unit="KiB",
        is_more_better=False,
        goals={"websocket": 32, "grpc": 64},
    ),
    Figure(
        title="hub CPU for those idle hosts, of one core",
        scenario="idle_hosts",
        value="hub_ms_per_s",
        over="nothing",
        unit="ms/s",
        is_more_better=False,
    ),
    Figure(
        title="hub memory per idle link",
        scenario="idle_links",
        value="kib_per_link",
        over="nothing",
        unit="KiB",
        is_more_better=False,
        goals={"websocket": 32, "grpc": 64},
    ),
    Figure(
        title="hub memory per idle link, TLS",
        scenario="secure_idle_links",
        value="kib_per_link",
        over="nothing",
        unit="KiB",
        is_more_better=False,
    ),
    *(
        Figure(
            title=title,
            scenario="routing",
            value=f"{case}_us",
            over="nothing",
            unit="µs",
            is_more_better=False,
        )
        for case, title in ROUTING_TITLES.items()
    ),
)


def cells(measurements: Iterable[Measurement], sides: Iterable[SideName]) -> list[Cell]:
    """Every figure of every side that was measured, in the order of `FIGURES`."""
    taken = {(m["round"], m["scenario"], m["side"]): m["values"] for m in measurements}
    found = []
    for figure in FIGURES:
        row = {side: _cell(figure, side, taken) for side in sides}
        nats = row.get("nats")
        found += [_beside_nats(cell, nats) for cell in row.values() if cell is not None]
    return found


Taken = dict[tuple[int, str, "SideName"], dict[str, float]]


def _cell(figure: Figure, side: SideName, taken: Taken) -> Cell | None:
    values: list[float] = []
    ratios: list[float] = []
    for (number, scenario, name), measured in taken.items():
        if scenario != figure.scenario or name != side or figure.value not in measured:
            continue
        values.append(measured[figure.value])
        base = _base(figure, number, side, taken)
        if base:
            ratios.append(measured[figure.value] / base)
    if not values:
        return None
    ratio = median(ratios) if ratios else None
    compared = median(values) if figure.over == "nothing" else ratio
    goal = figure.goals.get(side)
    return Cell(
        figure=figure,
        side=side,
        median=median(values),
        ratio=ratio,
        ratio_min=min(ratios, default=None),
        ratio_max=max(ratios, default=None),
        rounds_count=len(values),
        is_met=None if goal is None or compared is None else _meets(figure, compared, goal),
    )


def _base(figure: Figure, number: int, side: SideName, taken: Taken) -> float | None:
    if figure.over == "nothing":
        return None
    name: SideName = "direct" if figure.over == "direct" else side
    measured = taken.get((number, figure.over_scenario or figure.scenario, name), {})
    return measured.get(figure.over_value or figure.value)


def _meets(figure: Figure, value: float, goal: float) -> bool:
    return value >= goal if figure.is_more_better else value <= goal


def _beside_nats(cell: Cell, nats: Cell | None) -> Cell:
    """A goal may ask for better than NATS; over gRPC streams it does not."""
    if not cell.figure.beats_nats or cell.side != "websocket" or nats is None or not cell.is_met:
        return cell
    is_better = (
        cell.median > nats.median if cell.figure.is_more_better else cell.median < nats.median
    )
    return replace(cell, is_met=is_better)
