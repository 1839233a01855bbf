"""
Many callers that are told the same things, each at its own pace.

Owns: who is in the set, what waits for each, what becomes of the slow. Does not own: one caller
(caller.py).
Source: docs/reference/callbacks.md "Many callers".
"""

from __future__ import annotations

import asyncio
import functools
import logging
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeGuard, TypeVar

import grpc
import grpc.aio

from relayrpc.contract.contract import Contract
from relayrpc.endpoint.silent_call import TAKES_NO_CALLBACKS
from relayrpc.endpoint.turns import current_turn
from relayrpc.errors import ConfigError, UsageError


if TYPE_CHECKING:
    from relayrpc.endpoint.caller import Caller
    from relayrpc.endpoint.context import Context


__all__ = ["CallbackSet", "SlowPolicy"]

_OTHER_THREAD: Final = (
    "a relayrpc.aio.CallbackSet publishes on its server's event loop alone; on another thread call "
    "loop.call_soon_threadsafe(callers.publish, method, request), or have plain handlers and a "
    "relayrpc.CallbackSet"
)
_STREAMING: Final = (
    grpc.aio.UnaryStreamMultiCallable,
    grpc.aio.StreamUnaryMultiCallable,
    grpc.aio.StreamStreamMultiCallable,
)
_SHUTDOWN: Final = grpc.ChannelConnectivity.SHUTDOWN
_LOGGER: Final = logging.getLogger("relayrpc")
_StubT = TypeVar("_StubT")
_RequestT = TypeVar("_RequestT")

SlowPolicy = Literal["drop_oldest", "drop_newest", "remove"]
_POLICIES: Final = ("drop_oldest", "drop_newest", "remove")


class CallbackSet(Generic[_StubT]):
    """
    Callers to publish to, from handlers or whatever else runs on the server's loop.

        watchers = CallbackSet(OrderEventsStub)

        async def Watch(self, request, context):
            watchers.add(context)
            return WatchReply()

        watchers.publish("Shipped", shipment)

    A caller gets what is published in order, one call at a time. What it does not take in time
    waits, up to `queue_max`; a slow caller holds up nobody else. Callers that are gone leave by
    themselves.

    Attributes:
        delivered_count: Callbacks that ended with OK.
        dropped_count: What was published and not called, because its caller was slow.
        failed_count: Callbacks that did not end with OK, of callers that are still there.
    """

    def __init__(
        self,
        stub_class: Callable[[grpc.aio.Channel], _StubT],
        *,
        queue_max: int = 128,
        on_slow: SlowPolicy = "drop_oldest",
        timeout_s: float = 30.0,
        callers_max: int = 10_000,
    ) -> None:
        """
        Args:
            stub_class: Of the callback contract.
            queue_max: What waits for one caller at most.
            on_slow: When one more comes: drop the oldest that waits, drop the new one, or take the
                caller out of the set.
            timeout_s: Deadline of each callback.
            callers_max: Callers at once.

        Raises:
            ConfigError: A bound is below 1, the timeout not above 0, or there is no such policy.
        """
        for name, value in (("queue_max", queue_max), ("callers_max", callers_max)):
            if value < 1:
                raise ConfigError(f"{name} is {value}, and must be at least 1")
        if not timeout_s > 0:
            raise ConfigError(f"timeout_s is {timeout_s}, and must be above 0")
        if on_slow not in _POLICIES:
            raise ConfigError(f"{on_slow!r} is none of {', '.join(_POLICIES)}")
        self._stub_class = stub_class
        self._queue_max = queue_max
        self._on_slow = on_slow
        self._timeout_s = timeout_s
        self._callers_max = callers_max
        self._members: dict[Caller, _Member[_StubT]] = {}
        self.delivered_count = 0
        self.dropped_count = 0
        self.failed_count = 0

    def __len__(self) -> int:
        """Return how many callers are in the set."""
        return len(self._members)

    def add(self, context: Context) -> Caller:
        """
        Add whoever made a call that runs; of a session, once.

        Args:
            context: Of the call.

        Returns:
            The caller, for `remove()`.

        Raises:
            ConfigError: The set is full.
        """
        return self.add_caller(context.caller())

    def add_caller(self, caller: Caller) -> Caller:
        """As `add()`, of a caller that a handler has."""
        if caller in self._members or caller.done():
            return caller
        if len(self._members) >= self._callers_max:
            raise ConfigError(f"{self._callers_max} callers are in the set; raise callers_max")
        member = _Member(self, caller, caller.stub(self._stub_class))
        self._members[caller] = member
        caller.add_done_callback(member.tell_gone)
        return caller

    def remove(self, caller: Caller) -> None:
        """Take a caller out; what waits for it is dropped. No-op for one who is not in the set."""
        member = self._members.pop(caller, None)
        if member is not None:
            caller.remove_done_callback(member.tell_gone)
            member.end()

    def publish(
        self, method: str | Callable[[_StubT, _RequestT], Awaitable[Any]], request: _RequestT
    ) -> None:
        """
        Call a method of every caller's, with one request and one response; does not wait.

        Args:
            method: Of the stub class, `OrderEventsCaller.Shipped`, which type checkers hold
                `request` to; or its name, as of any stub.
            request: The same for all: not to be changed any more.

        Raises:
            AttributeError: The stubs of those in the set have no such method.
            UsageError: The method has a stream, or this is another thread than the server's.

            Whichever it is, nobody is called.
        """
        name = method if isinstance(method, str) else method.__name__
        found = [(member, member.find_call(name)) for member in self._members.values()]
        for member, call in found:
            if len(member.waiting) < self._queue_max:
                member.put(call, request)
                continue
            if self._on_slow == "drop_oldest":
                member.put(call, request)
                member.drop_oldest()
            elif self._on_slow == "remove":
                self.dropped_count += len(member.waiting)
                self.remove(member.caller)
            self.dropped_count += 1

    async def drain(self) -> None:
        """
        Wait until everybody has been called with what was published so far, or is gone.

        Raises:
            UsageError: The handler that waits would wait for itself.
        """
        turn = current_turn.get()
        if turn is None:
            await self.drain_outside()
            return
        turn.require_wait()
        async with turn.given_way():
            await self.drain_outside()

    async def drain_outside(self) -> None:
        """As `drain()`, where no handler on the loop waits."""
        for member in list(self._members.values()):
            await member.wait_done()


class _Member(Generic[_StubT]):
    """One caller of a set."""

    def __init__(self, callers: CallbackSet[_StubT], caller: Caller, stub: _StubT) -> None:
        self._set = callers
        self.caller = caller
        self._stub = stub
        self.waiting: deque[tuple[Callable[..., Any], Any]] = deque()
        # Calls while something waits; None: nothing does.
        self._pump: asyncio.Task[None] | None = None
        # How many were put, and how many of those are over: called, or dropped.
        self._put_count = 0
        self._over_count = 0
        # The last one that was called did not end with OK.
        self._is_failing = False
        # Who waits for how many to be over.
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        # Holds neither: what the caller's end is told to outlives both otherwise.
        self.tell_gone = functools.partial(_remove, weakref.ref(callers), weakref.ref(caller))

    def find_call(self, method: str) -> Callable[..., Any]:
        """Find what calls a method of the stub; raises as `publish()`."""
        try:
            is_there = asyncio.get_running_loop() is self.caller.loop
        except RuntimeError:
            is_there = False
        if not is_there:
            raise UsageError(_OTHER_THREAD)
        call: Callable[..., Any] = getattr(self._stub, method)
        if _has_stream(self._stub, method, call):
            raise UsageError(
                f"{method} has a stream of messages; what is published has one request and one "
                "response"
            )
        return call

    def put(self, call: Callable[..., Any], request: Any) -> None:
        self.waiting.append((call, request))
        self._put_count += 1
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._call_all())

    def drop_oldest(self) -> None:
        self.waiting.popleft()
        self._one_over()

    def end(self) -> None:
        self.waiting.clear()
        if self._pump is not None:
            self._pump.cancel()
        self._over_count = self._put_count
        self._tell_waiters()

    async def wait_done(self) -> None:
        """Wait until what was put so far is over."""
        if self._over_count < self._put_count:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append((self._put_count, done))
            await done

    def _one_over(self) -> None:
        self._over_count += 1
        if self._waiters:
            self._tell_waiters()

    def _tell_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for count, done in waiters:
            if count > self._over_count:
                self._waiters.append((count, done))
            elif not done.done():
                done.set_result(None)

    async def _call_all(self) -> None:
        # No handler waits on these, whoever published.
        current_turn.set(None)
        try:
            while self.waiting:
                await self._call_next()
                self._one_over()
        finally:
            self._pump = None

    async def _call_next(self) -> None:
        call, request = self.waiting.popleft()
        try:
            await call(request, timeout=self._set._timeout_s)
        except (Exception, asyncio.CancelledError) as error:
            assert self._pump is not None
            if self._pump.cancelling():
                raise
            # Else the callback alone may have been cancelled, as by `Caller.close()`.
            if self.caller.get_state() is not _SHUTDOWN:
                self._note_failed(error)
        else:
            self._set.delivered_count += 1
            self._is_failing = False

    def _note_failed(self, error: BaseException) -> None:
        self._set.failed_count += 1
        if _takes_no_callbacks(error):
            _LOGGER.warning("one of many leaves, which cannot be called back: %s", error.details())
            self._set.remove(self.caller)
        elif not self._is_failing:
            self._is_failing = True
            _LOGGER.warning(
                "a callback to one of many failed; further ones do so unlogged until one ends "
                "with OK: %r",
                error,
            )


def _has_stream(stub: object, method: str, call: object) -> bool:
    """Say whether a method is of another shape, as a generated caller or a plain stub tells."""
    contract = getattr(stub, "contract", None)
    if isinstance(contract, Contract) and method in contract.descriptor.methods_by_name:
        declared = contract.descriptor.methods_by_name[method]
        return bool(declared.client_streaming or declared.server_streaming)
    return isinstance(call, _STREAMING)


def _takes_no_callbacks(error: BaseException) -> TypeGuard[grpc.aio.AioRpcError]:
    """Say whether this is what every callback to a caller ends with."""
    return (
        isinstance(error, grpc.aio.AioRpcError)
        and error.code() is grpc.StatusCode.UNIMPLEMENTED
        and (error.details() or "").startswith(TAKES_NO_CALLBACKS)
    )


def _remove(
    callers: weakref.ref[CallbackSet[Any]], gone: weakref.ref[Caller]
) -> None:
    """Take a caller that is gone out of a set, where both are there."""
    told, caller = callers(), gone()
    if told is not None and caller is not None:
        told.remove(caller)
