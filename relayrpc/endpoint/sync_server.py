"""
The blocking server: a grpc.Server whose core is an async one on a thread of its own.

Owns: what runs on which thread, the life of both. Does not own: admitting calls (server.py),
running handlers (sync_servicer.py), the link.
Source: grpc.Server; docs/adr/0006-blocking-portal.md.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
import grpc.aio

from relayrpc.endpoint.failure import RefusedError, find_answer
from relayrpc.endpoint.handlers import UNRESOLVED
from relayrpc.endpoint.handover import Bell
from relayrpc.endpoint.plain_call import HOST_STOPPING
from relayrpc.endpoint.portal import PortalThread
from relayrpc.endpoint.server import Server as AsyncServer
from relayrpc.endpoint.sync_channel import ServerChannel, abandon_calls
from relayrpc.endpoint.sync_servicer import ServicerCall
from relayrpc.errors import UsageError
from relayrpc.link.call import STATUS_UNAVAILABLE


if TYPE_CHECKING:
    from relayrpc.endpoint.callbacks import CallbackServer
    from relayrpc.endpoint.context import Context
    from relayrpc.endpoint.failure import Answer
    from relayrpc.endpoint.handlers import MethodEntry
    from relayrpc.errors import RelayError


__all__ = ["Server", "ServerCore"]

_STARTED: Final = "Cannot start already-started server!"


class ServerCore(AsyncServer):
    """The async server inside: plain handlers alone, and interceptors that run on their threads."""

    plain_call = ServicerCall
    is_blocking = True
    kind = "server"
    """What the program made; for errors."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # For plain functions that are no handlers. Not the pool of those, all of which may wait for
        # one of these; and not the loop's, for which its end would wait.
        self._plain_pool = ThreadPoolExecutor(thread_name_prefix="relayrpc-plain")

    def require_interceptors(self, interceptors: Sequence[Any]) -> None:
        """Raise ValueError where one of them is none."""
        for each in interceptors:
            if not callable(getattr(each, "intercept_service", None)):
                raise ValueError(f"Interceptor {each!r} must be a grpc.ServerInterceptor.")

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]
    ) -> None:
        """Add handlers, plain ones; as Server's."""
        with _own_errors():
            super().add_generic_rpc_handlers(generic_rpc_handlers)
        self._require_plain()

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler]
    ) -> None:
        """Add the methods of a service, plain ones; as Server's."""
        with _own_errors():
            super().add_registered_method_handlers(service_name, method_handlers)
        self._require_plain()

    def _require_plain(self) -> None:
        for method, entry in self._table.entries.items():
            if entry.is_async:
                raise UsageError(
                    f"the handler of {method} is async; a blocking {self.kind} takes plain "
                    f"functions, relayrpc.aio.{self.kind} takes both"
                )

    def is_plain(self, context: Context) -> bool:
        """Say whether a call needs nothing but a thread; interceptors run there too."""
        if self.interceptors:
            return self.tracing is None and not self._has_objects(context)
        return super().is_plain(context)

    async def intercept(self, context: Context) -> MethodEntry | None:
        """Leave it to the thread; but none is kept waiting for a service object."""
        if not self._has_objects(context):
            return UNRESOLVED
        run, call = contextvars.copy_context().run, ServicerCall(context)
        try:
            resolving = self.loop.run_in_executor(self.executor, run, call.resolve)
        except RuntimeError:
            # The pool was shut down.
            raise RefusedError(STATUS_UNAVAILABLE, HOST_STOPPING, not_executed=True) from None
        return await resolving

    def _has_objects(self, context: Context) -> bool:
        return self.instances_of(context.method.partition("/")[0]) is not None

    async def run_plain(self, function: Callable[[], Any]) -> Any:
        """Call a plain function that is no handler, on a thread where it may block and call."""
        run = contextvars.copy_context().run
        return await self.loop.run_in_executor(self._plain_pool, run, function)

    async def close_plain(self, function: Callable[[], Any]) -> Any:
        """As `run_plain()`; a thread that hangs keeps nothing else waiting, nor the process."""
        run = contextvars.copy_context().run
        outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()
        outcome.set_running_or_notify_cancel()

        def close() -> None:
            try:
                outcome.set_result(run(function))
            except BaseException as error:
                outcome.set_exception(error)

        threading.Thread(target=close, name="relayrpc-close", daemon=True).start()
        return await asyncio.wrap_future(outcome)

    async def find_answer(
        self, context: Context, error: Exception
    ) -> tuple[str | None, Answer | None]:
        """As of any server, with error handlers on a thread."""
        call = ServicerCall(context)
        find = functools.partial(find_answer, context, error, call.given)
        answer = await self.run_plain(find) if self.error_handlers else find()
        return call.describe(error), answer

    def _make_callback_server(self, **options: Any) -> CallbackServer:
        """As of any server, with plain handlers, and the way to this one's loop."""
        # Which is one of these itself.
        from relayrpc.endpoint.sync_callbacks import CallbackServer

        made = CallbackServer(self._lend_link, **options)
        made.portal = self.portal
        return made

    async def _let_go(self) -> None:
        await super()._let_go()
        self._plain_pool.shutdown(wait=False)

    def call_back(self, callback: Callable[[], None]) -> None:
        """Call what a handler wanted called after the end, on a thread where it may block."""
        self.portal.call_back(callback)


class Server(grpc.Server):
    """
    Serves through a hub, on the threads of a pool. Made by `relayrpc.server()`.

    Unlike grpc's it must be stopped: while it runs, dropping it changes nothing.
    """

    def __init__(self, core: ServerCore) -> None:
        """
        Args:
            core: Used on this server's thread alone.
        """
        self.core = core
        self.portal = core.portal = PortalThread(
            "relayrpc server", farewell=self._farewell, ended=self._ended, forked=self._forked
        )
        # Guards the three that follow it.
        self._lock = threading.Lock()
        self._is_started = False
        self._is_over = False
        # Set when the server has stopped; as many as stop() was called.
        self._stopped: list[threading.Event] = []
        # Why there will be no link any more although nobody stopped the server.
        self._lost: RelayError | None = None
        self._bell = Bell()
        # What runs on the loop beside the core, kept from the garbage collector.
        self._tasks: set[asyncio.Task[None]] = set()
        self._channels: weakref.WeakSet[ServerChannel] = weakref.WeakSet()

    # --- registering ---

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]
    ) -> None:
        """
        Add handlers; only before start().

        Raises:
            UsageError: The server has started, a handler does not name its service or is async, or
                a class was added where an object is needed.
        """
        self.core.add_generic_rpc_handlers(generic_rpc_handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler]
    ) -> None:
        """
        Add the methods of a service; only before start(). They win over generic handlers of the
        same name.

        Raises:
            UsageError: The server has started, a handler is async, or a class was added where an
                object is needed.
        """
        self.core.add_registered_method_handlers(service_name, method_handlers)

    def add_insecure_port(self, address: str) -> NoReturn:
        """Raise UsageError: this server listens nowhere."""
        with _own_errors():
            self.core.add_insecure_port(address)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> NoReturn:
        """Raise UsageError: this server listens nowhere."""
        with _own_errors():
            self.core.add_secure_port(address, server_credentials)

    def channel(
        self,
        address: str = "",
        *,
        callbacks: Sequence[tuple[Callable[[Any, Any], None], Any]] = (),
    ) -> ServerChannel:
        """
        Make a channel on this server's link, for a process that is host and caller: of two such,
        each may call the other. It calls while the server runs.

        Args:
            address: Where the calls go, "contoso/greeter"; empty: each to its service's default
                address.
            callbacks: What hosts that were called may call back, as of `relayrpc.channel()`; with
                this server's `error_handlers` and `include_exception_detail`.

        Raises:
            ConfigError: `callbacks` are no pairs.
            UsageError: A handler of callbacks is async.
        """
        made = ServerChannel(self.core.channel(address, callbacks=callbacks), self.portal)
        self._channels.add(made)
        return made

    # --- life ---

    def start(self) -> None:
        """
        Connect to the hub and register there; calls may come when this returns. Only once.

        Raises:
            ValueError: It was started before.
            UsageError: It serves nothing, was stopped before, or has service objects that serve
                elsewhere.
            ConnectError: The hub cannot be reached, and the server was not told to keep trying.
            LinkRefusedError: The hub refused the link or the registration.
        """
        with self._lock:
            if self._is_started:
                raise ValueError(_STARTED)
            self.portal.start()
            self._is_started = True
        try:
            with _own_errors():
                self.portal.run(self._start())
        except BaseException:
            self.portal.shut_down()
            raise

    def stop(self, grace: float | None) -> threading.Event:
        """
        Have the hub send no new calls, let running ones finish for `grace` seconds, then end the
        rest. Without a grace it returns when that is done, else at once. Idempotent; may be called
        again with a smaller grace. Threads that still run a handler are not waited for.

        Returns:
            What is set when the server has stopped.
        """
        self.portal.require_other_thread()
        stopped = threading.Event()
        with self._lock:
            if not self._is_started or self._is_over:
                stopped.set()
                return stopped
            self._stopped.append(stopped)
        self.portal.handover.submit(self._begin_stop, grace)
        if grace is None:
            self.portal.join()
        return stopped

    def wait_for_termination(self, timeout: float | None = None) -> bool:
        """
        Wait until the server has stopped, or its link has ended for good.

        Returns:
            True when `timeout` seconds passed before.

        Raises:
            RelayError: The hub ended the link for good: another process took this instance's place,
                or it was refused.
        """
        is_told = self._bell.wait_for(lambda: self._is_over or self._lost is not None, timeout)
        if self._lost is not None and not self._is_over:
            raise self._lost
        return not is_told

    # --- on the loop ---

    async def _start(self) -> None:
        await self.core.start()
        self._keep(self._watch())

    async def _watch(self) -> None:
        self._lost = await self.core.live.lost()
        self._bell.ring()

    def _begin_stop(self, grace: float | None) -> None:
        self._keep(self._stop(grace))

    async def _stop(self, grace: float | None) -> None:
        try:
            await self.core.stop(grace)
        finally:
            self.portal.shut_down_soon()

    def _keep(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self.portal.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _farewell(self) -> None:
        await self.core.stop(None)

    # --- the end ---

    def _forked(self) -> None:
        # Another thread of the parent may have held it.
        self._lock = threading.Lock()
        for channel in self._channels:
            abandon_calls(channel.core)
        self._ended()

    def _ended(self) -> None:
        """Tell those who wait that the server is over; its loop has ended."""
        with self._lock:
            self._is_over = True
            stopped, self._stopped = self._stopped, []
        for event in stopped:
            event.set()
        self._bell.ring()


@contextlib.contextmanager
def _own_errors() -> Iterator[None]:
    """Raise misuse as what it is called where grpc.aio is not meant."""
    try:
        yield
    except grpc.aio.UsageError as exc:
        raise UsageError(str(exc)) from None
