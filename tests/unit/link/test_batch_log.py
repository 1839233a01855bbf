"""
Numbered batches. Goal: nothing is lost, nothing is taken twice, whatever place a resume names.
Method: one log a test, by hand.
"""

from __future__ import annotations

import dataclasses

import pytest

from relayrpc.errors import ProtocolError
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.link.batch_log import BatchLog


COUNT = 5


def _log(*sizes: int) -> BatchLog:
    log = BatchLog(DEFAULT_LIMITS)
    for size in sizes:
        log.add(b"x" * size, now_s=1.0)
    return log


def _again(log: BatchLog) -> list[int]:
    numbers = []
    while log.has_batches_again:
        numbers.append(log.next_again().number)
    return numbers


def test_batches_are_numbered_from_one_and_kept_until_acknowledged() -> None:
    log = _log(10, 20, 30)
    assert (log.sent_number, log.kept_bytes) == (3, 60)
    log.acknowledge(2, now_s=1.5)
    assert (log.acknowledged_number, log.kept_bytes) == (2, 30)
    first = log.first_kept()
    assert first is not None
    assert first.number == 3
    log.acknowledge(3, now_s=1.5)
    assert log.first_kept() is None
    assert log.kept_bytes == 0


def test_ack_that_is_behind_changes_nothing() -> None:
    log = _log(10, 20)
    log.acknowledge(2, now_s=1.0)
    log.acknowledge(1, now_s=1.0)
    log.acknowledge(0, now_s=1.0)
    assert log.acknowledged_number == 2


def test_ack_of_a_batch_never_sent_is_a_fault() -> None:
    log = _log(10)
    with pytest.raises(ProtocolError, match="batch 2"):
        log.acknowledge(2, now_s=1.0)
    assert log.kept_bytes == 10


@pytest.mark.parametrize("acknowledged", range(COUNT + 1))
@pytest.mark.parametrize("received", range(COUNT + 2))
def test_resume_sends_again_exactly_what_was_not_received(acknowledged: int, received: int) -> None:
    log = _log(*[10] * COUNT)
    log.acknowledge(acknowledged, now_s=1.0)
    if not acknowledged <= received <= COUNT:
        assert not log.resume(received, now_s=2.0)
        assert not log.has_batches_again
        assert log.acknowledged_number == acknowledged
        return
    assert log.resume(received, now_s=2.0)
    assert log.kept_bytes == 10 * (COUNT - received)
    assert [log.was_given(number) for number in range(1, COUNT + 1)] == [
        number <= received for number in range(1, COUNT + 1)
    ]
    assert _again(log) == list(range(received + 1, COUNT + 1))
    assert log.was_given(COUNT)
    assert not log.was_given(COUNT + 1)


def test_resume_of_a_peer_that_still_reads_the_old_carrier_shows_nothing_missing() -> None:
    log = _log(*[10] * COUNT)
    assert log.resume(1, now_s=2.0, is_final=False)
    assert log.was_given(COUNT)
    assert _again(log) == list(range(2, COUNT + 1))
    assert log.resume(2, now_s=3.0)
    assert not log.was_given(3)


def test_resume_in_the_middle_of_a_resume_starts_over() -> None:
    log = _log(*[10] * COUNT)
    assert log.resume(1, now_s=2.0)
    log.next_again()
    log.acknowledge(2, now_s=2.0)
    assert log.resume(2, now_s=3.0)
    assert _again(log) == [3, 4, 5]


def test_ack_during_a_resume_spares_what_it_names() -> None:
    log = _log(*[10] * COUNT)
    assert log.resume(1, now_s=2.0)
    log.acknowledge(3, now_s=2.0)
    assert _again(log) == [4, 5]


def test_round_trip_is_not_taken_from_batches_sent_again() -> None:
    log = _log(10)
    assert log.resume(0, now_s=100.0)
    log.next_again()
    log.acknowledge(1, now_s=101.0)
    assert log.path.round_trip_s is None


def test_duplicate_is_dropped_and_acknowledged_at_once() -> None:
    log = BatchLog(DEFAULT_LIMITS)
    assert log.receive(1, 10, now_s=1.0)
    assert not log.receive(1, 10, now_s=1.0)
    assert log.ack_due_s == 0.0
    assert log.ack_to_send() == 1


def test_gap_is_a_fault() -> None:
    log = BatchLog(DEFAULT_LIMITS)
    with pytest.raises(ProtocolError, match="batch 2 after 0"):
        log.receive(2, 10, now_s=1.0)
    assert log.received_number == 0


@pytest.mark.parametrize(("batches", "size"), [(3, 1), (1, 1000)])
def test_ack_is_due_at_once_after_enough_was_received(batches: int, size: int) -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, ack_after_batches=3, ack_after_bytes=1000)
    log = BatchLog(limits)
    for number in range(1, batches):
        log.receive(number, size, now_s=1.0)
        assert log.ack_due_s == 1.0 + limits.ack_after_s
    log.receive(batches, size, now_s=1.0)
    assert log.ack_due_s == 0.0
    log.ack_to_send()
    assert log.ack_due_s is None


def test_window_is_full_at_its_bound() -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, unacknowledged_bytes_min=100)
    log = BatchLog(limits)
    log.add(b"x" * 99, now_s=1.0)
    assert not log.is_full()
    log.add(b"x", now_s=1.0)
    assert log.is_full()
