"""
Whether and when a failed call is made again. Pure: no clock, no randomness, no timers.

Made again is only what cannot run twice by it: a call that no handler has seen, or one whose method
may run twice by its contract. A service config adds statuses and changes pauses, never that.
Does not own: what is kept for it, and the waiting (attempts.py).
Source: DESIGN.md "What a caller is told"; gRFC A6; docs/reference/retries.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions

from relayrpc.link.call import (
    RETRY_PUSHBACK_KEY,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
    CallOutcome,
)


if TYPE_CHECKING:
    from relayrpc.endpoint.service_config import RetryPolicy, RetryThrottling
    from relayrpc.limits import Limits


__all__ = [
    "BACKOFF_FACTOR",
    "Failure",
    "RetryThrottle",
    "find_pause_s",
    "is_idempotent",
    "is_worth_another",
    "read_pushback_s",
]

BACKOFF_FACTOR: Final = 3.0
"""Growth of the pauses where no service config says another."""

_JITTER: Final = 0.2
# After which a call is made again: at once, and when a hub has heard that its host left routing.
_REFUSALS_MAX: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How an attempt failed, and what is known of the call."""

    outcome: CallOutcome
    attempts_count: int = 1
    """This one included."""
    may_repeat: bool = False
    """It may run twice, or its host sees to it that it does not."""
    was_linked: bool = True
    """The hub had been reached."""
    was_lost: bool = False
    """An earlier attempt was lost, on its way or with its host."""
    pushback_s: float | None = None
    """How long the other side asks to wait; None: it does not; below 0: not to call again."""

    @property
    def is_refusal(self) -> bool:
        """A host would not take it: it is stopping, or what is behind it is not there."""
        outcome = self.outcome
        return (
            outcome.status == STATUS_UNAVAILABLE
            and outcome.origin == "host"
            and not outcome.may_have_executed
        )


def is_worth_another(failure: Failure, policy: RetryPolicy | None) -> bool:
    """
    Say whether a call may be made again, and should be.

    Args:
        failure: Of its last attempt.
        policy: Of its method; None: what is safe and may help is made again.
    """
    outcome = failure.outcome
    if outcome.may_have_executed and not failure.may_repeat:
        return False
    if policy is not None and outcome.status in policy.statuses:
        return True
    if outcome.status == STATUS_RESOURCE_EXHAUSTED:
        # Once: who is still full then is overloaded, and more attempts would add to it.
        is_first = failure.attempts_count == 1 or failure.was_lost
        return is_first and not outcome.may_have_executed and failure.pushback_s is not None
    if outcome.status != STATUS_UNAVAILABLE:
        return False
    # That there is no hub or no host is told at once: it is wait_for_ready that waits. But of a
    # call that was lost, the host or the hub may be about to come back.
    return (
        failure.was_lost
        or outcome.may_have_executed
        # Who refuses again and again is not about to change its mind.
        or (failure.is_refusal and failure.attempts_count <= _REFUSALS_MAX)
        or (outcome.origin == "caller" and failure.was_linked)
    )


def find_pause_s(
    failure: Failure, policy: RetryPolicy, *, jitter: float, left_s: float | None, limits: Limits
) -> float | None:
    """
    Say how long to wait before the next attempt of a call that is worth one.

    Args:
        failure: Of its last attempt.
        policy: How often, and how long between.
        jitter: 0 to 1, drawn at random.
        left_s: Time to the deadline; None: there is none.
        limits: The channel's.

    Returns:
        Seconds; None when there is no next attempt: there were enough, the other side does not want
        it, or the deadline comes before.
    """
    if failure.attempts_count >= policy.attempts_max:
        return None
    pause_s = failure.pushback_s
    if pause_s is not None:
        if not 0 <= pause_s <= limits.retry_pushback_s_max:
            return None
        # Never sooner than asked; not all at once who were refused at once.
        pause_s *= 1 + _JITTER * jitter
    elif failure.is_refusal and failure.attempts_count == 1:
        # As gRPC calls again at once what a server has not looked at: another host may be there.
        pause_s = 0.0
    else:
        growth = policy.backoff_factor ** (failure.attempts_count - 1)
        pause_s = min(policy.backoff_s_min * growth, policy.backoff_s_max)
        pause_s *= 1 - _JITTER + 2 * _JITTER * jitter
    return None if left_s is not None and pause_s >= left_s else pause_s


def read_pushback_s(trailing_metadata: Iterable[tuple[str, bytes]]) -> float | None:
    """Return what the trailers ask a caller to wait; what is no number asks not to call again."""
    for key, value in trailing_metadata:
        if key == RETRY_PUSHBACK_KEY:
            try:
                return int(value) / 1000
            except (ValueError, OverflowError):
                return -1.0
    return None


def is_idempotent(method: str) -> bool:
    """
    Say whether a method's contract lets it run twice: its idempotency_level is IDEMPOTENT or
    NO_SIDE_EFFECTS in the default descriptor pool, where generated code registers itself.

    Not remembered: it is asked when a call has failed, and a contract may be imported later.

    Args:
        method: "pkg.Service/Method"; one that the pool does not know is not idempotent.
    """
    try:
        found = descriptor_pool.Default().FindMethodByName(method.replace("/", "."))
    except KeyError:
        return False
    level = found.GetOptions().idempotency_level
    return level in (MethodOptions.IDEMPOTENT, MethodOptions.NO_SIDE_EFFECTS)


class RetryThrottle:
    """
    Keeps a channel from calling again while too much of what it calls fails: each failure takes a
    token, each success gives a part of one, and from half of them down nothing is made again.
    """

    def __init__(self, throttling: RetryThrottling) -> None:
        self._throttling = throttling
        self.tokens = float(throttling.tokens_max)

    def record_success(self) -> None:
        """Count a call that ended with OK."""
        throttling = self._throttling
        self.tokens = min(self.tokens + throttling.token_ratio, throttling.tokens_max)

    def record_failure(self) -> bool:
        """Count a failed attempt; says whether another one may follow."""
        self.tokens = max(0.0, self.tokens - 1)
        return self.tokens > self._throttling.tokens_max / 2
