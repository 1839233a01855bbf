"""
The hub's HTTP port: reads one request head and hands the connection to whom it belongs.

Owns: listening, TLS, the head (h11, 16 KiB, a time limit, a bound on unfinished ones) and the
opening handshake of WebSocket links. Does not own: the carriers it hands on (hub/server.py).
Source: docs/adr/0011-http-front.md; RFC 9112; RFC 6455 section 4.2.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Final, cast

import h11
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.protocol import Protocol, Side
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from relayrpc.carrier.base import Carrier
from relayrpc.carrier.websocket import (
    LIBRARY_LOGGER,
    LINK_PATH,
    LINK_SUBPROTOCOL,
    WebSocketCarrier,
)
from relayrpc.limits import KIB, Limits


__all__ = ["HTTPDoor"]

_LOGGER: Final = logging.getLogger(__name__)
_HEAD_BYTES_MAX: Final = 16 * KIB
_BACKLOG: Final = 1024
# How long an answered connection may take to go away.
_CLOSE_TIMEOUT_S: Final = 5.0


class HTTPDoor:
    """
    Listens for HTTP; `on_carrier` gets each WebSocket link's carrier before anything of it was
    read.
    """

    def __init__(
        self,
        on_carrier: Callable[[Carrier], None],
        *,
        limits: Limits,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.limits = limits
        self.ssl_context = ssl_context
        self.on_carrier = on_carrier
        self._server: asyncio.Server | None = None
        # Connections that have not become a carrier; at most limits.handshakes_open_max.
        self._open: set[_HTTPConnection] = set()

    async def start(self, host: str, port: int) -> int:
        """
        Listen; returns the port, chosen by the system when 0 is asked for.

        Raises:
            OSError: If the port cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        try:
            # TLS starts inside the connection, so that handshakes count against the bound.
            self._server = await loop.create_server(
                lambda: _HTTPConnection(self), host, port, backlog=_BACKLOG
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(error.errno, f"cannot listen on {host}:{port}: {reason}") from error
        return int(self._server.sockets[0].getsockname()[1])

    def stop_listening(self) -> None:
        """Close the port at once; carriers go on. Idempotent."""
        if self._server is not None:
            self._server.close()

    async def aclose(self) -> None:
        """Close the port and drop connections that never became a carrier. Idempotent."""
        self.stop_listening()
        tasks = [c.tls_task for c in self._open if c.tls_task is not None]
        for connection in tuple(self._open):
            connection.drop()
        if tasks:
            await asyncio.wait(tasks)

    def admit(self, connection: _HTTPConnection) -> bool:
        """Count a new connection; False when as many as may be are open already."""
        if len(self._open) >= self.limits.handshakes_open_max:
            _LOGGER.debug("refused a connection: %d handshakes are open", len(self._open))
            return False
        self._open.add(connection)
        return True

    def forget(self, connection: _HTTPConnection) -> None:
        """Stop counting a connection that is gone or has become a carrier."""
        self._open.discard(connection)


class _HTTPConnection(asyncio.Protocol):
    """One accepted connection, up to the answer to its first request."""

    def __init__(self, door: HTTPDoor) -> None:
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_answered = False
        # The first bytes can overtake the task that learns of the secured transport.
        self._is_tls_pending = door.ssl_context is not None
        self.tls_task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked at run time: uvloop's transports are no subclasses.
        self._transport = cast("asyncio.Transport", transport)
        if not self._door.admit(self):
            self._transport.abort()
            return
        self._timer = self._loop.call_later(self._door.limits.handshake_timeout_s, self.drop)
        if self._door.ssl_context is not None:
            self._transport.pause_reading()
            start_tls = self._start_tls(self._transport, self._door.ssl_context)
            self.tls_task = self._loop.create_task(start_tls)

    def data_received(self, data: bytes) -> None:
        if self._is_answered:
            return
        self._http.receive_data(data)
        if not self._is_tls_pending:
            self._read_head()

    def _read_head(self) -> None:
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            self._answer(status, _REASONS.get(status, "Bad Request"), f"{error}\n")
            return
        if isinstance(event, h11.Request):
            self._request_received(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish()

    def drop(self) -> None:
        """End the connection without an answer."""
        self._finish()
        if self.tls_task is not None and not self.tls_task.done():
            self.tls_task.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def _start_tls(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        try:
            secured = await self._loop.start_tls(
                transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self._door.limits.handshake_timeout_s,
                ssl_shutdown_timeout=_CLOSE_TIMEOUT_S,
            )
        except OSError as error:
            _LOGGER.debug("a TLS handshake failed: %s", error)
            self.drop()
            return
        if secured is None:
            self.drop()
            return
        self._transport = secured
        self._is_tls_pending = False
        self._read_head()

    def _request_received(self, request: h11.Request) -> None:
        path = request.target.partition(b"?")[0].decode("ascii", "replace")
        if path == LINK_PATH:
            self._open_link(request)
        elif path == "/healthz" and request.method in (b"GET", b"HEAD"):
            self._answer(200, "OK", "ok\n", is_head=request.method == b"HEAD")
        else:
            self._answer(404, "Not Found", f"nothing at {path}\n")

    def _open_link(self, request: h11.Request) -> None:
        if request.method != b"GET" or request.http_version != b"1.1":
            self._answer(405, "Method Not Allowed", "a link opens with GET and HTTP/1.1\n")
            return
        headers = Headers((k.decode("ascii"), v.decode("latin-1")) for k, v in request.headers)
        handshake = ServerProtocol(
            subprotocols=[Subprotocol(LINK_SUBPROTOCOL)], logger=LIBRARY_LOGGER
        )
        response = handshake.accept(Request(LINK_PATH, headers))
        if response.status_code != 101:
            self._write_last(response)
            return
        assert self._transport is not None
        transport = self._transport
        transport.pause_reading()
        transport.write(response.serialize())
        protocol = Protocol(
            Side.SERVER, max_size=self._door.limits.batch_bytes_max, logger=LIBRARY_LOGGER
        )
        self._http.next_event()  # The end of the request; what follows belongs to the WebSocket.
        early = self._http.trailing_data[0]
        if early:
            protocol.receive_data(early)
        self._finish()
        self._is_answered = True
        self._door.on_carrier(
            WebSocketCarrier(protocol, transport, early=protocol.events_received())
        )

    def _answer(self, status: int, reason: str, text: str, *, is_head: bool = False) -> None:
        body = text.encode()
        headers = Headers(
            [
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ]
        )
        self._write_last(Response(status, reason, headers, b"" if is_head else body))

    def _write_last(self, response: Response) -> None:
        """Answer and close; what the peer still sends is dropped."""
        assert self._transport is not None
        self._is_answered = True
        self._transport.write(response.serialize())
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_CLOSE_TIMEOUT_S, self.drop)
        self._transport.close()

    def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._door.forget(self)


_REASONS: Final = {431: "Request Header Fields Too Large", 501: "Not Implemented"}
