"""
The attempts of a channel's calls: what is kept to make a failed call again, and how many wait.

Owns: the bounds on both, the service config's part in it. Does not own: the decision (retry.py),
opening the call again (call_core.py).
Source: docs/reference/retries.md; relayrpc/limits.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayrpc.endpoint.retry import (
    BACKOFF_FACTOR,
    Failure,
    RetryThrottle,
    find_pause_s,
    is_idempotent,
    is_worth_another,
    read_pushback_s,
)
from relayrpc.endpoint.service_config import RetryPolicy
from relayrpc.link.call import STATUS_UNAVAILABLE, CallOutcome
from relayrpc.link.frames import metadata_bytes
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    import asyncio
    import random

    from relayrpc.endpoint.call_core import CallCore
    from relayrpc.endpoint.options import EndpointOptions
    from relayrpc.endpoint.service_config import ServiceConfig
    from relayrpc.limits import Limits
    from relayrpc.link.call import Call
    from relayrpc.link.link import Link


__all__ = ["ATTEMPTS_KEY", "Attempts", "KeptRequests", "Retries", "make_retries"]

ATTEMPTS_KEY: Final = "grpc-previous-rpc-attempts"
"""Metadata by which gRPC tells a handler how many attempts there were before."""


class KeptRequests:
    """Requests of a call that did not fit in its OPEN, as they were sent, to be sent again."""

    __slots__ = ("is_complete", "parts", "size_bytes")

    def __init__(self, *, is_complete: bool) -> None:
        self.parts: list[bytes] = []
        self.size_bytes = 0
        # No more follow.
        self.is_complete = is_complete


class Attempts:
    """What is known of a call whose first attempt has failed."""

    __slots__ = ("count", "end", "last", "may_have_executed", "timer", "was_lost")

    def __init__(self) -> None:
        # Those that failed.
        self.count = 0
        # One of them may have run.
        self.may_have_executed = False
        # One of them was lost, on its way or with its host.
        self.was_lost = False
        # The link's call of the last one, and how it ended.
        self.last: Call | None = None
        self.end = pb.End()
        # Due when the next one is; None: none is awaited.
        self.timer: asyncio.TimerHandle | None = None

    def note(self, call: Call, end: pb.End) -> None:
        """Count one that failed."""
        self.count += 1
        self.last = call
        self.end = end
        if not end.not_executed:
            self.may_have_executed = True
        if end.status == STATUS_UNAVAILABLE and (
            not end.not_executed or end.origin == pb.End.ORIGIN_CALLER
        ):
            self.was_lost = True

    def mark(self, opening: pb.Open, *, limits: Limits) -> None:
        """Tell the handler how many there were before, where metadata has room for it."""
        metadata = opening.metadata
        if self.count > 1 and metadata and metadata[-1].key == ATTEMPTS_KEY:
            del metadata[-1]
        metadata.add(key=ATTEMPTS_KEY, value=str(self.count).encode())
        if metadata_bytes(metadata) > limits.metadata_bytes_max:
            del metadata[-1]


class Retries:
    """What a channel has to decide with, and what it keeps for calls to be made again."""

    def __init__(
        self,
        *,
        limits: Limits,
        random: random.Random,
        config: ServiceConfig | None = None,
        has_next_hub: bool = False,
    ) -> None:
        """
        Args:
            limits: The channel's.
            random: Source of jitter.
            config: The channel's service config; None: it has none.
            has_next_hub: A hub that refuses the channel's link is followed by another one.
        """
        self._limits = limits
        self._random = random
        self._config = config
        self._has_next_hub = has_next_hub
        throttling = None if config is None else config.throttling
        self.throttle = None if throttling is None else RetryThrottle(throttling)
        self._automatic = RetryPolicy(
            attempts_max=limits.retry_attempts_max,
            backoff_s_min=limits.retry_backoff_s_min,
            backoff_s_max=limits.retry_backoff_s_max,
            backoff_factor=BACKOFF_FACTOR,
            statuses=frozenset(),
        )
        self.waiting_count = 0
        """Calls that wait for their next attempt."""
        self.kept_bytes = 0
        """What all `KeptRequests` hold."""

    def find_pause_s(
        self,
        end: pb.End,
        call: Call,
        attempts: Attempts,
        *,
        is_remembered: bool,
        left_s: float | None,
    ) -> float | None:
        """
        Decide on a call when an attempt has failed.

        Args:
            end: Of the attempt.
            call: The attempt, on its link.
            attempts: Those of the call, without this one.
            is_remembered: Its host runs it once, however often it is called.
            left_s: Time to the deadline; None: there is none.

        Returns:
            Seconds to the next attempt; None when the call is over.
        """
        outcome = CallOutcome.from_end(end)
        failure = Failure(
            outcome=outcome,
            attempts_count=attempts.count + 1,
            may_repeat=_may_repeat(outcome, call.method, is_remembered=is_remembered),
            was_linked=self._was_linked(call.link),  # type: ignore[arg-type]  # a Link
            was_lost=attempts.was_lost,
            pushback_s=read_pushback_s(outcome.trailing_metadata),
        )
        policy = self._policy(call.method)
        if (
            self.throttle is not None
            and policy is not None
            and outcome.status in policy.statuses
            and not self.throttle.record_failure()
        ):
            return None
        if not is_worth_another(failure, policy):
            return None
        if self.waiting_count >= self._limits.retries_waiting_max:
            return None
        return find_pause_s(
            failure,
            policy or self._automatic,
            jitter=self._random.random(),
            left_s=left_s,
            limits=self._limits,
        )

    def _call_over(self, core: CallCore) -> None:
        """Count a call that succeeded."""
        if self.throttle is not None and not core.outcome().status:
            self.throttle.record_success()

    def _was_linked(self, link: Link) -> bool:
        """Say whether the next attempt has another link to go by than one that was in vain."""
        return bool(link.link_id) or (self._has_next_hub and link.is_closed)

    def _policy(self, method: str) -> RetryPolicy | None:
        return None if self._config is None else self._config.of(method).retry

    def remember(self, core: CallCore, data: bytes, *, is_complete: bool) -> None:
        """
        Keep what opens a call that was opened just now, for another attempt.

        Args:
            core: The call; one that was refused as it was opened has no OPEN any more.
            data: Its requests so far.
            is_complete: No more follow.
        """
        assert core.call is not None
        opening = core.call.open_frame
        if opening is None:
            return
        if not is_complete or len(data) > self._limits.small_bytes_max:
            kept = KeptRequests(is_complete=is_complete)
            if not self.keep(kept, data):
                return
            core.kept = kept
        core.opening = opening
        if self.throttle is not None and self._policy(core.call.method) is not None:
            core.add_callback(self._call_over, core)

    def keep(self, kept: KeptRequests, data: bytes) -> bool:
        """Keep more of a call's requests; False when that is too much, and nothing was kept."""
        size = len(data)
        limits = self._limits
        if (
            kept.size_bytes + size > limits.retry_request_bytes_max
            or self.kept_bytes + size > limits.retry_kept_bytes_max
        ):
            return False
        kept.parts.append(data)
        kept.size_bytes += size
        self.kept_bytes += size
        return True

    def release(self, kept: KeptRequests) -> None:
        """Let go of what was kept for a call that is not made again."""
        self.kept_bytes -= kept.size_bytes


def _may_repeat(outcome: CallOutcome, method: str, *, is_remembered: bool) -> bool:
    if not outcome.may_have_executed:
        return True
    if is_remembered:
        # What its host has said is how it ended.
        return outcome.origin != "host"
    return is_idempotent(method)


def make_retries(
    options: EndpointOptions, *, random: random.Random, has_next_hub: bool = False
) -> Retries | None:
    """
    Make what decides on a channel's failed calls; None where its options say that none is made
    again.

    Args:
        options: gRPC's, as read.
        random: Source of jitter.
        has_next_hub: As for `Retries`.
    """
    if not options.may_retry:
        return None
    return Retries(
        limits=options.limits,
        random=random,
        config=options.service_config,
        has_next_hub=has_next_hub,
    )
