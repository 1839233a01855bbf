"""
Running plain `def` handlers: one thread of the pool has a call from its request to its last
response.

Owns: what runs on that thread. Does not own: `async def` handlers (dispatch.py), what a handler
sees (sync_context.py). The loop is told of what comes of it by way of the server's handover; no
task is made.
Source: the behaviour of grpc.aio's handlers that are not coroutines.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from relayrpc.endpoint.context import current_call
from relayrpc.endpoint.failure import HOST_STOPPED, fail_call, find_answer
from relayrpc.endpoint.handover import Bell
from relayrpc.endpoint.sync_caller import HANDLED_CALL_OVER
from relayrpc.endpoint.sync_context import CallOverError, SyncContext, SyncRequestIterator
from relayrpc.endpoint.thread_io import Sender
from relayrpc.link.call import STATUS_UNAVAILABLE
from relayrpc.link.messages import encode_message


if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Executor

    from relayrpc.endpoint.context import Context
    from relayrpc.endpoint.handlers import MethodEntry
    from relayrpc.endpoint.sync_core import BlockingCore


__all__ = ["HOST_STOPPING", "PlainCall"]

HOST_STOPPING: Final = "the host is stopping"
"""What is told of a call that finds the pool shut down."""


class PlainCall:
    """One call of a plain handler."""

    context_kind: type[SyncContext] = SyncContext
    """What the handler is given beside its request."""
    is_handed_back = False
    """The thread leaves the call to another one, which has it when its place is the first."""

    def __init__(self, context: Context, left: asyncio.Future[None] | None = None) -> None:
        """
        Args:
            context: Of the call.
            left: Settled when the thread has the call no longer; None: no task has it.
        """
        self.context = context
        # The context as the handler has it.
        self.given = self.context_kind(context)
        # Rung whenever something changes that the thread may wait for.
        self.bell = Bell()
        # Callbacks that the thread waits on.
        self.awaited: list[BlockingCore] = []
        self._left = left

    def start(self, executor: Executor) -> None:
        """Give the call to a thread of the pool; on the loop's thread."""
        context = self.context
        context.plain = self
        try:
            # What is current here, as the span of the call may be, is so in the handler.
            executor.submit(contextvars.copy_context().run, self.run)
        except RuntimeError:
            # The pool was shut down.
            context.end(STATUS_UNAVAILABLE, HOST_STOPPING, not_executed=True)
            self.leave()

    def call_over(self) -> None:
        """Tell the thread that the call is over, and end what it waits on; on the loop's thread."""
        self.bell.ring()
        for core in list(self.awaited):
            core.soon(core.cancel_here, HANDLED_CALL_OVER)

    def when_left(self, callback: Callable[[asyncio.Future[None]], object]) -> None:
        """Have a callback called when the thread has the call no longer; of one that a task has."""
        assert self._left is not None
        self._left.add_done_callback(callback)

    def leave(self) -> None:
        """Note that no thread has the call any more; on the loop's thread."""
        context = self.context
        context.plain = None
        if context.server.loop.is_closed():
            # The thread outlived its server too.
            return
        if self.is_handed_back and not context.is_over:
            assert context.place is not None
            context.place.when_first(
                functools.partial(context.server.start_plain, context, self._left)
            )
            return
        if self._left is not None:
            self._left.set_result(None)
        if context.task is None:
            context.leave()

    def run(self) -> None:
        """Run the call; the whole of what its thread does."""
        context = self.context
        submit = context.server.handover.submit
        # Of this thread, as long as it has the call.
        current_call.set(context)
        try:
            if not context.is_over:
                self.serve()
        except Exception as exc:
            answer = find_answer(context, exc, self.given)
            # In what is current here, as above.
            fail = contextvars.copy_context().run
            submit(fail, fail_call, context, exc, self.describe(exc), answer)
        except BaseException:
            submit(context.fail, HOST_STOPPED)
            raise
        finally:
            submit(self.leave)

    def serve(self) -> None:
        """Call the handler, and hand its responses to the loop."""
        context = self.context
        entry = context.entry
        request: Any
        if entry.has_request_stream:
            request = SyncRequestIterator(context, self.bell, self.deserialize)
        else:
            request = self.deserialize(self._take_request())
        result = self.call(entry, request)
        if entry.has_response_stream:
            self._send_all(result)
        else:
            self._reply(result)

    def call(self, entry: MethodEntry, request: Any) -> Any:
        """Call the program's function."""
        context = self.context
        context.is_called = True
        if context.cancelled():
            raise CallOverError
        place = context.place
        if place is not None and place.inner is None:
            place.give_on_thread(context.server.handover)
        return entry.behavior(request, self.given)

    def _take_request(self) -> bytes:
        context = self.context
        self.bell.wait_for(lambda: context.has_whole_request)
        if context.is_over:
            raise CallOverError
        return context.take_whole_request()

    def _reply(self, response: Any) -> None:
        context = self.context
        submit = context.server.handover.submit
        if context.has_status:
            submit(context.complete)
        else:
            bytes_max = context.server.limits.message_sent_bytes_max
            submit(context.reply_bytes, encode_message(self.serialize(response), bytes_max))

    def _send_all(self, responses: Iterable[Any]) -> None:
        """Send what a generator gives, as fast as the caller takes it."""
        context = self.context
        server = context.server
        sender = Sender(
            context,
            handover=server.handover,
            bell=self.bell,
            high_bytes=server.limits.send_queue_bytes_high,
            bytes_max=server.limits.message_sent_bytes_max,
        )
        try:
            for response in responses:
                if not sender.send(self.serialize(response)):
                    return
        finally:
            # Of one that was left in the middle; else its cleanup would wait for the collector.
            close = getattr(responses, "close", None)
            if close is not None:
                close()
        server.handover.submit(context.complete)

    # --- where a blocking server differs ---

    def deserialize(self, data: bytes) -> Any:
        """Make the program's object of a request."""
        deserializer = self.context.entry.deserializer
        return data if deserializer is None else deserializer(data)

    def serialize(self, response: Any) -> bytes:
        """Make bytes of a response."""
        serializer = self.context.entry.serializer
        if serializer is not None:
            return serializer(response)
        return b"" if response is None else response

    def describe(self, error: Exception) -> str | None:
        """Say what callers are told of an exception where they are told; as `fail_call`'s text."""
        return f"Unexpected {type(error)}: {error}"
