"""
Goal: a figure says what the measurements say, and a goal is met only when it is.
Method: measurements by hand; no process is started.
"""

from __future__ import annotations

import pytest

from benchmarks.figures import FIGURES, Cell, Measurement, cells
from benchmarks.report import Results, table
from benchmarks.routing import CASES
from benchmarks.side import SideName


SIDES: tuple[SideName, ...] = ("direct", "nats", "websocket", "grpc", "native")


def measured(number: int, scenario: str, side: SideName, **values: float) -> Measurement:
    return {"round": number, "scenario": scenario, "side": side, "values": values, "error": ""}


def cell(measurements: list[Measurement], title: str, side: SideName) -> Cell:
    found = [c for c in cells(measurements, SIDES) if c.side == side and c.figure.title == title]
    assert len(found) == 1
    return found[0]


CALLS = "calls/s at 64 in flight, 100-byte echo"


def test_ratio_is_taken_within_each_round():
    rounds = [(100.0, 1000.0), (200.0, 1000.0), (50.0, 1000.0)]
    measurements = []
    for number, (direct, relay) in enumerate(rounds):
        measurements.append(measured(number, "calls", "direct", calls_per_s=direct))
        measurements.append(measured(number, "calls", "websocket", calls_per_s=relay))
    found = cell(measurements, CALLS, "websocket")
    assert (found.ratio, found.ratio_min, found.ratio_max) == (10, 5, 20)
    assert (found.median, found.rounds_count, found.is_met) == (1000, 3, True)


@pytest.mark.parametrize(("nats", "is_met"), [(900.0, True), (1100.0, False)])
def test_goal_of_calls_also_asks_for_more_than_nats(nats: float, is_met: bool):
    measurements = [
        measured(0, "calls", "direct", calls_per_s=100),
        measured(0, "calls", "nats", calls_per_s=nats),
        measured(0, "calls", "websocket", calls_per_s=1000),
        measured(0, "calls", "grpc", calls_per_s=500),
    ]
    assert cell(measurements, CALLS, "websocket").is_met is is_met
    assert cell(measurements, CALLS, "grpc").is_met is True
    assert cell(measurements, CALLS, "nats").is_met is None


@pytest.mark.parametrize(("p50_us", "is_met"), [(190.0, True), (191.0, False)])
def test_native_client_is_held_against_its_own_direct_calls(p50_us: float, is_met: bool):
    measurements = [
        measured(0, "latency", "direct", p50_us=100),
        measured(0, "latency", "nats", p50_us=50),
        measured(0, "latency", "native", p50_us=p50_us),
    ]
    assert cell(measurements, "median latency, one at a time", "native").is_met is is_met


def test_hub_is_compared_with_the_server_of_direct():
    measurements = [
        measured(0, "calls", "direct", calls_per_s=1, host_us_per_call=150),
        measured(0, "calls", "grpc", calls_per_s=1, host_us_per_call=9, hub_us_per_call=15),
    ]
    found = cell(measurements, "hub CPU per unary call, over direct's server", "grpc")
    assert found.ratio == pytest.approx(0.1)
    assert found.is_met is True


def test_neighbours_are_compared_with_themselves():
    values = {"alone_p99_us": 100.0, "beside_p99_us": 130.0}
    measurements = [measured(0, "stuck_reader", "websocket", **values)]
    title = "neighbours' p99 beside a reader that never reads, over without"
    found = cell(measurements, title, "websocket")
    assert found.ratio == pytest.approx(1.3)
    assert found.is_met is False


def test_memory_is_held_against_a_number_of_kib():
    measurements = [measured(0, "idle_links", "websocket", kib_per_link=31)]
    found = cell(measurements, "hub memory per idle link", "websocket")
    assert (found.ratio, found.is_met) == (None, True)


def test_failed_measurement_leaves_the_others_of_its_round():
    failed = measured(0, "calls", "grpc")
    failed["error"] = "BenchmarkError: hub ended"
    direct = measured(0, "calls", "direct", calls_per_s=100)
    assert {c.side for c in cells([failed, direct], SIDES)} == {"direct"}


def test_decisions_of_the_router_have_a_table_of_their_own():
    figures = [figure for figure in FIGURES if figure.scenario == "routing"]
    assert {figure.value for figure in figures} == {f"{case.name}_us" for case in CASES}
    values = {figure.value: float(number) for number, figure in enumerate(figures, 1)}
    measurements = [measured(0, "routing", "core", **values)]
    results = Results(machine={}, command="", started_at="", measurements=measurements)
    lines = [line for line in table(results) if line]
    assert len(lines) == 2 + len(CASES)
    shown = [[text.strip() for text in line.split("|")[1:3]] for line in lines[2:]]
    assert shown[0] == ["one host", "1.00 µs"]


def test_fewer_idle_hosts_than_asked_for_is_shown():
    measurements = [measured(0, "idle_hosts", "grpc", links_count=9000, kib_per_link=60)]
    assert cell(measurements, "idle hosts on one hub, a link each", "grpc").is_met is False
    assert cell(measurements, "hub memory per idle host", "grpc").is_met is True


def test_many_addresses_are_compared_with_one_of_the_same_hub():
    values = {"one_calls_per_s": 1000.0, "three_calls_per_s": 950.0, "many_calls_per_s": 905.0}
    measurements = [measured(0, "many_addresses", "websocket", **values)]
    title = "calls/s at 1,000 addresses with 3 hosts each, over one host at one"
    found = cell(measurements, title, "websocket")
    assert (found.ratio, found.is_met) == (pytest.approx(0.905), True)


def test_table_shows_goal_and_whether_it_is_met():
    measurements = [
        measured(0, "calls", "direct", calls_per_s=1000),
        measured(0, "calls", "grpc", calls_per_s=4000),
    ]
    results = Results(machine={}, command="", started_at="", measurements=measurements)
    lines = table(results)
    assert "1,000/s" in lines[2]
    assert "**4.00×** (4.00–4.00), 4,000/s; goal ≥ 5× NOT met" in lines[2]
