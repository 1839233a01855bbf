"""
Methods of service objects as servers have them: functions that stand for the method of whichever
object a call gets.

A server that finds one for a call has an object lent first, and calls the object's own method.
Where an interceptor has put a function of its own around it, an object is lent when that calls it:
calls that an interceptor refuses have none.
Owns: these functions. Does not own: objects (instances.py), running handlers (dispatch.py).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from relayrpc.endpoint.context import current_call
from relayrpc.endpoint.sync_context import CallOverError
from relayrpc.endpoint.turns import current_turn
from relayrpc.errors import UsageError


if TYPE_CHECKING:
    from relayrpc.endpoint.context import Context
    from relayrpc.endpoint.instances import Instances, Loan


__all__ = ["InstanceMethod", "find_function", "require_object"]

_METHOD: Final = "__relayrpc_method__"


def find_function(behavior: Any) -> Any:
    """Return the function that runs when a handler's behavior is called."""
    while isinstance(behavior, functools.partial):
        behavior = behavior.func
    if inspect.isroutine(behavior):
        return behavior
    return getattr(type(behavior), "__call__", None)  # noqa: B004  # which function runs, not whether one does


def require_object(method: str, behavior: Any) -> None:
    """
    Raise UsageError where what is to serve "pkg.Service/Method" is a class's own function, which
    would take the request for the object.
    """
    owner, _, name = getattr(behavior, "__qualname__", "").rpartition(".")
    if not inspect.isfunction(behavior) or not owner or owner.endswith("<locals>"):
        return
    try:
        inspect.signature(behavior, follow_wrapped=False).bind("request", "context")
    except TypeError:
        cls = owner.rpartition(".")[2]
        raise UsageError(
            f"{method} would be served by {cls}.{name} without an object: a class was added; add "
            f"relayrpc.servicer({cls}) where @relayrpc.service() decorates it, else an object, "
            f"{cls}()"
        ) from None


class InstanceMethod:
    """
    A method of the objects of one class.

    Attributes:
        stub: Stands for it; of the same kind as the class's own function.
    """

    def __init__(self, instances: Instances, name: str, function: Callable[..., Any]) -> None:
        """
        Args:
            instances: The objects.
            name: Of the method.
            function: The class's own.
        """
        self.instances = instances
        self.name = name
        self.stub = self._make_stub(find_function(function))
        setattr(self.stub, _METHOD, self)

    @classmethod
    def of(cls, behavior: Callable[..., Any]) -> InstanceMethod | None:
        """Return the method that a function stands for; None: for none."""
        method: InstanceMethod | None = getattr(behavior, _METHOD, None)
        # An interceptor's function may have been given the attributes of the one in it.
        return method if method is not None and method.stub is behavior else None

    def _make_stub(self, function: Any) -> Callable[..., Any]:
        stub: Callable[..., Any]
        if inspect.isasyncgenfunction(function):

            async def stub(request: Any, context: Any) -> AsyncIterator[Any]:
                async with (
                    self._lent() as behavior,
                    contextlib.aclosing(behavior(request, context)) as responses,
                ):
                    async for response in responses:
                        yield response

        elif inspect.iscoroutinefunction(function):

            async def stub(request: Any, context: Any) -> Any:
                async with self._lent() as behavior:
                    return await behavior(request, context)

        else:

            def stub(request: Any, context: Any) -> Any:
                if self._served().entry.has_response_stream:
                    return self._iterate(request, context)
                with self._lent_to_thread() as behavior:
                    return behavior(request, context)

        return stub

    def _iterate(self, request: Any, context: Any) -> Iterator[Any]:
        with self._lent_to_thread() as behavior:
            yield from behavior(request, context)

    def _served(self) -> Context:
        """Return the call that is served here."""
        context = current_call.get()
        if context is None:
            raise UsageError(f"{self.name} is served by relayrpc's servers alone")
        return context

    @contextlib.asynccontextmanager
    async def _lent(self) -> AsyncIterator[Callable[..., Any]]:
        served = self._served()
        loan = await self.instances.lend(served)
        try:
            if served.place is not None:
                served.place.give()
            current_turn.set(loan.turn)
            yield loan.behavior(self.name)
        finally:
            current_turn.set(None)
            loan.give_back()

    @contextlib.contextmanager
    def _lent_to_thread(self) -> Iterator[Callable[..., Any]]:
        served = self._served()
        portal = served.server.portal
        try:
            loan: Loan = portal.run(self.instances.lend_while_running(served))
        except concurrent.futures.CancelledError:
            raise CallOverError("The call is over.") from None
        try:
            if served.place is not None:
                served.place.give_on_thread(portal.handover)
            current_turn.set(loan.turn)
            yield loan.behavior(self.name)
        finally:
            current_turn.set(None)
            portal.handover.call(loan.give_back)
