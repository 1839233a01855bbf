"""
The host's end of sessions: one call that runs as long as the session, and the calls within it.

Owns: which sessions there are, which calls may come in them, when one is over. Does not own: the
caller's end (session.py), running handlers (dispatch.py).
Source: docs/adr/0020-anchored-calls.md; docs/reference/sessions.md.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from relayrpc.endpoint.caller import Caller, Reach
from relayrpc.endpoint.operations import first_call_fault, session_fault
from relayrpc.endpoint.order import Order
from relayrpc.endpoint.session import SessionState
from relayrpc.endpoint.silent_call import SilentCall
from relayrpc.endpoint.sync_host_session import HostSession as PlainHostSession
from relayrpc.endpoint.throttle import ThrottledError
from relayrpc.link.call import (
    STATUS_DEADLINE_EXCEEDED,
    STATUS_FAILED_PRECONDITION,
    STATUS_OK,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
)


if TYPE_CHECKING:
    from collections.abc import Callable

    from relayrpc.endpoint.context import Context
    from relayrpc.endpoint.server import Server
    from relayrpc.endpoint.throttle import Throttle
    from relayrpc.link.call import Call
    from relayrpc.link.link import Link
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["HostSession", "HostSessions"]

_STOPPING: Final = "the host is stopping"
_STOPPED: Final = "the host stopped"
_HUB_LEAVES: Final = "the hub goes away"
_HUB_LEFT: Final = "the hub went away"


class HostSession(SilentCall):
    """
    One session at its host; what `context.session` gives a handler.

    Attributes:
        service: Full name of the service that it was opened for.
        identity: The caller, as the hub vouches for it.
        data: For the program: what belongs to the session.
        contexts: Calls of it whose handlers have not returned, in the order of their making.
        order: That in which their handlers begin.
    """

    def __init__(self, server: Server, call: Call, opening: pb.Open) -> None:
        self.server = server
        self.service = call.method.partition("/")[0]
        self.identity = opening.caller_identity
        self.data: dict[str, object] = {}
        self.contexts: dict[Context, None] = {}
        self.order = Order(server.loop)
        # The call that the session is; None once it is over.
        self.call: Call | None = call
        self._id = f"{call.link.link_id.hex()[:8]}-{call.id}"  # type: ignore[attr-defined]  # a Link
        self._state = SessionState.OPENED
        # What its caller is told when it ends; empty: it was closed.
        self._stopped_by = ""
        # Services of which an initiating operation was called, as their contracts say.
        self._begun: set[str] = set()
        # "pkg.Service/Method" of the terminating operation that was called; empty: none.
        self._ended_by = ""
        # It was closed otherwise, at either end.
        self._is_closed = False
        self._callbacks: list[Callable[[HostSession], object]] = []
        self._state_callbacks: list[Callable[[SessionState], object]] = []
        self._caller: Caller | None = None
        self._reach = Reach(server.loop, call)
        self._plain: PlainHostSession | None = None
        self._idle_timeout_s = server.limits.session_idle_timeout_s
        self._idle_since_s = server.loop.time()
        # Callbacks that had begun when it was looked at.
        self._callbacks_count = 0
        # None: the session is over, or may be idle for as long as its caller is there.
        self._idle_timer: asyncio.TimerHandle | None = None
        if self._idle_timeout_s:
            self._idle_timer = server.loop.call_later(self._idle_timeout_s, self._look_idle)

    def plain(self) -> PlainHostSession:
        """Return the session as its plain handlers have it."""
        if self._plain is None:
            self._plain = PlainHostSession(self)
        return self._plain

    def caller(self) -> Caller:
        """Return a channel to the caller, good for as long as the session."""
        if self._caller is None:
            self._caller = Caller(self.server.live, self._reach)
        return self._caller

    @property
    def id(self) -> str:
        """For logs: tells it from others of this host, and gives nobody a right to it."""
        return self._id

    @property
    def state(self) -> SessionState:
        """
        OPENED, CLOSING, CLOSED, or FAULTED: its caller aborted it or is lost, it was idle for too
        long, or the host stopped.
        """
        return self._state

    def admit(self, method: str) -> str:
        """
        Take a call of "pkg.Service/Method" for the next one of the session.

        Returns:
            Why it may not be made; empty: it may.
        """
        if self._state is not SessionState.OPENED:
            if self._ended_by:
                return f"the session was ended by {self._ended_by}"
            return "the session is closed"
        service, _, name = method.partition("/")
        contract = self.server.contracts.of_service(service)
        if contract is None:
            return ""
        if service not in self._begun:
            fault = session_fault(contract, is_within=True) or first_call_fault(contract, name)
            if fault:
                return fault
            self._begun.add(service)
        operation = contract.operations.get(name)
        if operation is not None and operation.terminating:
            self._ended_by = method
            self._set_state(SessionState.CLOSING)
        return ""

    def not_called(self, method: str) -> None:
        """Take note that a call that was admitted is over, and no handler was called for it."""
        if method != self._ended_by:
            return
        self._ended_by = ""
        if self._state is SessionState.CLOSING and not self._is_closed:
            self._set_state(SessionState.OPENED)

    def add_done_callback(self, callback: Callable[[HostSession], object]) -> None:
        """Have `callback(session)` called once the session is over and its handlers returned."""
        if self.call is None and not self.contexts:
            self.server.loop.call_soon(callback, self)
        else:
            self._callbacks.append(callback)

    def add_state_callback(self, callback: Callable[[SessionState], object]) -> None:
        """Have every change of `state` told, on the loop."""
        self._state_callbacks.append(callback)

    def _set_state(self, state: SessionState) -> None:
        if state is not self._state:
            self._state = state
            for callback in self._state_callbacks:
                self.server.loop.call_soon(callback, state)

    # --- CallApp of the call that the session is ---

    def half_close_received(self) -> None:
        """The caller closes: no new calls, and over when the running ones are."""
        self._is_closed = True
        if self._state is SessionState.OPENED:
            self._set_state(SessionState.CLOSING)
        self._end_when_idle()

    def call_ended(self, end: pb.End) -> None:
        """The caller aborted the session, or is lost; its running calls are told the same."""
        if self.call is not None:
            self._over(SessionState.FAULTED)

    # --- ending ---

    def close(self, fault: str = "") -> None:
        """
        Take no new calls, and end the session when the running ones are over.

        Args:
            fault: Why, for its caller, whose session it faults; empty: it is closed there too.
        """
        if fault:
            # Whoever else closes it, and though it be by a terminating operation.
            self._stopped_by = fault
            self._ended_by = ""
        self.half_close_received()

    def end(self, status: int, details: str) -> None:
        """End the session now; its caller is told why. Calls that run go on."""
        call = self.call
        if call is None:
            return
        call.link.end_call(call, status=status, details=details)
        call.link.flush_soon()
        self._over(SessionState.CLOSED if status == STATUS_OK else SessionState.FAULTED)

    def stop(self, details: str) -> None:
        """End the session when its running calls are over; its caller is told why."""
        if not self._is_closed:
            # Else, and by a terminating operation, it is ended by whoever closes it.
            self._stopped_by = details
            self._is_closed = True
        if self._state is SessionState.OPENED:
            self._set_state(SessionState.CLOSING)
        self._end_when_idle()

    def left(self, context: Context) -> None:
        """Take note that the handler of one of its calls has returned."""
        self.contexts.pop(context, None)
        if context.is_refused or not context.is_called:
            self.not_called(context.method)
        if self._idle_timeout_s:
            self._idle_since_s = self.server.loop.time()
        self._end_when_idle()

    def _end_when_idle(self) -> None:
        if self.contexts:
            return
        if self._state is SessionState.CLOSING:
            if self._stopped_by and not self._ended_by:
                self.end(STATUS_UNAVAILABLE, self._stopped_by)
            else:
                self.end(STATUS_OK, "")
        if self.call is None:
            self._tell()

    def _look_idle(self) -> None:
        now_s = self.server.loop.time()
        calls_back = self._caller is not None and self._caller.channel.calls
        if self.contexts or calls_back or self._reach.calls_count > self._callbacks_count:
            self._idle_since_s = now_s
            self._callbacks_count = self._reach.calls_count
        left_s = self._idle_since_s + self._idle_timeout_s - now_s
        if left_s > 0:
            self._idle_timer = self.server.loop.call_later(left_s, self._look_idle)
        else:
            self.end(STATUS_DEADLINE_EXCEEDED, f"no call ran in it for {self._idle_timeout_s:g} s")

    def _over(self, state: SessionState) -> None:
        self.call = None
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        self._set_state(state)
        self._reach.gone("the session is over")
        self.server.sessions.forget(self)
        if not self.contexts:
            self._tell()

    def _tell(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self.server.loop.call_soon(callback, self)


class _Pending(SilentCall):
    """A session that waits for its service to take one more: the CallApp of its call."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.is_half_closed = False
        self.is_over = False

    def half_close_received(self) -> None:
        """The caller closes what is not open yet."""
        self.is_half_closed = True

    def call_ended(self, end: pb.End) -> None:
        """The caller waits no longer."""
        self.is_over = True
        if self.task is not None:
            self.task.cancel()


class HostSessions:
    """The sessions of one server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        # Those that are not over, oldest first.
        self._open: dict[HostSession, None] = {}
        # Those that wait for their service to take one more.
        self._waiting: dict[_Pending, Call] = {}
        self._is_stopping = False

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, call: Call, opening: pb.Open) -> None:
        """Take a session, or refuse it."""
        server = self._server
        if self._is_stopping:
            server.refuse(call, STATUS_UNAVAILABLE, _STOPPING)
            return
        fault = session_fault(
            server.contracts.of_service(call.method.partition("/")[0]), is_within=True
        )
        if fault:
            server.refuse(call, STATUS_FAILED_PRECONDITION, fault)
            return
        if len(self._open) >= server.limits.sessions_max:
            server.refuse(
                call,
                STATUS_RESOURCE_EXHAUSTED,
                f"the host has {len(self._open)} sessions open",
                retry_after_s=server.limits.retry_after_s,
            )
            return
        instances = server.instances_of(call.method.partition("/")[0])
        if instances is None:
            self._open_now(call, opening, None)
            return
        pending = _Pending()
        call.app = pending
        self._waiting[pending] = call
        pending.task = server.loop.create_task(
            self._open_throttled(call, opening, instances.throttle, pending)
        )
        # Also where it was cancelled before it began.
        pending.task.add_done_callback(lambda _: self._waiting.pop(pending, None))

    async def _open_throttled(
        self, call: Call, opening: pb.Open, throttle: Throttle, pending: _Pending
    ) -> None:
        """Open a session when its service takes one more."""
        try:
            await throttle.take("sessions")
        except ThrottledError as error:
            self._server.refuse(
                call,
                STATUS_RESOURCE_EXHAUSTED,
                str(error),
                retry_after_s=self._server.limits.retry_after_s,
            )
            return
        del self._waiting[pending]
        if pending.is_over:
            throttle.give("sessions")
            return
        opening.half_close = opening.half_close or pending.is_half_closed
        self._open_now(call, opening, throttle)

    def _open_now(self, call: Call, opening: pb.Open, throttle: Throttle | None) -> None:
        call.app = session = HostSession(self._server, call, opening)
        if throttle is not None:
            session.add_done_callback(lambda _: throttle.give("sessions"))
        self._open[session] = None
        call.link.begin_call(call)
        if opening.half_close:
            session.half_close_received()
        call.link.flush_soon()

    def forget(self, session: HostSession) -> None:
        """Take note that one is over."""
        self._open.pop(session, None)

    def stop(self) -> None:
        """
        Take no more, refuse those that wait, and end those that are open when their running calls
        are over.
        """
        self._is_stopping = True
        for pending, call in self._waiting.items():
            self._turn_away(pending, call, _STOPPING)
        for session in list(self._open):
            session.stop(_STOPPED)

    def going_away(self, link: Link) -> None:
        """As `stop()`, of those on a link whose hub goes away."""
        for pending, call in self._waiting.items():
            if call.link is link:
                self._turn_away(pending, call, _HUB_LEAVES)
        for session in list(self._open):
            if session.call is not None and session.call.link is link:
                session.stop(_HUB_LEFT)

    def _turn_away(self, pending: _Pending, call: Call, details: str) -> None:
        """Refuse a session that waits; its caller opens it elsewhere."""
        assert pending.task is not None
        pending.task.cancel()
        if not pending.is_over:
            self._server.refuse(call, STATUS_UNAVAILABLE, details)

    def end(self) -> None:
        """End those that are open still: threads outlive their running calls."""
        for session in list(self._open):
            session.end(STATUS_UNAVAILABLE, _STOPPED)
