"""
Whoever called, as plain handlers call back: a blocking channel to one caller.

The thread of a plain handler waits on a callback no longer than its own call runs.
Owns: what differs from other blocking calls for that. Does not own: what callbacks belong to, and
when the caller is gone (caller.py), giving turns up (sync_core.py).
Source: docs/reference/callbacks.md; docs/adr/0006-blocking-portal.md.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import grpc

from relayrpc.endpoint.blocking_channel import CLOSED, BlockingChannel
from relayrpc.endpoint.context import current_call
from relayrpc.endpoint.handover import Bell
from relayrpc.endpoint.sync_core import BlockingCore, SyncReplyCore, SyncStreamCore
from relayrpc.link.call import STATUS_UNAVAILABLE


if TYPE_CHECKING:
    from relayrpc.endpoint.caller import Caller as AsyncCaller
    from relayrpc.endpoint.server import Server


__all__ = ["HANDLED_CALL_OVER", "Caller"]

_StubT = TypeVar("_StubT")

HANDLED_CALL_OVER: Final = "the call is over whose handler waits on this one"


class _WaitsAsHandler(BlockingCore):
    """A call that a handler may wait on, for no longer than its own call runs."""

    __slots__ = ()

    def _wait(self, is_so: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait, and have the end of the call that is served cancel this one."""
        context = current_call.get()
        plain = None if context is None else context.plain
        if context is None or plain is None:
            return super()._wait(is_so, timeout_s)
        was_over = context.is_over
        plain.awaited.append(self)
        try:
            if context.is_over and not was_over:
                # In this moment.
                self.soon(self.cancel_here, HANDLED_CALL_OVER)
            return super()._wait(is_so, timeout_s)
        finally:
            plain.awaited.remove(self)


class _ReplyCore(_WaitsAsHandler, SyncReplyCore):
    __slots__ = ()


class _StreamCore(_WaitsAsHandler, SyncStreamCore):
    __slots__ = ()


class Caller(BlockingChannel):
    """
    A channel to whoever called, for any thread: what `context.caller()` gives a plain handler, and
    what stubs of `context.callback()` are made on. It may be kept, and is of use until the caller
    is gone. The line to the caller is given up when nothing refers to it any more.
    """

    reply_core = _ReplyCore
    stream_core = _StreamCore

    def __init__(self, caller: AsyncCaller, server: Server) -> None:
        """
        Args:
            caller: Used on the server's loop alone.
            server: Whose caller it is.
        """
        super().__init__(
            caller.channel, server.portal, is_traced=server.tracing is not None
        )
        # As async code has it. For as long as there is a stub, there is a line.
        self.behind = caller
        self._bell: Bell | None = None

    def stub(self, stub_class: Callable[[grpc.Channel], _StubT]) -> _StubT:
        """Make a stub whose calls go to the caller."""
        return stub_class(self)

    # --- whether it is there ---

    def done(self) -> bool:
        """Return True if the caller is gone: nothing reaches it any more."""
        return self.behind.done()

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """
        Have `callback()` called once the caller is gone, soon if it is, on the server's thread for
        callbacks.
        """
        tell = functools.partial(self.portal.call_back, callback)
        self.portal.handover.call(self.behind.add_done_callback, tell)

    def wait_gone(self, timeout: float | None = None) -> bool:
        """Wait until the caller is gone; False when `timeout` seconds passed before."""
        self.portal.require_other_thread()
        if self._bell is None:
            self._bell = Bell()
            self.portal.handover.call(self.behind.add_done_callback, self._bell.ring)
        return self._bell.wait_for(self.done, timeout)

    # --- calls ---

    def require_open(self) -> None:
        """
        See that calls may start; the end of each tells whether the caller is gone.

        Raises:
            ValueError: The server was started before a fork.
            UsageError: This is the server's own thread.
        """
        if self.portal.is_forked:
            raise ValueError(f"{CLOSED} Its server was started before fork().")
        self.portal.require_other_thread()

    def start_call(
        self, core: BlockingCore, open_call: Callable[..., None], *arguments: Any
    ) -> None:
        """As of any channel; when the server is over, so is the call."""
        if self.behind.is_over:
            core.fail(STATUS_UNAVAILABLE, "the caller is gone: the server has stopped")
        else:
            super().start_call(core, open_call, *arguments)

    # --- the rest of a channel ---

    def close(self) -> None:
        """As of `relayrpc.aio`'s."""
        if not self.portal.is_forked:
            with contextlib.suppress(concurrent.futures.CancelledError):
                self.portal.run(self.behind.close())

    def __enter__(self) -> NoReturn:
        self.behind.refuse("entered")

    def __exit__(self, *exc_info: object) -> None:
        """Never reached."""

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: Any = False
    ) -> NoReturn:
        """Raise UsageError: `add_done_callback()` tells when the caller is gone."""
        self.behind.refuse("subscribed to")

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Do nothing: there are no subscriptions."""
