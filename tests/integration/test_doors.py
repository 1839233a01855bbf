"""The hub's doors against peers that get HTTP, gRPC or the time wrong: bytes in, the answer out."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from relayrpc.carrier.base import Carrier
from relayrpc.carrier.dial import dial
from relayrpc.carrier.url import parse_url
from relayrpc.hub.grpc_door import GRPCDoor
from relayrpc.hub.http_door import HTTPDoor
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.testing.carrier_suite import CarrierRecorder
from tests.support.carriers import Accepted, TLSFiles, dropped, open_door, tls_files
from tests.support.until import until_refused


__all__ = ["tls_files"]

PATH = "/relayrpc.v1.Link/Connect"
UPGRADE = {
    "Host": "hub",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Protocol": "relayrpc.v1",
}

pytestmark = pytest.mark.integration


def head(line: str, headers: dict[str, str]) -> bytes:
    lines = [line, *(f"{key}: {value}" for key, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def upgrade(**changes: str) -> bytes:
    headers = UPGRADE | {key.replace("_", "-"): value for key, value in changes.items()}
    return head(f"GET {PATH} HTTP/1.1", {k: v for k, v in headers.items() if v})


async def answer(port: int, request: bytes) -> bytes:
    async with connected(port) as (reader, writer), asyncio.timeout(10):
        writer.write(request)
        return await reader.read()


@contextlib.asynccontextmanager
async def connected(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize(
    ("request_bytes", "status", "text"),
    [
        (head("GET /healthz HTTP/1.1", {"Host": "hub"}), b"200 OK", b"ok\n"),
        (head("HEAD /healthz HTTP/1.1", {"Host": "hub"}), b"200 OK", b""),
        (head("GET /healthz?x HTTP/1.0", {}), b"200 OK", b"ok\n"),
        (head("GET /other HTTP/1.1", {"Host": "hub"}), b"404 Not Found", b"nothing at /other\n"),
        (head("POST /healthz HTTP/1.1", {"Host": "hub"}), b"404 Not Found", b"nothing at"),
        (b"\x00\x01\x02garbage\r\n\r\n", b"400 Bad Request", b""),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"400 Bad Request", b"Missing mandatory Host"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 17_000, b"431 Request Header Fields Too Large", b""),
        (upgrade(Sec_WebSocket_Protocol=""), b"400 Bad Request", b"missing subprotocol"),
        (upgrade(Sec_WebSocket_Protocol="chat"), b"400 Bad Request", b"relayrpc.v1"),
        (upgrade(Sec_WebSocket_Version="12"), b"400 Bad Request", b"Version"),
        (upgrade(Upgrade="", Connection=""), b"426 Upgrade Required", b"WebSocket"),
        (head(f"POST {PATH} HTTP/1.1", UPGRADE), b"405 Method Not Allowed", b"GET"),
        (head(f"GET {PATH} HTTP/1.0", UPGRADE), b"405 Method Not Allowed", b"HTTP/1.1"),
    ],
)
async def test_http_door_answers(request_bytes: bytes, status: bytes, text: bytes) -> None:
    async with open_door("websocket", Accepted()) as port:
        reply = await answer(port, request_bytes)
    reply_head, _, body = reply.partition(b"\r\n\r\n")
    assert reply_head.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert b"connection: close" in reply_head.lower()
    assert text in body
    assert bool(body) or b"HEAD" in request_bytes


async def test_http_door_drops_an_unfinished_head() -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, handshake_timeout_s=0.1)
    async with open_door("websocket", Accepted(), limits=limits) as port:
        assert await answer(port, b"GET / HTTP/1.1\r\n") == b""


@pytest.mark.parametrize("is_secure", [False, True])
async def test_http_door_bounds_unfinished_connections(
    is_secure: bool, tls_files: TLSFiles
) -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, handshakes_open_max=2)
    files = tls_files if is_secure else None
    async with (
        open_door("websocket", Accepted(), files=files, limits=limits) as port,
        connected(port),
        connected(port),
        connected(port) as (reader, _),
    ):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 10)


async def test_batch_sent_with_the_request_is_kept() -> None:
    """The handshake's last packet may bring the first frames; masked by hand: key 0."""
    accepted = Accepted()
    async with open_door("websocket", accepted) as port:
        async with connected(port) as (reader, writer):
            writer.write(upgrade() + b"\x82\x83\x00\x00\x00\x00abc")
            recorder = CarrierRecorder(await accepted.next())
            recorder.start()
            await recorder.until_received(1)
            assert recorder.batches == [b"abc"]
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        error = await recorder.until_ended()
        assert error is not None
        assert "without saying so" in str(error)


@pytest.mark.parametrize(
    ("frames", "batches", "said"),
    [
        (b"\x81\x83\x00\x00\x00\x00abc", [], "1003"),
        (b"\x02\x82\x00\x00\x00\x00ab\x80\x81\x00\x00\x00\x00c", [b"abc"], ""),
        (b"\x82\x01a", [], "1002"),
        (b"\x83\x80\x00\x00\x00\x00", [], "1002"),
        (b"\x82\xff\x00\x00\x00\x00\x00\x04\x00\x01", [], "too large"),
        (b"\x02\x81\x00\x00\x00\x00a\x80\xff" + (2**18).to_bytes(8), [], "too large"),
        (b"\x88\x82\x00\x00\x00\x00\x03\xe8", [], None),
        (b"\x88\x82\x00\x00\x00\x00\x03\xf3", [], "1011"),
    ],
    ids=["text", "fragments", "unmasked", "opcode", "size", "sum of sizes", "close", "failure"],
)  # fmt: skip
async def test_websocket_frames_by_hand(
    frames: bytes, batches: list[bytes], said: str | None
) -> None:
    accepted = Accepted()
    async with open_door("websocket", accepted) as port:
        async with connected(port) as (reader, writer):
            recorder = CarrierRecorder(await started(writer, accepted))
            recorder.start()
            writer.write(frames)
            if said != "":
                await reader.read()
            if batches:
                await recorder.until_received(len(batches))
        assert recorder.batches == batches
        error = await recorder.until_ended()
        assert (error is None) == (said is None)
        assert (said or "") in str(error)
        assert (error is not None and bool(error.detail.get("size_error"))) == (said == "too large")


async def test_peer_that_pings_and_never_reads_is_dropped() -> None:
    accepted = Accepted()
    async with open_door("websocket", accepted) as port:
        async with connected(port) as (reader, writer):
            # Else the stream reader would take what the door answers.
            reader._transport.pause_reading()  # type: ignore[attr-defined] # has no public way
            recorder = CarrierRecorder(await started(writer, accepted))
            recorder.start()
            ping = b"\x89\xfd\x00\x00\x00\x00" + b"p" * 125
            with pytest.raises(ConnectionError):
                for _ in range(5_000):
                    writer.write(ping * 100)
                    await writer.drain()
        assert await recorder.until_ended() is not None


async def started(writer: asyncio.StreamWriter, accepted: Accepted) -> Carrier:
    writer.write(upgrade())
    return await accepted.next()


async def test_doors_close_their_ports_and_keep_carriers() -> None:
    for kind, scheme in (("grpc", "relay"), ("websocket", "ws")):
        accepted = Accepted()
        door = (GRPCDoor if kind == "grpc" else HTTPDoor)(accepted, limits=DEFAULT_LIMITS)
        port = await door.start("127.0.0.1", 0)
        url = parse_url(f"{scheme}://127.0.0.1:{port}")
        carrier = await dial(url, kind=url.first_carrier, tls=None, limits=DEFAULT_LIMITS)
        near, far = CarrierRecorder(carrier), CarrierRecorder(await accepted.next())
        near.start()
        far.start()
        door.stop_listening()
        door.stop_listening()
        await until_refused(port)
        near.send(b"still")
        await far.until_received(1)
        near.carrier.close()
        await near.until_ended()
        await far.until_ended()
        await door.aclose()
        await door.aclose()


async def test_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for door in (
            HTTPDoor(Accepted(), limits=DEFAULT_LIMITS),
            GRPCDoor(Accepted(), limits=DEFAULT_LIMITS),
        ):
            with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{port}"):
                await door.start("127.0.0.1", port)


async def test_grpc_door_names_the_websocket_door_by_the_dialled_host() -> None:
    accepted = Accepted()
    door = GRPCDoor(
        accepted, limits=DEFAULT_LIMITS, websocket_url=lambda host: f"ws://{host or '?'}:1/x"
    )
    port = await door.start("127.0.0.1", 0)
    url = parse_url(f"relay://localhost:{port}")
    carrier = await dial(url, kind="grpc", tls=None, limits=DEFAULT_LIMITS)
    far = await accepted.next()
    assert far.websocket_url == "ws://localhost:1/x"
    assert (far.kind, far.is_secure, far.is_loopback) == ("grpc", False, True)
    assert far.peer.startswith("ipv4:127.0.0.1:")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(PATH)(metadata=(("relay-dialled-host", "a b"),))
        assert (await accepted.next()).websocket_url == "ws://?:1/x"
        call.cancel()
    await dropped(carrier, far)
    await door.aclose()


async def test_grpc_door_knows_no_other_method() -> None:
    async with (
        open_door("grpc", Accepted()) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/x.Y/Z")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
