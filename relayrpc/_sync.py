"""
The blocking API: a gRPC channel that calls through a hub, for programs that have no event loop.

    channel = relayrpc.channel("relay://127.0.0.1:7350/contoso/greeter")

It is good for the code that grpcio-tools generates. What cannot be honoured raises at once.
Source: DESIGN.md decisions 10 and 11.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from relayrpc import aio
from relayrpc.carrier.tls import TLSOptions
from relayrpc.carrier.url import CarrierChoice
from relayrpc.endpoint.sync_channel import Channel
from relayrpc.endpoint.sync_error import DeadlineExceededError, RpcError
from relayrpc.limits import DEFAULT_LIMITS, Limits


__all__ = ["Channel", "DeadlineExceededError", "RpcError", "TLSOptions", "channel"]


def channel(
    url: str,
    options: Sequence[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
    *,
    carrier: CarrierChoice = "auto",
    tls: TLSOptions | None = None,
    instance: str | None = None,
    call_credentials: grpc.CallCredentials | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Channel:
    """
    Make a channel that calls through a hub. It connects with its first call.

    Args:
        url, options, compression, carrier, tls, instance, call_credentials, limits: As for
            `relayrpc.aio.channel`. Interceptors are added with `grpc.intercept_channel`.

    Raises:
        ConfigError: The URL or an option cannot be used.
    """
    return Channel(
        aio.channel(
            url,
            options,
            compression,
            carrier=carrier,
            tls=tls,
            instance=instance,
            call_credentials=call_credentials,
            limits=limits,
        )
    )
