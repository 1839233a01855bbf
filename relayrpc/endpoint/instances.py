"""
Service objects: which one serves a call, when it is made and closed, how many handlers it has at
once.

Owns: what `@relayrpc.service` says, and the objects of one server. Does not own: running handlers
(dispatch.py), turns (turns.py), bounds (throttle.py), sessions (host_session.py).
Source: WCF's InstanceContextMode and ConcurrencyMode; docs/reference/instances.md.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast

from relayrpc.endpoint.failure import RefusedError
from relayrpc.endpoint.throttle import Throttle, ThrottledError
from relayrpc.endpoint.turns import Turn, Turns
from relayrpc.errors import ConfigError, UsageError
from relayrpc.link.call import STATUS_RESOURCE_EXHAUSTED


if TYPE_CHECKING:
    from relayrpc.endpoint.context import Context
    from relayrpc.endpoint.handlers import MethodEntry
    from relayrpc.endpoint.host_session import HostSession


__all__ = [
    "InstanceMethod",
    "Instances",
    "Loan",
    "ServiceBehavior",
    "find_instance_method",
    "service",
    "servicer",
]

_LOGGER: Final = logging.getLogger("relayrpc")
_BEHAVIOR: Final = "__relayrpc_service__"
_INSTANCES: Final = "__relayrpc_instances__"
_T = TypeVar("_T")

InstanceMode = Literal["per_call", "per_session", "single"]
ConcurrencyMode = Literal["single", "reentrant", "multiple"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceBehavior:
    """How the objects of a class serve."""

    instances: InstanceMode
    concurrency: ConcurrencyMode


def service(
    *, instances: InstanceMode = "per_session", concurrency: ConcurrencyMode = "single"
) -> Callable[[type[_T]], type[_T]]:
    """
    Say how the objects of a servicer class serve; the defaults are WCF's.

        @relayrpc.service(instances="per_session", concurrency="reentrant")
        class Orders(orders_pb2_grpc.OrdersServicer): ...

        add_OrdersServicer_to_server(relayrpc.servicer(Orders), server)

    Args:
        instances: One object for each call, for each session (a call without one has its own),
            or one for all.
        concurrency: "single": an object has one handler at a time, calls take turns; "reentrant":
            it serves others while its handler waits on a callback; "multiple": any number.

    Raises:
        ConfigError: There is no such mode.
    """
    for value, kind in ((instances, InstanceMode), (concurrency, ConcurrencyMode)):
        known = kind.__args__  # type: ignore[attr-defined]  # a Literal
        if value not in known:
            raise ConfigError(f"{value!r} is none of {', '.join(known)}")
    behavior = ServiceBehavior(instances=instances, concurrency=concurrency)

    def mark(cls: type[_T]) -> type[_T]:
        setattr(cls, _BEHAVIOR, behavior)
        return cls

    return mark


def behavior_of(target: object) -> ServiceBehavior | None:
    """Return what `@service` says of a class or object; None: it is not decorated."""
    return getattr(target, _BEHAVIOR, None)


def servicer(
    cls: type[_T], *, factory: Callable[[], Any] | None = None, throttle: Throttle | None = None
) -> _T:
    """
    Return what stands for the objects of a decorated class when it is added to a server.

    Args:
        cls: Decorated with `@service`.
        factory: Makes an object, or a coroutine that does; None: the class without arguments. An
            object that is an async context manager is entered and left; of others `close()` is
            called, plain or async, where there is one.
        throttle: Bounds; None: the defaults.

    Raises:
        ConfigError: The class is not decorated.
    """
    behavior = behavior_of(cls)
    if behavior is None:
        raise ConfigError(
            f"{cls.__name__} says nothing of its objects; decorate it with @relayrpc.service()"
        )
    return cast("_T", Instances(cls, behavior, factory or cls, throttle or Throttle()))


def instances_of_object(target: object) -> Instances | None:
    """
    Return what lends an object that was added to a server as it is; None: its class says nothing of
    its objects, and calls take no turns.

    Raises:
        UsageError: The class wants objects of its own for calls or sessions.
    """
    behavior = behavior_of(type(target))
    if behavior is None:
        return None
    found: Instances | None = vars(target).get(_INSTANCES)
    if found is None:
        name = type(target).__name__
        if behavior.instances != "single":
            raise UsageError(
                f"{name} serves with an object {behavior.instances.replace('_', ' ')}, and one "
                f"object was added; add relayrpc.servicer({name})"
            )
        found = Instances(type(target), behavior, lambda: target, Throttle(), closes=False)
        setattr(target, _INSTANCES, found)
    return found


class InstanceMethod:
    """A method of whichever object a call gets; stands for a handler."""

    def __init__(self, instances: Instances, name: str, function: Callable[..., Any]) -> None:
        self.instances = instances
        self.name = name
        self.function = function

    def __call__(self, *_arguments: Any) -> Any:
        """Never called: the server calls the method of the object."""
        raise UsageError(f"{self.name} is served by relayrpc's servers alone")


def find_instance_method(behavior: Callable[..., Any]) -> InstanceMethod | None:
    """
    Say which method of a service object a handler stands for; None: of none, it is called itself.

    Raises:
        UsageError: As `instances_of_object()`.
    """
    if isinstance(behavior, InstanceMethod):
        return behavior
    target = getattr(behavior, "__self__", None)
    instances = None if target is None else instances_of_object(target)
    if instances is None:
        return None
    return InstanceMethod(instances, behavior.__name__, behavior)


class _Holder:
    """One object, and what belongs to it at one server."""

    __slots__ = ("entries", "target", "turns")

    def __init__(self, target: Any, turns: Turns | None) -> None:
        self.target = target
        self.turns = turns
        # Methods of the object, by name.
        self.entries: dict[str, MethodEntry] = {}

    def bind(self, entry: MethodEntry, method: InstanceMethod) -> MethodEntry:
        """Return the entry of the object's method for that of its class."""
        bound = self.entries.get(method.name)
        if bound is None:
            bound = self.entries[method.name] = copy.copy(entry)
            bound.behavior = getattr(self.target, method.name)
            bound.instance_method = None
        return bound


class Loan:
    """An object that a call has, for as long as its handler runs."""

    __slots__ = ("_instances", "entry", "holder", "is_own", "turn")

    def __init__(
        self, instances: Instances, holder: _Holder, entry: MethodEntry, *, is_own: bool
    ) -> None:
        self._instances = instances
        self.holder = holder
        self.entry = entry
        """What is called."""
        self.is_own = is_own
        """No other call has the object, or will."""
        self.turn: Turn | None = None
        """The call's with the object; None: it needs none."""

    async def give_back(self) -> None:
        """The handler has returned, or will not run."""
        await self._instances.returned(self)


class Instances:
    """The objects of one class at one server. Attributes of the class stand for its methods."""

    def __init__(
        self,
        cls: type,
        behavior: ServiceBehavior,
        factory: Callable[[], Any],
        throttle: Throttle,
        *,
        closes: bool = True,
    ) -> None:
        """
        Args:
            cls: Of the objects.
            behavior: What it says of them.
            factory: Makes one.
            throttle: Bounds.
            closes: An object is closed when it is needed no more.
        """
        self._cls = cls
        self._behavior = behavior
        self._factory = factory
        self.throttle = throttle
        self._closes = closes
        # The one of `single`, made by the first call.
        self._single: asyncio.Task[_Holder] | None = None
        # The one of each session.
        self._of_session: dict[HostSession, asyncio.Task[_Holder]] = {}
        # The turns of calls that one session makes to objects of their own.
        self._session_turns: dict[HostSession, Turns] = {}
        # Objects that are being closed.
        self._closing: set[asyncio.Task[None]] = set()

    def __getattr__(self, name: str) -> InstanceMethod:
        function = getattr(self._cls, name)
        if name.startswith("_") or not callable(function):
            raise AttributeError(f"{self._cls.__name__}.{name} is no method of a contract")
        return InstanceMethod(self, name, function)

    async def lend(self, context: Context, method: InstanceMethod) -> Loan:
        """
        Wait for an object for a call, and for its turn with it. To be given back.

        Raises:
            RefusedError: The throttle takes no more.
        """
        await self._take("calls")
        try:
            holder, is_own = await self._find(context)
        except BaseException:
            self.throttle.give("calls")
            raise
        loan = Loan(self, holder, holder.bind(context.entry, method), is_own=is_own)
        turns = holder.turns
        if turns is not None:
            is_reentrant = self._behavior.concurrency == "reentrant"
            turn = Turn(turns, context.method, is_reentrant=is_reentrant)
            try:
                await turns.take(turn)
            except BaseException:
                await loan.give_back()
                raise
            loan.turn = turn
        return loan

    async def returned(self, loan: Loan) -> None:
        """Take an object back that was lent to a call."""
        if loan.turn is not None:
            loan.turn.end()
        if loan.is_own:
            await self._close(loan.holder)
        self.throttle.give("calls")

    async def _take(self, kind: Literal["calls", "instances"]) -> None:
        try:
            await self.throttle.take(kind)
        except ThrottledError as error:
            raise RefusedError(STATUS_RESOURCE_EXHAUSTED, str(error), not_executed=True) from None

    # --- which object ---

    async def _find(self, context: Context) -> tuple[_Holder, bool]:
        """Return a call's object, and whether it has it for itself."""
        mode = self._behavior.instances
        if mode == "single":
            if self._single is None:
                self._single = self._make_task()
                self._single.add_done_callback(self._single_made)
            return await asyncio.shield(self._single), False
        session = context.session
        if mode == "per_session" and session is not None:
            task = self._of_session.get(session)
            if task is None:
                task = self._of_session[session] = self._make_task()
                session.add_done_callback(self._session_over)
            try:
                return await asyncio.shield(task), False
            except Exception:
                # Those that waited are told; the session's next call tries again.
                if self._of_session.get(session) is task:
                    del self._of_session[session]
                raise
        return await self._make(self._turns_of(session)), True

    def _turns_of(self, session: HostSession | None) -> Turns | None:
        """Return the turns of a call with an object of its own: a session's calls take turns."""
        if session is None or self._behavior.concurrency == "multiple":
            return None
        turns = self._session_turns.get(session)
        if turns is None:
            turns = self._session_turns[session] = Turns()
            session.add_done_callback(self._session_over)
        return turns

    def _make_task(self) -> asyncio.Task[_Holder]:
        turns = None if self._behavior.concurrency == "multiple" else Turns()
        return asyncio.get_running_loop().create_task(self._make(turns))

    def _single_made(self, task: asyncio.Task[_Holder]) -> None:
        if task.cancelled() or task.exception() is not None:
            # Those that waited have been told; the next call tries again.
            self._single = None

    async def _make(self, turns: Turns | None) -> _Holder:
        await self._take("instances")
        try:
            target = self._factory()
            if inspect.isawaitable(target):
                target = await target
            if self._closes and hasattr(target, "__aenter__"):
                await target.__aenter__()
        except BaseException:
            self.throttle.give("instances")
            raise
        return _Holder(target, turns)

    # --- closing ---

    def _session_over(self, session: HostSession) -> None:
        self._session_turns.pop(session, None)
        made = self._of_session.pop(session, None)
        if made is not None:
            task = asyncio.get_running_loop().create_task(self._close_made(made))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close the object of `single`, and wait until those of sessions are closed."""
        made, self._single = self._single, None
        if made is not None:
            await self._close_made(made)
        if self._closing:
            await asyncio.wait(self._closing)

    async def _close_made(self, made: asyncio.Task[_Holder]) -> None:
        await asyncio.wait([made])
        if not made.cancelled() and made.exception() is None:
            await self._close(made.result())

    async def _close(self, holder: _Holder) -> None:
        """Close an object; what it raises is logged, and changes nothing for its calls."""
        target = holder.target
        try:
            if not self._closes:
                return
            if hasattr(target, "__aexit__"):
                await target.__aexit__(None, None, None)
            elif hasattr(target, "close"):
                closing = target.close()
                if inspect.isawaitable(closing):
                    await closing
        except Exception:
            _LOGGER.exception("closing a %s failed", self._cls.__name__)
        finally:
            self.throttle.give("instances")
