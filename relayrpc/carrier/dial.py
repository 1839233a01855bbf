"""
Opening a carrier to a hub, with every way that can fail told in one sentence that names the hub.

Owns: the client half of the WebSocket handshake, and the one place where connection errors are
translated. Does not own: trying again, resuming or moving (endpoint/live_link.py).
Source: DESIGN.md "Front doors"; docs/reference/errors.md.
"""

from __future__ import annotations

import errno
import ssl
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidMessage,
    InvalidProxyStatus,
    InvalidStatus,
    ProxyError,
    WebSocketException,
)
from websockets.frames import Frame
from websockets.http11 import Response
from websockets.protocol import Event
from websockets.typing import Subprotocol

from relayrpc.carrier.base import Carrier
from relayrpc.carrier.grpc_stream import connect_grpc
from relayrpc.carrier.tls import TLSOptions, client_ssl_context
from relayrpc.carrier.url import RelayURL
from relayrpc.carrier.websocket import (
    LIBRARY_LOGGER,
    LINK_PATH,
    LINK_SUBPROTOCOL,
    WebSocketCarrier,
)
from relayrpc.errors import ConfigError, ConnectError
from relayrpc.limits import Limits


__all__ = ["dial", "dial_websocket_url"]

_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}


async def dial(
    url: RelayURL, *, kind: Literal["grpc", "websocket"], tls: TLSOptions | None, limits: Limits
) -> Carrier:
    """
    Open one carrier to the door that `url` names. Safe to cancel.

    Args:
        url: Names the hub's gRPC door when `url.first_carrier` is "grpc", else its WebSocket door.
        kind: The carrier to open there.
        tls: Used when the URL is secure; None: the system's certificates, nothing shown.
        limits: `batch_bytes_max` and `connect_timeout_s` count here.

    Raises:
        ConnectError: If the door did not open in time, or at all.
        ConfigError: If a certificate file or the proxy setting cannot be used.
    """
    if kind == "grpc":
        return await connect_grpc(url, tls=tls, limits=limits)
    scheme = "wss" if url.is_secure else "ws"
    return await dial_websocket_url(f"{scheme}://{url.authority}", tls=tls, limits=limits)


async def dial_websocket_url(
    ws_url: str,
    *,
    tls: TLSOptions | None,
    limits: Limits,
    proxy: str | Literal[True] | None = True,
) -> Carrier:
    """
    Open a WebSocket carrier. Safe to cancel.

    Args:
        ws_url: `ws://` or `wss://`; without a path, the link's own is used.
        tls: As for `dial`.
        limits: As for `dial`.
        proxy: An HTTP proxy to CONNECT through; True: what the environment says (`https_proxy`,
            `no_proxy`); None: none.

    Raises:
        ConnectError: If the door did not open in time, or at all.
        ConfigError: If a certificate file or the proxy setting cannot be used.
    """
    parts = urlsplit(ws_url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ConfigError(f"cannot use {ws_url!r}: no ws:// or wss:// URL with a host")
    if parts.path in ("", "/"):
        ws_url = parts._replace(path=LINK_PATH).geturl()
    hub = f"{parts.netloc}" if parts.port else f"{parts.netloc}:{_DEFAULT_PORTS[parts.scheme]}"
    options: dict[str, Any] = {}
    if parts.scheme == "wss":
        options["ssl"] = client_ssl_context(tls)
        if tls is not None and tls.server_name is not None:
            options["server_hostname"] = tls.server_name
    opening = connect(
        ws_url,
        subprotocols=[Subprotocol(LINK_SUBPROTOCOL)],
        compression=None,
        open_timeout=limits.connect_timeout_s,
        ping_interval=None,
        max_size=limits.batch_bytes_max,
        proxy=proxy,
        logger=LIBRARY_LOGGER,
        create_connection=_HandshakeConnection,
        **options,
    )
    try:
        connection = await opening
    except (OSError, WebSocketException, ValueError) as error:
        raise _translated(error, hub, is_secure=parts.scheme == "wss") from error
    assert isinstance(connection, _HandshakeConnection)
    if connection.is_lost:
        raise ConnectError(f"cannot connect to {hub}: it closed right after the handshake")
    if connection.protocol.subprotocol != LINK_SUBPROTOCOL:
        connection.transport.abort()
        raise ConnectError(f"cannot connect to {hub}: its WebSocket is no {LINK_SUBPROTOCOL} door")
    connection.protocol.logger = LIBRARY_LOGGER
    return WebSocketCarrier(connection.protocol, connection.transport, early=connection.early)


class _HandshakeConnection(ClientConnection):
    """The library's connection, for as long as the handshake lasts."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.early: list[Frame] = []
        self.is_lost = False

    def process_event(self, event: Event) -> None:
        if isinstance(event, Response):
            super().process_event(event)
            # Until somebody listens to the carrier, what the hub sends waits in the socket.
            if not self.transport.is_closing():
                self.transport.pause_reading()
        else:
            assert isinstance(event, Frame)
            self.early.append(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        super().connection_lost(exc)


def _translated(error: Exception, hub: str, *, is_secure: bool) -> ConnectError:
    return ConnectError(f"cannot connect to {hub}: {_cause(error, is_secure=is_secure)}")


def _cause(error: Exception, *, is_secure: bool) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case ssl.SSLError() | ConnectionResetError() if is_secure:
            reason = getattr(error, "reason", None) or "the connection was reset"
            return f"the TLS handshake failed ({reason}); does that port speak TLS?"
        case TimeoutError():
            return "it did not answer in time"
        case InvalidStatus():
            status, body = error.response.status_code, bytes(error.response.body or b"")
            text = body[:200].decode("utf-8", "replace").strip()
            return f"it answered HTTP {status} to the WebSocket handshake{text and f': {text}'}"
        case InvalidProxyStatus():
            return f"the proxy answered HTTP {error.response.status_code} to CONNECT"
        case ProxyError():
            return f"the proxy failed: {error}"
        case InvalidMessage() | ConnectionClosed():
            hint = "" if is_secure else "; does that port want TLS, or is it the gRPC port?"
            return f"it did not answer the WebSocket handshake{hint}"
        case OSError() if f"[Errno {errno.ECONNREFUSED}]" in str(error):
            # asyncio's own texts name addresses, several of them where the name has several.
            return "connection refused"
        case OSError() if error.strerror:
            return error.strerror.lower()
        case _:
            return str(error) or type(error).__name__
