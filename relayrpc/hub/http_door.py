"""
The hub's HTTP port: reads one request head and hands the connection to whom it belongs.

Owns: listening, TLS, the head (h11, 16 KiB, a time limit, a bound on unfinished ones) and the
opening handshake of WebSocket links. Does not own: the carriers it hands on (hub/server.py).
Source: docs/adr/0011-http-front.md; RFC 9112; RFC 6455 section 4.2.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


__all__ = ["Answer", "HTTPDoor"]

_LOGGER: Final = logging.getLogger(__name__)
_HEAD_BYTES_MAX: Final = 16 * KIB
# Answers above it are those that `Limits.scrapes_open_max` counts.
_SMALL_ANSWER_BYTES: Final = 16 * KIB
_BACKLOG: Final = 1024
_ACCEPT_PAUSE_S: Final = 1.0
# How long an answered connection may take to go away.
_CLOSE_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page says."""

    body: bytes
    status: int = 200
    reason: str = "OK"
    content_type: str = "text/plain; charset=utf-8"


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
        pages: Mapping[str, Callable[[], Answer]] | None = None,
    ) -> None:
        """
        Args:
            on_carrier: Called in the loop; it must see to `start`, `close` or `abort`.
            limits: `handshakes_open_max`, `handshake_timeout_s` and `scrapes_open_max` count here.
            ssl_context: None: plaintext.
            pages: What GET and HEAD answer, by path, beside /healthz; each must be quick and must
                not raise.
        """
        self.limits = limits
        self.pages = {"/healthz": lambda: Answer(b"ok\n"), **(pages or {})}
        # Connections with a large answer on its way; at most limits.scrapes_open_max.
        self.scrapes: set[_HTTPConnection] = set()
        self.ssl_context = ssl_context
        self.on_carrier = on_carrier
        self._listening: list[socket.socket] = []
        # Connections that have not become a carrier; at most limits.handshakes_open_max.
        self._open: set[_HTTPConnection] = set()
        # While aclose() waits for them to be gone.
        self._emptied: asyncio.Future[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """
        Listen; returns the port, chosen by the system when 0 is asked for.

        Raises:
            OSError: If the port cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, *_, name in dict.fromkeys(found):
                # What the system chose for the first address is the port for all.
                name = (name[0], port or name[1], *name[2:])
                listener = socket.create_server(name, family=family, backlog=_BACKLOG)
                self._listening.append(listener)
                port = listener.getsockname()[1]
        except OSError as error:
            self.stop_listening()
            reason = error.strerror or str(error)
            raise OSError(error.errno, f"cannot listen on {host}:{port}: {reason}") from error
        for listener in self._listening:
            listener.setblocking(False)
            loop.add_reader(listener, self._accept, listener)
        return port

    def stop_listening(self) -> None:
        """Close the port at once; carriers go on. Idempotent."""
        loop = asyncio.get_running_loop()
        for listener in self._listening:
            loop.remove_reader(listener)
            listener.close()
        self._listening.clear()

    async def aclose(self) -> None:
        """Close the port and drop connections that never became a carrier. Idempotent."""
        self.stop_listening()
        for connection in tuple(self._open):
            connection.drop()
        while self._open:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    def forget(self, connection: _HTTPConnection) -> None:
        """Stop counting a connection that is gone or has become a carrier."""
        self._open.discard(connection)
        self.scrapes.discard(connection)
        if not self._open and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def _accept(self, listener: socket.socket) -> None:
        # By hand, because a server of the loop's own does not count handshakes of TLS.
        for _ in range(_BACKLOG):
            try:
                accepted, _name = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause_accepting(listener, error)
                return
            accepted.setblocking(False)
            if len(self._open) >= self.limits.handshakes_open_max:
                _LOGGER.debug("refused a connection: %d handshakes are open", len(self._open))
                accepted.close()
                continue
            connection = _HTTPConnection(self)
            self._open.add(connection)
            connection.open(accepted)

    def _pause_accepting(self, listener: socket.socket, error: OSError) -> None:
        """Without file descriptors the port would stay readable, and the loop would spin."""
        _LOGGER.error("cannot accept connections for a moment: %s", error)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        loop.call_later(_ACCEPT_PAUSE_S, self._resume_accepting, listener)

    def _resume_accepting(self, listener: socket.socket) -> None:
        if listener in self._listening:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)


class _HTTPConnection(asyncio.Protocol):
    """One accepted connection, up to the answer to its first request."""

    def __init__(self, door: HTTPDoor) -> None:
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_answered = False
        # Makes the transport, and the TLS handshake with it.
        self.opening: asyncio.Task[None] | None = None

    def open(self, accepted: socket.socket) -> None:
        """Begin, with the time limit running."""
        self._timer = self._loop.call_later(self._door.limits.handshake_timeout_s, self.drop)
        self.opening = self._loop.create_task(self._open(accepted))

    async def _open(self, accepted: socket.socket) -> None:
        context = self._door.ssl_context
        options: dict[str, float] = {}
        if context is not None:
            options["ssl_handshake_timeout"] = self._door.limits.handshake_timeout_s
            options["ssl_shutdown_timeout"] = _CLOSE_TIMEOUT_S
        try:
            await self._loop.connect_accepted_socket(lambda: self, accepted, ssl=context, **options)
        except OSError as error:
            _LOGGER.debug("a connection did not open: %s", error)
        finally:
            if self._transport is None:
                self._finish()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked at run time: uvloop's transports are no subclasses.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._is_answered:
            return
        self._http.receive_data(data)
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
        """End the connection without an answer; it counts until it is gone."""
        if self._transport is not None:
            self._transport.abort()
        elif self.opening is not None:
            self.opening.cancel()

    def _request_received(self, request: h11.Request) -> None:
        path = request.target.partition(b"?")[0].decode("ascii", "replace")
        if path == LINK_PATH:
            self._open_link(request)
        elif path in self._door.pages and request.method in (b"GET", b"HEAD"):
            self._answer_page(self._door.pages[path](), is_head=request.method == b"HEAD")
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

    def _answer_page(self, page: Answer, *, is_head: bool) -> None:
        """Answer with a page, unless too many large ones wait for readers that are slow."""
        door = self._door
        if len(page.body) > _SMALL_ANSWER_BYTES and not is_head:
            if len(door.scrapes) >= door.limits.scrapes_open_max:
                self._answer(503, "Service Unavailable", "too many large answers on their way\n")
                return
            door.scrapes.add(self)
        self._write_page(page, is_head=is_head)

    def _answer(self, status: int, reason: str, text: str) -> None:
        self._write_page(Answer(text.encode(), status, reason))

    def _write_page(self, page: Answer, *, is_head: bool = False) -> None:
        headers = Headers(
            [
                ("Content-Type", page.content_type),
                ("Content-Length", str(len(page.body))),
                ("Connection", "close"),
            ]
        )
        body = b"" if is_head else page.body
        self._write_last(Response(page.status, page.reason, headers, body))

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
