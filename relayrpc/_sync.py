"""
The blocking API: a gRPC server that dials out, a gRPC channel that calls through a hub, for
programs that have no event loop.

    server = relayrpc.server("relay://127.0.0.1:7350/contoso/greeter", thread_pool)
    channel = relayrpc.channel("relay://127.0.0.1:7350/contoso/greeter")

Both are good for the code that grpcio-tools generates. What cannot be honoured raises at once.
Source: DESIGN.md decisions 10 and 11.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

import grpc

from relayrpc import aio
from relayrpc.carrier.tls import TLSOptions
from relayrpc.carrier.url import CarrierChoice, parse_urls
from relayrpc.endpoint.live_link import LiveLink
from relayrpc.endpoint.options import read_options
from relayrpc.endpoint.session import SessionState
from relayrpc.endpoint.sync_callback_set import CallbackSet
from relayrpc.endpoint.sync_callbacks import CallbackServer
from relayrpc.endpoint.sync_caller import Caller
from relayrpc.endpoint.sync_channel import Channel
from relayrpc.endpoint.sync_error import DeadlineExceededError, RpcError
from relayrpc.endpoint.sync_host_session import HostSession
from relayrpc.endpoint.sync_server import Server, ServerCore
from relayrpc.endpoint.sync_session import Session
from relayrpc.errors import ConfigError
from relayrpc.limits import DEFAULT_LIMITS, Limits


if TYPE_CHECKING:
    from google.protobuf.descriptor_pool import DescriptorPool

    from relayrpc.endpoint.failure import ErrorHandler


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
    thread_pool: Executor | None = None,
    handlers: Sequence[grpc.GenericRpcHandler] | None = None,
    interceptors: Sequence[grpc.ServerInterceptor] | None = None,
    options: Sequence[tuple[str, Any]] | None = None,
    maximum_concurrent_rpcs: int | None = None,
    compression: grpc.Compression | None = None,
    xds: bool = False,
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
) -> Server:
    """
    Make a server that serves through a hub.

    Args:
        thread_pool: Runs the handlers, plain functions; None: a pool of its own. It is not shut
            down with the server.
        interceptors: Outermost first; they run on the threads of the handlers.
        include_exception_detail: Tell callers the text of handlers' exceptions, as grpc does.
        xds: Must be False: who serves a call is the hub's to choose.
        error_handlers: As for `relayrpc.aio.server`; they run on the threads of the handlers, and
            may block.
        url, handlers, options, maximum_concurrent_rpcs, compression, carrier, keep_trying, tls,
            instance, strict_faults, slots, priority, labels, descriptor_pool, validate, limits: As
            for `relayrpc.aio.server`.

    Raises:
        ConfigError: A URL or an option cannot be used.
        ValueError: An interceptor is none.
        UsageError: A generic handler does not name its service, or is async.
    """
    if xds:
        raise ConfigError("xds is not supported: who serves a call is the hub's to choose")
    urls = parse_urls(url, carrier=carrier)
    make_live = functools.partial(
        LiveLink,
        urls,
        limits=read_options(options, limits).limits,
        tls=tls,
        instance=instance,
        keep_trying=keep_trying,
    )
    core = ServerCore(
        make_live,
        address=urls[0].address,
        migration_thread_pool=thread_pool,
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
    made = Server(core)
    made.add_generic_rpc_handlers(handlers or ())
    return made


def channel(
    url: str | Sequence[str],
    options: Sequence[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
    *,
    carrier: CarrierChoice = "auto",
    tls: TLSOptions | None = None,
    instance: str | None = None,
    call_credentials: grpc.CallCredentials | None = None,
    callbacks: Sequence[tuple[Callable[[Any, grpc.Server], None], Any]] = (),
    include_exception_detail: bool = False,
    error_handlers: Sequence[ErrorHandler] = (),
    check_contract: bool = True,
    limits: Limits = DEFAULT_LIMITS,
) -> Channel:
    """
    Make a channel that calls through a hub. It connects with its first call.

    Args:
        callbacks: What hosts that were called may call back, each as
            `(add_OrderEventsServicer_to_server, servicer)`; the handlers are plain functions, and
            run on threads of the channel's own.
        url, options, compression, carrier, tls, instance, call_credentials,
        include_exception_detail, error_handlers, check_contract, limits: As for
            `relayrpc.aio.channel`. Interceptors are added with `grpc.intercept_channel`.

    Raises:
        ConfigError: A URL or an option cannot be used, `callbacks` are no pairs, or an error
            handler is none.
        UsageError: A handler of callbacks is async.
    """
    return Channel(
        aio.make_channel(
            functools.partial(
                CallbackServer,
                include_exception_detail=include_exception_detail,
                error_handlers=error_handlers,
            ),
            url,
            options,
            carrier=carrier,
            tls=tls,
            instance=instance,
            call_credentials=call_credentials,
            callbacks=callbacks,
            check_contract=check_contract,
            limits=limits,
        )
    )
