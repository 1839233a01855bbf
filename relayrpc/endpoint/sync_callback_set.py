"""
The blocking set of callers: an async one on the loop of a server whose handlers are plain.

Source: callback_set.py; docs/reference/callbacks.md "Many callers".
"""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from relayrpc.endpoint import callback_set
from relayrpc.endpoint.turns import current_turn
from relayrpc.errors import UsageError


if TYPE_CHECKING:
    import grpc

    from relayrpc.endpoint.portal import Portal
    from relayrpc.endpoint.sync_caller import Caller
    from relayrpc.endpoint.sync_context import SyncContext


__all__ = ["CallbackSet"]

_StubT = TypeVar("_StubT")
_RequestT = TypeVar("_RequestT")


class CallbackSet(Generic[_StubT]):
    """
    Callers to publish to, from plain handlers or any other threads.

        watchers = CallbackSet(OrderEventsStub)

        def Watch(self, request, context):
            watchers.add(context)
            return WatchReply()

        watchers.publish("Shipped", shipment)

    A caller gets what is published in order, one call at a time. What it does not take in time
    waits, up to `queue_max`; a slow caller holds up nobody else. Callers that are gone leave by
    themselves.
    """

    def __init__(
        self,
        stub_class: Callable[[grpc.Channel], _StubT],
        *,
        queue_max: int = 128,
        on_slow: callback_set.SlowPolicy = "drop_oldest",
        timeout_s: float = 30.0,
        callers_max: int = 10_000,
    ) -> None:
        """
        Args:
            stub_class: Of the callback contract.
            queue_max, on_slow, timeout_s, callers_max: As for `relayrpc.aio.CallbackSet`.

        Raises:
            ConfigError: A bound is below 1, the timeout not above 0, or there is no such policy.
        """
        self._core: callback_set.CallbackSet[Any] = callback_set.CallbackSet(
            stub_class,
            queue_max=queue_max,
            on_slow=on_slow,
            timeout_s=timeout_s,
            callers_max=callers_max,
        )
        # To the loop of the server whose callers these are; None: there was none yet.
        self._portal: Portal | None = None

    def __len__(self) -> int:
        """Return how many callers are in the set."""
        return len(self._core)

    @property
    def delivered_count(self) -> int:
        """Callbacks that ended with OK."""
        return self._core.delivered_count

    @property
    def dropped_count(self) -> int:
        """What was published and not called, because its caller was slow."""
        return self._core.dropped_count

    @property
    def failed_count(self) -> int:
        """Callbacks that did not end with OK, of callers that are still there."""
        return self._core.failed_count

    def add(self, context: SyncContext) -> Caller:
        """
        Add whoever made a call that runs; of a session, once.

        Args:
            context: Of the call.

        Returns:
            The caller, for `remove()`.

        Raises:
            ConfigError: The set is full.
            UsageError: It has callers of another server.
        """
        caller = context.caller()
        if caller.portal is not self._portal:
            if len(self._core):
                raise UsageError("a set has the callers of one server; make one for each")
            self._portal = caller.portal
        caller.portal.handover.call(self._core.add_caller, caller.behind)
        return caller

    def remove(self, caller: Caller) -> None:
        """Take a caller out; what waits for it is dropped. No-op for one who is not in the set."""
        caller.portal.handover.call(self._core.remove, caller.behind)

    def publish(self, method: str | Callable[[_StubT, _RequestT], Any], request: _RequestT) -> None:
        """
        Call a method of every caller's, with one request and one response; does not wait for them.

        Args:
            method, request: As of `relayrpc.aio.CallbackSet.publish`.

        Raises:
            AttributeError: The stubs of those in the set have no such method.
            UsageError: The method has a stream.

            Whichever it is, nobody is called.
        """
        if self._portal is not None and not self._portal.handover.is_over:
            self._portal.handover.call(self._core.publish, method, request)

    def drain(self) -> None:
        """
        Wait until everybody has been called with what was published so far, or is gone.

        Raises:
            UsageError: The handler that waits would wait for itself.
        """
        turn = current_turn.get()
        if turn is None:
            self._drain()
            return
        turn.require_wait()
        with turn.given_way_on_thread():
            self._drain()

    def _drain(self) -> None:
        if self._portal is not None:
            # When the server has ended, everybody is.
            with contextlib.suppress(concurrent.futures.CancelledError):
                self._portal.run(self._core.drain_outside())
