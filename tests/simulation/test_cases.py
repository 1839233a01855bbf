"""
Named cases beside the random worlds: the moments at which a relay's promises are hardest to keep.

Method: one stage a case, a fault exactly where the name says, the same checks as in random worlds.
"""

from __future__ import annotations

import dataclasses

import pytest

from relayrpc.limits import DEFAULT_LIMITS, KIB
from relayrpc.link.call import (
    STATUS_INTERNAL,
    STATUS_OK,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
)
from relayrpc.link.frames import encode_unnumbered
from relayrpc.link.link import LinkState
from relayrpc.v1 import link_pb2 as pb
from tests.simulation.carriers import CarrierPair, FaultPlan, PathShape, SimCarrier
from tests.simulation.ledger import CallRecord
from tests.simulation.processes import Peer
from tests.simulation.scripts import ReaderPlan
from tests.simulation.stage import Stage


def _cut(peer: Peer) -> None:
    assert peer.pair is not None
    peer.pair.cut(notice_s=(0.0, 0.0), still_delivered=(0, 0))


def _streams(stage: Stage, caller: Peer, count: int = 5) -> list[CallRecord]:
    """Calls whose messages are under way for a while, in both directions."""
    return [
        stage.call(
            caller,
            requests=(300,) * 12,
            responses=(400,) * 12,
            answer="in_turn",
            request_pause_s=0.02,
        )
        for _ in range(count)
    ]


def _statuses(records: list[CallRecord]) -> set[int | None]:
    return {None if record.outcome is None else record.outcome.status for record in records}


@pytest.mark.parametrize("cut_end", ["host", "caller"])
@pytest.mark.parametrize("is_before_delivery", [True, False], ids=["resume lost", "welcome lost"])
def test_streams_survive_a_handshake_that_is_cut(cut_end: str, is_before_delivery: bool) -> None:
    stage = Stage()
    host, caller = stage.peer("host", serves=True), stage.peer("caller")
    records = _streams(stage, caller)
    stage.run(0.1)
    peer = host if cut_end == "host" else caller
    # RESUME is the first batch of the next carrier; twice in a row it does not get through, or
    # gets through and its answer does not.
    lost = FaultPlan(
        kind="cut", after_batches=1, from_dialler=True, is_before_delivery=is_before_delivery
    )
    stage.plans.extend([lost, lost])
    _cut(peer)
    stage.finish()
    assert _statuses(records) == {STATUS_OK}
    assert peer.link.attempt == 3


def test_resume_that_comes_after_a_later_one_is_refused() -> None:
    stage = Stage()
    stage.peer("host", serves=True)
    impatient = dataclasses.replace(DEFAULT_LIMITS, handshake_timeout_s=2.0)
    caller = stage.peer("caller", limits=impatient)
    records = _streams(stage, caller)
    stage.run(0.1)
    # The first RESUME is held up until the second one was taken.
    late = FaultPlan(
        kind="delay",
        after_batches=1,
        is_before_delivery=True,
        lasts_s=5.0,
        still_delivered=(1, 0),
    )
    stage.plans.append(late)
    _cut(caller)
    stage.finish()
    assert _statuses(records) == {STATUS_OK}
    assert caller.link.attempt == 2
    assert any("is not above the last" in what for what in stage.world.seen)


@pytest.mark.parametrize("mover", ["host", "caller"])
def test_streams_survive_a_move_while_both_carriers_are_alive(mover: str) -> None:
    """The old carrier is slow and goes on delivering after the new one was taken."""
    stage = Stage()
    stage.shape = PathShape(latency_s=0.5, jitter_s=0.0, bytes_per_s=1e8)
    host = stage.peer("host", serves=True)
    stage.run(1.0)
    caller = stage.peer("caller")
    stage.run(1.0)
    records = _streams(stage, caller)
    stage.run(0.6)
    stage.shape = PathShape(latency_s=0.001, jitter_s=0.0, bytes_per_s=1e8)
    peer = host if mover == "host" else caller
    peer.move()
    stage.run(0.01)
    assert peer.link.attempt == 1
    stage.finish()
    assert _statuses(records) == {STATUS_OK}
    assert peer.carriers_count == 2


def test_two_full_windows_do_not_lock_each_other() -> None:
    """Both ends have used up what may be unacknowledged, and both wait for the other's grants."""
    limits = dataclasses.replace(
        DEFAULT_LIMITS, unacknowledged_bytes_min=2 * KIB, unacknowledged_bytes_max=2 * KIB
    )
    stage = Stage(limits)
    stage.shape = PathShape(latency_s=0.1, jitter_s=0.0, bytes_per_s=1e6)
    stage.peer("host", serves=True)
    caller = stage.peer("caller")
    records = [
        stage.call(caller, requests=(20_000,) * 6, responses=(20_000,) * 6, answer="at_once")
        for _ in range(4)
    ]
    hub_link = stage.hub_link(caller)
    both_full_count = 0

    def look() -> None:
        nonlocal both_full_count
        both_full_count += caller.link.log.is_full() and hub_link.log.is_full()

    stage.world.checks.append((1, look))
    stage.finish(600.0)
    assert both_full_count > 0
    assert _statuses(records) == {STATUS_OK}


@pytest.mark.parametrize("what", ["program", "carrier"])
def test_a_hundred_calls_to_a_stuck_reader_stay_within_the_budget(what: str) -> None:
    """Stage checks the budget after every event; neighbours end meanwhile."""
    limits = dataclasses.replace(DEFAULT_LIMITS, link_budget_bytes=1024 * KIB, calls_open_max=128)
    stage = Stage(limits)
    stage.peer("host", serves=True)
    neighbour = stage.peer("neighbour")
    if what == "carrier":
        stage.shape = PathShape(latency_s=0.01, jitter_s=0.0, bytes_per_s=20_000)
    stuck = stage.peer("stuck")
    streams = [
        stage.call(
            stuck,
            shape=pb.SHAPE_UNARY_STREAM,
            requests=(10,),
            first_requests=1,
            responses=(60_000,) * 5,
            caller_reader=ReaderPlan(stuck_after=0),
        )
        for _ in range(100)
    ]
    stage.run(2.0)
    beside = [stage.call(neighbour, requests=(9000,), responses=(9000,)) for _ in range(5)]
    if what == "program":
        beside.append(stage.call(stuck, requests=(9000,), responses=(9000,)))
    stage.run(2.0)
    assert _statuses(beside) == {STATUS_OK}
    assert _statuses(streams) == {None}
    budget = stage.hub_link(stuck).budget
    assert budget is not None
    if what == "carrier":
        # Nearly all of it is in use: 100 windows of 64 KiB would be six times as much.
        assert budget.used_bytes > budget.limit_bytes * 2 // 3
    stage.finish(2000.0)
    assert _statuses(streams) == {STATUS_OK}


def test_calls_of_an_expired_link_end_with_the_truth() -> None:
    stage = Stage()
    host, caller = stage.peer("host", serves=True), stage.peer("caller")
    started = stage.call(caller, requests=(10, 10), request_pause_s=100.0)
    stage.run(1.0)
    host.is_offline = True
    _cut(host)
    stage.run(1.0)
    waiting = stage.call(caller)
    stage.run(DEFAULT_LIMITS.resume_window_s)
    assert _statuses([started, waiting]) == {STATUS_UNAVAILABLE}
    assert started.outcome is not None
    assert waiting.outcome is not None
    assert started.outcome.may_have_executed
    # Its OPEN was in no batch given to a carrier: the window had no carrier.
    assert not waiting.outcome.may_have_executed
    assert waiting.outcome.origin == "hub"
    host.is_offline = False
    stage.run(5.0)
    again = stage.call(caller)
    stage.finish()
    assert _statuses([again]) == {STATUS_OK}


def test_calls_end_and_links_are_made_anew_when_the_hub_is_restarted() -> None:
    stage = Stage()
    stage.peer("host", serves=True)
    caller = stage.peer("caller")
    started = stage.call(caller, requests=(10, 10), request_pause_s=100.0)
    stage.run(1.0)
    stage.hub.die()
    stage.network.start_hub(DEFAULT_LIMITS)
    stage.run(3.0)
    assert _statuses([started]) == {STATUS_UNAVAILABLE}
    assert started.outcome is not None
    assert started.outcome.may_have_executed
    assert started.handlings[0].told_status is not None
    again = stage.call(caller)
    stage.finish()
    assert _statuses([again]) == {STATUS_OK}


@pytest.mark.parametrize("wrong", ["secret", "epoch", "link_id", "instance"])
def test_resume_with_a_wrong_field_is_expired_and_harms_nobody(wrong: str) -> None:
    stage = Stage()
    stage.peer("host", serves=True)
    caller = stage.peer("caller")
    records = _streams(stage, caller)
    stage.run(0.1)
    resume = pb.Resume(
        link_id=caller.link.link_id,
        secret=caller.link.secret,
        epoch=caller.link.epoch,
        attempt=50,
        instance=caller.instance,
    )
    if wrong == "instance":
        resume.instance = "somebody"
    else:
        setattr(resume, wrong, bytes(len(getattr(resume, wrong))))
    thief = CarrierPair(
        stage.world, name="thief", shape=stage.shape, plan=FaultPlan(), peer="thief"
    )
    answers = _Answers()
    thief.dialler.start(answers)
    stage.hub.accept(thief.acceptor)
    thief.dialler.send_nowait(encode_unnumbered(pb.Frame(resume=resume)))
    stage.finish()
    assert [frame.WhichOneof("body") for frame in answers.frames] == ["expired"]
    assert answers.is_over
    assert _statuses(records) == {STATUS_OK}


class _Answers:
    """What came back on a carrier that no link knows of."""

    def __init__(self) -> None:
        self.frames: list[pb.Frame] = []
        self.is_over = False

    def batch_received(self, batch: bytes) -> None:
        self.frames += pb.Batch.FromString(batch).frames

    def writable(self) -> None:
        """Nothing more is sent."""

    def carrier_ended(self, error: object) -> None:
        self.is_over = True


def test_a_sender_that_overruns_its_credit_loses_only_that_call() -> None:
    stage = Stage()
    stage.peer("host", serves=True)
    caller = stage.peer("caller")
    bad = stage.call(caller, requests=(5, 5), request_pause_s=100.0)
    stage.run(1.0)
    call = next(iter(caller.link._calls.values()))
    # The window's other half: what the host has not granted.
    call.send_credit_bytes = 10_000_000
    caller.link.send_data(call, bytes(9_000_000))
    caller.link.flush_soon()
    others = _streams(stage, caller)
    stage.run(5.0)
    assert _statuses([bad]) == {STATUS_INTERNAL}
    assert bad.handlings[0].told_status is not None
    stage.finish()
    assert _statuses(others) == {STATUS_OK}


def test_a_batch_that_no_carrier_takes_ends_the_link_the_second_time() -> None:
    stage = Stage()
    stage.peer("host", serves=True)
    caller = stage.peer("caller")
    stage.shape = PathShape(latency_s=0.01, jitter_s=0.0, bytes_per_s=1e8)
    first = stage.call(caller)
    stage.run(1.0)
    _refuse_large(caller.pair)
    # On the next carrier its first batch is RESUME, its second the one that is too large.
    stage.plans.append(
        FaultPlan(kind="cut", after_batches=2, is_before_delivery=True, is_size_error=True)
    )
    record = stage.call(caller, requests=(50_000,), first_requests=1)
    stage.run(3.0)
    assert _statuses([record]) == {STATUS_UNAVAILABLE}
    assert record.outcome is not None
    assert "too large for the carrier" in record.outcome.details
    assert stage.world.seen["ended by size errors"] == 1
    again = stage.call(caller)
    stage.finish()
    assert _statuses([first, again]) == {STATUS_OK}


def _refuse_large(pair: CarrierPair | None) -> None:
    """The next batch the dialler sends is too large for this carrier."""
    assert pair is not None
    dialler: SimCarrier = pair.dialler

    def send(batch: bytes) -> None:
        pair.cut(notice_s=(0.0, 0.0), still_delivered=(0, 0), is_size_error=True)

    dialler.send_nowait = send  # type: ignore[method-assign]  # one carrier's fault


def test_calls_finish_on_a_draining_hub_and_new_ones_go_to_the_next() -> None:
    stage = Stage()
    host, caller = stage.peer("host", serves=True), stage.peer("caller")
    running = _streams(stage, caller)
    stage.run(0.1)
    old = stage.hub
    new = stage.network.start_hub(DEFAULT_LIMITS)
    old.drain()
    stage.run(1.5)
    after = stage.call(caller)
    assert after.link_key == "caller/1"
    stage.finish()
    assert _statuses([*running, after]) == {STATUS_OK}
    assert running[0].handlings[0].link_key == "host/0"
    assert after.handlings[0].link_key == "host/1"
    assert len(old.table) == 0
    assert {link.instance for link in new.table.links} == {host.instance, caller.instance}


def test_a_draining_hub_ends_what_is_left_at_its_deadline() -> None:
    stage = Stage()
    stage.peer("host", serves=True)
    caller = stage.peer("caller")
    record = stage.call(caller, requests=(10, 10), request_pause_s=1000.0)
    stage.run(1.0)
    stage.network.start_hub(DEFAULT_LIMITS)
    stage.hub.drain()
    stage.run(DEFAULT_LIMITS.drain_timeout_s + 1.0)
    assert _statuses([record]) == {STATUS_UNAVAILABLE}
    assert record.outcome is not None
    assert record.outcome.may_have_executed
    stage.finish()


def test_no_new_call_reaches_a_host_that_withdrew_and_running_ones_finish() -> None:
    stage = Stage()
    host, caller = stage.peer("host", serves=True), stage.peer("caller")
    running = _streams(stage, caller)
    stage.run(0.1)
    host.withdraw()
    stage.run(0.1)
    after = stage.call(caller)
    stage.finish()
    assert _statuses(running) == {STATUS_OK}
    assert _statuses([after]) == {STATUS_UNAVAILABLE}
    assert after.outcome is not None
    assert not after.outcome.may_have_executed
    assert not after.handlings


@pytest.mark.parametrize("is_old_alive", [True, False], ids=["clone", "restart"])
def test_a_new_link_of_the_same_instance_takes_over(is_old_alive: bool) -> None:
    stage = Stage()
    old, caller = stage.peer("host", serves=True), stage.peer("caller")
    running = _streams(stage, caller)
    stage.run(0.1)
    if not is_old_alive:
        old.die()
    stage.peer("host'", serves=True, instance=old.instance)
    assert _statuses(running) == {STATUS_UNAVAILABLE}
    after = stage.call(caller)
    stage.finish()
    assert _statuses([after]) == {STATUS_OK}
    assert after.handlings[0].host == "host'"
    assert old.link.state is LinkState.CLOSED or not is_old_alive


def test_more_calls_than_a_host_takes_are_refused_unexecuted() -> None:
    stage = Stage()
    stage.peer("host", serves=True, limits=dataclasses.replace(DEFAULT_LIMITS, calls_open_max=3))
    caller = stage.peer("caller")
    records = [stage.call(caller, requests=(1, 1), request_pause_s=2.0) for _ in range(5)]
    stage.run(1.0)
    refused = [record for record in records if record.outcome is not None]
    assert len(refused) == 2
    assert _statuses(refused) == {STATUS_RESOURCE_EXHAUSTED}
    assert not any(record.outcome.may_have_executed for record in refused if record.outcome)
    stage.finish()
