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
import functools
import inspect
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast

from relayrpc.endpoint.failure import RefusedError
from relayrpc.endpoint.instance_methods import InstanceMethod
from relayrpc.endpoint.throttle import Throttle, ThrottledError
from relayrpc.endpoint.turns import Turn, Turns
from relayrpc.errors import ConfigError, UsageError
from relayrpc.link.call import STATUS_RESOURCE_EXHAUSTED


if TYPE_CHECKING:
    from relayrpc.endpoint.context import Context
    from relayrpc.endpoint.handlers import MethodEntry
    from relayrpc.endpoint.host_session import HostSession
    from relayrpc.endpoint.server import Server


__all__ = [
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
_CLOSERS: Final = ("__aexit__", "__exit__", "close")
# Tasks that were cancelled and are not waited for; a loop itself holds none.
_GIVEN_UP: Final[set[asyncio.Task[Any]]] = set()
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
        instances: One object for each call, for each session (a call without one has its own; of
            callbacks, the channel that serves them has one), or one for all.
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
    Return what stands for the objects of a decorated class when it is added to a server; it serves
    at one server, or channel, at a time.

    Args:
        cls: Decorated with `@service`.
        factory: Makes an object, or a coroutine that does; None: the class without arguments. An
            object that is a context manager, async or plain, is entered and left; of others
            `close()` is called, plain or async, where there is one.
        throttle: Bounds; None: the defaults.

    Raises:
        ConfigError: It is no class, or is not decorated; the factory or the throttle is none.
    """
    if not inspect.isclass(cls):
        raise ConfigError(f"{cls!r} is no class; relayrpc.servicer() takes one, and makes objects")
    behavior = behavior_of(cls)
    if behavior is None:
        raise ConfigError(
            f"{cls.__name__} says nothing of its objects; decorate it with @relayrpc.service()"
        )
    if factory is not None and not callable(factory):
        raise ConfigError(
            f"the factory of {cls.__name__} is {factory!r}, and must be a function that makes one"
        )
    if throttle is not None and not isinstance(throttle, Throttle):
        raise ConfigError(
            f"the throttle of {cls.__name__} is {throttle!r}, and must be a relayrpc.Throttle"
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


def find_instance_method(behavior: Callable[..., Any]) -> InstanceMethod | None:
    """
    Say which method of a service object a handler stands for; None: of none, it is called itself.

    Raises:
        UsageError: As `instances_of_object()`.
    """
    found = InstanceMethod.of(behavior)
    if found is not None:
        return found
    target = getattr(behavior, "__self__", None)
    instances = None if target is None else instances_of_object(target)
    if instances is None:
        return None
    return InstanceMethod(instances, behavior.__name__, behavior)


class _Holder:
    """One object, and what belongs to it at one server."""

    __slots__ = ("_bound", "server", "target", "turns")

    def __init__(self, target: Any, server: Server, turns: Turns | None) -> None:
        self.target = target
        self.server = server
        self.turns = turns
        # Of each method, by name: the entry that was called last, and that of the object's own.
        self._bound: dict[str, tuple[MethodEntry, MethodEntry]] = {}

    def bind(self, entry: MethodEntry, name: str) -> MethodEntry:
        """Return the entry of the object's method for that of its class."""
        bound = self._bound.get(name)
        # Interceptors may give another one to each call.
        if bound is None or bound[0] is not entry:
            own = copy.copy(entry)
            own.behavior = getattr(self.target, name)
            own.instance_method = None
            bound = self._bound[name] = entry, own
        return bound[1]


class _Making:
    """The making of an object that calls share, which may have to wait for a place."""

    __slots__ = ("has_place", "task")

    task: asyncio.Task[_Holder]

    def __init__(self) -> None:
        self.has_place = False


class Loan:
    """An object that a call has, for as long as its handler runs."""

    __slots__ = ("_instances", "holder", "is_own", "turn")

    def __init__(self, instances: Instances, holder: _Holder, *, is_own: bool) -> None:
        self._instances = instances
        self.holder = holder
        self.is_own = is_own
        """No other call has the object, or will."""
        self.turn: Turn | None = None
        """The call's with the object; None: it needs none."""

    def entry(self, entry: MethodEntry, name: str) -> MethodEntry:
        """Return what is called, for the entry of the class's method."""
        return self.holder.bind(entry, name)

    def behavior(self, name: str) -> Callable[..., Any]:
        """Return the object's method."""
        behavior: Callable[..., Any] = getattr(self.holder.target, name)
        return behavior

    def give_back(self, _: object = None) -> None:
        """
        The handler has returned, or will not run; on the loop's thread. Nobody waits until an
        object is closed that is needed no more.
        """
        self._instances.returned(self)


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
        # Names of the methods that a server has.
        self._methods: set[str] = set()
        # Where it serves: turns and places are of one loop, and a server that stops closes all.
        self._server: Server | None = None
        # The one of `single`, made by the first call.
        self._single: _Making | None = None
        # The one of each session.
        self._of_session: dict[HostSession, _Making] = {}
        # The turns of calls that one session makes to objects of their own.
        self._session_turns: dict[HostSession, Turns] = {}
        # What is lent.
        self._loans: dict[Loan, None] = {}
        # Objects that are being closed.
        self._closing: set[asyncio.Task[None]] = set()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self._cls, name)
        if name.startswith("_") or not callable(function):
            raise AttributeError(f"{self._cls.__name__}.{name} is no method of a contract")
        self._methods.add(name)
        return InstanceMethod(self, name, function).stub

    def require_free(self) -> None:
        """
        Raises:
            UsageError: It serves at a server that has not stopped.
        """
        if self._server is not None:
            name = self._cls.__name__
            what = f"relayrpc.servicer({name})" if self._closes else f"this {name}"
            raise UsageError(
                f"{what} serves at another server, or channel, that has not ended; make one for "
                "each"
            )

    def serve(self, server: Server) -> None:
        """Belong to a server from now on, until `close()`."""
        self._server = server

    async def lend_while_running(self, context: Context) -> Loan:
        """As `lend()`, until the call is over: then it is cancelled."""
        lending = asyncio.create_task(self.lend(context))

        def cancel(_: Context) -> None:
            lending.cancel()

        context.add_done_callback(cancel)
        return await lending

    async def lend(self, context: Context) -> Loan:
        """
        Wait for an object for a call, and for its turn with it. To be given back.

        Raises:
            RefusedError: The throttle takes no more.
        """
        # The object, or the place for one, before that for the call: a session that has an object
        # may wait for the other.
        shared = await self._find_shared(context)
        if shared is None:
            loan = Loan(self, await self._take_own(context), is_own=True)
        else:
            await self._take("calls", context.server)
            loan = Loan(self, shared, is_own=False)
        self._loans[loan] = None
        turns = loan.holder.turns
        if turns is not None:
            is_reentrant = self._behavior.concurrency == "reentrant"
            turn = Turn(turns, context.server, context.method, is_reentrant=is_reentrant)
            try:
                await turns.take(turn)
            except BaseException:
                loan.give_back()
                raise
            loan.turn = turn
        return loan

    def returned(self, loan: Loan) -> None:
        """Take an object back that was lent to a call; no-op for one that `close()` gave up."""
        if loan not in self._loans:
            return
        del self._loans[loan]
        if loan.turn is not None:
            loan.turn.end()
        if loan.is_own and self._has_to_close(loan.holder):
            self.keep(self._close_own(loan.holder))
        else:
            self._give_places(loan)

    def _give_places(self, loan: Loan) -> None:
        if loan.is_own:
            self.throttle.give("instances")
        self.throttle.give("calls")

    async def _close_own(self, holder: _Holder) -> None:
        try:
            await self._close(holder)
        finally:
            self.throttle.give("calls")

    async def _take(self, kind: Literal["calls", "instances"], server: Server) -> None:
        try:
            await self.throttle.take(kind)
        except ThrottledError as error:
            raise RefusedError(
                STATUS_RESOURCE_EXHAUSTED,
                str(error),
                not_executed=True,
                retry_after_s=server.limits.retry_after_s,
            ) from None

    # --- which object ---

    async def _find_shared(self, context: Context) -> _Holder | None:
        """Return the object that a call shares with others; None: it has one for itself."""
        mode = self._behavior.instances
        if mode == "single" or (mode == "per_session" and context.server.serves_channel):
            if self._single is None:
                self._single = self._begin_making(context.server)
                self._single.task.add_done_callback(self._single_made)
            return await asyncio.shield(self._single.task)
        session = context.session
        if mode != "per_session" or session is None:
            return None
        making = self._of_session.get(session)
        if making is None:
            making = self._of_session[session] = self._begin_making(context.server)
            making.task.add_done_callback(functools.partial(self._made_of_session, session))
            session.add_done_callback(self._session_over)
        return await asyncio.shield(making.task)

    async def _take_own(self, context: Context) -> _Holder:
        """Take the places for a call and an object of its own, and make that."""
        await self._take("instances", context.server)
        try:
            await self._take("calls", context.server)
        except BaseException:
            self.throttle.give("instances")
            raise
        try:
            return await self._make_own(context)
        except BaseException:
            self.throttle.give("calls")
            raise

    async def _make_own(self, context: Context) -> _Holder:
        """Make a call's own object, which there is a place for."""
        making = self._make(context.server, self._turns_of(context.session))
        if not context.server.is_blocking:
            return await making
        own = asyncio.create_task(making)
        try:
            return await asyncio.shield(own)
        except asyncio.CancelledError:
            # A thread that makes it cannot be cancelled.
            self.keep(self._close_made(own, context.server))
            raise

    def _turns_of(self, session: HostSession | None) -> Turns | None:
        """Return the turns of a call with an object of its own: a session's calls take turns."""
        if session is None or self._behavior.concurrency == "multiple":
            return None
        turns = self._session_turns.get(session)
        if turns is None:
            turns = self._session_turns[session] = Turns()
            session.add_done_callback(self._session_over)
        return turns

    def _begin_making(self, server: Server) -> _Making:
        making = _Making()
        turns = None if self._behavior.concurrency == "multiple" else Turns()

        async def make() -> _Holder:
            await self._take("instances", server)
            making.has_place = True
            return await self._make(server, turns)

        making.task = asyncio.create_task(make())
        return making

    def _single_made(self, task: asyncio.Task[_Holder]) -> None:
        if task.cancelled() or task.exception() is not None:
            # Those that waited have been told; the next call tries again.
            self._single = None

    def _made_of_session(self, session: HostSession, task: asyncio.Task[_Holder]) -> None:
        if task.cancelled() or task.exception() is not None:
            # As of `single`; but the session may be over.
            self._of_session.pop(session, None)

    async def _make(self, server: Server, turns: Turns | None) -> _Holder:
        """Make an object that there is a place for."""
        try:
            target = await server.run_plain(self._factory)
            if inspect.isawaitable(target):
                target = await target
            self._require_methods(target)
            if self._closes and hasattr(target, "__aenter__"):
                await target.__aenter__()
            elif self._closes and hasattr(target, "__enter__"):
                await server.run_plain(target.__enter__)
        except BaseException:
            self.throttle.give("instances")
            raise
        return _Holder(target, server, turns)

    def _require_methods(self, target: object) -> None:
        """Raise UsageError for what is no service object; others than of the class may be."""
        missing = [name for name in self._methods if not callable(getattr(target, name, None))]
        if missing:
            raise UsageError(
                f"the factory of {self._cls.__name__} made an object of {type(target).__name__}, "
                f"which has no method {' or '.join(sorted(missing))}"
            )

    # --- closing ---

    def _session_over(self, session: HostSession) -> None:
        self._session_turns.pop(session, None)
        making = self._of_session.pop(session, None)
        if making is not None:
            self._let_go(making, session.server)

    def _let_go(self, making: _Making, server: Server) -> None:
        """Close what was made for calls that are over; what has no place yet is not made."""
        if making.has_place:
            self.keep(self._close_made(making.task, server))
        else:
            making.task.cancel()

    def keep(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run what takes back or closes an object, though nobody waits for it."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    async def close(self, server: Server) -> None:
        """
        Close the object of `single`, and wait until the others are closed, or given up; then it
        may serve elsewhere. No-op for a server that it does not belong to.
        """
        if self._server is not server:
            return
        making, self._single = self._single, None
        if making is not None:
            self._let_go(making, server)
        if self._closing:
            await asyncio.wait(self._closing)
        # Of threads that outlive the server, which nobody waits for.
        loans, self._loans = self._loans, {}
        for loan in loans:
            self._give_places(loan)
        self._server = None

    async def _close_made(self, made: asyncio.Task[_Holder], server: Server) -> None:
        if not await self._is_done_in_time(made, server, "making"):
            return
        if not made.cancelled() and made.exception() is None:
            await self._close(made.result())

    async def _close(self, holder: _Holder) -> None:
        """
        Close an object, though whoever waits for it be cancelled; what it raises is logged, and
        changes nothing for its calls.
        """
        if self._has_to_close(holder):
            await asyncio.shield(self.keep(self._close_in_time(holder)))
        else:
            self.throttle.give("instances")

    def _has_to_close(self, holder: _Holder) -> bool:
        return self._closes and any(hasattr(holder.target, name) for name in _CLOSERS)

    async def _close_in_time(self, holder: _Holder) -> None:
        closing = asyncio.create_task(_close_object(holder))
        try:
            if not await self._is_done_in_time(closing, holder.server, "closing"):
                return
        finally:
            self.throttle.give("instances")
        if not closing.cancelled() and (error := closing.exception()) is not None:
            _LOGGER.error("closing a %s failed", self._cls.__name__, exc_info=error)

    async def _is_done_in_time(
        self, task: asyncio.Task[Any], server: Server, doing: Literal["making", "closing"]
    ) -> bool:
        """Wait for a task of the program's; one that takes too long is given up, and logged."""
        timeout_s = server.limits.object_close_timeout_s
        done, _ = await asyncio.wait([task], timeout=timeout_s)
        if done:
            return True
        _LOGGER.error(
            "%s an object of %s, a %s, takes more than %g s (object_close_timeout_s): given up",
            doing,
            " and ".join(server.services_of(self)),
            self._cls.__name__,
            timeout_s,
        )
        _GIVEN_UP.add(task)
        task.add_done_callback(_forget)
        task.cancel()
        return False


def _forget(task: asyncio.Task[Any]) -> None:
    _GIVEN_UP.discard(task)
    if not task.cancelled():
        # Else the loop would log that nobody has asked what it raised.
        task.exception()


async def _close_object(holder: _Holder) -> None:
    target, close_plain = holder.target, holder.server.close_plain
    if hasattr(target, "__aexit__"):
        await target.__aexit__(None, None, None)
    elif hasattr(target, "__exit__"):
        await close_plain(functools.partial(target.__exit__, None, None, None))
    else:
        closing = await close_plain(target.close)
        if inspect.isawaitable(closing):
            await closing
