"""
Deadlines. Goal: never early, at most a tick late, and few buckets. Method: driven by next_s(), as a
link drives them.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.link.call import Call
from relayrpc.link.deadlines import DeadlineBuckets
from relayrpc.link.link import Link


LINK = Link(is_dialler=False, limits=DEFAULT_LIMITS, instance="i", now_s=0.0)
TICK_S = 0.01
# A little for the floats: 12345.67 has no exact value.
SLACK_S = 1e-6


def _watched(buckets: DeadlineBuckets, deadline_s: float, *, now_s: float) -> Call:
    call = Call(LINK, is_opener=False, state=0)
    call.deadline_s = deadline_s
    buckets.add(call, now_s=now_s)
    return call


@given(
    start_s=st.floats(0.0, 1e6),
    lefts_s=st.lists(
        st.one_of(st.floats(-1.0, 3.0), st.floats(0.0, 700.0), st.floats(0.0, 20_000.0)),
        min_size=1,
        max_size=20,
    ),
    discarded=st.sets(st.integers(0, 19)),
)
def test_deadlines_are_never_early_and_at_most_a_tick_late(
    start_s: float, lefts_s: list[float], discarded: set[int]
) -> None:
    buckets = DeadlineBuckets()
    calls = [_watched(buckets, start_s + left_s, now_s=start_s) for left_s in lefts_s]
    for index in discarded & set(range(len(calls))):
        buckets.discard(calls[index])
        buckets.discard(calls[index])
    waiting = {call for index, call in enumerate(calls) if index not in discarded}
    now_s, turns = start_s, 0
    while (next_s := buckets.next_s()) is not None:
        turns += 1
        assert turns < 400, "buckets are split again and again"
        now_s = max(now_s, next_s)
        due = buckets.expired(now_s=now_s)
        assert [call.deadline_s for call in due] == sorted(call.deadline_s or 0.0 for call in due)
        for call in due:
            waiting.remove(call)
            late_s = now_s - max(call.deadline_s or 0.0, start_s)
            assert 0.0 <= late_s <= TICK_S + SLACK_S
    assert not waiting


def test_many_distant_deadlines_share_few_buckets() -> None:
    buckets = DeadlineBuckets()
    for index in range(10_000):
        _watched(buckets, 1000.0 + index / 100, now_s=0.0)
    assert len(buckets._buckets) <= 5
    for index in range(1_000):
        _watched(buckets, 10.0 + index / 100, now_s=0.0)
    assert len(buckets._buckets) <= 5 + 12


def test_bucket_goes_with_its_last_call_when_it_is_looked_at() -> None:
    buckets = DeadlineBuckets()
    call = _watched(buckets, 1.0, now_s=0.0)
    buckets.discard(call)
    assert buckets.next_s() is None
    assert not buckets._buckets
