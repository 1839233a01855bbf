"""
A carrier over one gRPC bidi stream of raw bytes: one message a batch.

One task reads and one writes for as long as the carrier lives; at most one write is outstanding, so
what waits, waits where calls take turns. Does not own: the port (hub/grpc_door.py), or what a batch
means.
Source: protos/relayrpc/v1/link.proto, service Link; LINK.md "Credit, budget, fairness".
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Final
from urllib.parse import unquote

import grpc
import grpc.aio

from relayrpc.carrier import uninstrumented
from relayrpc.carrier.base import Carrier, CarrierEvents, CarrierKind
from relayrpc.carrier.tls import TLSOptions, grpc_channel_credentials
from relayrpc.carrier.url import RelayURL
from relayrpc.errors import CarrierLostError, ConnectError
from relayrpc.limits import MIB, Limits


__all__ = [
    "DIALLED_HOST_KEY",
    "LINK_METHOD",
    "MESSAGE_BYTES_MAX",
    "MESSAGE_OPTIONS",
    "GRPCClientCarrier",
    "GRPCServerCarrier",
    "connect_grpc",
]

LINK_METHOD: Final = "/relayrpc.v1.Link/Connect"

# The host by which the dialler reached the hub, so that the hub can name its WebSocket door by the
# same one.
DIALLED_HOST_KEY: Final = "relay-dialled-host"

# gRPC's own default for receiving, kept for sending: a larger batch is a fault that ends the
# carrier.
MESSAGE_BYTES_MAX: Final = 4 * MIB
MESSAGE_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
)
_NEVER_MS: Final = 2**31 - 1
_CHANNEL_OPTIONS: Final[Sequence[tuple[str, int | str]]] = (
    *MESSAGE_OPTIONS,
    # Links tell silence by their own pings; HTTP/2's make servers send GOAWAY too_many_pings.
    ("grpc.keepalive_time_ms", _NEVER_MS),
    # One connection a carrier: links must not share a fate, or wait for each other.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)
_CLOSE_TIMEOUT_S: Final = 5.0
_CANCELLATION_DELAY_S: Final = 0.02


class GRPCStreamCarrier(Carrier):
    """What both sides of a stream share: the slot for the one batch to write, and the end."""

    kind: ClassVar[CarrierKind] = "grpc"
    websocket_url = ""

    def __init__(self, *, peer: str, is_secure: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self.peer = peer
        self.is_secure = is_secure
        self.is_loopback = _is_loopback(peer)
        self.is_writable = True
        self._events: CarrierEvents | None = None
        self._pending: bytes | None = None
        # What the writer waits on while there is nothing to write.
        self._wake: asyncio.Future[None] | None = None
        self._is_closed_here = False
        self._is_aborted = False
        # The library said that the stream was cancelled from outside.
        self._is_lost = False
        self._is_oversized = False
        self._is_over = False
        self._end_error: CarrierLostError | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    def start(self, events: CarrierEvents) -> None:
        assert self._events is None, "a carrier is started once"
        self._events = events
        if self._is_over:
            self._loop.call_soon(events.carrier_ended, self._end_error)
            return
        self._start_tasks()

    def send_nowait(self, batch: bytes) -> None:
        if self._is_closed_here or self._is_aborted or self._is_over:
            return
        assert self._pending is None, "one batch at a time"
        if len(batch) > MESSAGE_BYTES_MAX:
            # The peer's library would end the stream and not tell everyone why.
            self._is_oversized = True
            self.abort()
            return
        self._pending = batch
        self.is_writable = False
        self._wake_writer()

    def close(self) -> None:
        if self._is_closed_here or self._is_aborted or self._is_over:
            return
        self._is_closed_here = True
        self.is_writable = False
        self._close_timer = self._loop.call_later(_CLOSE_TIMEOUT_S, self._cancel_stream)
        self._start_tasks()
        self._wake_writer()

    def abort(self) -> None:
        if self._is_aborted or self._is_over:
            return
        self._is_aborted = True
        self.is_writable = False
        self._pending = None
        self._start_tasks()
        self._cancel_stream()
        self._wake_writer()

    # --- the two tasks ---

    def _start_tasks(self) -> None:
        if self._reader is None:
            self._reader = self._loop.create_task(self._read_all())
            self._writer = self._loop.create_task(self._write_all())

    def _wake_writer(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _read_all(self) -> None:
        """Hand on every batch, then see to the end; the last of the carrier to run."""
        error: CarrierLostError | None
        try:
            while True:
                batch = await self._read()
                if batch is None:
                    break
                if not (self._is_closed_here or self._is_aborted) and self._events is not None:
                    self._events.batch_received(batch)
            error = await self._outcome()
        except (grpc.RpcError, grpc.aio.BaseError) as failure:
            error = _translated(failure, self.peer)
        except asyncio.CancelledError:
            if not (self._is_closed_here or self._is_aborted or self._is_lost):
                raise  # Not the stream was cancelled but this task: the loop is being shut down.
            error = CarrierLostError(f"{self.peer} cancelled the gRPC stream")
        await self._finish(error)

    async def _write_all(self) -> None:
        # Network trouble ends the reader too, which knows the reason.
        with contextlib.suppress(grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
            while not self._is_aborted and not self._is_over:
                batch = self._pending
                if batch is not None:
                    await self._write(batch)
                    self._pending = None
                    self._written()
                elif self._is_closed_here:
                    await self._end_writing()
                    return
                else:
                    self._wake = self._loop.create_future()
                    await self._wake

    def _written(self) -> None:
        if self._is_closed_here or self._is_aborted or self._is_over:
            return
        self.is_writable = True
        if self._events is not None:
            self._events.writable()

    async def _finish(self, error: CarrierLostError | None) -> None:
        if self._close_timer is not None:
            self._close_timer.cancel()
        self.is_writable = False
        self._end_error = self._own_end(error)
        self._is_over = True
        self._pending = None
        assert self._writer is not None
        self._stop_writing()
        await asyncio.wait([self._writer])
        # A task that was cancelled holds its frames, and so the call and its connection.
        self._writer = None
        await self._release()
        if self._events is not None:
            self._events.carrier_ended(self._end_error)

    def _own_end(self, error: CarrierLostError | None) -> CarrierLostError | None:
        if self._is_oversized:
            return _too_large(self.peer)
        if error is not None and error.detail.get("size_error"):
            return error
        if self._is_closed_here:
            return None
        if self._is_aborted:
            return CarrierLostError(f"the gRPC stream with {self.peer} was dropped here")
        return error

    # --- what differs between the sides ---

    @abstractmethod
    async def _read(self) -> bytes | None:
        """The next batch; None when the peer will send no more."""

    @abstractmethod
    async def _write(self, batch: bytes) -> None: ...

    @abstractmethod
    async def _end_writing(self) -> None: ...

    @abstractmethod
    def _stop_writing(self) -> None:
        """Have the writer end; the stream is over."""

    @abstractmethod
    async def _outcome(self) -> CarrierLostError | None:
        """Why `_read` returned None; None for an orderly end."""

    @abstractmethod
    def _cancel_stream(self) -> None: ...

    @abstractmethod
    async def _release(self) -> None: ...


class GRPCClientCarrier(GRPCStreamCarrier):
    """The dialling side: owns its channel."""

    def __init__(self, channel: grpc.aio.Channel, call: Any, *, peer: str, is_secure: bool) -> None:
        super().__init__(peer=peer, is_secure=is_secure)
        self._channel = channel
        self._call = call

    async def _read(self) -> bytes | None:
        batch = await self._call.read()
        return None if batch is grpc.aio.EOF else batch

    async def _write(self, batch: bytes) -> None:
        await self._call.write(batch)

    async def _end_writing(self) -> None:
        await self._call.done_writing()

    def _stop_writing(self) -> None:
        # Its task is not cancelled: what it has begun ends with the call, and gRPC tells the loop
        # so, which may be closed by then. It tells by way of other loops of the process.
        self._call.cancel()
        self._wake_writer()

    async def _outcome(self) -> CarrierLostError | None:
        code = await self._call.code()
        if code is grpc.StatusCode.OK:
            return None
        return _lost(code, await self._call.details(), self.peer)

    def _cancel_stream(self) -> None:
        self._call.cancel()

    async def _release(self) -> None:
        await self._channel.close()
        # The library keeps the connection for as long as somebody holds one of these.
        del self._call, self._channel


class GRPCServerCarrier(GRPCStreamCarrier):
    """The hub's side: lives inside the handler of its stream, which awaits `served`."""

    def __init__(
        self, context: grpc.aio.ServicerContext, *, is_secure: bool, websocket_url: str
    ) -> None:
        super().__init__(peer=unquote(context.peer()), is_secure=is_secure)
        self.websocket_url = websocket_url
        self._context = context
        self._released: asyncio.Future[None] = self._loop.create_future()
        self._cancelled: asyncio.Future[None] = self._loop.create_future()

    async def served(self) -> None:
        """Return, or raise gRPC's abort, once the carrier is over."""
        try:
            await asyncio.shield(self._released)
        except asyncio.CancelledError:
            self._is_lost = True
            self._cancelled.set_result(None)
            if not self._is_over:
                self._start_tasks()
                self._cancel_stream()
                await self._released
            raise
        if self._is_aborted:
            await self._context.abort(grpc.StatusCode.UNAVAILABLE, "the hub dropped the carrier")

    async def _read(self) -> bytes | None:
        batch: bytes | Any = await self._context.read()
        return None if batch is grpc.aio.EOF else batch

    async def _write(self, batch: bytes) -> None:
        await self._context.write(batch)

    async def _end_writing(self) -> None:
        # Leaving the handler ends the stream with OK.
        self._cancel_stream()

    def _stop_writing(self) -> None:
        # The stream goes on until its handler returns, and with it a write that nobody reads.
        assert self._writer is not None
        self._writer.cancel()

    async def _outcome(self) -> CarrierLostError | None:
        # A cancelled stream shows as an end of its messages first, and as a cancellation a moment
        # later.
        await asyncio.wait([self._cancelled], timeout=_CANCELLATION_DELAY_S)
        return CarrierLostError(f"lost the gRPC stream with {self.peer}") if self._is_lost else None

    def _cancel_stream(self) -> None:
        # Not at once: a task that is cancelled before its first turn never runs, and has no end.
        self._loop.call_soon(self._cancel_reader)

    def _cancel_reader(self) -> None:
        assert self._reader is not None
        if not self._is_over:
            self._reader.cancel()

    async def _release(self) -> None:
        self._released.set_result(None)


async def connect_grpc(url: RelayURL, *, tls: TLSOptions | None, limits: Limits) -> Carrier:
    """
    Open a stream to a hub's gRPC door. Safe to cancel.

    Raises:
        ConnectError: If it did not open in time, or at all.
        ConfigError: If a certificate file cannot be used.
    """
    channel = _channel(url, tls)
    try:
        async with asyncio.timeout(limits.connect_timeout_s):
            call = channel.stream_stream(LINK_METHOD)(metadata=((DIALLED_HOST_KEY, url.host),))
            await call.wait_for_connection()
            await call.initial_metadata()
            if call.done():
                await call.read()  # Raises the status; an OK one says that the door closed at once.
                raise ConnectError(f"cannot connect to {url.authority}: it closed the stream")
    except TimeoutError as error:
        await channel.close()
        raise ConnectError(
            f"cannot connect to {url.authority}: it did not answer in time"
        ) from error
    except grpc.RpcError as error:
        await channel.close()
        raise ConnectError(f"cannot connect to {url.authority}: {_cause(error, url)}") from error
    except BaseException:
        await channel.close()
        raise
    return GRPCClientCarrier(channel, call, peer=_dialled_peer(url), is_secure=url.is_secure)


def _channel(url: RelayURL, tls: TLSOptions | None) -> grpc.aio.Channel:
    options: list[tuple[str, int | str]] = list(_CHANNEL_OPTIONS)
    if not url.is_secure:
        return uninstrumented.insecure_channel(url.authority, options=options)
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    credentials = grpc_channel_credentials(tls)
    return uninstrumented.secure_channel(url.authority, credentials, options=options)


def _cause(error: grpc.RpcError, url: RelayURL) -> str:
    details = str(getattr(error, "details", lambda: "")() or "no details")
    code = getattr(error, "code", lambda: None)()
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return "that gRPC server is no relay hub"
    details = details.removeprefix("failed to connect to all addresses; last error: ")
    if "CERTIFICATE_VERIFY_FAILED" in details or "Hostname Verification" in details:
        return f"its certificate is not trusted: {details}"
    if "Ssl handshake failed" in details or "WRONG_VERSION_NUMBER" in details:
        return f"the TLS handshake failed ({details}); does that port speak TLS?"
    if "Connection refused" in details:
        return "connection refused"
    if details.startswith("errors resolving "):
        return "name or service not known"
    hint = "" if url.is_secure else "; does that port want TLS (relays://), or is it the HTTP port?"
    return details + hint


def _translated(error: Exception, peer: str) -> CarrierLostError:
    if isinstance(error, grpc.aio.AioRpcError):
        return _lost(error.code(), error.details(), peer)
    return CarrierLostError(f"lost the gRPC stream with {peer}: {error}")


def _lost(code: grpc.StatusCode, details: str | None, peer: str) -> CarrierLostError:
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return _too_large(peer)
    return CarrierLostError(f"lost the gRPC stream with {peer}: {code.name}, {details}")


def _too_large(peer: str) -> CarrierLostError:
    return CarrierLostError(f"a batch was too large for the gRPC stream with {peer}", size_error=1)


def _dialled_peer(url: RelayURL) -> str:
    try:
        version = ipaddress.ip_address(url.host.partition("%")[0]).version
    except ValueError:
        return f"dns:{url.authority}"
    return f"ipv{version}:{url.authority}"


def _is_loopback(peer: str) -> bool:
    kind, _, rest = peer.partition(":")
    if kind == "unix":
        return True
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    if kind == "dns":
        return host == "localhost"
    ip = ipaddress.ip_address(host)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback
