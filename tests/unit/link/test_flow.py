"""
Credit and budgets. Goal: never more than allowed, and never so little that a call stands still.
Method: random traffic, with the sums kept beside it.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.link.call import Call
from relayrpc.link.flow import Budget, PathEstimator, ReceiveWindow
from relayrpc.link.link import Link


LINK = Link(is_dialler=False, limits=DEFAULT_LIMITS, instance="i", now_s=0.0)


@given(
    window=st.integers(1, 5000),
    first=st.integers(0, 5000),
    growth=st.sampled_from((1, 3, 64)),
    steps=st.lists(
        st.tuples(st.booleans(), st.floats(0.0, 1.0), st.floats(0.0, 0.2)), max_size=60
    ),
)
def test_window_never_has_more_outstanding_than_its_size(
    window: int, first: int, growth: int, steps: list[tuple[bool, float, float]]
) -> None:
    credit = min(first, window)
    receiver = ReceiveWindow(
        credit_bytes=credit, window_bytes=window, window_bytes_max=window * growth
    )
    now_s = 0.0
    credit += receiver.consumed(0, now_s=now_s)
    unread = 0
    for is_arrival, part, delay_s in steps:
        now_s += delay_s
        if is_arrival:
            size = int(part * credit)
            credit -= size
            unread += size
            receiver.received(size, now_s=now_s)
        else:
            size = int(part * unread)
            unread -= size
            credit += receiver.consumed(size, now_s=now_s)
        assert credit >= 0
        assert credit + unread <= receiver.window_bytes <= window * growth
    # Whoever reads everything has its sender at work: half the window at least is granted.
    credit += receiver.consumed(unread, now_s=now_s)
    assert credit * 2 >= window


def test_window_grows_with_round_trip_times_rate_up_to_its_bound() -> None:
    receiver = ReceiveWindow(credit_bytes=1000, window_bytes=1000, window_bytes_max=3000)
    now_s, credit = 0.0, 1000
    for _ in range(20):
        now_s += 0.1
        receiver.received(credit, now_s=now_s)
        credit = receiver.consumed(credit, now_s=now_s)
    assert receiver.window_bytes == 3000


def test_path_keeps_the_least_round_trip_for_ten_seconds() -> None:
    path = PathEstimator(window_bytes=1, window_bytes_max=1)
    path.add_round_trip(0.5, now_s=0.0)
    path.add_round_trip(0.1, now_s=1.0)
    path.add_round_trip(0.3, now_s=11.0)
    assert path.round_trip_s == 0.1
    path.add_round_trip(0.3, now_s=11.5)
    assert path.round_trip_s == 0.3


def test_path_ignores_samples_that_say_nothing() -> None:
    path = PathEstimator(window_bytes=1000, window_bytes_max=10**6)
    path.add_delivery(10**6, took_s=0.1)
    path.add_round_trip(0.1, now_s=0.0)
    path.add_delivery(10**6, took_s=0.0)
    path.add_delivery(100, took_s=1e-9)
    assert path.window_bytes == 1000


CALLS_MAX = 6
Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("credit", "data", "release", "end")),
        st.integers(0, CALLS_MAX - 1),
        st.integers(0, 9000),
    ),
    max_size=80,
)


def _after(budget: Budget, steps: list[Step]) -> list[Call]:
    """Let calls charge and give back; returns them, each with what it has."""
    calls = [Call(LINK, is_opener=False, state=0) for _ in range(CALLS_MAX)]
    for what, index, size in steps:
        call = calls[index]
        if what == "credit":
            granted = budget.charge_credit(call, size)
            assert 0 <= granted <= size
        elif what == "data":
            # Only a call that has nothing yet brings data without credit: with its OPEN.
            if not call.charged_bytes and budget.has_room(size):
                budget.charge(call, size)
        elif what == "release":
            budget.release(call, size)
        else:
            budget.release(call, call.charged_bytes)
        assert call.charged_bytes >= 0
        assert budget.used_bytes == sum(each.charged_bytes for each in calls)
        assert budget.used_bytes <= budget.limit_bytes
    return calls


@given(limit=st.integers(CALLS_MAX * 2, 20_000), steps=STEPS)
def test_budget_never_exceeds_its_limit(limit: int, steps: list[Step]) -> None:
    budget = Budget(limit_bytes=limit, calls_max=CALLS_MAX)
    for call in _after(budget, steps):
        budget.release(call, call.charged_bytes)
    assert budget.used_bytes == 0
    assert budget._shared_used_bytes == 0


@given(limit=st.integers(CALLS_MAX * 2, 20_000), steps=STEPS)
def test_budget_has_every_call_s_share_at_any_time(limit: int, steps: list[Step]) -> None:
    budget = Budget(limit_bytes=limit, calls_max=CALLS_MAX)
    share = limit // 2 // CALLS_MAX
    for call in _after(budget, steps):
        if not call.charged_bytes:
            assert budget.has_room(share)
            assert budget.charge_credit(call, share) == share


@given(limit=st.integers(CALLS_MAX * 2, 20_000), steps=STEPS, wanted=st.integers(1, 9000))
def test_budget_gives_a_call_with_nothing_left_something(
    limit: int, steps: list[Step], wanted: int
) -> None:
    budget = Budget(limit_bytes=limit, calls_max=CALLS_MAX)
    call = _after(budget, steps)[0]
    budget.release(call, call.charged_bytes)
    assert budget.charge_credit(call, wanted) > 0
