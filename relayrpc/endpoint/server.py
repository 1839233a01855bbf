"""
The host's server: a grpc.aio.Server that dials out and serves the calls its hub sends.

Owns: what is served, the life of the server, which task runs which call. Does not own: connecting (live_link.py), running a
handler (dispatch.py), finding it (handlers.py).
Source: grpc.aio.Server; DESIGN.md decision 10.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
import grpc.aio

from relayrpc.endpoint.context import Context
from relayrpc.endpoint.dispatch import run_call
from relayrpc.endpoint.handlers import HandlerCallDetails, HandlerTable, MethodEntry, make_entry
from relayrpc.endpoint.inbox import Assembly, Inbox
from relayrpc.endpoint.metadata import decode_metadata
from relayrpc.link.call import STATUS_RESOURCE_EXHAUSTED, STATUS_UNAVAILABLE, STATUS_UNIMPLEMENTED
from relayrpc.link.messages import LENGTH_BYTES


if TYPE_CHECKING:
    from relayrpc.endpoint.live_link import LiveLink
    from relayrpc.link.call import Call
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["Server"]

_DIALS_OUT: Final = (
    "this server opens no port: it dials out to its hub and serves through that connection; "
    "delete the add_{kind}_port() call"
)
_INCIDENT_BYTES: Final = 4


class Server(grpc.aio.Server):
    """
    Serves through a hub. Made by `relayrpc.aio.server()`.

    Attributes for reading: `limits`, `executor`, `interceptors`, `include_exception_detail`.
    """

    loop: asyncio.AbstractEventLoop
    """Set by start()."""
    thread_id: int
    """Of the thread the loop runs on; set by start()."""

    def __init__(
        self,
        make_live: Callable[[Callable[[Call, pb.Open], None]], LiveLink],
        *,
        address: str = "",
        executor: Executor | None = None,
        handlers: Iterable[grpc.GenericRpcHandler] = (),
        interceptors: Iterable[grpc.aio.ServerInterceptor] = (),
        maximum_concurrent_rpcs: int | None = None,
        include_exception_detail: bool = False,
    ) -> None:
        """
        Args:
            make_live: Makes the link, given who takes its calls.
            address: Where to serve; empty: each service at its own name.
            executor: Runs plain `def` handlers; None: a pool of Limits.handler_threads_max threads.
            handlers: As add_generic_rpc_handlers().
            interceptors: Outermost first.
            maximum_concurrent_rpcs: Calls beyond it are refused with RESOURCE_EXHAUSTED.
            include_exception_detail: Tell callers the text of a handler's unexpected exception.

        Raises:
            ValueError: An interceptor is no grpc.aio.ServerInterceptor.
        """
        self.interceptors: Sequence[grpc.aio.ServerInterceptor] = tuple(interceptors)
        for interceptor in self.interceptors:
            if not isinstance(interceptor, grpc.aio.ServerInterceptor):
                raise ValueError(f"Interceptor {interceptor} must be ServerInterceptor.")
        self._live = make_live(self._call_opened)
        self.limits = self._live.limits
        self.clock: Callable[[], float] = self._live.now_s
        self.executor: Executor = executor or ThreadPoolExecutor(
            self.limits.handler_threads_max, thread_name_prefix="relayrpc handler"
        )
        self._owns_executor = executor is None
        self.include_exception_detail = include_exception_detail
        self._address = address
        self._calls_max = maximum_concurrent_rpcs
        self._table = HandlerTable()
        self._table.add_generic(handlers)
        self._assembly = Assembly(self.limits)
        # Every call whose handler has not returned.
        self._running: set[Context] = set()
        self._is_started = False
        # No new calls are taken.
        self._is_stopping = False
        self._stopped: asyncio.Event | None = None
        self._stop_grace_until_s: float | None = None
        self._stopping: asyncio.Task[None] | None = None
        # Set when no handler runs any more, while stop() waits for that.
        self._quiet: asyncio.Event | None = None

    @property
    def link(self) -> LiveLink:
        """The live link, for a look at its state and carrier."""
        return self._live

    # --- what is served ---

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]
    ) -> None:
        """Add handlers; before start()."""
        self._require_not_started()
        self._table.add_generic(generic_rpc_handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler]
    ) -> None:
        """Add a service's methods by name; before start()."""
        self._require_not_started()
        self._table.add_registered(service_name, method_handlers)

    def add_insecure_port(self, address: str) -> NoReturn:
        """
        Refuse: this server dials out.

        Raises:
            UsageError: Always.
        """
        raise grpc.aio.UsageError(_DIALS_OUT.format(kind="insecure"))

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> NoReturn:
        """
        Refuse: this server dials out.

        Raises:
            UsageError: Always.
        """
        raise grpc.aio.UsageError(_DIALS_OUT.format(kind="secure"))

    def _require_not_started(self) -> None:
        if self._is_started:
            raise grpc.aio.UsageError("the server was started; add handlers before start()")

    # --- life ---

    async def start(self) -> None:
        """
        Dial the hub and announce the services; returns when calls may come.

        Raises:
            ConnectError: The hub is not reached (unless the server was told to keep trying).
            LinkRefusedError: The hub refused the link or the announcement.
            UsageError: It was started before, or serves nothing.
        """
        self._require_not_started()
        services = self._table.describe()
        if not services:
            raise grpc.aio.UsageError("the server serves nothing; add a servicer before start()")
        self._is_started = True
        self.loop = asyncio.get_running_loop()
        self.thread_id = threading.get_ident()
        self._stopped = asyncio.Event()
        try:
            await self._live.connected()
            await self._live.announce(self._address, services)
        except BaseException:
            await self._live.aclose()
            self._release()
            raise

    async def stop(self, grace: float | None) -> None:
        """
        Take no new calls, wait up to `grace` seconds for those that run, cancel the rest, end the link.

        Returns when all of that is done. Called again, the earlier of both graces counts; calling it
        on a server that was never started ends it too. Cancelling the wait does not stop the stopping.

        Args:
            grace: Seconds; None: cancel at once.
        """
        if self._stopped is None:
            self._is_started = True
            self._is_stopping = True
            await self._live.aclose()
            self._release()
            return
        until_s = self.clock() + (grace or 0.0)
        if self._stop_grace_until_s is None or until_s < self._stop_grace_until_s:
            self._stop_grace_until_s = until_s
            if self._quiet is not None:
                # Wake the one who waits with the longer grace.
                self._quiet.set()
        if self._stopping is None:
            self._is_stopping = True
            self._stopping = self.loop.create_task(self._stop(), name="relayrpc server stop")
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        await self._live.withdraw_all()
        self._quiet = asyncio.Event()
        while self._running:
            assert self._stop_grace_until_s is not None
            left_s = self._stop_grace_until_s - self.clock()
            if left_s <= 0:
                break
            self._quiet.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._quiet.wait()
            except TimeoutError:
                break
        tasks = [context.task for context in self._running if context.task is not None]
        for context in list(self._running):
            context.end(STATUS_UNAVAILABLE, "the host stopped")
            context.cancel_task()
        if tasks:
            await asyncio.wait(tasks)
        await self._live.aclose()
        self._release()
        assert self._stopped is not None
        self._stopped.set()

    def _release(self) -> None:
        if self._owns_executor:
            self.executor.shutdown(wait=False, cancel_futures=True)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """
        Wait until the server has stopped, or its link has ended for good.

        Returns:
            True when `timeout` seconds passed before.

        Raises:
            RelayError: The hub ended the link for good: another process took this instance's place, or it was refused.
        """
        if self._stopped is None:
            raise grpc.aio.UsageError("the server was not started")
        stopped = self.loop.create_task(self._stopped.wait())
        lost = self.loop.create_task(self._live.lost())
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

    # --- calls ---

    def _call_opened(self, call: Call, opening: pb.Open) -> None:
        """Take a call: find its handler and start its task. Nothing here waits."""
        link = call.link
        if self._is_stopping:
            link.end_call(
                call, status=STATUS_UNAVAILABLE, details="the host is stopping", not_executed=True
            )
            return
        if self._calls_max is not None and len(self._running) >= self._calls_max:
            link.end_call(
                call,
                status=STATUS_RESOURCE_EXHAUSTED,
                details="Concurrent RPC limit exceeded!",
                not_executed=True,
            )
            return
        entry = self._table.entries.get(call.method) or self._table.find(
            call.method, lambda: decode_metadata(opening.metadata)
        )
        if entry is None:
            link.end_call(
                call, status=STATUS_UNIMPLEMENTED, details="Method not found!", not_executed=True
            )
            return
        context = Context(self, call, opening, entry)
        call.app = context
        if not self._take_whole_request(context, opening):
            self._start_inbox(context, opening)
            if context.call is None:
                return
        self._running.add(context)
        context.task = self.loop.create_task(run_call(context))

    def _take_whole_request(self, context: Context, opening: pb.Open) -> bool:
        """Take the one request of a unary method that came whole with the OPEN: the hot path."""
        if context.entry.has_request_stream or not opening.half_close:
            return False
        data = opening.data
        size = len(data) - LENGTH_BYTES
        if (
            size < 0
            or size > self.limits.message_bytes_max
            or int.from_bytes(data[:LENGTH_BYTES], "big") != size
        ):
            return False
        context.request = data[LENGTH_BYTES:]
        return True

    def _start_inbox(self, context: Context, opening: pb.Open) -> None:
        call = context.call
        assert call is not None
        context.inbox = Inbox(
            call, credit_bytes=0, limits=self.limits, assembly=self._assembly, clock=self.clock
        )
        data = opening.data
        is_complete = opening.half_close
        context.release_opening()
        if not context.entry.has_request_stream and not is_complete:
            # A request larger than the OPEN: nobody has to ask for the rest.
            context.start_requests()
        if data:
            context.data_received(data)
        if is_complete:
            context.half_close_received()

    def left(self, context: Context) -> None:
        """Note that nothing runs for a call any more."""
        self._running.discard(context)
        if self._quiet is not None and not self._running:
            self._quiet.set()

    async def intercept(self, context: Context) -> MethodEntry | None:
        """Ask the interceptors which handler shall run; None: the method is not served."""
        details = HandlerCallDetails(
            f"/{context.method}", tuple(context.invocation_metadata())
        )
        handler = await self._continuation(0, context.entry.handler)(details)
        return None if handler is None else make_entry(handler)

    def _continuation(self, place: int, handler: grpc.RpcMethodHandler) -> Callable[[Any], Any]:
        if place == len(self.interceptors):

            async def found(_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
                return handler

            return found
        interceptor = self.interceptors[place]
        following = self._continuation(place + 1, handler)

        async def intercepted(details: grpc.HandlerCallDetails) -> Any:
            return await interceptor.intercept_service(following, details)

        return intercepted

    def make_incident_id(self) -> str:
        """Make the id that a caller is told and the log has."""
        return secrets.token_hex(_INCIDENT_BYTES)
