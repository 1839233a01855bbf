"""
Calls with a dedupe key at their host: each key runs once, and whoever calls again with it joins the
run or gets its outcome.

A run stands between the calls on the link and the one handler: to the handler's context it is the
call, so that every kind of handler can be remembered, and its callers may be lost and come back.
Owns: who joins what, what is kept of it and for how long. Does not own: running handlers
(server.py), when a caller comes again (attempts.py).
Source: link.proto, Open.dedupe_key; docs/reference/dedupe.md.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from relayrpc.endpoint.context import take_only_message
from relayrpc.endpoint.failure import RefusedError
from relayrpc.endpoint.silent_call import REFUSED_CALL, SilentCall
from relayrpc.errors import FrameTooLargeError
from relayrpc.link.call import (
    STATUS_CANCELLED,
    STATUS_DEADLINE_EXCEEDED,
    STATUS_INVALID_ARGUMENT,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
    STATUS_UNIMPLEMENTED,
    make_end,
)
from relayrpc.link.messages import encode_message
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.endpoint.context import Context
    from relayrpc.endpoint.inbox import Inbox
    from relayrpc.limits import Limits
    from relayrpc.link.call import Call
    from relayrpc.link.frames import MetadataPairs


__all__ = ["Run", "Runs"]

_STATUS_FAILED_PRECONDITION: Final = 9
# Counted for every outcome beside what it holds.
_OUTCOME_BYTES: Final = 512
_ENTRY_BYTES: Final = 32
_UNARY_SHAPES: Final = (pb.SHAPE_UNKNOWN, pb.SHAPE_UNARY_UNARY)
_ONLY_UNARY: Final = "a dedupe key is for calls with one request and one response"

_Key: TypeAlias = tuple[str, str, str]
"""Who calls, as the hub vouches for it; the method; the dedupe key."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a run ended, to be told as often as it is asked for."""

    status: int = 0
    details: str = ""
    data: bytes = b""
    initial_metadata: MetadataPairs = ()
    trailing_metadata: MetadataPairs = ()
    not_executed: bool = False

    def tell(self, call: Call) -> None:
        """End a call with it."""
        call.app = REFUSED_CALL
        call.link.end_call(
            call,
            status=self.status,
            details=self.details,
            data=self.data,
            initial_metadata=self.initial_metadata,
            trailing_metadata=self.trailing_metadata,
            not_executed=self.not_executed,
        )
        call.link.flush_soon()

    @property
    def size_bytes(self) -> int:
        """What it counts in Limits.dedupe_bytes_max."""
        return (
            _OUTCOME_BYTES
            + len(self.data)
            + len(self.details)
            + sum(
                len(key) + len(value) + _ENTRY_BYTES
                for pairs in (self.initial_metadata, self.trailing_metadata)
                for key, value in pairs
            )
        )


_TOO_LARGE: Final = _Outcome(
    STATUS_UNAVAILABLE, "the call has run, and its outcome was too large to be kept"
)


class Run:
    """
    One run of a handler for a key: the Call of its context, and the Link of that.

    Runs in the loop's thread alone, as a link does.
    """

    def __init__(self, runs: Runs, key: _Key, call: Call, *, digest: bytes) -> None:
        self.key = key
        self.digest = digest
        # What a context looks at in a call.
        self.app: Any = None
        self.method = call.method
        self.address = call.address
        self.deadline_s = call.deadline_s
        self.unsent_bytes = 0
        # None while it runs.
        self.outcome: _Outcome | None = None
        # Monotonic seconds, of its end.
        self.ended_s = 0.0
        self._runs = runs
        # The calls that wait for it.
        self._callers: dict[Call, None] = {}
        self._initial_metadata: MetadataPairs = ()
        # Runs while nobody waits.
        self._timer: asyncio.TimerHandle | None = None

    # --- its callers ---

    def join(self, call: Call) -> None:
        """Let a call have the outcome, when it is there."""
        if self.outcome is not None:
            self.outcome.tell(call)
            return
        self._stop_timer()
        self._callers[call] = None
        call.app = _Caller(self, call)
        call.link.begin_call(call, remembers=True)
        call.link.flush_soon()

    def left(self, call: Call, end: pb.End) -> None:
        """
        Note that a caller is gone. The last one that cancels, or whose deadline passes, takes the
        run along; one that is lost may be back.
        """
        del self._callers[call]
        if self._callers or self.outcome is not None:
            return
        is_lost = end.status == STATUS_CANCELLED and end.origin != pb.End.ORIGIN_CALLER
        if not is_lost:
            self._stop(end)
            return
        patience_s = self._runs.limits.dedupe_s
        if self.deadline_s is not None:
            patience_s = min(patience_s, self.deadline_s - self._runs.clock())
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, patience_s), self._give_up)

    def _give_up(self) -> None:
        self._timer = None
        is_late = self.deadline_s is not None and self.deadline_s <= self._runs.clock()
        status = STATUS_DEADLINE_EXCEEDED if is_late else STATUS_CANCELLED
        details = "Deadline Exceeded" if is_late else "the caller was lost, and has not come back"
        self._stop(make_end(status, details, origin=pb.End.ORIGIN_HOST).end)

    def _stop(self, end: pb.End) -> None:
        """Cancel the handler; that is its outcome."""
        context: Context = self.app
        self._settle(_Outcome(end.status, end.details))
        context.call_ended(end)

    def _settle(self, outcome: _Outcome) -> None:
        if self.outcome is not None:
            return
        self._stop_timer()
        self.outcome = outcome
        self.app = None
        callers, self._callers = self._callers, {}
        for call in callers:
            outcome.tell(call)
        self._runs.settled(self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def forget_outcome(self) -> None:
        """Keep that it has run, and not with what."""
        self.outcome = _TOO_LARGE

    # --- what a context does with a call and its link ---

    @property
    def link(self) -> Run:
        """As Call.link."""
        return self

    def begin_call(self, _call: object, metadata: MetadataPairs = ()) -> None:
        """As Link.begin_call: kept for the end, which brings it."""
        self._initial_metadata = tuple(metadata)

    def send_data(self, _call: object, _data: bytes) -> None:
        """As Link.send_data: the handler has a response stream, which is not remembered."""
        context: Context = self.app
        end = make_end(STATUS_UNIMPLEMENTED, _ONLY_UNARY, origin=pb.End.ORIGIN_HOST).end
        self._settle(_Outcome(end.status, end.details))
        context.call_ended(end)

    def end_call(
        self,
        _call: object,
        *,
        status: int = 0,
        details: str = "",
        data: bytes = b"",
        trailing_metadata: MetadataPairs = (),
        not_executed: bool = False,
    ) -> None:
        """As Link.end_call."""
        self._settle(
            _Outcome(
                status, details, data, self._initial_metadata, trailing_metadata, not_executed
            )
        )

    def forward_end(self, _call: object, frame: pb.Frame) -> None:
        """As Link.forward_end, of a call that is refused before there is a context."""
        end = frame.end
        pairs = tuple((entry.key, entry.value) for entry in end.trailing_metadata)
        self.end_call(
            None,
            status=end.status,
            details=end.details,
            trailing_metadata=pairs,
            not_executed=end.not_executed,
        )

    def grant(self, _call: object, _credit_bytes: int) -> None:
        """As Link.grant: the request is here."""

    def flush_soon(self) -> None:
        """As Link.flush_soon: each caller's link was told."""


class _Caller(SilentCall):
    """CallApp of a call that waits for a run."""

    def __init__(self, run: Run, call: Call) -> None:
        self._run = run
        self._call = call

    def call_ended(self, end: pb.End) -> None:
        """Leave the run."""
        self._run.left(self._call, end)


class _Gathering(SilentCall):
    """CallApp of a call whose request has not come whole."""

    def __init__(
        self, inbox: Inbox, call: Call, opening: pb.Open, done: Callable[..., None]
    ) -> None:
        self._inbox = inbox
        self._call = call
        self._opening = opening
        self._done = done

    def data_received(self, data: bytes) -> None:
        """Take more of the request."""
        if self._inbox.is_over:
            return
        try:
            self._inbox.receive(data)
        except FrameTooLargeError as exc:
            self._inbox.close()
            _refuse(self._call, STATUS_RESOURCE_EXHAUSTED, str(exc))

    def half_close_received(self) -> None:
        """Go on with the whole request."""
        if self._inbox.is_over:
            return
        self._inbox.close()
        try:
            request = take_only_message(self._inbox)
        except RefusedError as exc:
            _refuse(self._call, exc.status, str(exc))
            return
        self._done(self._call, self._opening, request)

    def call_ended(self, end: pb.End) -> None:
        """Forget what has come."""
        self._inbox.close()


class Runs:
    """All runs of one server, and what is remembered of those that are over."""

    def __init__(
        self,
        *,
        limits: Limits,
        clock: Callable[[], float],
        make_inbox: Callable[..., Inbox],
        start: Callable[[Run, pb.Open], None],
    ) -> None:
        """
        Args:
            limits: The server's; those that begin with `dedupe_` count here.
            clock: Monotonic seconds.
            make_inbox: Makes the inbox of a call's requests.
            start: Has the handler of a run called, or ends the run.
        """
        self.limits = limits
        self.clock = clock
        self._make_inbox = make_inbox
        self._start = start
        self._by_key: dict[_Key, Run] = {}
        # Those that are over, in the order of their ends.
        self._ended: dict[Run, None] = {}
        self._kept_bytes = 0

    def opened(self, call: Call, opening: pb.Open) -> None:
        """Take a call with a dedupe key."""
        if opening.shape not in _UNARY_SHAPES:
            _refuse(call, STATUS_INVALID_ARGUMENT, _ONLY_UNARY)
            return
        data = opening.data
        inbox = self._make_inbox(call, credit_bytes=len(data))
        call.app = gathering = _Gathering(inbox, call, opening, self._request_complete)
        if data:
            gathering.data_received(data)
        if call.is_ended:
            return
        if opening.half_close:
            gathering.half_close_received()
        else:
            inbox.start()

    def _request_complete(self, call: Call, opening: pb.Open, request: bytes) -> None:
        self._forget_old()
        key = (opening.caller_identity, call.method, opening.dedupe_key)
        digest = hashlib.sha256(request).digest()
        run = self._by_key.get(key)
        if run is not None and run.digest != digest:
            _refuse(
                call,
                _STATUS_FAILED_PRECONDITION,
                "another request was called with the same dedupe key",
            )
            return
        if run is None:
            if opening.is_repeat:
                text = "this host does not remember the call any more, which may have run"
                _refuse(call, STATUS_UNAVAILABLE, text, not_executed=False)
                return
            run = self._by_key[key] = Run(self, key, call, digest=digest)
            opening.data = encode_message(request)
            opening.half_close = True
            self._start(run, opening)
        run.join(call)

    def settled(self, run: Run) -> None:
        """Remember how a run ended, as far as there is room."""
        assert run.outcome is not None
        if run.outcome.not_executed:
            # It may run yet.
            self._by_key.pop(run.key, None)
            return
        if run.outcome.size_bytes > self.limits.dedupe_bytes_max:
            run.forget_outcome()
        run.ended_s = self.clock()
        self._ended[run] = None
        self._kept_bytes += run.outcome.size_bytes
        self._forget_old()

    def _forget_old(self) -> None:
        limits = self.limits
        until_s = self.clock() - limits.dedupe_s
        for run in list(self._ended):
            is_kept = (
                len(self._ended) <= limits.dedupe_outcomes_max
                and self._kept_bytes <= limits.dedupe_bytes_max
                and run.ended_s > until_s
            )
            if is_kept:
                break
            assert run.outcome is not None
            del self._ended[run]
            del self._by_key[run.key]
            self._kept_bytes -= run.outcome.size_bytes


def _refuse(call: Call, status: int, details: str, *, not_executed: bool = True) -> None:
    _Outcome(status, details, not_executed=not_executed).tell(call)
