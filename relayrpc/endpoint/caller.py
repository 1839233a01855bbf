"""
Whoever called, as the host calls back: a channel to one caller.

Within a session, callbacks belong to the session. Else they belong to a line: a call of the host's
own to that caller, which runs for as long as somebody here may call back.
Owns: what callbacks belong to, and when the caller is gone. Does not own: the caller's side
(callbacks.py).
Source: link.proto, Open.anchor; docs/adr/0020-anchored-calls.md; docs/reference/callbacks.md.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import grpc
import grpc.aio

from relayrpc.endpoint.anchor import LINE_METHOD, AnchorFault
from relayrpc.endpoint.channel import Channel
from relayrpc.endpoint.silent_call import SilentCall
from relayrpc.endpoint.turn_calls import heed_turns
from relayrpc.errors import UsageError
from relayrpc.link.call import STATUS_UNAVAILABLE, STATUS_UNIMPLEMENTED
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from collections.abc import Callable

    from relayrpc.endpoint.call_core import CallCore
    from relayrpc.endpoint.live_link import LiveLink
    from relayrpc.endpoint.multicallable import (
        MultiCallable,
        StreamStreamMultiCallable,
        StreamUnaryMultiCallable,
        UnaryStreamMultiCallable,
        UnaryUnaryMultiCallable,
    )
    from relayrpc.link.call import Call
    from relayrpc.link.link import Link


__all__ = ["Caller", "Reach"]

_StubT = TypeVar("_StubT")
_MultiCallableT = TypeVar("_MultiCallableT", bound="MultiCallable")

_GONE: Final = "the caller is gone"
_HUB_LEAVES: Final = "the hub goes away by which the caller was reached"


class Reach(SilentCall):
    """
    Whether a caller can be reached, and by which call: the Anchor of callbacks, and the CallApp of
    a line.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Call | None = None) -> None:
        """
        Args:
            loop: The server's.
            call: What callbacks belong to; None: set by `open_line()`.
        """
        self.loop = loop
        self.call = call
        self.is_line = call is None
        """What it is has been opened for callbacks alone; else it is a session."""
        self._is_leaving = False
        self._fault = AnchorFault(STATUS_UNAVAILABLE, _GONE)
        self._callbacks: list[Callable[[], object]] = []
        self.calls_count = 0
        """How many callbacks began."""

    def open_line(self, call: Call, *, now_s: float) -> None:
        """Open a line to whoever made a call that runs; on a link that ends soon there is none."""
        if call.link.is_draining:
            self.leave()
            return
        self.call = call.link.open_call(
            LINE_METHOD,
            "",
            shape=pb.SHAPE_STREAM_STREAM,
            app=self,
            anchor=call,
            now_s=now_s,
        )
        call.link.flush_soon()

    def close_line(self) -> None:
        """Give the line up, where there is one: nobody here can call back any more."""
        call = self.call
        if call is not None and self.is_line:
            call.link.half_close(call)
            call.link.flush_soon()
            self.gone(_GONE)

    def leave(self) -> None:
        """Take note that the hub goes away: callbacks that run may finish, others are not made."""
        self._is_leaving = True
        self._fault = AnchorFault(STATUS_UNAVAILABLE, _HUB_LEAVES)

    def gone(self, why: str, status: int = STATUS_UNAVAILABLE) -> None:
        """Take note that the caller cannot be reached any more. Idempotent."""
        if self.call is None:
            return
        self.call = None
        self._fault = AnchorFault(status, why)
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._tell(callback)

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Have `callback()` called once the caller is gone, soon if it is."""
        if self.call is None:
            self._tell(callback)
        else:
            self._callbacks.append(callback)

    def _tell(self, callback: Callable[[], object]) -> None:
        if self.loop.is_closed():
            # The server is over, and so is whatever else runs.
            callback()
        else:
            self.loop.call_soon(callback)

    def remove_done_callback(self, callback: Callable[[], object]) -> None:
        """Undo `add_done_callback()`; no-op where it was told."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    # --- CallApp of a line ---

    def call_ended(self, end: pb.End) -> None:
        """The caller closed its channel or is lost, or takes no callbacks."""
        if end.status == STATUS_UNIMPLEMENTED:
            self.gone(end.details, STATUS_UNIMPLEMENTED)
        else:
            self.gone(f"{_GONE}: {end.details}" if end.details else _GONE)

    # --- Anchor ---

    @property
    def is_ready(self) -> bool:
        """Always: what callbacks belong to goes before them."""
        return True

    async def ready(self, method: str, wait_for_ready: bool) -> None:
        """Never called."""

    def call_for(self, method: str, core: CallCore) -> Call:
        """Return what a callback belongs to."""
        if self.call is None or self._is_leaving:
            raise self._fault
        self.calls_count += 1
        return self.call


class Caller(grpc.aio.Channel):
    """
    A channel to whoever called: what `context.caller()` gives, and what stubs of
    `context.callback()` are made on. It may be kept, and is of use until the caller is gone. The
    line to the caller is given up when nothing refers to it any more.
    """

    def __init__(self, live: LiveLink, reach: Reach) -> None:
        """
        Args:
            live: The server's.
            reach: What callbacks belong to.
        """
        self._reach = reach
        # Behind `close()`; what calls go over.
        self.channel = Channel(
            live, anchor=reach, owns_link=False, reads_contracts=True, bounds_timeouts=True
        )
        heed_turns(self.channel)

    def stub(self, stub_class: Callable[[grpc.aio.Channel], _StubT]) -> _StubT:
        """Make a stub whose calls go to the caller."""
        return stub_class(self)

    # --- whether it is there ---

    def done(self) -> bool:
        """Return True if the caller is gone: nothing reaches it any more."""
        return self._reach.call is None

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Have `callback()` called once the caller is gone, soon if it is."""
        self._reach.add_done_callback(callback)

    def remove_done_callback(self, callback: Callable[[], object]) -> None:
        """Undo `add_done_callback()`; no-op where it was told."""
        self._reach.remove_done_callback(callback)

    async def wait_gone(self) -> None:
        """Wait until the caller is gone."""
        gone = asyncio.Event()
        tell = gone.set
        self._reach.add_done_callback(tell)
        try:
            await gone.wait()
        finally:
            self._reach.remove_done_callback(tell)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The server's, on which alone callbacks are made."""
        return self._reach.loop

    @property
    def is_over(self) -> bool:
        """True once the server's loop has ended: nobody can be called any more."""
        return self._reach.loop.is_closed()

    def is_on(self, link: Link) -> bool:
        """Say whether it is by a line on this link that the caller is reached."""
        return self._reach.call is not None and self._reach.call.link is link

    async def leave(self) -> None:
        """Give up a line whose hub goes away, once the callbacks that run are over."""
        self._reach.leave()
        for core in list(self.channel.calls):
            await core.wait_end()
        self._reach.close_line()

    def __del__(self) -> None:
        reach = getattr(self, "_reach", None)
        if reach is not None and reach.call is not None and not reach.loop.is_closed():
            reach.loop.call_soon_threadsafe(reach.close_line)

    # --- what generated stubs use ---

    def unary_unary(self, *arguments: Any, **named: Any) -> UnaryUnaryMultiCallable:
        """As a channel's."""
        return self._keeping(self.channel.unary_unary(*arguments, **named))

    def unary_stream(self, *arguments: Any, **named: Any) -> UnaryStreamMultiCallable:
        """As a channel's."""
        return self._keeping(self.channel.unary_stream(*arguments, **named))

    def stream_unary(self, *arguments: Any, **named: Any) -> StreamUnaryMultiCallable:
        """As a channel's."""
        return self._keeping(self.channel.stream_unary(*arguments, **named))

    def stream_stream(self, *arguments: Any, **named: Any) -> StreamStreamMultiCallable:
        """As a channel's."""
        return self._keeping(self.channel.stream_stream(*arguments, **named))

    def _keeping(self, callable_: _MultiCallableT) -> _MultiCallableT:
        # For as long as there is a stub, there is a line.
        callable_.keeps = self
        return callable_

    # --- the rest of a channel ---

    async def __aenter__(self) -> NoReturn:
        self.refuse("entered")

    async def __aexit__(self, *exc_info: object) -> None:
        """Never reached."""

    async def close(self, grace: float | None = None) -> None:
        """
        Cancel the callbacks that run, and give the line up, where there is one; within a session
        others may call back still. The caller's channel stays open.
        """
        if self._reach.is_line:
            await self.channel.close(grace)
            self._reach.close_line()
        else:
            await self.channel.end_calls(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return READY while the caller can be reached, SHUTDOWN once it is gone."""
        if self.done():
            return grpc.ChannelConnectivity.SHUTDOWN
        return self.channel.get_state()

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the link's state is another one."""
        await self.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the hub is reached."""
        await self.channel.channel_ready()

    def refuse(self, what: str) -> NoReturn:
        """Raise UsageError: what is done with other channels cannot be done with this one."""
        raise UsageError(
            f"the channel to a caller is not {what}: it is the caller's, and goes when it goes"
        )
