"""
A carrier over one WebSocket: one binary message a batch, handled where its bytes arrive.

`WebSocketCarrier` is an asyncio protocol for both sides; the library's sans-I/O core parses and
frames. Neither a task nor a future nor a queue exists per message, and what a slow peer leaves
unsent is bounded by the transport's write limits. Does not own: the HTTP head on the hub's side
(hub/http_door.py), or what a batch means.
Source: protos/relayrpc/v1/link.proto, service Link; LINK.md "Speed: the mechanism"; RFC 6455.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Sequence
from typing import Any, ClassVar, Final, cast

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import SEND_EOF, Event, Protocol, State

from relayrpc.carrier.base import Carrier, CarrierEvents, CarrierKind
from relayrpc.errors import CarrierLostError
from relayrpc.limits import KIB


__all__ = ["LIBRARY_LOGGER", "LINK_PATH", "LINK_SUBPROTOCOL", "WebSocketCarrier", "peer_text"]

LINK_PATH: Final = "/relayrpc.v1.Link/Connect"
LINK_SUBPROTOCOL: Final = "relayrpc.v1"

# The library logs every frame with its payload at DEBUG; batches must never reach a log.
LIBRARY_LOGGER: Final = logging.getLogger("relayrpc.carrier.websocket.library")
LIBRARY_LOGGER.setLevel(logging.WARNING)

_UNSENT_BYTES_HIGH: Final = 64 * KIB
# Pongs answer pings whether or not the peer reads; beyond this the peer is not one to keep.
_UNSENT_BYTES_MAX: Final = 1024 * KIB
_CLOSE_TIMEOUT_S: Final = 5.0
_ORDERLY: Final = (CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RCVD)


class WebSocketCarrier(asyncio.Protocol, Carrier):
    """
    An open WebSocket, of either side.

    The transport must be paused for reading when it is taken over; `start` resumes it.
    """

    kind: ClassVar[CarrierKind] = "websocket"
    websocket_url = ""

    def __init__(
        self, protocol: Protocol, transport: asyncio.Transport, *, early: Sequence[Event] = ()
    ) -> None:
        """
        Take over a connection whose opening handshake is done.

        Args:
            protocol: The library's state, with extensions off; no more OPEN when the peer's close
                came with the handshake, too.
            transport: Its connection; it serves this object from now on.
            early: Frames that arrived with the handshake, in order.
        """
        self._protocol = protocol
        self._transport = transport
        self._early = early
        self._loop = asyncio.get_running_loop()
        self._events: CarrierEvents | None = None
        # Batches are handed on only between start() and the end of either kind.
        self._is_delivering = False
        # No more batches are taken.
        self._is_closing = protocol.state is not State.OPEN
        self._is_closed_here = False
        self._is_aborted = False
        self._is_over = False
        self._end_error: CarrierLostError | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        # Payloads of a message whose last fragment is still to come; the library bounds their sum.
        self._fragments: list[bytes] = []

        self.peer, self.is_loopback = peer_text(transport.get_extra_info("peername"))
        self.is_secure = transport.get_extra_info("sslcontext") is not None
        self.is_writable = not self._is_closing
        # Nothing is held back for the end of the turn, as uvloop does below its mark: what the
        # socket does not take at once waits here, and pauses the link. Not 0: asyncio's TLS
        # transport would count an empty buffer as full.
        transport.set_write_buffer_limits(high=1)
        _tune_socket(transport.get_extra_info("socket"))
        transport.set_protocol(self)

    def start(self, events: CarrierEvents) -> None:
        assert self._events is None, "a carrier is started once"
        self._events = events
        early, self._early = self._early, ()
        self._is_delivering = not self._is_closed_here and not self._is_aborted
        self._frames_received(early)
        if self._is_over:
            self._is_delivering = False
            self._loop.call_soon(events.carrier_ended, self._end_error)
        elif not self._transport.is_closing():
            self._transport.resume_reading()
        if self._is_closing:
            self._end_soon()

    def send_nowait(self, batch: bytes) -> None:
        if self._is_closing:
            return
        protocol = self._protocol
        protocol.send_binary(batch)
        for data in protocol.data_to_send():
            self._transport.write(data)

    def close(self) -> None:
        if self._is_closed_here or self._is_aborted or self._is_over:
            return
        self._is_closed_here = True
        self._is_closing = True
        self._is_delivering = False
        self.is_writable = False
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
            self._write(self._protocol.data_to_send())
        if not self._transport.is_closing():
            self._transport.resume_reading()
        self._end_soon()

    def abort(self) -> None:
        if self._is_over or self._is_aborted:
            return
        self._is_aborted = True
        self._is_closing = True
        self._is_delivering = False
        self.is_writable = False
        self._transport.abort()

    # --- asyncio.Protocol ---

    def data_received(self, data: bytes) -> None:
        protocol = self._protocol
        protocol.receive_data(data)
        frames = protocol.events_received()
        writes = protocol.data_to_send()
        if writes:
            self._answer(writes)
        self._frames_received(frames)

    def eof_received(self) -> None:
        # The transport closes by itself afterwards.
        self._is_closing = True
        self._protocol.receive_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_error = self._reason(exc)
        self._is_over = True
        self._is_closing = True
        self._is_delivering = False
        self.is_writable = False
        self._fragments.clear()
        if self._close_timer is not None:
            self._close_timer.cancel()
        if self._events is not None:
            self._events.carrier_ended(self._end_error)

    def pause_writing(self) -> None:
        self.is_writable = False

    def resume_writing(self) -> None:
        if self._is_closing:
            return
        self.is_writable = True
        if self._events is not None:
            self._events.writable()

    # --- frames ---

    def _frames_received(self, frames: Sequence[Event]) -> None:
        for frame in frames:
            # Checked each time: the listener may close or abort from within.
            if not self._is_delivering:
                return
            assert isinstance(frame, Frame)
            if frame.opcode is Opcode.BINARY and frame.fin:
                self._deliver(bytes(frame.data))
            elif frame.opcode is Opcode.TEXT:
                self._fail(CloseCode.UNSUPPORTED_DATA, "a batch is a binary message")
            elif frame.opcode is Opcode.BINARY or frame.opcode is Opcode.CONT:
                self._fragment_received(frame)

    def _fragment_received(self, frame: Frame) -> None:
        self._fragments.append(bytes(frame.data))
        if frame.fin:
            batch = b"".join(self._fragments)
            self._fragments.clear()
            self._deliver(batch)

    def _deliver(self, batch: bytes) -> None:
        assert self._events is not None
        self._events.batch_received(batch)

    def _fail(self, code: CloseCode, reason: str) -> None:
        self._protocol.fail(code, reason)
        self._answer(self._protocol.data_to_send())
        self._is_delivering = False

    def _answer(self, writes: Sequence[bytes]) -> None:
        """Send what the library answers by itself: pongs, and its part of a closing handshake."""
        if self._protocol.state is not State.OPEN:
            self._is_closing = True
            self.is_writable = False
        self._write(writes)
        if self._is_closing:
            self._end_soon()
        elif self._transport.get_write_buffer_size() > _UNSENT_BYTES_MAX:
            self.abort()

    def _write(self, writes: Sequence[bytes]) -> None:
        for data in writes:
            if data != SEND_EOF:
                self._transport.write(data)
            elif self._protocol.close_rcvd is not None:
                self._transport.close()
            else:
                # This side failed the connection. Closing now, with the peer's bytes unread, would
                # reset it and could take the close code with it: the peer must see it first. It
                # closes, or the timer does.
                with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
                    self._transport.write_eof()

    def _end_soon(self) -> None:
        """Bound the time until the connection is gone, whatever the peer does."""
        if self._is_failed_by_peer():
            self._transport.close()
        if self._close_timer is None and not self._is_over:
            self._close_timer = self._loop.call_later(_CLOSE_TIMEOUT_S, self._transport.abort)

    # --- the end ---

    def _is_failed_by_peer(self) -> bool:
        close = self._protocol.close_rcvd
        return close is not None and close.code not in _ORDERLY

    def _reason(self, exc: Exception | None) -> CarrierLostError | None:
        received, sent = self._protocol.close_rcvd, self._protocol.close_sent
        for close in (received, sent):
            if close is not None and close.code == CloseCode.MESSAGE_TOO_BIG:
                text = f"a batch was too large for the WebSocket with {self.peer}"
                return CarrierLostError(text, size_error=1)
        if self._is_closed_here:
            return None
        if self._is_aborted:
            return CarrierLostError(f"the WebSocket with {self.peer} was dropped here")
        if received is not None:
            if received.code in _ORDERLY:
                return None
            return CarrierLostError(f"{self.peer} ended the WebSocket with {received}")
        if sent is not None:
            return CarrierLostError(f"{self.peer} broke the WebSocket protocol: {sent}")
        cause = str(exc) if exc is not None else "it closed without saying so"
        return CarrierLostError(f"lost the WebSocket with {self.peer}: {cause}")


def peer_text(peername: Any) -> tuple[str, bool]:
    """
    A socket's peer name as gRPC writes it ("ipv4:127.0.0.1:51234"), and whether it is on this
    machine.
    """
    if not isinstance(peername, tuple):
        # Unix sockets have a path, often empty; a transport that is already closed has nothing.
        return f"unix:{peername or ''}", True
    host, port = cast("tuple[str, int]", peername[:2])
    ip = ipaddress.ip_address(host.partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    is_loopback = (mapped or ip).is_loopback
    return (f"ipv4:{host}:{port}" if ip.version == 4 else f"ipv6:[{host}]:{port}"), is_loopback


def _tune_socket(sock: socket.socket | None) -> None:
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # What the kernel holds unsent cannot be overtaken by small frames either.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES_HIGH)
