"""
The async API: a gRPC server that dials out, a gRPC channel that calls through a hub.

    server = relayrpc.aio.server("relay://127.0.0.1:7350/contoso/greeter")
    channel = relayrpc.aio.channel("relay://127.0.0.1:7350/contoso/greeter")

Both are good for the code that grpcio-tools generates. What cannot be honoured raises at once.
Source: DESIGN.md decision 10.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from relayrpc.carrier.tls import TLSOptions
from relayrpc.carrier.url import CarrierChoice, parse_urls
from relayrpc.endpoint.attempts import make_retries
from relayrpc.endpoint.callback_pairs import add_callbacks
from relayrpc.endpoint.callback_set import CallbackSet
from relayrpc.endpoint.callbacks import CallbackServer
from relayrpc.endpoint.caller import Caller
from relayrpc.endpoint.channel import Channel
from relayrpc.endpoint.dialler import DIALLING, Dialling
from relayrpc.endpoint.host_session import HostSession
from relayrpc.endpoint.live_link import LiveLink
from relayrpc.endpoint.options import read_options
from relayrpc.endpoint.rpc_error import DeadlineExceededError, RpcError
from relayrpc.endpoint.server import Server
from relayrpc.endpoint.session import Session, SessionState
from relayrpc.limits import DEFAULT_LIMITS, Limits


if TYPE_CHECKING:
    from google.protobuf.descriptor_pool import DescriptorPool

    from relayrpc.endpoint.failure import ErrorHandler
    from relayrpc.endpoint.live_link import MakeLive


__all__ = [
    "CallbackSet",
    "Caller",
    "Channel",
    "DeadlineExceededError",
    "HostSession",
    "RpcError",
    "Server",
    "Session",
    "SessionState",
    "TLSOptions",
    "channel",
    "server",
]


def server(
    url: str | Sequence[str],
    migration_thread_pool: Executor | None = None,
    handlers: Sequence[grpc.GenericRpcHandler] | None = None,
    interceptors: Sequence[grpc.aio.ServerInterceptor] | None = None,
    options: Sequence[tuple[str, Any]] | None = None,
    maximum_concurrent_rpcs: int | None = None,
    compression: grpc.Compression | None = None,
    *,
    carrier: CarrierChoice = "auto",
    keep_trying: bool = False,
    tls: TLSOptions | None = None,
    instance: str | None = None,
    include_exception_detail: bool = False,
    strict_faults: bool | None = None,
    error_handlers: Sequence[ErrorHandler] = (),
    slots: int = 0,
    priority: int = 0,
    labels: Mapping[str, str] | None = None,
    descriptor_pool: DescriptorPool | None = None,
    validate: bool | None = None,
    limits: Limits = DEFAULT_LIMITS,
    dialling: Dialling = DIALLING,
) -> Server:
    """
    Make a server that serves through a hub.

    Args:
        url: The hub and the address, "relay://hub:7350/contoso/greeter"; without a path, each
            service has the default address that its contract declares, or else its full name. A
            sequence: hubs that take each other's place.
        carrier: "auto" moves to the hub's WebSocket door where it can; "grpc" and "websocket" pin
            one.
        migration_thread_pool: For plain `def` handlers; None: a pool of its own.
        handlers: Generic handlers to begin with.
        interceptors: Outermost first.
        options: gRPC's. Honoured: grpc.max_receive_message_length, grpc.max_send_message_length.
            Others are ignored, as gRPC ignores those it does not know.
        maximum_concurrent_rpcs: Calls beyond it are refused with RESOURCE_EXHAUSTED.
        compression: Accepted and unused.
        keep_trying: start() waits for the hub as long as it takes, instead of failing fast.
        tls: How to verify a hub reached with relays:// or wss://; None: the system's certificates.
        instance: This host's instance id; None: random.
        include_exception_detail: Tell callers the text of handlers' exceptions, as grpc.aio does.
        strict_faults: Send callers only the faults that the operation declares. None: for contracts
            of which any operation declares one. What is not sent is as any exception.
        error_handlers: Called in turn with what a handler raised, but for aborts and faults that
            are sent, and its context; the first `Fault` or `grpc.Status` that one returns is what
            the call ends with. They must not block.
        slots: Calls at once; more go to other hosts, or wait at the hub. 0: any number. Unlike
            maximum_concurrent_rpcs, nothing is refused here.
        priority: Hosts of the lowest number get the calls; above 0 this one stands by until no
            host of a lower number is there.
        labels: By which this host is found, as {"region": "eu"}; calls are not routed by them.
        descriptor_pool: Where the contracts of the services are found, for the hub to tell those
            who ask; None: where generated code registers them.
        validate: Refuse requests that break the protovalidate rules in their contract, before a
            handler sees them. None: where relayrpc[validation] is installed.
        limits: Bounds of this endpoint.
        dialling: How to reach the hub, and what time it is; relayrpc.testing gives its own.

    Raises:
        ConfigError: A URL or an option cannot be used, or what `validate` needs is not installed.
    """
    urls = parse_urls(url, carrier=carrier)
    make_live = functools.partial(
        LiveLink,
        urls,
        limits=read_options(options, limits).limits,
        tls=tls,
        instance=instance,
        keep_trying=keep_trying,
        dialling=dialling,
    )
    return Server(
        make_live,
        address=urls[0].address,
        migration_thread_pool=migration_thread_pool,
        handlers=handlers or (),
        interceptors=interceptors or (),
        maximum_concurrent_rpcs=maximum_concurrent_rpcs,
        include_exception_detail=include_exception_detail,
        strict_faults=strict_faults,
        error_handlers=error_handlers,
        slots=slots,
        priority=priority,
        labels=labels,
        descriptor_pool=descriptor_pool,
        validate=validate,
    )


def channel(
    url: str | Sequence[str],
    options: Sequence[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
    *,
    carrier: CarrierChoice = "auto",
    tls: TLSOptions | None = None,
    instance: str | None = None,
    call_credentials: grpc.CallCredentials | None = None,
    callbacks: Sequence[tuple[Callable[[Any, grpc.aio.Server], None], Any]] = (),
    include_exception_detail: bool = False,
    error_handlers: Sequence[ErrorHandler] = (),
    check_contract: bool = True,
    limits: Limits = DEFAULT_LIMITS,
    dialling: Dialling = DIALLING,
) -> Channel:
    """
    Make a channel that calls through a hub. It connects with its first call.

    Args:
        url: The hub and the address, "relay://hub:7350/contoso/greeter"; without a path, each
            service has the default address that its contract declares, or else its full name. A
            sequence: hubs that take each other's place.
        carrier: "auto" moves to the hub's WebSocket door where it can; "grpc" and "websocket" pin
            one.
        options: gRPC's. docs/reference/grpc-compatibility.md lists those that are honoured; others
            are ignored, as gRPC ignores those it does not know.
        compression: Accepted and unused.
        interceptors: grpc.aio's client interceptors, outermost first.
        tls: How to verify a hub reached with relays:// or wss://; None: the system's certificates.
        instance: This process's instance id; None: random.
        call_credentials: For every call, before its own; as with
            `grpc.composite_channel_credentials`. Only with relays:// and wss://.
        callbacks: What hosts that were called may call back, each as
            `(add_OrderEventsServicer_to_server, servicer)`.
        include_exception_detail: Tell hosts the text of exceptions that callbacks raise.
        error_handlers: As of `server()`, for callbacks.
        check_contract: The first call of a service asks the hub whether the contract of the
            generated code fits what hosts serve; where it does not, calls end with
            FAILED_PRECONDITION and the difference.
        limits: Bounds of this endpoint.
        dialling: How to reach the hub, and what time it is; relayrpc.testing gives its own.

    Raises:
        ConfigError: A URL or an option cannot be used, `callbacks` are no pairs, or an error
            handler is none.
        ValueError: An interceptor of no known kind.
        UsageError: The call credentials cannot be used.
    """
    return make_channel(
        functools.partial(
            CallbackServer,
            include_exception_detail=include_exception_detail,
            error_handlers=error_handlers,
        ),
        url,
        options,
        interceptors=interceptors,
        carrier=carrier,
        tls=tls,
        instance=instance,
        call_credentials=call_credentials,
        callbacks=callbacks,
        check_contract=check_contract,
        limits=limits,
        dialling=dialling,
    )


def make_channel(
    make_callback_server: Callable[[MakeLive], CallbackServer],
    url: str | Sequence[str],
    options: Sequence[tuple[str, Any]] | None,
    *,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
    carrier: CarrierChoice,
    tls: TLSOptions | None,
    instance: str | None,
    call_credentials: grpc.CallCredentials | None,
    callbacks: Sequence[tuple[Callable[[Any, Any], None], Any]],
    check_contract: bool,
    limits: Limits,
    dialling: Dialling = DIALLING,
) -> Channel:
    """As `channel()`, for either API: `make_callback_server` makes what serves callbacks."""
    urls = parse_urls(url, carrier=carrier)
    settings = read_options(options, limits)
    if settings.server_name is not None and (tls is None or tls.server_name is None):
        tls = replace(tls or TLSOptions(), server_name=settings.server_name)
    make_live = functools.partial(
        LiveLink, urls, limits=settings.limits, tls=tls, instance=instance, dialling=dialling
    )
    served = None
    if callbacks:
        served = make_callback_server(make_live)
        add_callbacks(callbacks, served)
    return Channel(
        make_live() if served is None else served.live,
        address=urls[0].address,
        interceptors=interceptors or (),
        options=settings,
        call_credentials=call_credentials,
        retries=make_retries(settings, random=dialling.random, has_next_hub=len(urls) > 1),
        callbacks=served,
        reads_contracts=True,
        checks_contracts=check_contract,
    )
