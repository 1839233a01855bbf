"""
The blocking session: a blocking channel whose calls all go to one host.

Owns: what may be done with a session from any thread. Does not own: what a session is and does
(session.py), the channel it is of (sync_channel.py).
Source: docs/adr/0006-blocking-portal.md; docs/reference/sessions.md.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import weakref
from typing import TYPE_CHECKING, Self

from relayrpc.endpoint.blocking_channel import CLOSED, BlockingChannel


if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import grpc

    from relayrpc.endpoint.portal import Portal
    from relayrpc.endpoint.session import Session as AsyncSession
    from relayrpc.endpoint.session import SessionState
    from relayrpc.endpoint.sync_channel import Channel


__all__ = ["Session"]


class Session(BlockingChannel):
    """
    A channel whose calls all go to the host that took the first of them, in the order in which they
    were made. Made by `Channel.session()`; for any number of threads.

        with channel.session() as session:
            orders = OrdersStub(session)
            orders.Open(OpenRequest())

    It opens with its first call. A host that is lost faults it: the calls that run end as any do,
    and later ones with FAILED_PRECONDITION, saying why. Nothing is begun anew.
    """

    core: AsyncSession

    def __init__(self, channel: Channel, core: AsyncSession) -> None:
        """
        Args:
            channel: Whose session it is; open.
            core: Used on the channel's thread alone.
        """
        super().__init__(core, channel.portal, is_traced=channel.is_traced)
        self._channel = channel
        self._is_closed = False
        weakref.finalize(self, _drop, channel.portal, core).atexit = False

    @property
    def state(self) -> SessionState:
        """Where it stands."""
        return self.core.state

    @property
    def fault(self) -> str:
        """Why it is FAULTED; empty: it is not."""
        return self.core.fault

    @property
    def instance(self) -> str:
        """The host's instance id; empty: no host has it."""
        return self.core.instance

    def add_state_callback(self, callback: Callable[[SessionState], None]) -> None:
        """Have `callback(state)` called at every change, on the channel's thread for callbacks."""
        self.require_open()
        tell = functools.partial(self.portal.call_back, callback)
        self.portal.handover.call(self.core.add_state_callback, tell)

    # --- life ---

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.close()
        else:
            # What went wrong is raised on, and nothing that closing may find.
            self.abort()

    def close(self, grace: float | None = None) -> None:
        """
        Take no new calls, wait until the running ones are over and the host has let go of the
        session. Idempotent; raises nothing about the session: `state` tells how it ended. In the
        handler of a callback within the session it returns at once: the calls may wait for that.

        Args:
            grace: Seconds to wait; None: `session_close_timeout_s`. After them it is aborted.

        Raises:
            UsageError: This is the channel's own thread.
        """
        self._is_closed = True
        if not self.portal.is_forked:
            # Unless the channel is closed meanwhile, and the session with it.
            with contextlib.suppress(concurrent.futures.CancelledError):
                # In what is current here: which call this thread serves.
                self.portal.run(self.core.close(grace))

    def abort(self) -> None:
        """End the session, its calls and its callbacks at once; idempotent, never raises."""
        if not self.portal.is_forked:
            self.portal.handover.call(self.core.abort)

    def require_open(self) -> None:
        """
        See that calls may start.

        Raises:
            ValueError: The session or its channel is closed.
            UsageError: This is the channel's own thread.
        """
        self._channel.require_open()
        if self._is_closed:
            raise ValueError(CLOSED)

    # --- the rest of a channel ---

    def subscribe(
        self,
        callback: Callable[[grpc.ChannelConnectivity], None],
        try_to_connect: bool | None = False,
    ) -> None:
        """As the channel's: a session has no connection of its own."""
        self._channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """As the channel's."""
        self._channel.unsubscribe(callback)


def _drop(portal: Portal, core: AsyncSession) -> None:
    """End a session that nobody refers to any more; its calls refer to the core alone."""
    if not portal.is_forked:
        portal.handover.submit(_abort_idle, core)


def _abort_idle(core: AsyncSession) -> None:
    if not core.calls:
        core.abort()
