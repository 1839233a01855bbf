"""
The caller's session: a channel whose calls all go to one host, and that says when that host is
lost.

A session is a call that runs as long as it: of its service, to the host that took it. The calls
made within belong to that call, so that the hub sends them to the same host and both ends know when
it is over.
Owns: the states of a session, opening and closing it. Does not own: the host's end
(host_session.py), how calls follow a running one (call_opener.py).
Source: link.proto, Open.anchor; docs/adr/0020-anchored-calls.md; docs/reference/sessions.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import weakref
from enum import Enum
from typing import TYPE_CHECKING, Final, NoReturn, Self

import grpc.aio

from relayrpc.endpoint.anchor import SESSION_METHOD, AnchorFault
from relayrpc.endpoint.channel import Channel
from relayrpc.endpoint.context import Context, current_call
from relayrpc.endpoint.operations import (
    GENERATED_CONTRACTS,
    callback_fault,
    first_call_fault,
    session_fault,
)
from relayrpc.endpoint.turn_calls import heed_turns
from relayrpc.link.call import STATUS_FAILED_PRECONDITION, STATUS_UNAVAILABLE
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from relayrpc.endpoint.call_core import CallCore
    from relayrpc.endpoint.stream_call import StreamStreamCall
    from relayrpc.link.call import Call


__all__ = ["Session", "SessionState"]


class SessionState(Enum):
    """Where a session stands, at either end."""

    CREATED = "created"
    """Nothing was called yet."""
    OPENING = "opening"
    """A host is asked to take it."""
    OPENED = "opened"
    """A host has it."""
    CLOSING = "closing"
    """It takes no new calls; the running ones finish."""
    CLOSED = "closed"
    """It was closed, or aborted here."""
    FAULTED = "faulted"
    """It ended otherwise: `fault` says why."""


_LOGGER: Final = logging.getLogger("relayrpc")
_NOT_AWAITED: Final = "its first call was over before a host had taken it"
_OVER: Final = (SessionState.CLOSED, SessionState.FAULTED)


class Session(Channel):
    """
    A channel whose calls all go to the host that took the first of them, in the order in which they
    were made. Made by `Channel.session()`.

        async with channel.session() as session:
            orders = OrdersStub(session)
            await orders.Open(OpenRequest())

    It opens with its first call. A host that is lost faults it: the calls that run end as any do,
    and later ones with FAILED_PRECONDITION, saying why. Nothing is begun anew.

    Attributes:
        fault: Why the session is FAULTED; empty: it is not.
        instance: The host's instance id; empty: no host has it.
    """

    def __init__(self, channel: Channel) -> None:
        """
        Args:
            channel: Whose link, address, interceptors and options the session has.
        """
        super().__init__(
            channel.live,
            address=channel.address,
            interceptors=channel.interceptors,
            options=channel.options,
            call_credentials=channel.call_credentials,
            anchor=self,
            owns_link=False,
            reads_contracts=channel.reads_contracts,
        )
        self._channel = channel
        if channel.callbacks is not None:
            heed_turns(self, channel.callbacks)
        self.fault = ""
        self.instance = ""
        self._state = SessionState.CREATED
        self._state_callbacks: list[Callable[[SessionState], None]] = []
        self._call: StreamStreamCall | None = None
        # Done when the session is open, or will not be.
        self._settled: asyncio.Future[None] | None = None
        # Calls that were made before.
        self._waiting_count = 0
        # What those end with that waited for a host that did not take it.
        self._opening_fault: AnchorFault | None = None
        self._beginning: asyncio.Task[None] | None = None
        # Closes it where nobody waits for that.
        self._closing: asyncio.Task[None] | None = None
        # Services that were called.
        self._begun: set[str] = set()
        # The call with which it ends, while that runs.
        self._terminating: CallCore | None = None

    @property
    def state(self) -> SessionState:
        """Where it stands."""
        return self._state

    def add_state_callback(self, callback: Callable[[SessionState], None]) -> None:
        """Have every change of `state` told, on the loop."""
        self._state_callbacks.append(callback)

    def session(self) -> NoReturn:
        """Raise UsageError: there are none within another."""
        raise grpc.aio.UsageError("a session is made of a channel, not of another session")

    # --- life ---

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if exc_type is None:
            await self.close()
        else:
            # What went wrong is raised on, and nothing that closing may find.
            self.abort()

    async def close(self, grace: float | None = None) -> None:
        """
        Take no new calls, wait until the running ones are over and the host has let go of the
        session. Idempotent; raises nothing about the session: `state` tells how it ended. In the
        handler of a callback within the session it returns at once: the calls may wait for that.

        Args:
            grace: Seconds to wait; None: `session_close_timeout_s`. After them it is aborted.
        """
        self.refuse_calls()
        served = current_call.get()
        if served is not None and self._has_callback(served):
            # By a task that is nobody's.
            closing = self.close(grace)
            self._closing = self.loop.create_task(closing, context=contextvars.Context())
            return
        timeout_s = self.limits.session_close_timeout_s if grace is None else grace
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._finish_calls()
        finally:
            # Of one that is closed, a no-op; whoever waits no longer leaves nothing behind.
            self.abort()
        await super().close()

    def _has_callback(self, context: Context) -> bool:
        """Say whether a call that is served is a callback within this session."""
        anchor = None if context.call is None else context.call.anchor
        return anchor is not None and self._call is not None and anchor is self._call.core.call

    async def _finish_calls(self) -> None:
        """Wait until the calls are over that were made, and the session with them."""
        for waiting in list(self.calls):
            while waiting.call is None and waiting.end is None:
                await waiting.watch()
        if self._call is not None and self._state not in _OVER:
            self._set_state(SessionState.CLOSING)
            core = self._call.core
            core.half_close()
            await core.wait_end()
            self._call_over(core)

    def abort(self) -> None:
        """End the session, its calls and its callbacks at once; idempotent, never raises."""
        if self._state in _OVER:
            return
        for core in list(self.calls):
            core.cancel_here()
        if self._call is not None:
            core = self._call.core
            if core.call is not None and self._channel.callbacks is not None:
                self._channel.callbacks.give_up_within(core.call)
            core.cancel_here()
        self._end(SessionState.CLOSED)

    def abandon(self, fault: str) -> None:
        """Take note of being in the child of a fork: the session is the parent's."""
        if self._state not in _OVER:
            self._state = SessionState.FAULTED
            self.fault = fault

    def _set_state(self, state: SessionState) -> None:
        if state is not self._state:
            self._state = state
            for callback in list(self._state_callbacks):
                try:
                    callback(state)
                except Exception:
                    _LOGGER.exception("a state callback of a session failed")

    def _end(self, state: SessionState, fault: str = "") -> None:
        if self._state in _OVER:
            return
        self.fault = fault
        self._set_state(state)
        self._settle()

    def _settle(self) -> None:
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    def require_open(self) -> None:
        """Raise what a call on a closed channel raises, and start the link."""
        self._channel.require_open()
        super().require_open()

    # --- opening ---

    def _open(self, method: str, wait_for_ready: bool) -> None:
        """Ask a host of the service to take the session."""
        service = method.partition("/")[0]
        self._settled = self.loop.create_future()
        opening = self._channel.plain_stream_stream(f"/{service}/{SESSION_METHOD}", None, None)
        self._call = call = opening(wait_for_ready=wait_for_ready)
        # The link holds the call: a session that nobody refers to any more goes, and its call with
        # it.
        call.core.add_callback(functools.partial(_call_over, weakref.ref(self)), call.core)
        self._beginning = self.loop.create_task(self._wait_begun(call.core))
        # Who is told may abort it at once.
        self._set_state(SessionState.OPENING)

    def _give_up(self) -> None:
        """End a session that nobody waits for any more, so that no host takes it later."""
        self._end(SessionState.FAULTED, _NOT_AWAITED)
        if self._call is not None:
            self._call.core.cancel_here()

    async def _wait_begun(self, core: CallCore) -> None:
        await core.wait_begin()
        if core.begin is not None and self._state is SessionState.OPENING:
            self.instance = core.begin.instance
            self._set_state(SessionState.OPENED)
            self._settle()

    def _call_over(self, core: CallCore) -> None:
        """Take note that the call has ended that the session is."""
        outcome = core.outcome()
        if not outcome.status:
            self._end(SessionState.CLOSED)
            return
        if self._state is SessionState.OPENING:
            end = pb.End()
            assert core.end is not None
            end.MergeFrom(core.end)
            # Whatever became of the session, the calls that waited for it did not begin.
            end.not_executed = True
            self._opening_fault = AnchorFault(outcome.status, outcome.details, end=end)
        self._end(SessionState.FAULTED, outcome.details)

    # --- Anchor ---

    @property
    def is_ready(self) -> bool:
        """False while calls have to wait for the host."""
        return self._state not in (SessionState.CREATED, SessionState.OPENING)

    async def ready(self, method: str, wait_for_ready: bool) -> None:
        """Wait until a host has the session; the first call asks for one."""
        if self._state is SessionState.CREATED:
            service, _, name = method.partition("/")
            self._require_allowed(service, name)
            try:
                self._open(method, wait_for_ready)
            except grpc.aio.UsageError as error:
                # The channel was closed since the call was made.
                raise AnchorFault(STATUS_UNAVAILABLE, str(error)) from None
        self._waiting_count += 1
        try:
            if self._settled is not None:
                await asyncio.shield(self._settled)
        finally:
            self._waiting_count -= 1
            if not self._waiting_count and self._state is SessionState.OPENING:
                self._give_up()
        if self._opening_fault is not None:
            raise self._opening_fault

    def _require_allowed(self, service: str, name: str) -> None:
        """Raise AnchorFault where a contract does not allow a call that would be its first here."""
        contract = GENERATED_CONTRACTS.of_service(service)
        if contract is not None:
            fault = (
                session_fault(contract, is_within=True)
                or first_call_fault(contract, name)
                or callback_fault(contract, self._channel.serves)
            )
            if fault:
                raise AnchorFault(STATUS_FAILED_PRECONDITION, fault)

    def call_for(self, method: str, core: CallCore) -> Call:
        """Return the call that the session is."""
        own = None if self._call is None else self._call.core
        if own is not None and own.end is not None:
            # It has ended in this moment.
            self._call_over(own)
        if self._terminating is not None and self._terminating.end is not None:
            # So has this one.
            self._terminating_over(self._terminating)
        call = None if own is None else own.call
        if self._state is not SessionState.OPENED or call is None:
            why = f": {self.fault}" if self.fault else ""
            raise AnchorFault(
                STATUS_FAILED_PRECONDITION, f"the session is {self._state.value}{why}"
            )
        if call.link.is_draining:
            raise AnchorFault(STATUS_UNAVAILABLE, "the hub that has the session goes away")
        service, _, name = method.partition("/")
        if service not in self._begun:
            self._require_allowed(service, name)
            self._begun.add(service)
        operation = GENERATED_CONTRACTS.of_method(method)
        if operation is not None and operation.terminating:
            self._terminating = core
            core.add_callback(self._terminating_over, core)
            self._set_state(SessionState.CLOSING)
        return call

    def _terminating_over(self, core: CallCore) -> None:
        """
        Take note that the call is over that was to end the session: one that was not executed did
        not. The host ends it, if it had the call at all.
        """
        if core is not self._terminating:
            return
        self._terminating = None
        assert core.end is not None
        if not core.end.not_executed:
            if self._call is not None:
                self._call.core.half_close()
        elif self.is_open and self._state is SessionState.CLOSING:
            self._set_state(SessionState.OPENED)


def _call_over(session: weakref.ref[Session], core: CallCore) -> None:
    """Tell a session, if it is there still, that its call has ended."""
    told = session()
    if told is not None:
        told._call_over(core)
