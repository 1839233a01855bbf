"""
The hub's gRPC port: opens a carrier for every stream of the Link service.

Owns: the server, its credentials and its bounds. Does not own: the carriers it hands on
(hub/server.py).
Source: protos/relayrpc/v1/link.proto, service Link; DESIGN.md "Front doors".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final

import grpc
import grpc.aio

from relayrpc.carrier import uninstrumented
from relayrpc.carrier.base import Carrier
from relayrpc.carrier.grpc_stream import (
    DIALLED_HOST_KEY,
    LINK_METHOD,
    GRPCServerCarrier,
)
from relayrpc.limits import Limits


__all__ = ["GRPCDoor", "named_address"]

_HOST: Final = re.compile(r"[A-Za-z0-9._:%~-]{1,255}")
_NEVER_MS: Final = 2**31 - 1
# A status has left by then, or its client does not read.
_CLOSE_TIMEOUT_S: Final = 1.0
_ADDRESS_KEY: Final = "relay-address"


def named_address(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the address that a plain gRPC client names in its metadata; empty: none."""
    return next((str(value) for key, value in metadata if key == _ADDRESS_KEY), "")


class GRPCDoor:
    """Listens for gRPC; `on_carrier` gets each carrier before anything of it was read."""

    def __init__(
        self,
        on_carrier: Callable[[Carrier], None],
        *,
        limits: Limits,
        credentials: grpc.ServerCredentials | None = None,
        websocket_url: Callable[[str], str] | str = "",
        handlers: Sequence[grpc.GenericRpcHandler] = (),
    ) -> None:
        """
        Set the door up; nothing listens yet.

        Args:
            on_carrier: Called in the loop for every stream that opened; it must see to `start`,
                `close` or `abort`.
            limits: `links_max`, `handshakes_open_max`, `native_*`, `grpc_window_bytes`,
                `message_bytes_max` and the timeouts count here.
            credentials: None: plaintext.
            websocket_url: What carriers say about where a link may move: a URL, or a function that
                makes it from the host by which the dialler says it reached this hub ("" when it
                does not say).
            handlers: Of what else is served on this port, asked in order.
        """
        self._on_carrier = on_carrier
        self._limits = limits
        self._credentials = credentials
        self._websocket_url = websocket_url
        self._handlers = handlers
        self._server: grpc.aio.Server | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """
        Listen; returns the port, chosen by the system when 0 is asked for.

        Raises:
            OSError: If the port cannot be listened on.
        """
        limits = self._limits
        interval_ms = int(limits.keepalive_interval_s * 1000)
        server = uninstrumented.server(
            maximum_concurrent_rpcs=(
                # Links have their own bound; the gateway refuses what is beyond its own, in words.
                limits.links_max + limits.handshakes_open_max + 2 * limits.native_calls_max
            ),
            options=(
                ("grpc.max_receive_message_length", limits.message_bytes_max),
                ("grpc.max_send_message_length", limits.message_bytes_max),
                # Windows that gRPC fits to the traffic grow to 16 MiB for every stream nobody
                # reads.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.http2.lookahead_bytes", limits.grpc_window_bytes),
                ("grpc.so_reuseport", 0),
                # Only a ping tells that a plain client with calls open is gone: it has no link. The
                # answer waits behind what the client sends, so it gets its time: ADR 0015.
                ("grpc.keepalive_time_ms", interval_ms),
                ("grpc.http2.ping_timeout_ms", 2 * interval_ms),
                ("grpc.max_concurrent_streams", limits.native_streams_max),
                ("grpc.server_handshake_timeout_ms", int(limits.handshake_timeout_s * 1000)),
                ("grpc.max_metadata_size", limits.metadata_bytes_max),
            ),
        )
        server.add_generic_rpc_handlers((_LinkHandler(self._connect), *self._handlers))
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._credentials is None:
                bound_port = server.add_insecure_port(target)
            else:
                bound_port = server.add_secure_port(target, self._credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {target}: {error}") from error
        await server.start()
        self._server = server
        return int(bound_port)

    def stop_listening(self) -> None:
        """Close the port at once; open carriers go on until `aclose`. Idempotent."""
        if self._server is not None and self._stopping is None:
            stop = self._server.stop(grace=float(_NEVER_MS // 1000))
            self._stopping = asyncio.get_running_loop().create_task(stop)

    async def aclose(self) -> None:
        """
        Close the port and end what carriers are left; calls that have ended may tell their clients
        so. Idempotent.
        """
        if self._server is None:
            return
        await self._server.stop(grace=_CLOSE_TIMEOUT_S)
        if self._stopping is not None:
            await self._stopping

    async def _connect(
        self, _requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> None:
        await context.send_initial_metadata(())
        carrier = GRPCServerCarrier(
            context,
            is_secure=self._credentials is not None,
            websocket_url=self._websocket_url_for(context),
        )
        self._on_carrier(carrier)
        await carrier.served()

    def _websocket_url_for(self, context: grpc.aio.ServicerContext) -> str:
        if isinstance(self._websocket_url, str):
            return self._websocket_url
        host = next((v for k, v in context.invocation_metadata() if k == DIALLED_HOST_KEY), "")
        return self._websocket_url(host if _HOST.fullmatch(host) else "")


class _LinkHandler(grpc.GenericRpcHandler):  # type: ignore[misc] # grpcio ships no types
    """Raw bytes in and out: nothing between the wire and the link parses a batch."""

    def __init__(
        self,
        connect: Callable[[AsyncIterator[bytes], grpc.aio.ServicerContext], object],
    ) -> None:
        self._method = grpc.stream_stream_rpc_method_handler(connect)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._method if details.method == LINK_METHOD else None
