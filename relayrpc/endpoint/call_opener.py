"""
Opens a channel's calls on its link: what a program says of a call, what its channel says of every
call, and what has to be known before one can go.

Owns: metadata, deadlines, bounds, the service config, credentials and spans of calls that begin.
Does not own: the channel's life (channel.py), what happens in a call.
Source: grpc.aio's channel; gRPC's service_config.md.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from relayrpc.endpoint.anchor import SESSION_METHOD, Anchor, AnchorFault
from relayrpc.endpoint.call_credentials import (
    CredentialsError,
    Plugin,
    ask_plugins,
    describe_service,
    find_plugins,
)
from relayrpc.endpoint.contract_check import ContractChecks, ContractMismatchError
from relayrpc.endpoint.metadata import (
    EMPTY,
    InvocationMetadata,
    MetadataInput,
    MetadataTooLargeError,
    Pairs,
    check_size,
    confirm_of,
    encode_invocation_metadata,
)
from relayrpc.endpoint.operations import GENERATED_CONTRACTS
from relayrpc.errors import UsageError
from relayrpc.link.call import (
    STATUS_DEADLINE_EXCEEDED,
    STATUS_FAILED_PRECONDITION,
    STATUS_INTERNAL,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
)
from relayrpc.link.messages import LENGTH_BYTES, MessageTooLargeError, encode_message
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from relayrpc.contract.options import OperationOptions
    from relayrpc.endpoint.call_core import CallCore
    from relayrpc.endpoint.channel import Channel
    from relayrpc.endpoint.options import EndpointOptions
    from relayrpc.limits import Limits
    from relayrpc.link.calls import LinkCalls
    from relayrpc.observe.tracing import Tracing


__all__ = ["CallOpener"]

_LOGGER: Final = logging.getLogger("relayrpc")
# 285 years: what is longer, infinity too, waits as long.
_TIMEOUT_S_MAX: Final = 2.0**53 / 1e6
_SESSION: Final = f"/{SESSION_METHOD}"
_ONE_WAY_SHAPE: Final = "relay-confirm: hub is for calls with one request and one response"
_DEDUPE_SHAPE: Final = "relay-dedupe-key is for calls with one request and one response"
_INSECURE: Final = "Call credentials are only valid on secure channels"


@dataclass(slots=True)
class _Opening:
    """A call as it goes onto the link."""

    method: str
    """ "pkg.Service/Method"."""
    shape: pb.Shape
    address: str
    data: bytes = b""
    half_close: bool = False
    wait_for_ready: bool = False
    pairs: Pairs = EMPTY
    instance: str = ""
    sticky_key: str = ""
    dedupe_key: str = ""
    one_way: bool = False


class CallOpener:
    """Opens the calls of one channel."""

    def __init__(
        self,
        channel: Channel,
        *,
        address: str,
        options: EndpointOptions,
        credentials: grpc.CallCredentials | None,
        anchor: Anchor | None = None,
        reads_contracts: bool = False,
        bounds_timeouts: bool = False,
        checks_contracts: bool = False,
    ) -> None:
        """
        Args:
            channel: Whose calls.
            address: Where they go; empty: each to its service's default address.
            options: gRPC's, as read.
            credentials: For every call, before its own; None: none.
            anchor: What every call belongs to; None: nothing.
            reads_contracts: What generated code declares here holds: default addresses, one-way
                calls, default timeouts; else the hub says which addresses there are.
            bounds_timeouts: So do maximum timeouts, of calls that no hub bounds.
            checks_contracts: The hub is asked whether that fits what hosts serve, before the first
                call of a service at an address.

        Raises:
            UsageError: The credentials cannot be used, or the link is not secure.
        """
        self._channel = channel
        self._live = channel.live
        self._address = address
        # Where contracts declare that calls go, by method; empty: they do not. None: nobody asks.
        self._declared: dict[str, str] | None = {} if reads_contracts and not address else None
        self._limits = channel.limits
        self._service_config = options.service_config
        self._authority = options.authority or channel.live.url.authority
        agent = options.user_agent.encode()
        self._agent_pairs: Pairs = (("user-agent", agent),) if agent else EMPTY
        self._plugins: tuple[Plugin, ...] = ()
        if credentials is not None:
            self._plugins = self._find_plugins(credentials)
        # Threads start when the first plugin is asked.
        self._executor: ThreadPoolExecutor | None = None
        # Where the process has an OpenTelemetry SDK; else no call has a span.
        self._tracing: Tracing | None = None
        self._anchor = anchor
        # Of the call that was made last of those that wait: they are opened in their order.
        self._last_opening: asyncio.Task[None] | None = None
        self._contracts = GENERATED_CONTRACTS if reads_contracts else None
        self._bounds_timeouts = bounds_timeouts
        # Methods whose contracts have a say in how calls are opened: "pkg.Service/Method" -> what;
        # None: nothing, but they have not been compared with the hub's.
        self._operations: dict[str, OperationOptions | None] = {}
        self._checks = ContractChecks(channel, self._forgotten) if checks_contracts else None
        # The channel says nothing of its calls.
        self._is_plain = not (
            self._service_config or self._agent_pairs or self._plugins or anchor is not None
        )

    def start(self, tracing: Tracing | None) -> None:
        """Note what makes the spans of calls; before the first one."""
        self._tracing = tracing
        if tracing is not None:
            self._is_plain = False

    def may_open_later(self, method: str) -> bool:
        """
        Say whether calls of "pkg.Service/Method" wait for the metadata of plugins, or may for what
        they belong to, or for their contract to be compared.
        """
        return (
            bool(self._plugins)
            or self._anchor is not None
            or (self._checks is not None and method in self._checks.methods)
        )

    def close(self) -> None:
        """Ask no more plugins, and the hub nothing. Idempotent."""
        if self._checks is not None:
            self._checks.close()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    # --- what holds for a method ---

    def learn(self, method: str) -> None:
        """Look up what its contract says of "pkg.Service/Method", before calls of it."""
        operation = None if self._contracts is None else self._contracts.of_method(method)
        if operation is not None and (
            operation.one_way
            or operation.default_timeout_s is not None
            or (self._bounds_timeouts and operation.maximum_timeout_s is not None)
        ):
            self._operations[method] = operation
        if self._checks is not None and self._checks.learn(method):
            self._operations.setdefault(method)

    def _forgotten(self, address: str, service: str) -> None:
        """Have calls of a service wait again for its contract to be compared."""
        assert self._checks is not None
        for method in tuple(self._checks.methods):
            if method.startswith(f"{service}/") and self._address_of(method) == address:
                self._operations.setdefault(method)

    def is_over_soon(
        self, method: str, metadata: MetadataInput | InvocationMetadata, request: bytes | None
    ) -> bool:
        """
        Say whether a call of "pkg.Service/Method" is over once the hub has it: it is one-way, and
        its request goes in one piece.

        Args:
            method: Its name.
            metadata: As the program gives it.
            request: Serialized; None: a stream of them.
        """
        if request is None or len(request) + LENGTH_BYTES > self._limits.initial_credit_bytes:
            return False
        confirm = confirm_of(metadata)
        if confirm:
            return confirm == "hub"
        operation = self._operations.get(method)
        return operation is not None and operation.one_way

    def request_bytes_max(self, method: str) -> int:
        """Return the largest request that may be sent to "pkg.Service/Method"."""
        bytes_max = self._limits.message_sent_bytes_max
        if self._service_config is None:
            return bytes_max
        bound = self._service_config.of(method).request_bytes_max
        return bytes_max if bound is None else min(bound, bytes_max)

    def response_limits(self, method: str) -> Limits:
        """Return the bounds of responses from "pkg.Service/Method"."""
        if self._service_config is None:
            return self._limits
        bound = self._service_config.of(method).response_bytes_max
        if bound is None or bound >= self._limits.message_bytes_max:
            return self._limits
        return replace(self._limits, message_bytes_max=bound)

    def response_bytes_max(self) -> int:
        """Return what no method's responses are refused for."""
        bytes_max = self._limits.message_bytes_max
        if self._service_config is None:
            return bytes_max
        return self._service_config.least_response_bytes(bytes_max)

    def _address_of(self, method: str) -> str:
        """Return where calls of "pkg.Service/Method" go; empty: the hub knows."""
        declared = self._declared
        if declared is None:
            return self._address
        address = declared.get(method)
        if address is None:
            if len(declared) >= self._limits.names_max:
                declared.clear()
            contract = GENERATED_CONTRACTS.of_service(method.partition("/")[0])
            address = declared[method] = "" if contract is None else contract.declared_address
        return address

    # --- starting calls ---

    def open_unary(
        self,
        core: CallCore,
        method: str,
        shape: pb.Shape,
        serializer: Callable[[Any], bytes] | None,
        request: Any,
        timeout: float | None,
        metadata: MetadataInput | InvocationMetadata,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
    ) -> None:
        """
        Start a call with one request.

        What the program did wrong raises; what stands in the way of the call ends it.
        """
        channel = self._channel
        if not channel.is_open:
            channel.require_open()
        try:
            data = request if serializer is None else serializer(request)
        except Exception:
            _LOGGER.exception("request serializer failed")
            core.fail(STATUS_INTERNAL, "Exception serializing request!")
            return
        try:
            message = encode_message(
                data,
                self._limits.message_sent_bytes_max
                if self._is_plain
                else self.request_bytes_max(method),
            )
        except MessageTooLargeError as exc:
            core.fail(STATUS_RESOURCE_EXHAUSTED, str(exc))
            return
        if (
            metadata
            or credentials is not None
            or timeout is not None
            or not self._is_plain
            or method in self._operations
        ):
            address = self._address_of(method)
            opening = _Opening(method, shape, address, message, half_close=True)
            self._open(core, opening, timeout, metadata, credentials, wait_for_ready)
            return
        # The plain case, written out.
        try:
            link = self._live.link
            core.call = link.open_call(
                method,
                self._address if self._declared is None else self._address_of(method),
                shape=shape,
                app=core,
                data=message,
                half_close=True,
                wait_for_ready=bool(wait_for_ready),
                now_s=0.0,
            )
        except UsageError as exc:
            core.fail(STATUS_UNAVAILABLE, str(exc))
            return
        if channel.retries is not None:
            channel.retries.remember(core, message, is_complete=True)
        channel.calls[core] = None
        link.flush_soon()

    def open_stream(
        self,
        core: CallCore,
        method: str,
        shape: pb.Shape,
        timeout: float | None,
        metadata: MetadataInput | InvocationMetadata,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
    ) -> None:
        """Start a call whose requests follow."""
        self._channel.require_open()
        opening = _Opening(method, shape, self._address_of(method))
        self._open(core, opening, timeout, metadata, credentials, wait_for_ready)

    def _open(
        self,
        core: CallCore,
        opening: _Opening,
        timeout: float | None,
        metadata: MetadataInput | InvocationMetadata,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
    ) -> None:
        plugins = self._plugins
        if credentials is not None:
            plugins += self._find_plugins(credentials)
        if self._service_config is not None and not opening.method.endswith(_SESSION):
            config = self._service_config.of(opening.method)
            if config.timeout_s is not None:
                timeout = config.timeout_s if timeout is None else min(timeout, config.timeout_s)
            if wait_for_ready is None:
                wait_for_ready = config.wait_for_ready
        opening.wait_for_ready = bool(wait_for_ready)
        operation = self._operations.get(opening.method)
        if operation is not None:
            opening.one_way = operation.one_way
            if timeout is None:
                timeout = operation.default_timeout_s
            if self._bounds_timeouts and operation.maximum_timeout_s is not None:
                timeout = min(operation.maximum_timeout_s, math.inf if timeout is None else timeout)
        try:
            self._put_metadata(opening, metadata)
        except MetadataTooLargeError as exc:
            core.fail(STATUS_RESOURCE_EXHAUSTED, str(exc))
            return
        if timeout is not None:
            core.deadline_s = self._channel.clock() + min(timeout, _TIMEOUT_S_MAX)
            # Written so that NaN has passed too.
            if not timeout > 0:
                core.fail(STATUS_DEADLINE_EXCEEDED, "Deadline Exceeded")
                return
        if self._tracing is not None:
            self._trace(self._tracing, core, opening)
        is_due = self._checks is not None and self._checks.is_due(opening.method, opening.address)
        if plugins or is_due or (self._anchor is not None and not self._is_in_order()):
            self._open_later(core, opening, plugins)
            return
        if operation is None and opening.address == self._address_of(opening.method):
            # Nothing about the method is special any more.
            self._operations.pop(opening.method, None)
        self._send(core, opening)

    def _is_in_order(self) -> bool:
        """Say whether a call may be opened now: what it belongs to is there, and none waits."""
        assert self._anchor is not None
        last = self._last_opening
        return self._anchor.is_ready and (last is None or last.done())

    def _put_metadata(
        self, opening: _Opening, metadata: MetadataInput | InvocationMetadata
    ) -> None:
        opening.pairs = self._agent_pairs
        if not metadata:
            return
        limit_bytes = self._limits.metadata_bytes_max
        pairs, relay_keys = encode_invocation_metadata(metadata, limit_bytes=limit_bytes)
        if opening.pairs:
            check_size(opening.pairs + pairs, limit_bytes)
        opening.pairs += pairs
        opening.address = relay_keys.address or opening.address
        opening.instance = relay_keys.instance
        opening.sticky_key = relay_keys.sticky_key
        if relay_keys.confirm:
            opening.one_way = relay_keys.confirm == "hub"
            if opening.one_way and opening.shape != pb.SHAPE_UNARY_UNARY:
                raise grpc.aio.UsageError(_ONE_WAY_SHAPE)
        if relay_keys.dedupe_key:
            if opening.shape != pb.SHAPE_UNARY_UNARY:
                raise grpc.aio.UsageError(_DEDUPE_SHAPE)
            opening.dedupe_key = relay_keys.dedupe_key

    def _send(self, core: CallCore, opening: _Opening) -> None:
        """Open a call: on the link of now, or on that of the call that it belongs to."""
        anchor = None
        try:
            link: LinkCalls = self._live.link
            if self._anchor is not None:
                anchor = self._anchor.call_for(opening.method, core)
                link = anchor.link
            core.call = link.open_call(
                opening.method,
                opening.address,
                shape=opening.shape,
                app=core,
                metadata=opening.pairs,
                deadline_s=core.deadline_s,
                data=opening.data,
                half_close=opening.half_close,
                sticky_key=opening.sticky_key,
                dedupe_key=opening.dedupe_key,
                instance=opening.instance,
                wait_for_ready=opening.wait_for_ready,
                anchor=anchor,
                one_way=opening.one_way,
                now_s=self._channel.clock(),
            )
        except AnchorFault as exc:
            core.fail(exc.status, exc.details)
            return
        except UsageError as exc:
            core.fail(STATUS_UNAVAILABLE, str(exc))
            return
        retries = self._channel.retries
        if retries is not None:
            retries.remember(core, opening.data, is_complete=opening.half_close)
        self._channel.calls[core] = None
        link.flush_soon()

    # --- what calls wait for ---

    def _find_plugins(self, credentials: grpc.CallCredentials) -> tuple[Plugin, ...]:
        if not self._live.url.is_secure:
            raise grpc.aio.UsageError(_INSECURE)
        return find_plugins(credentials)

    def _open_later(
        self, core: CallCore, opening: _Opening, plugins: tuple[Plugin, ...]
    ) -> None:
        """
        Open a call once its contract is known to fit, its plugins have given their metadata, and
        what it belongs to is there; it may end before.
        """
        channel = self._channel
        channel.calls[core] = None
        waiting = self._open_when_ready(core, opening, plugins, self._last_opening)
        task = channel.loop.create_task(waiting)
        if self._anchor is not None:
            self._last_opening = task
        core.add_callback(asyncio.Task.cancel, task)

    async def _open_when_ready(
        self,
        core: CallCore,
        opening: _Opening,
        plugins: tuple[Plugin, ...],
        before: asyncio.Task[None] | None,
    ) -> None:
        if core.end is not None:
            # Over before this could begin, and perhaps with it the channel.
            return
        fault = await self._wait_until_ready(core, opening, plugins, before)
        if core.end is not None:
            # Cancelled in this moment.
            return
        if fault is None:
            self._send(core, opening)
            core.opened()
        elif fault.end is None:
            core.fail(fault.status, fault.details)
        else:
            core.finish(fault.end)

    async def _wait_until_ready(
        self,
        core: CallCore,
        opening: _Opening,
        plugins: tuple[Plugin, ...],
        before: asyncio.Task[None] | None,
    ) -> AnchorFault | None:
        """Wait for what a call waits for; returns why it cannot be made, None: it can."""
        try:
            async with asyncio.timeout(core.time_left_s()):
                checks = self._checks
                if checks is not None and checks.is_due(opening.method, opening.address):
                    await checks.check(
                        opening.method, opening.address, wait_for_ready=opening.wait_for_ready
                    )
                if plugins:
                    opening.pairs += await self._ask(plugins, opening.method)
                if self._anchor is not None:
                    await self._anchor.ready(opening.method, opening.wait_for_ready)
                if before is not None and not before.done():
                    await asyncio.wait([before])
            check_size(opening.pairs, self._limits.metadata_bytes_max)
        except TimeoutError:
            return AnchorFault(STATUS_DEADLINE_EXCEEDED, "Deadline Exceeded")
        except CredentialsError as exc:
            return AnchorFault(STATUS_UNAVAILABLE, str(exc))
        except ContractMismatchError as exc:
            return AnchorFault(STATUS_FAILED_PRECONDITION, str(exc))
        except AnchorFault as exc:
            return exc
        except MetadataTooLargeError as exc:
            return AnchorFault(STATUS_RESOURCE_EXHAUSTED, str(exc))
        return None

    async def _ask(self, plugins: tuple[Plugin, ...], method: str) -> Pairs:
        """Ask plugins for the metadata of a call of "pkg.Service/Method"."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(
                self._limits.plugin_threads_max, thread_name_prefix="relayrpc-plugin"
            )
        return await ask_plugins(
            plugins,
            describe_service(self._authority, method),
            executor=self._executor,
            limit_bytes=self._limits.metadata_bytes_max,
        )

    # --- spans ---

    def _trace(self, tracing: Tracing, core: CallCore, opening: _Opening) -> None:
        """Make the span of a call, and put its context into the call's metadata."""
        span = tracing.start_caller_span(opening.method, opening.address)
        core.add_callback(functools.partial(_end_span, tracing, span), core)
        opening.pairs = tracing.carry(
            span, opening.pairs, limit_bytes=self._limits.metadata_bytes_max
        )


def _end_span(tracing: Tracing, span: Span, core: CallCore) -> None:
    outcome = core.outcome()
    tracing.end_span(
        span,
        status=outcome.status,
        is_caller=True,
        origin=outcome.origin,
        may_have_executed=outcome.may_have_executed,
        details=outcome.details,
    )
