"""
What the second ring's calls are meant to do, and what really happened to them, at both ends.

A `Plan` is drawn from the seed and known to caller and host; a `Record` holds what each of them
saw, written down where it happened. `check_end` judges a call when its caller has its end;
`check_truth` when the world is over and every handler has had its time.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import grpc


if TYPE_CHECKING:
    import asyncio

    from relayrpc.endpoint.rpc_error import RpcError


__all__ = [
    "ABORT_CODE",
    "ADDRESS_ASYNC",
    "ADDRESS_PLAIN",
    "NOBODY_ANSWERS",
    "SHAPES",
    "Plan",
    "Record",
    "Shape",
    "check_end",
    "check_truth",
    "draw_plan",
    "text_of",
]

Shape = Literal["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
SHAPES: Final[tuple[Shape, ...]] = (
    "unary_unary", "unary_stream", "stream_unary", "stream_stream"
)  # fmt: skip
NOBODY_ANSWERS: Final = "nobody answers"
"""What a failed dialling says."""
ADDRESS_ASYNC: Final = "sim/async"
ADDRESS_PLAIN: Final = "sim/plain"
"""Where the handlers are plain `def`, as far as their requests are one message."""
ABORT_CODE: Final = grpc.StatusCode.FAILED_PRECONDITION
# A batch sent again says its age in milliseconds, rounded up, once on each of two legs.
_EARLY_S: Final = 0.002 + 1e-5
# A hundredth for the bucket, and the loop's turn.
_LATE_S: Final = 0.02


@dataclass(slots=True)
class Plan:
    """One call as it should go."""

    key: str
    shape: Shape
    address: str
    requests: list[int]
    """Size of each request's padding; a unary call has one."""
    responses: list[int]
    ending: Literal["ok", "abort", "raise", "early", "hang"] = "ok"
    """
    What the handler does: "early" ends with OK before it has read all requests, "hang" waits until
    it is cancelled.
    """
    deadline_s: float | None = None
    cancel_after_s: float | None = None
    cancels_task: bool = False
    """Cancel the task that awaits the call, not the call."""
    caller_pause_s: float = 0.0
    """Before each message that the caller reads or writes."""
    host_pause_s: float = 0.0
    has_initial_metadata: bool = False
    uses_iterator: bool = False
    waits_for_ready: bool = False
    is_dropped: bool = False
    """The caller drops the call object instead of cancelling it."""

    @property
    def dedupe_key(self) -> str:
        """Some calls have one; then a lost connection is no reason to give a call up."""
        has_one = self.shape == "unary_unary" and zlib.crc32(self.key.encode()) % 3 == 0
        return self.key if has_one else ""


@dataclass(slots=True)
class Record:
    """One call as it went."""

    plan: Plan
    started_s: float = 0.0
    # The host's own record.
    instances: list[str] = field(default_factory=list)
    """Host instances on which its handler was started, in order."""
    requests_read: int = 0
    is_eof_read: bool = False
    responses_sent: int = 0
    handler_end: str = ""
    # The caller's.
    canceller: asyncio.TimerHandle | None = None
    requests_written: int = 0
    is_half_closed: bool = False
    responses_read: int = 0
    callbacks: int = 0
    """How often the done callback was called."""
    is_cancelled: bool = False
    status: grpc.StatusCode | None = None
    details: str = ""
    may_have_executed: bool = True
    origin: str = ""
    trailers: dict[str, str | bytes] = field(default_factory=dict)
    over_s: float | None = None
    """When the call object said so; a dropped one says nothing."""
    ended_s: float | None = None
    """When the caller had read everything."""

    def __str__(self) -> str:
        plan = self.plan
        return (
            f"call {plan.key} ({plan.shape}, {plan.ending}, deadline {plan.deadline_s}, "
            f"cancel {plan.cancel_after_s}"
            f"{' task' * plan.cancels_task}{' by dropping' * plan.is_dropped}): "
            f"{self.status} {self.details!r} from {self.origin}, "
            f"may have executed: {self.may_have_executed}; started on {self.instances}, "
            f"handler {self.handler_end or 'running'}; "
            f"requests {self.requests_written}/{self.requests_read} of {len(plan.requests)}, "
            f"responses {self.responses_sent}/{self.responses_read} of {len(plan.responses)}"
        )

    def fail(self, error: RpcError) -> None:
        """Note an end that is not OK."""
        self.status = error.code()
        self.details = error.details() or ""
        self.may_have_executed = error.may_have_executed
        self.origin = error.origin
        trailers = error.trailing_metadata()
        self.trailers = {} if trailers is None else dict(trailers)


def text_of(plan: Plan, direction: str, index: int) -> str:
    """The text of a message, which says where it belongs."""
    size = (plan.requests if direction == "request" else plan.responses)[index]
    head = f"{plan.key}/{direction}/{index}/"
    # A different letter each, so that a piece of another message in it shows.
    return head + chr(97 + (index + len(plan.key)) % 26) * size


def draw_plan(
    rng: random.Random, key: str, *, size_max: int
) -> Plan:
    """Draw a call."""
    shape = rng.choice(SHAPES)
    has_requests = shape.startswith("stream")
    has_responses = shape.endswith("stream")
    requests_count = rng.choice((0, 1, 2, 5, 12)) if has_requests else 1
    responses_count = rng.choice((0, 1, 3, 8, 20)) if has_responses else 1
    plan = Plan(
        key=key,
        shape=shape,
        address=rng.choice((ADDRESS_ASYNC, ADDRESS_PLAIN)),
        requests=[_draw_size(rng, size_max) for _ in range(requests_count)],
        responses=[_draw_size(rng, size_max) for _ in range(responses_count)],
        host_pause_s=rng.choice((0.0, 0.0, rng.uniform(0.0, 0.5))),
        caller_pause_s=rng.choice((0.0, 0.0, rng.uniform(0.0, 0.5))),
        has_initial_metadata=rng.random() < 0.2,
        uses_iterator=rng.random() < 0.5,
        waits_for_ready=rng.random() < 0.3,
    )
    if rng.random() < 0.25:
        plan.ending = rng.choice(("abort", "raise"))
    elif has_requests and rng.random() < 0.2:
        plan.ending = "early"
    if rng.random() < 0.25:
        plan.deadline_s = rng.choice((0.01, rng.uniform(0.0, 1.0), rng.uniform(0.0, 60.0)))
    if rng.random() < 0.2:
        plan.cancel_after_s = rng.choice((0.0, rng.uniform(0.0, 0.2), rng.uniform(0.0, 5.0)))
        plan.cancels_task = rng.random() < 0.5
        can_be_dropped = shape != "unary_unary" and not plan.cancels_task
        plan.is_dropped = can_be_dropped and rng.random() < 0.3
    ends_anyway = plan.deadline_s is not None or plan.cancel_after_s is not None
    if ends_anyway and plan.address == ADDRESS_ASYNC and rng.random() < 0.3:
        plan.ending = "hang"
    if ends_anyway and rng.random() < 0.2:
        # A reader that is as good as stuck.
        plan.caller_pause_s = rng.uniform(1.0, 20.0)
    return plan


def _draw_size(rng: random.Random, size_max: int) -> int:
    kind = rng.random()
    if kind < 0.8:
        return rng.randrange(200)
    if kind < 0.95:
        return min(size_max, rng.randrange(10_000))
    return rng.randrange(size_max)


def check_end(record: Record, *, now_s: float, may_be_lost: bool, may_be_refused: bool) -> None:
    """
    Judge what a caller was told.

    Args:
        record: The call, over for its caller.
        now_s: When its end came.
        may_be_lost: A hub or host was stopped, or a link lost for good, in this world.
        may_be_refused: Bounds are so tight in this world that a call may be refused.
    """
    plan = record.plan
    status = record.status
    assert status is not None, f"no end: {record}"
    if plan.deadline_s is not None and not record.is_cancelled:
        over_s = now_s if record.over_s is None else record.over_s
        late_s = over_s - record.started_s - plan.deadline_s
        assert late_s <= _LATE_S, f"{late_s:.3f} s over its deadline: {record}"
    match status:
        case grpc.StatusCode.OK:
            assert plan.ending in ("ok", "early"), f"OK although the handler failed: {record}"
            assert len(record.instances) == 1, f"OK without a handler: {record}"
            assert record.responses_read == len(plan.responses), f"responses lost: {record}"
        case grpc.StatusCode.CANCELLED:
            assert record.is_cancelled or (may_be_lost and record.origin != "caller"), (
                f"nobody cancelled: {record}"
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            assert plan.deadline_s is not None, f"it had no deadline: {record}"
            early_s = record.started_s + plan.deadline_s - now_s
            assert early_s <= _EARLY_S, f"{early_s:.6f} s before its deadline: {record}"
        case grpc.StatusCode.UNAVAILABLE:
            has_waited = record.details.endswith("has not come back") and not record.instances
            assert may_be_lost or has_waited, f"nothing was lost for good: {record}"
            has_dialled_in_vain = record.details == NOBODY_ANSWERS
            assert not (plan.waits_for_ready and has_dialled_in_vain), f"did not wait: {record}"
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            assert may_be_refused, f"the bounds are wide: {record}"
            assert not record.may_have_executed, f"refused, yet executed: {record}"
        case _:
            _check_own_failure(record)


def _check_own_failure(record: Record) -> None:
    """Judge an end that only the handler can have made."""
    plan = record.plan
    assert record.instances, f"nobody can have said this: {record}"
    assert record.origin == "host", f"the host's end has another origin: {record}"
    assert record.may_have_executed, f"it was executed: {record}"
    if record.status is ABORT_CODE:
        assert plan.ending == "abort", f"the handler did not abort: {record}"
        assert record.details == f"no {plan.key}", f"details changed: {record}"
        assert record.trailers.get("sim-key") == plan.key, f"trailers lost: {record}"
        assert record.trailers.get("sim-key-bin") == b"\x00\xff" + plan.key.encode(), (
            f"binary trailer lost: {record}"
        )
    else:
        assert record.status is grpc.StatusCode.UNKNOWN, f"no such end was possible: {record}"
        assert plan.ending == "raise", f"the handler did not raise: {record}"
        assert "incident" in record.details, f"no incident: {record}"


def check_truth(record: Record) -> None:
    """Judge one call when nothing more can happen to it anywhere."""
    plan = record.plan
    assert record.status is not None, f"the caller never had an end: {record}"
    assert record.callbacks <= 1, f"ended {record.callbacks} times: {record}"
    assert len(record.instances) <= 1, f"executed {len(record.instances)} times: {record}"
    if not record.may_have_executed:
        assert not record.instances, f"it was executed after all: {record}"
    if record.instances:
        assert record.handler_end, f"its handler never ended: {record}"
        assert not record.handler_end.startswith("broke"), f"its handler broke: {record}"
        assert record.requests_read <= record.requests_written, f"requests made up: {record}"
    if record.is_eof_read:
        assert record.is_half_closed, f"half closed for the caller: {record}"
        assert record.requests_read == record.requests_written, f"requests lost: {record}"
    assert record.responses_read <= record.responses_sent, f"responses made up: {record}"
    if plan.ending != "early" and record.status is grpc.StatusCode.OK:
        assert record.requests_read == len(plan.requests), f"requests lost: {record}"
