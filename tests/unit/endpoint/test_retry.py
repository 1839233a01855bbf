"""
Goal: a failed call is made again only where that cannot run it twice, in time, and not too often.

Method: the table of what is worth another attempt; Hypothesis over every outcome for what must hold
of all; the throttle and the descriptor pool by themselves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool
from hypothesis import given
from hypothesis import strategies as st

from relayrpc.endpoint.retry import (
    Failure,
    RetryThrottle,
    find_pause_s,
    is_idempotent,
    is_worth_another,
    read_pushback_s,
)
from relayrpc.endpoint.service_config import RetryPolicy, RetryThrottling
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.link.call import CallOutcome, Origin


UNAVAILABLE, RESOURCE_EXHAUSTED, ABORTED, CANCELLED = 14, 8, 10, 1
POLICY = RetryPolicy(
    attempts_max=4,
    backoff_s_min=0.1,
    backoff_s_max=1.0,
    backoff_factor=2.0,
    statuses=frozenset({UNAVAILABLE, ABORTED}),
)


def failure(
    status: int,
    origin: Origin = "hub",
    ran: Literal["maybe", "no"] = "no",
    **known: object,
) -> Failure:
    outcome = CallOutcome(status, "", (), origin, ran == "maybe")
    return Failure(outcome=outcome, **known)  # type: ignore[arg-type]


AGAIN = [
    # By itself, what no handler has seen and may go better.
    (failure(UNAVAILABLE, "host"), None),
    (failure(UNAVAILABLE, "caller"), None),
    (failure(UNAVAILABLE, "host", attempts_count=2), None),
    (failure(UNAVAILABLE, "hub", was_lost=True), None),
    (failure(UNAVAILABLE, "caller", was_linked=False, was_lost=True), None),
    (failure(RESOURCE_EXHAUSTED, pushback_s=1.0), None),
    (failure(RESOURCE_EXHAUSTED, pushback_s=1.0, attempts_count=2, was_lost=True), None),
    # What may run twice.
    (failure(UNAVAILABLE, "hub", "maybe", may_repeat=True), None),
    (failure(UNAVAILABLE, "host", "maybe", may_repeat=True), None),
    # What a service config says.
    (failure(UNAVAILABLE, "hub"), POLICY),
    (failure(UNAVAILABLE, "caller", was_linked=False), POLICY),
    (failure(ABORTED, "host", "maybe", may_repeat=True), POLICY),
    (failure(RESOURCE_EXHAUSTED, pushback_s=1.0), POLICY),
]
OVER = [
    # There is no host, or no hub: told in one round trip.
    (failure(UNAVAILABLE, "hub"), None),
    (failure(UNAVAILABLE, "caller", was_linked=False), None),
    # Nor is there one besides the host that refused it, or who is there refuses all.
    (failure(UNAVAILABLE, "hub", attempts_count=2), None),
    (failure(UNAVAILABLE, "host", attempts_count=3), None),
    # It may have run, and must not twice: whatever a service config says.
    (failure(UNAVAILABLE, "hub", "maybe"), None),
    (failure(UNAVAILABLE, "hub", "maybe"), POLICY),
    (failure(ABORTED, "host", "maybe"), POLICY),
    # No reason to expect another answer.
    (failure(RESOURCE_EXHAUSTED), None),
    (failure(RESOURCE_EXHAUSTED), POLICY),
    (failure(RESOURCE_EXHAUSTED, pushback_s=1.0, attempts_count=2), None),
    (failure(ABORTED, "host", "maybe", may_repeat=True), None),
    (failure(CANCELLED), POLICY),
]


@pytest.mark.parametrize(("failed", "policy"), AGAIN)
def test_what_is_worth_another_attempt(failed: Failure, policy: RetryPolicy | None) -> None:
    assert is_worth_another(failed, policy)


@pytest.mark.parametrize(("failed", "policy"), OVER)
def test_what_is_over(failed: Failure, policy: RetryPolicy | None) -> None:
    assert not is_worth_another(failed, policy)


FAILURES = st.builds(
    Failure,
    outcome=st.builds(
        CallOutcome,
        status=st.integers(1, 16),
        details=st.just(""),
        trailing_metadata=st.just(()),
        origin=st.sampled_from(["host", "hub", "caller"]),
        may_have_executed=st.booleans(),
    ),
    attempts_count=st.integers(1, 6),
    may_repeat=st.booleans(),
    was_linked=st.booleans(),
    was_lost=st.booleans(),
    pushback_s=st.none() | st.floats(-1, 1e9),
)
POLICIES = st.none() | st.builds(
    RetryPolicy,
    attempts_max=st.integers(2, 5),
    backoff_s_min=st.floats(1e-9, 1e6),
    backoff_s_max=st.floats(1e-9, 1e6),
    backoff_factor=st.floats(1e-9, 2**31),
    statuses=st.frozensets(st.integers(1, 16)),
)


@given(FAILURES, POLICIES)
def test_nothing_that_may_have_run_is_made_again_unless_it_may_run_twice(
    failed: Failure, policy: RetryPolicy | None
) -> None:
    if failed.outcome.may_have_executed and is_worth_another(failed, policy):
        assert failed.may_repeat


@given(FAILURES)
def test_only_what_a_while_may_change_is_made_again_by_itself(failed: Failure) -> None:
    """Not a method that is not there, not a request that is wrong, not a caller who may not."""
    if is_worth_another(failed, None):
        assert failed.outcome.status in (UNAVAILABLE, RESOURCE_EXHAUSTED)


@given(FAILURES, st.floats(0, 1), st.none() | st.floats(0, 1e9))
def test_pauses_are_bounded_and_within_the_deadline(
    failed: Failure, jitter: float, left_s: float | None
) -> None:
    pause_s = find_pause_s(failed, POLICY, jitter=jitter, left_s=left_s, limits=DEFAULT_LIMITS)
    if pause_s is None:
        return
    assert failed.attempts_count < POLICY.attempts_max
    assert left_s is None or pause_s < left_s
    if failed.pushback_s is not None:
        assert failed.pushback_s <= pause_s <= failed.pushback_s * 1.2
        assert 0 <= failed.pushback_s <= DEFAULT_LIMITS.retry_pushback_s_max
    elif failed.is_refusal and failed.attempts_count == 1:
        assert pause_s == 0
    else:
        assert 0 < pause_s <= POLICY.backoff_s_max * 1.2


def test_pauses_grow_up_to_their_bound() -> None:
    policy = replace(POLICY, attempts_max=9)
    pauses_s = [
        find_pause_s(
            failure(UNAVAILABLE, attempts_count=count),
            policy,
            jitter=0.5,
            left_s=None,
            limits=DEFAULT_LIMITS,
        )
        for count in range(1, 9)
    ]
    assert pauses_s == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("value", "pause_s"),
    [(b"0", 0.0), (b"1500", 1.5), (b"-1", -0.001), (b"soon", -1.0), (b"9" * 400, -1.0)],
)
def test_pushback_is_read(value: bytes, pause_s: float) -> None:
    assert read_pushback_s([("a", b"1"), ("grpc-retry-pushback-ms", value)]) == pause_s


def test_without_pushback_there_is_none() -> None:
    assert read_pushback_s([("grpc-retry-pushback", b"1")]) is None


def test_throttle_stops_at_half_its_tokens_and_recovers_by_successes() -> None:
    throttle = RetryThrottle(RetryThrottling(tokens_max=4, token_ratio=0.5))
    assert [throttle.record_failure() for _ in range(6)] == [True, *[False] * 5]
    assert throttle.tokens == 0
    for _ in range(6):
        throttle.record_success()
    assert throttle.tokens == 3
    assert not throttle.record_failure()
    for _ in range(99):
        throttle.record_success()
    assert throttle.tokens == 4


@pytest.mark.parametrize(
    ("level", "is_so"), [(None, False), ("NO_SIDE_EFFECTS", True), ("IDEMPOTENT", True)]
)
def test_contracts_say_what_may_run_twice(level: str | None, is_so: bool) -> None:
    name = f"test_retry.{level or 'Unknown'}"
    method = f"{name}/Call"
    assert not is_idempotent(method), "a contract that is not imported says nothing"
    file = descriptor_pb2.FileDescriptorProto(
        name=f"test_retry_{level}.proto",
        package="test_retry",
        dependency=[any_pb2.DESCRIPTOR.name],
    )
    service = file.service.add(name=level or "Unknown")
    found = service.method.add(
        name="Call",
        input_type=f".{any_pb2.Any.DESCRIPTOR.full_name}",
        output_type=f".{any_pb2.Any.DESCRIPTOR.full_name}",
    )
    if level is not None:
        found.options.idempotency_level = descriptor_pb2.MethodOptions.IdempotencyLevel.Value(level)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    assert is_idempotent(method) is is_so
