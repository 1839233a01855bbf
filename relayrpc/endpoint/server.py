"""
The host's server: a grpc.aio.Server that dials out instead of listening.

Owns: registering, admitting calls, the life of the server. Does not own: connecting (live_link.py),
running handlers (dispatch.py).
Source: grpc.aio.Server; DESIGN.md decisions 1 and 10.
"""

from __future__ import annotations

import asyncio
import functools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import grpc
import grpc.aio
from google.protobuf.descriptor_pool import Default

from relayrpc.contract.labels import require_labels
from relayrpc.endpoint.anchor import SESSION_METHOD
from relayrpc.endpoint.attempts import make_retries
from relayrpc.endpoint.callback_pairs import add_callbacks
from relayrpc.endpoint.channel import Channel
from relayrpc.endpoint.context import Context, current_call
from relayrpc.endpoint.contracts import HOST_ADDRESS, HostContracts
from relayrpc.endpoint.dedupe import Runs
from relayrpc.endpoint.dispatch import METHOD_NOT_FOUND, run_call, run_traced_call
from relayrpc.endpoint.failure import check_error_handlers, find_answer
from relayrpc.endpoint.handlers import (
    UNRESOLVED,
    HandlerCallDetails,
    HandlerTable,
    give_inside,
    make_entry,
)
from relayrpc.endpoint.host_session import HostSession, HostSessions
from relayrpc.endpoint.inbox import Assembly, Inbox
from relayrpc.endpoint.metadata import decode_metadata
from relayrpc.endpoint.operations import Contracts, session_fault
from relayrpc.endpoint.options import EndpointOptions
from relayrpc.endpoint.plain_call import PlainCall
from relayrpc.endpoint.portal import Portal
from relayrpc.endpoint.silent_call import REFUSED_CALL, refuse_callback
from relayrpc.endpoint.validation import RequestRules, make_validator
from relayrpc.link.call import (
    STATUS_FAILED_PRECONDITION,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
    STATUS_UNIMPLEMENTED,
    make_end,
)
from relayrpc.link.messages import LENGTH_BYTES
from relayrpc.observe.throttles import observe_throttles
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from google.protobuf.descriptor_pool import DescriptorPool

    from relayrpc.endpoint.callbacks import CallbackServer
    from relayrpc.endpoint.caller import Caller
    from relayrpc.endpoint.failure import Answer, ErrorHandler
    from relayrpc.endpoint.handlers import MethodEntry
    from relayrpc.endpoint.handover import Handover
    from relayrpc.endpoint.instances import Instances
    from relayrpc.endpoint.live_link import LiveLink, MakeLive
    from relayrpc.link.call import Call
    from relayrpc.link.link import Link
    from relayrpc.observe.tracing import Tracing


__all__ = ["Server"]

_INCIDENT_BYTES: Final = 4
# After the last handler has returned, its END has this long to reach the hub, or what is left of
# the grace where that is longer: callers may be slow to take the response.
_FLUSH_TIMEOUT_S: Final = 1.0
_FLUSH_CHECK_S: Final = 0.005


class Server(grpc.aio.Server):
    """
    Serves through a hub. Made by `relayrpc.aio.server()`.

    Unlike grpc.aio's it must be stopped: while it runs, dropping it changes nothing.

    Attributes:
        executor: Runs plain `def` handlers; may be replaced before start().
    """

    loop: asyncio.AbstractEventLoop
    """Set by start()."""
    handover: Handover
    """The portal's; set by start()."""
    plain_call: type[PlainCall] = PlainCall
    """Runs a plain handler."""
    stopped = "the host stopped"
    """What is told of calls that are cut."""
    serves_channel = False
    """It serves the callbacks of a channel, which stands for the session of its callers."""
    run_call = staticmethod(run_call)
    """The body of a call's task."""
    is_blocking = False
    """The plain functions of the program run on threads, others than handlers too."""

    def __init__(
        self,
        make_live: MakeLive,
        *,
        address: str = "",
        migration_thread_pool: Executor | None = None,
        handlers: Sequence[grpc.GenericRpcHandler] = (),
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        maximum_concurrent_rpcs: int | None = None,
        include_exception_detail: bool = False,
        strict_faults: bool | None = None,
        error_handlers: Sequence[ErrorHandler] = (),
        slots: int = 0,
        priority: int = 0,
        labels: Mapping[str, str] | None = None,
        descriptor_pool: DescriptorPool | None = None,
        validate: bool | None = None,
    ) -> None:
        """
        Args:
            make_live: Makes the link, given who takes its calls; it is started by start() and
                closed by stop().
            address: Where to serve; empty: each service at its default address.
            migration_thread_pool: For plain `def` handlers; None: a pool of its own.
            handlers: Generic handlers to begin with.
            interceptors: Outermost first.
            maximum_concurrent_rpcs: Calls beyond it are refused with RESOURCE_EXHAUSTED; None: the
                link's own bound.
            include_exception_detail: Tell callers the text of handlers' exceptions, as grpc.aio
                does.
            strict_faults: Send only faults that the operation declares; None: where any operation
                of the contract declares one.
            error_handlers: Asked in turn what to answer for an exception of a handler.
            slots: Calls at once, the hub keeps the rest waiting; 0: any number.
            priority: Above 0: stand by for hosts of a lower number.
            labels: By which this host is found; calls are not routed by them.
            descriptor_pool: Where the contracts of the services are found; None: where generated
                code registers them.
            validate: Check requests by the rules in their contract; None: where what that takes
                is installed.

        Raises:
            ValueError: An interceptor is none, or no call may run.
            ConfigError: An error handler is none.
            UsageError: A generic handler does not name its service.
            ConfigError: The labels cannot be announced, or requests cannot be checked.
        """
        if maximum_concurrent_rpcs is not None and maximum_concurrent_rpcs <= 0:
            raise ValueError("maximum_concurrent_rpcs should be a positive integer")
        self.require_interceptors(interceptors)
        check_error_handlers(error_handlers)
        self.live = make_live(on_call=self.call_opened)
        self.limits = self.live.limits
        self.clock: Callable[[], float] = self.live.now_s
        self.interceptors = tuple(interceptors)
        self.include_exception_detail = include_exception_detail
        self.strict_faults = strict_faults
        self.error_handlers = tuple(error_handlers)
        # Set by start() where the process has an OpenTelemetry SDK; else no handler has a span.
        self.tracing: Tracing | None = None
        # Threads start when the first plain handler is called.
        self.executor: Executor = migration_thread_pool or ThreadPoolExecutor(
            self.limits.handler_threads_max, thread_name_prefix="relayrpc-handler"
        )
        self._owns_executor = migration_thread_pool is None
        # From the threads of plain handlers to the loop; a blocking server's or channel's own.
        self.portal = Portal("relayrpc server")
        self._owns_portal = False
        self._address = address
        self._slots = slots
        self._priority = priority
        self._labels = require_labels(labels)
        self._table = HandlerTable()
        self._contracts = HostContracts()
        self._descriptor_pool = descriptor_pool or Default()
        self.contracts = Contracts(self._descriptor_pool)
        self._rules: RequestRules | None = None
        if validate is not False:
            validator = None
            if validate:
                validator = make_validator(self.limits, what="validate=True")
            self._rules = RequestRules(self._descriptor_pool, self.limits, validator)
        # Services whose contracts do not allow calls without a session; set by start().
        self._in_session_only: frozenset[str] = frozenset()
        # What lends the service objects of those that have some; set by start().
        self._instances: dict[str, Instances] = {}
        self._table.add_generic(handlers)
        # What is announced; set by start().
        self._services: list[pb.ServiceDescription] = []
        self._calls_max = (
            self.limits.calls_open_max
            if maximum_concurrent_rpcs is None
            else maximum_concurrent_rpcs
        )
        self._assembly = Assembly(self.limits)
        self._runs = Runs(
            limits=self.limits,
            clock=self.clock,
            make_inbox=self.make_inbox,
            # To a context a run is a call.
            start=lambda run, opening: self.start_call(cast("Call", run), opening),
        )
        self.sessions = HostSessions(self)
        # Callers to whom lines are open, in the order of their calls.
        self.lines: weakref.WeakKeyDictionary[Caller, None] = weakref.WeakKeyDictionary()
        # Made by `channel()`.
        self._channels: weakref.WeakSet[Channel] = weakref.WeakSet()
        # Lines that are given up.
        self._leaving: set[asyncio.Task[None]] = set()
        # Calls whose handler has not returned, but for those of threads that outlive their call.
        self._contexts: dict[Context, None] = {}
        # Those: a thread cannot be cancelled, and counts until it has returned.
        self._left_behind: dict[Context, None] = {}
        self._is_started = False
        self._stopping: asyncio.Task[None] | None = None
        # Calls that still come are answered UNAVAILABLE.
        self._is_refusing = False
        # Set when the handlers that remain are to be given up; the earliest grace wins.
        self._give_up: asyncio.TimerHandle | None = None
        self._give_up_s = math.inf
        self._idle = asyncio.Event()
        self._terminated = asyncio.Event()

    def require_interceptors(self, interceptors: Sequence[Any]) -> None:
        """Raise ValueError where one of them is none."""
        wrong = [each for each in interceptors if not isinstance(each, grpc.aio.ServerInterceptor)]
        if wrong:
            raise ValueError(
                f"Interceptor must be ServerInterceptor, the following are invalid: {wrong}"
            )

    # --- registering ---

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]
    ) -> None:
        """
        Add handlers; only before start().

        Raises:
            UsageError: The server has started, a handler does not name its service, or a class was
                added where an object is needed.
        """
        self._require_not_started()
        self._table.add_generic(generic_rpc_handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler]
    ) -> None:
        """
        Add the methods of a service; only before start(). They win over generic handlers of the
        same name.

        Raises:
            UsageError: The server has started, or a class was added where an object is needed.
        """
        self._require_not_started()
        self._table.add_registered(service_name, method_handlers)

    def add_insecure_port(self, address: str) -> NoReturn:
        """Raise UsageError: this server listens nowhere."""
        self._refuse_port(address)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> NoReturn:
        """Raise UsageError: this server listens nowhere."""
        self._refuse_port(address)

    def _refuse_port(self, address: str) -> NoReturn:
        raise grpc.aio.UsageError(
            "this server opens no port: it dials out to its hub and serves through that "
            f"connection; delete the call that adds {address!r}"
        )

    def _require_not_started(self) -> None:
        if self._is_started:
            raise grpc.aio.UsageError("handlers must be added before the server is started")

    # --- life ---

    async def start(self) -> None:
        """
        Connect to the hub and register there; calls may come when this returns. Only once.

        Raises:
            UsageError: It was started or stopped before, serves nothing, or has service objects
                that serve elsewhere.
            ConnectError: The hub cannot be reached, and the server was not told to keep trying.
            LinkRefusedError: The hub refused the link or the registration.
            ContractError: Rules in a contract cannot be used.
        """
        if self._is_started or self._stopping is not None:
            raise grpc.aio.UsageError("a server can be started once")
        self._services = self._table.describe()
        if not self._services:
            raise grpc.aio.UsageError("the server serves nothing; add a servicer before start()")
        self._contracts.add_to(self._services, self._descriptor_pool, self.limits)
        self.start_serving(asyncio.get_running_loop())
        try:
            await self.live.connected()
            await self.announce()
        except BaseException:
            await self.live.aclose()
            await self._let_go()
            raise

    def start_serving(self, loop: asyncio.AbstractEventLoop) -> None:
        """
        Be ready for calls, on the loop that they come on.

        Raises:
            UsageError: It has service objects that serve elsewhere; nothing has changed.
        """
        instances = {
            name: each
            for name in self._table.services()
            if (each := self._table.instances_of(name)) is not None
        }
        for each in instances.values():
            each.require_free()
        for each in instances.values():
            each.serve(self)
        self._instances = instances
        if self._rules is not None:
            self._table.guard(self._rules.guard)
        self._is_started = True
        self.loop = loop
        if not self.portal.is_started:
            self.portal.open()
            self._owns_portal = True
        self.handover = self.portal.handover
        self.tracing = self.live.find_tracing()
        if not self.serves_channel:
            self.live.add_going_away_callback(self._hub_goes_away)
        observe_throttles({name: each.throttle for name, each in self._instances.items()})
        self._in_session_only = frozenset(
            name
            for name in self._table.services()
            if session_fault(self.contracts.of_service(name), is_within=False)
        )

    def _hub_goes_away(self, link: Link) -> None:
        """Let go of sessions and callers that would keep the hub until its time is up."""
        self.sessions.going_away(link)
        for caller in list(self.lines):
            if caller.is_on(link):
                task = self.loop.create_task(caller.leave())
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)

    def channel(
        self,
        address: str = "",
        *,
        callbacks: Sequence[tuple[Callable[[Any, Any], None], Any]] = (),
    ) -> Channel:
        """
        Make a channel on this server's link, for a process that is host and caller: of two such,
        each may call the other. Its calls end with the server's link.

        Args:
            address: Where the calls go, "contoso/greeter"; empty: each to its service's default
                address.
            callbacks: What hosts that were called may call back, as of `relayrpc.aio.channel()`;
                with this server's `error_handlers` and `include_exception_detail`.

        Raises:
            ConfigError: `callbacks` are no pairs.
        """
        settings = EndpointOptions(self.limits)
        served = None
        if callbacks:
            served = self._make_callback_server(
                include_exception_detail=self.include_exception_detail,
                error_handlers=self.error_handlers,
            )
            add_callbacks(callbacks, served)
        made = Channel(
            self.live,
            address=address,
            options=settings,
            retries=make_retries(settings, random=self.live.random, has_next_hub=False),
            callbacks=served,
            owns_link=False,
            reads_contracts=True,
        )
        self._channels.add(made)
        return made

    def _make_callback_server(self, **options: Any) -> CallbackServer:
        """Make what serves the callbacks of a channel on this server's link."""
        # Which is a server itself.
        from relayrpc.endpoint.callbacks import CallbackServer

        return CallbackServer(self._lend_link, **options)

    def _lend_link(self, *, on_call: Callable[[Call, pb.Open], None]) -> LiveLink:
        """Return the link; calls come to this server first, which hands them on."""
        return self.live

    async def announce(self) -> None:
        """
        Register at the hub again, after withdraw(); start() does it the first time.

        Raises:
            UsageError: The server is not started, or stops.
            LinkRefusedError: The hub refused the registration.
        """
        if not self._is_started or self._stopping is not None:
            raise grpc.aio.UsageError("only a server that was started and not stopped registers")
        await self.live.announce(
            self._address,
            self._services,
            slots=self._slots,
            priority=self._priority,
            labels=self._labels,
        )

    async def withdraw(self) -> None:
        """
        Have the hub send no new calls until announce(); running ones go on. Idempotent.

        Calls that were on their way are still served.
        """
        await self.live.withdraw_all()

    async def stop(self, grace: float | None) -> None:
        """
        Have the hub send no new calls, let running ones finish for `grace` seconds, then end and
        cancel the rest. Calls that were on their way are served, or refused when there is no grace.

        Returns when every handler has returned, the service objects are closed, and so is the link.
        Idempotent; may be called again with a smaller grace. Cancelling it leaves the stop under
        way.
        """
        if not grace:
            self._is_refusing = True
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop())
        if self._is_started and not self._stopping.done():
            self._give_up_in(grace or 0.0)
        await asyncio.shield(self._stopping)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """
        Wait until the server has stopped, or its link has ended for good.

        Returns:
            True when `timeout` seconds passed before.

        Raises:
            RelayError: The hub ended the link for good: another process took this instance's place,
                or it was refused.
        """
        loop = asyncio.get_running_loop()
        stopped = loop.create_task(self._terminated.wait())
        lost = loop.create_task(self.live.lost())
        try:
            done, _ = await asyncio.wait(
                (stopped, lost), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stopped.cancel()
            lost.cancel()
        if lost in done and stopped not in done:
            raise lost.result()
        return not done

    async def _stop(self) -> None:
        if self._is_started:
            await self.withdraw()
            self._is_refusing = True
            self.sessions.stop()
            await self._wait_left()
            self.sessions.end()
            # Those who are told that sessions are over are told in the next turn.
            await asyncio.sleep(0)
            await self._let_go()
            for channel in list(self._channels):
                if channel.callbacks is not None:
                    await channel.callbacks.end()
            await self._flush()
        if self._give_up is not None:
            self._give_up.cancel()
        await self.live.aclose()
        if self._owns_portal:
            self.portal.close()
        self._terminated.set()

    async def wait_idle(self) -> None:
        """Wait until every handler has returned, and let go of what only they need."""
        await self._wait_left()
        await self._let_go()

    async def _wait_left(self) -> None:
        while self._contexts:
            self._idle.clear()
            await self._idle.wait()

    async def _let_go(self) -> None:
        # Side by side: each of their objects may take its whole time.
        held = dict.fromkeys(self._instances.values())
        await asyncio.gather(*(each.close(self) for each in held))
        if self._owns_executor:
            self.executor.shutdown(wait=False, cancel_futures=True)

    async def _flush(self) -> None:
        """Let the last ENDs reach the hub: closing the link drops what is unsent."""
        until_s = self.clock() + _FLUSH_TIMEOUT_S
        while (  # noqa: ASYNC110  # the link has no event for "all acknowledged", and this is rare
            self.live.state is grpc.ChannelConnectivity.READY
            and not self.live.link.is_flushed
            and (self.clock() < until_s or self.loop.time() < self._give_up_s)
        ):
            await asyncio.sleep(_FLUSH_CHECK_S)

    def _give_up_in(self, grace_s: float) -> None:
        # Kept apart: uvloop's handle of what is due at once does not say when.
        due_s = self.loop.time() + grace_s
        if due_s < self._give_up_s:
            self._give_up_s = due_s
            if self._give_up is not None:
                self._give_up.cancel()
            self._give_up = self.loop.call_at(due_s, self.cancel_calls)

    def cancel_calls(self) -> None:
        """Refuse calls that come, and end and cancel those that run."""
        self._is_refusing = True
        for context in list(self._contexts):
            context.give_up(self.stopped)

    # --- calls ---

    def call_opened(self, call: Call, opening: pb.Open) -> None:
        """Take a call; the link's on_call."""
        if call.anchor is not None:
            self._anchored_opened(call, opening, call.anchor.app)
        elif self._in_session_only and call.method.partition("/")[0] in self._in_session_only:
            self._open_session(call, opening)
        elif opening.dedupe_key and call.address != HOST_ADDRESS:
            self._runs.opened(call, opening)
        else:
            self.start_call(call, opening)

    def _anchored_opened(self, call: Call, opening: pb.Open, app: object) -> None:
        """Take a call that belongs to a session, or to a call of one of this server's channels."""
        if isinstance(app, HostSession):
            fault = app.admit(call.method)
            if fault:
                self.refuse(call, STATUS_FAILED_PRECONDITION, fault)
                return
            self.start_call(call, opening, app)
            if call.app is REFUSED_CALL:
                app.not_called(call.method)
            return
        # Of a call of a channel, and of a line by which its caller is called back.
        callbacks: CallbackServer | None = getattr(app, "callbacks", None)
        if callbacks is not None:
            callbacks.call_opened(call, opening)
        else:
            refuse_callback(call, "it is a host, and its channel serves none")

    def _open_session(self, call: Call, opening: pb.Open) -> None:
        """Take a session of a contract that has nothing but sessions, and refuse other calls."""
        service, _, method = call.method.partition("/")
        if method == SESSION_METHOD:
            self.sessions.opened(call, opening)
        else:
            fault = session_fault(self.contracts.of_service(service), is_within=False)
            self.refuse(call, STATUS_FAILED_PRECONDITION, fault)

    def start_call(
        self, call: Call, opening: pb.Open, session: HostSession | None = None
    ) -> None:
        """Start the handler of a call, or refuse it."""
        entry = self._table.entries.get(call.method)
        if entry is None or self.interceptors or self._is_refusing:
            entry = self._resolve(call, opening)
            if entry is None:
                return
        contexts = self._contexts
        if len(contexts) + len(self._left_behind) >= self._calls_max:
            self.refuse(
                call,
                STATUS_RESOURCE_EXHAUSTED,
                "Concurrent RPC limit exceeded!",
                retry_after_s=self.limits.retry_after_s,
            )
            return
        call.app = context = Context(self, call, opening, entry)
        contexts[context] = None
        if session is not None:
            context.session = session
            session.contexts[context] = None
            context.place = session.order.enter()
        data = opening.data
        is_complete = opening.half_close
        size = len(data) - LENGTH_BYTES
        if (
            is_complete
            and not entry.has_request_stream
            and entry is not UNRESOLVED
            and 0 <= size <= self.limits.message_bytes_max
            and int.from_bytes(data[:LENGTH_BYTES], "big") == size
        ):
            context.request = data[LENGTH_BYTES:]
        else:
            context.open_inbox(data, is_complete=is_complete)
            if context.call is None:
                return
        if not entry.is_async and self.is_plain(context):
            place = context.place
            # Interceptors that a thread runs do not wait.
            if place is None or place.comes_first() or entry is UNRESOLVED:
                self.start_plain(context)
            else:
                place.when_first(functools.partial(self.start_plain, context))
            return
        if self.tracing is None:
            handling = self.run_call(context)
        else:
            handling = run_traced_call(context, self.tracing, call.address)
        context.task = self.loop.create_task(handling)

    def instances_of(self, service: str) -> Instances | None:
        """Return what lends the objects of a service; None: handlers are called as they are."""
        return self._instances.get(service)

    def services_of(self, instances: Instances) -> list[str]:
        """Return the full names of the services that have their objects from there."""
        return [name for name, each in self._instances.items() if each is instances]

    def is_plain(self, context: Context) -> bool:
        """Say whether a call with a plain handler needs nothing but a thread."""
        entry = context.entry
        if self.interceptors or self.tracing is not None or entry.instance_method is not None:
            return False
        return context.request is not None or entry.has_request_stream

    def start_plain(self, context: Context, left: asyncio.Future[None] | None = None) -> None:
        """
        Give a call to a thread of the pool.

        Args:
            context: Of the call.
            left: Settled when the thread has the call no longer; None: no task waits for that.
        """
        self.plain_call(context, left).start(self.executor)

    async def run_plain(self, function: Callable[[], Any]) -> Any:
        """Call a plain function of the program's that is no handler, and return what it returns."""
        return function()

    async def close_plain(self, function: Callable[[], Any]) -> Any:
        """As `run_plain()`, of one that may never return."""
        return function()

    async def find_answer(
        self, context: Context, error: Exception
    ) -> tuple[str | None, Answer | None]:
        """
        Find what to end the call of a handler with that raised on the loop.

        Returns:
            As `fail_call` takes them: what to tell where the detail of exceptions is told, and what
            was raised or made to answer.
        """
        return f"Unexpected {type(error)}: {error}", find_answer(context, error, context)

    def call_back(self, callback: Callable[[], None]) -> None:
        """Call what a plain handler wanted called after the end."""
        callback()

    def _resolve(self, call: Call, opening: pb.Open) -> MethodEntry | None:
        """
        Find the handler of a call where a look into the table does not do; answers the call itself
        where there is none.
        """
        if call.address == HOST_ADDRESS:
            call.app = REFUSED_CALL
            self._contracts.answer(call, opening)
            return None
        if self._is_refusing:
            self.refuse(call, STATUS_UNAVAILABLE, "the host is stopping")
            return None
        service, _, method = call.method.partition("/")
        if method == SESSION_METHOD and service in self._table.services():
            self.sessions.opened(call, opening)
            return None
        if self.interceptors:
            return UNRESOLVED
        entry = self._table.find(call.method, lambda: decode_metadata(opening.metadata))
        if entry is None:
            self.refuse(call, STATUS_UNIMPLEMENTED, METHOD_NOT_FOUND)
        return entry

    def refuse(
        self, call: Call, status: int, details: str, *, retry_after_s: float | None = None
    ) -> None:
        call.app = REFUSED_CALL
        end = make_end(
            status,
            details,
            origin=pb.End.ORIGIN_HOST,
            not_executed=True,
            retry_after_s=retry_after_s,
        )
        call.link.forward_end(call, end)
        call.link.flush_soon()

    async def intercept(self, context: Context) -> MethodEntry | None:
        """Run the interceptors of one call; None when they or the table give no handler."""
        details = HandlerCallDetails(f"/{context.method}", context.invocation_metadata())
        handler = await self._intercept_from(0, details)
        return None if handler is None else self.make_entry(context, handler)

    async def _intercept_from(
        self, index: int, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        if index < len(self.interceptors):
            return await self.interceptors[index].intercept_service(
                functools.partial(self._intercept_from, index + 1), details
            )
        return self.find_handler(details)

    def find_handler(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Find what handles a call when every interceptor has passed it on."""
        entry = self._table.find(
            details.method.removeprefix("/"), lambda: tuple(details.invocation_metadata)
        )
        if entry is None:
            return None
        context = current_call.get()
        if context is None or context.place is None:
            return entry.handler
        return give_inside(entry, context.place, self.handover)

    def make_entry(self, context: Context, handler: grpc.RpcMethodHandler) -> MethodEntry:
        """Read the handler that the interceptors of a call gave."""
        place = context.place
        if place is not None and place.inner is not None:
            given, entry = place.inner
            if handler is given:
                place.inner = None
                return entry
        return make_entry(handler)

    def make_inbox(self, call: Call, *, credit_bytes: int) -> Inbox:
        """Make the inbox of a call's requests."""
        return Inbox(
            call,
            credit_bytes=credit_bytes,
            limits=self.limits,
            assembly=self._assembly,
            clock=self.clock,
        )

    def make_incident_id(self) -> str:
        """Name the failure of a handler, in the log and to its caller."""
        return self.live.token_hex(_INCIDENT_BYTES)

    def left(self, context: Context) -> None:
        """Note that nothing runs for a call any more, or nothing but a thread."""
        self._contexts.pop(context, None)
        if context.plain is not None:
            self._left_behind[context] = None
        else:
            self._left_behind.pop(context, None)
            if context.session is not None:
                context.session.left(context)
        if not self._contexts:
            self._idle.set()
