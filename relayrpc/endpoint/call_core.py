"""
One outgoing call: what arrives for it, how it ends, who is told. And gRPC's methods over it, the
same for all shapes.

A core is what the link holds (a CallApp). A streaming call's public object is apart from it, so
that dropping that object cancels the call, as in grpc.aio. A unary call is one object, for speed:
dropping it lets the call run to its end.
Owns: end, initial metadata, cancellation, further attempts. Does not own: messages in (reply.py,
stream_call.py) and out (request_writer.py), whether there is a further attempt (retry.py).
Source: link/call.py, CallApp; the behaviour of grpc.aio's Call objects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc.aio import Metadata

from relayrpc.endpoint.attempts import Attempts
from relayrpc.endpoint.metadata import decode_metadata
from relayrpc.endpoint.rpc_error import (
    STATUS_BY_NUMBER,
    make_rpc_error,
    trailing_metadata_of,
)
from relayrpc.errors import UsageError
from relayrpc.link.call import STATUS_CANCELLED, CallOutcome
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.endpoint.attempts import KeptRequests, Retries
    from relayrpc.endpoint.callbacks import CallbackServer
    from relayrpc.endpoint.channel import Channel
    from relayrpc.endpoint.metadata import Metadatum
    from relayrpc.endpoint.rpc_error import RpcError
    from relayrpc.link.call import Call


__all__ = ["DETAILS_CANCELLED", "DETAILS_COLLECTED", "CallCore", "CallMethods"]

DETAILS_CANCELLED: Final = "Locally cancelled by application!"
DETAILS_COLLECTED: Final = "Cancelled upon garbage collection!"


class CallCore:
    """State of one outgoing call; the link's CallApp."""

    __slots__ = (
        "_callbacks",
        "_watchers",
        "attempts",
        "begin",
        "call",
        "channel",
        "deadline_s",
        "deserializer",
        "end",
        "is_cancelled",
        "kept",
        "opening",
    )

    def __init__(self, channel: Channel, deserializer: Callable[[bytes], Any] | None) -> None:
        self.channel = channel
        self.deserializer = deserializer
        # The link's call; None before it is opened, which credentials may take long for, between
        # attempts, and after its end.
        self.call: Call | None = None
        # How it ended; None while it runs.
        self.end: pb.End | None = None
        self.begin: pb.Begin | None = None
        self.deadline_s: float | None = None
        # True after cancel() here, whatever the host did meanwhile.
        self.is_cancelled = False
        # Those who wait for the beginning or the end; made when first needed.
        self._watchers: list[asyncio.Future[None]] | None = None
        self._callbacks: list[tuple[Callable[[Any], object], Any]] | None = None
        # What the call is opened with once more; None when it never is.
        self.opening: pb.Frame | None = None
        # Its requests, where they did not fit in there.
        self.kept: KeptRequests | None = None
        # None until the first attempt has failed.
        self.attempts: Attempts | None = None

    # --- CallApp ---

    def begin_received(self, begin: pb.Begin) -> None:
        """Keep the initial metadata."""
        if self.end is not None:
            return
        if begin.remembers:
            # No initial metadata: the host says that it knows the call by its dedupe key.
            if self.opening is not None:
                self.opening.open.instance = begin.instance
                self.opening.open.is_repeat = True
            return
        self.begin = begin
        self.commit()
        self._tell_watchers()

    def data_received(self, data: bytes) -> None:
        """Take response bytes."""
        raise NotImplementedError

    def half_close_received(self) -> None:
        """Never called: the opener is the one who half closes."""

    def send_ready(self) -> None:
        """Let waiting writers go on; nobody waits where the request is one message."""

    def call_ended(self, end: pb.End) -> None:
        """Take the end."""
        raise NotImplementedError

    def opened(self) -> None:
        """Note that the call is open, which was started before: it waited for its credentials."""
        self._tell_watchers()

    @property
    def callbacks(self) -> CallbackServer | None:
        """Serves the calls back that belong to this one; None: the channel takes none."""
        return self.channel.callbacks

    # --- ending ---

    def finish(self, end: pb.End) -> None:
        """Settle how the call ended, once, and tell everybody."""
        self.end = end
        self.call = None
        if self.opening is not None:
            self.commit()
        self.channel.calls.pop(self, None)
        if self._watchers is not None:
            self._tell_watchers()
        if self._callbacks is not None:
            call_soon = self.channel.loop.call_soon
            for callback, argument in self._callbacks:
                call_soon(callback, argument)
            self._callbacks = None

    def cancel_here(self, details: str = DETAILS_CANCELLED) -> bool:
        """Cancel here and at the host; False when the call was over."""
        if self.end is not None:
            return False
        self.is_cancelled = True
        self.fail(STATUS_CANCELLED, details)
        return True

    def fail(self, status: int, details: str) -> None:
        """End the call from this side: cancelled, or its responses cannot be taken."""
        call = self.call
        is_executed = self.attempts is not None and self.attempts.may_have_executed
        if call is not None:
            is_executed = is_executed or call.link.may_be_given(call)
            call.link.cancel_call(call, reason=self.channel.cancel_reason)
            call.link.flush_soon()
        self.finish(
            pb.End(
                status=status,
                details=details,
                origin=pb.End.ORIGIN_CALLER,
                not_executed=not is_executed,
            )
        )

    def raise_for_end(self) -> None:
        """Raise what a reader or awaiter gets after the end; return after OK."""
        assert self.end is not None
        if self.is_cancelled:
            raise asyncio.CancelledError
        if self.end.status:
            raise self.make_error()

    def make_error(self) -> RpcError:
        """Make the exception of a call that did not end with OK."""
        return make_rpc_error(self.outcome(), Metadata(*self.received_metadata()))

    def outcome(self) -> CallOutcome:
        """Return how the call ended; only after its end."""
        assert self.end is not None
        return CallOutcome.from_end(self.end)

    def received_metadata(self) -> tuple[Metadatum, ...]:
        """Return the initial metadata that has arrived; empty when none was sent."""
        if self.begin is not None:
            return decode_metadata(self.begin.metadata)
        if self.end is not None:
            return decode_metadata(self.end.initial_metadata)
        return ()

    @property
    def has_initial_metadata(self) -> bool:
        """True when initial metadata has arrived, if only with the end."""
        begin = self.begin if self.begin is not None else self.end
        if begin is None:
            return False
        return bool(begin.metadata if isinstance(begin, pb.Begin) else begin.initial_metadata)

    # --- requests ---

    def send_bytes(self, data: bytes) -> None:
        """Send more of the request stream, and keep it while the call may be made again."""
        kept = self.kept
        if kept is not None and not self._retries.keep(kept, data):
            if self.is_between_attempts:
                # The next one would not begin with all of it: there is none.
                self._give_up()
                return
            self.commit()
        if self.call is not None:
            self.call.link.send_data(self.call, data)
            self.call.link.flush_soon()

    def half_close(self) -> None:
        """Say that no more requests follow; nothing happens after the end."""
        if self.kept is not None:
            self.kept.is_complete = True
        if self.call is not None:
            self.call.link.half_close(self.call)
            self.call.link.flush_soon()

    # --- further attempts ---

    @property
    def is_between_attempts(self) -> bool:
        """True from the end of an attempt to the beginning of the next."""
        return self.attempts is not None and self.attempts.timer is not None

    @property
    def _retries(self) -> Retries:
        retries = self.channel.retries
        assert retries is not None
        return retries

    def goes_on(self, end: pb.End) -> bool:
        """
        Have the call made again after an attempt's end that is not OK, if that may be.

        Returns:
            True when another attempt follows; else `end` is the call's, and true of all attempts.
        """
        if self.opening is not None:
            assert self.call is not None
            if self.attempts is None:
                self.attempts = Attempts()
            pause_s = self._retries.find_pause_s(
                end,
                self.call,
                self.attempts,
                is_remembered=self.opening.open.is_repeat,
                left_s=self.time_left_s(),
            )
            self.attempts.note(self.call, end)
            if pause_s is not None:
                self.call = None
                self._retries.waiting_count += 1
                self.attempts.timer = self.channel.loop.call_later(pause_s, self._begin_again)
                return True
        self._tell_of_all_attempts(end)
        return False

    def _begin_again(self) -> None:
        attempts, opening, kept = self.attempts, self.opening, self.kept
        assert attempts is not None
        assert attempts.last is not None
        assert opening is not None
        attempts.timer = None
        self._retries.waiting_count -= 1
        attempts.mark(opening.open, limits=self.channel.limits)
        try:
            link = self.channel.live.link
            self.call = link.open_again(
                attempts.last,
                opening,
                app=self,
                data=opening.open.data if kept is None else b"".join(kept.parts),
                half_close=kept is None or kept.is_complete,
                now_s=self.channel.clock(),
            )
        except UsageError:
            # There is no link any more, and will be none.
            self._give_up()
            return
        link.flush_soon()
        self.opened()

    def _give_up(self) -> None:
        """Let the last attempt have been the last."""
        assert self.attempts is not None
        end = self.attempts.end
        self._tell_of_all_attempts(end)
        self.finish(end)

    def _tell_of_all_attempts(self, end: pb.End) -> None:
        if self.attempts is not None and self.attempts.may_have_executed:
            end.not_executed = False

    def commit(self) -> None:
        """Let go of what a further attempt would need: there will be none."""
        self.opening = None
        if self.kept is not None:
            self._retries.release(self.kept)
            self.kept = None
        attempts = self.attempts
        if attempts is not None:
            attempts.last = None
            if attempts.timer is not None:
                attempts.timer.cancel()
                attempts.timer = None
                self._retries.waiting_count -= 1

    def time_left_s(self) -> float | None:
        """Return the seconds until the deadline, at least 0; None without one."""
        if self.deadline_s is None:
            return None
        return max(0.0, self.deadline_s - self.channel.clock())

    # --- watching ---

    @property
    def is_over(self) -> bool:
        """True once the call has ended; messages may still wait to be read."""
        return self.end is not None

    async def wait_end(self) -> None:
        """Wait for the end; cancelling the wait leaves the call alone."""
        while self.end is None:
            await self.watch()

    async def wait_begin(self) -> None:
        """Wait for initial metadata, or what rules it out: a message or the end."""
        while self.end is None and self.begin is None and not self.has_message:
            await self.watch()

    @property
    def has_message(self) -> bool:
        """True when response data has arrived."""
        return False

    def watch(self) -> asyncio.Future[None]:
        """Return a future that the next change of state settles."""
        if self._watchers is None:
            self._watchers = []
        watcher: asyncio.Future[None] = self.channel.loop.create_future()
        self._watchers.append(watcher)
        return watcher

    def _tell_watchers(self) -> None:
        watchers, self._watchers = self._watchers, None
        for watcher in watchers or ():
            if not watcher.done():
                watcher.set_result(None)

    def add_callback(self, callback: Callable[[Any], object], argument: Any) -> None:
        """Have `callback(argument)` called after the end, soon if that has been."""
        if self.end is not None:
            self.channel.loop.call_soon(callback, argument)
        elif self._callbacks is None:
            self._callbacks = [(callback, argument)]
        else:
            self._callbacks.append((callback, argument))


class CallMethods:
    """What grpc.aio.Call offers, over `core`."""

    __slots__ = ()

    @property
    def core(self) -> CallCore:
        raise NotImplementedError

    def cancelled(self) -> bool:
        """Return True if the call ended with CANCELLED."""
        end = self.core.end
        return end is not None and end.status == STATUS_CANCELLED

    def done(self) -> bool:
        """Return True if the call is over; messages may still wait to be read."""
        return self.core.end is not None

    def cancel(self) -> bool:
        """Cancel the call; False when it was over."""
        return self.core.cancel_here()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """
        Have `callback(call)` called soon after the end. It keeps a dropped streaming call from
        being cancelled.
        """
        self.core.add_callback(callback, self)

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline, at least 0; None without one."""
        return self.core.time_left_s()

    async def initial_metadata(self) -> Metadata:
        """Wait for the initial metadata."""
        await self.core.wait_begin()
        return Metadata(*self.core.received_metadata())

    async def trailing_metadata(self) -> Metadata:
        """Wait for the end's metadata."""
        await self.core.wait_end()
        return Metadata(*trailing_metadata_of(self.core.outcome()))

    async def code(self) -> grpc.StatusCode:
        """Wait for the end's status."""
        await self.core.wait_end()
        return STATUS_BY_NUMBER[self.core.outcome().status]

    async def details(self) -> str:
        """Wait for the end's details."""
        await self.core.wait_end()
        return self.core.outcome().details

    async def debug_error_string(self) -> str:
        """Wait for the end; say who made it and if the handler may have run. Empty after OK."""
        await self.core.wait_end()
        if not self.core.outcome().status:
            return ""
        return str(self.core.make_error().debug_error_string())

    async def wait_for_connection(self) -> None:
        """
        Wait until the hub is reached.

        Raises:
            RpcError: The call ended before, and not with OK.
        """
        core = self.core
        await core.channel.wait_for_hub(core)
        if core.end is not None:
            core.raise_for_end()

    def __repr__(self) -> str:
        core = self.core
        name = type(self).__name__
        if core.end is None:
            return f"<{name} of RPC that is running>"
        outcome = core.outcome()
        code = STATUS_BY_NUMBER[outcome.status]
        end = f'status = {code}\n\tdetails = "{outcome.details}"'
        return f"<{name} of RPC that terminated with:\n\t{end}\n>"
