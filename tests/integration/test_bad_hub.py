"""
Goal: whatever a hub or a peer behind it sends, an endpoint's calls end with a status and its
handlers see only what a caller may send; nothing else is raised, and the endpoint goes on.

Method: a hand-made hub (a WebSocket server that answers with scripted batches) under real channels
and servers, and hand-made callers through a real hub to a real server. The test's log is searched
for exceptions that went astray.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import pytest
import pytest_asyncio
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

import relayrpc
import relayrpc.aio
from relayrpc.errors import RelayError
from relayrpc.v1 import link_pb2 as pb
from tests.integration.peers import calling, recording
from tests.integration.recorder import SERVICE, Recorder
from tests.integration.watched_hub import WatchedHub
from tests.support.raw_peer import RawLink, batch, frame, open_frame, open_raw


pytestmark = pytest.mark.integration

_UINT64_MAX: Final = 2**64 - 1


@pytest.fixture(autouse=True)
def nothing_went_astray(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """What asyncio's loop reports of callbacks and tasks comes as errors of its logger."""
    with caplog.at_level(logging.ERROR, logger="asyncio"):
        yield  # type: ignore[misc]  # a generator fixture
    # Those of the test itself: `caplog.records` are of the phase that runs.
    records = [*caplog.get_records("call"), *caplog.records]
    assert [record.getMessage() for record in records if record.name == "asyncio"] == []


def _welcome(**fields: object) -> bytes:
    defaults: dict[str, object] = {
        "version": 1,
        "link_id": bytes(16),
        "secret": bytes(32),
        "epoch": bytes(16),
    }
    return batch(frame(welcome=pb.Welcome(**{**defaults, **fields})))  # type: ignore[arg-type]


@asynccontextmanager
async def _hub_that_says(*answers: bytes, to_first_batch: bytes = b"") -> AsyncIterator[int]:
    """
    Answer the first message of a carrier with `answers`, and the second with `to_first_batch`.

    Yields its port.
    """

    async def connected(connection: ServerConnection) -> None:
        try:
            await connection.recv()
            for answer in answers:
                await connection.send(answer)
            await connection.recv()
            if to_first_batch:
                await connection.send(to_first_batch)
            await connection.wait_closed()
        except ConnectionClosed:
            return

    async with serve(
        connected,
        "127.0.0.1",
        0,
        subprotocols=[Subprotocol("relayrpc.v1")],
        compression=None,
        max_size=None,
    ) as server:
        yield next(iter(server.sockets)).getsockname()[1]


_NO_WELCOMES: Final = {
    "garbage": b"\xff" * 50,
    "nothing": b"",
    "an empty batch": batch(ack=3),
    "a numbered welcome": batch(frame(welcome=pb.Welcome(version=1)), number=1),
    "an open": batch(open_frame(2), number=1),
    "another version": _welcome(version=2),
    "no version": _welcome(version=0),
    "no link id": _welcome(link_id=b""),
    "a short secret": _welcome(secret=b"x"),
    "tiny batches": _welcome(limits=pb.LinkLimits(batch_bytes_max=5)),
    "expired": batch(frame(expired=pb.Expired(reason="never heard of it"))),
    "a close": batch(frame(close=pb.Close(code=pb.Close.CODE_REFUSED, reason="go away"))),
    "a close of an unknown code": batch(frame(close=pb.Close(code=-5))),  # type: ignore[arg-type]
    "an orderly close": batch(frame(close=pb.Close())),
}


@pytest.mark.parametrize("case", list(_NO_WELCOMES))
async def test_caller_is_told_when_the_hub_does_not_welcome(case: str) -> None:
    async with (
        _hub_that_says(_NO_WELCOMES[case]) as port,
        calling(f"ws://127.0.0.1:{port}/a") as stub,
    ):
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await stub.echo(b"x", timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not caught.value.may_have_executed


@pytest.mark.parametrize("case", list(_NO_WELCOMES))
async def test_server_does_not_start_when_the_hub_does_not_welcome(case: str) -> None:
    async with _hub_that_says(_NO_WELCOMES[case]) as port:
        with pytest.raises(RelayError):
            async with recording(f"ws://127.0.0.1:{port}/a"):
                pytest.fail("it started")


_COME_AGAIN: Final = batch(frame(close=pb.Close(code=pb.Close.CODE_LIMIT, reason="come again")))


@pytest.mark.parametrize(
    ("answers", "told"), [([_COME_AGAIN], "come again"), ([], "dropped the connection")]
)
async def test_hub_that_closes_together_with_its_handshake_is_understood(
    answers: list[bytes], told: str
) -> None:
    """The connection is closing before the link has it: nothing can be sent any more."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = ServerProtocol(subprotocols=[Subprotocol("relayrpc.v1")])
        protocol.receive_data(await reader.readuntil(b"\r\n\r\n"))
        (request,) = protocol.events_received()
        assert isinstance(request, Request)
        protocol.send_response(protocol.accept(request))
        for answer in answers:
            protocol.send_binary(answer)
        protocol.send_close(CloseCode.NORMAL_CLOSURE)
        writer.write(b"".join(protocol.data_to_send()))
        # Its close comes back; whoever accepted is the one to end the connection.
        await reader.read(1)
        writer.close()
        await writer.wait_closed()
        left.set()

    left = asyncio.Event()
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(RelayError, match=told):
            async with recording(f"ws://127.0.0.1:{port}/a"):
                pytest.fail("it started")
        await left.wait()


_BAD_ANSWERS: Final = {
    "garbage": b"\xff" * 50,
    "a gap": batch(frame(1, end=pb.End()), number=7),
    "an ack of what was not sent": batch(frame(1, end=pb.End()), number=1, ack=_UINT64_MAX),
    "an end of another call": batch(frame(5, end=pb.End()), number=1),
    "an open of the callers parity": batch(open_frame(3), number=1),
    "begin twice": batch(frame(1, begin=pb.Begin()), frame(1, begin=pb.Begin()), number=1),
    "a cancel": batch(frame(1, cancel=pb.Cancel()), number=1),
    "a half close": batch(frame(1, half_close=True), number=1),
    "a grant of nothing": batch(frame(1, grant=0), number=1),
    "a second welcome": _welcome(),
    "a close": batch(frame(close=pb.Close(code=pb.Close.CODE_SHUTDOWN))),
}


@pytest.mark.parametrize("case", list(_BAD_ANSWERS))
async def test_call_ends_unavailable_when_the_hub_breaks_the_protocol(case: str) -> None:
    answer = _BAD_ANSWERS[case]
    async with (
        _hub_that_says(_welcome(), to_first_batch=answer) as port,
        calling(f"ws://127.0.0.1:{port}/a") as stub,
    ):
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await stub.echo(b"x", timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.may_have_executed


_SOUND: Final = b"\x00\x00\x00\x01x"
_BAD_ENDS: Final[dict[str, tuple[pb.End, grpc.StatusCode]]] = {
    "no message": (pb.End(), grpc.StatusCode.UNIMPLEMENTED),
    "half a message": (pb.End(data=_SOUND[:-1]), grpc.StatusCode.INTERNAL),
    "half a length": (pb.End(data=_SOUND[:2]), grpc.StatusCode.INTERNAL),
    "two messages": (pb.End(data=_SOUND * 2), grpc.StatusCode.UNIMPLEMENTED),
    "a message of 4 GiB": (pb.End(data=b"\xff" * 4), grpc.StatusCode.RESOURCE_EXHAUSTED),
    "an unknown status": (pb.End(status=999), grpc.StatusCode.UNKNOWN),
    "the highest status": (pb.End(status=2**32 - 1), grpc.StatusCode.UNKNOWN),
    "more than credit": (pb.End(data=bytes(70_000)), grpc.StatusCode.INTERNAL),
}


@pytest.mark.parametrize("case", list(_BAD_ENDS))
async def test_call_ends_with_a_status_when_its_answer_makes_no_sense(case: str) -> None:
    end, code = _BAD_ENDS[case]
    async with (
        _hub_that_says(_welcome(), to_first_batch=batch(frame(1, end=end), number=1)) as port,
        calling(f"ws://127.0.0.1:{port}/a") as stub,
    ):
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await stub.echo(b"x", timeout=60)
        assert caught.value.code() is code


async def test_reply_carries_whatever_metadata_a_peer_makes_up() -> None:
    odd = [
        pb.Metadatum(key="UPPER", value=b"v"),
        pb.Metadatum(key="", value=b""),
        pb.Metadatum(key="k\n", value=b"\xff\x00"),
        pb.Metadatum(key="k-bin", value=b"\xff\x00"),
    ]
    end = pb.End(data=_SOUND, initial_metadata=odd, trailing_metadata=odd)
    async with (
        _hub_that_says(_welcome(), to_first_batch=batch(frame(1, end=end), number=1)) as port,
        calling(f"ws://127.0.0.1:{port}/a") as stub,
    ):
        call = stub.echo(b"x", timeout=60)
        assert await call == b"x"
        assert len(await call.trailing_metadata()) == len(odd)


# --- hand-made callers and a real server ---


@pytest_asyncio.fixture
async def recorder(hub: WatchedHub) -> AsyncIterator[Recorder]:
    async with recording(f"ws://127.0.0.1:{hub.http_port}/host") as recorder:
        yield recorder
    hub.check_unhurt()


OpenCaller = Callable[[], Awaitable[RawLink]]


@pytest_asyncio.fixture
async def caller(hub: WatchedHub) -> AsyncIterator[RawLink]:
    carrier = await open_raw("websocket", grpc_port=hub.grpc_port, http_port=hub.http_port)
    yield await RawLink.open(carrier)
    await carrier.aclose()


_BAD_REQUESTS: Final[dict[str, tuple[str, dict[str, object], int, bool]]] = {
    # What is sent -> method, fields, status, and whether no handler can have run.
    "no message": ("Echo", {"data": b""}, 12, True),
    "half a message": ("Echo", {"data": _SOUND[:-1]}, 13, True),
    "two messages": ("Echo", {"data": _SOUND * 2}, 12, True),
    "a message of 4 GiB": ("Echo", {"data": b"\xff" * 4, "half_close": False}, 8, False),
    "half a streamed message": ("Chat", {"data": _SOUND * 3 + _SOUND[:2]}, 13, False),
    "half a collected message": ("Collect", {"data": _SOUND[:2]}, 13, False),
    "an unknown method": ("Nothing", {"data": _SOUND}, 12, True),
    "no method": ("", {"data": _SOUND}, 12, True),
}


@pytest.mark.parametrize("case", list(_BAD_REQUESTS))
async def test_host_answers_a_request_that_makes_no_sense(
    case: str, recorder: Recorder, caller: RawLink
) -> None:
    method, fields, status, not_executed = _BAD_REQUESTS[case]
    await caller.send(open_frame(1, "host", method_text=f"{SERVICE}/{method}", **fields))
    end = (await caller.carrier.receive_body("end")).end
    assert (end.status, end.not_executed) == (status, not_executed)
    assert end.details
    await _check_served(caller, 3)


async def test_plain_handler_that_read_half_a_message_has_run(
    hub: WatchedHub, caller: RawLink
) -> None:
    def collect(requests: Iterator[bytes], _context: Any) -> bytes:
        return b"".join(requests)

    with ThreadPoolExecutor(1) as pool:
        server = relayrpc.server(f"ws://127.0.0.1:{hub.http_port}/plain", pool)
        handler = grpc.stream_unary_rpc_method_handler(collect)
        server.add_registered_method_handlers(SERVICE, {"Collect": handler})
        await asyncio.to_thread(server.start)
        half = _SOUND + _SOUND[:2]
        await caller.send(open_frame(1, "plain", method_text=f"{SERVICE}/Collect", data=half))
        end = (await caller.carrier.receive_body("end")).end
        assert (end.status, end.not_executed) == (13, False)
        assert end.details == "the requests end within a message"
        await asyncio.to_thread(server.stop(None).wait)


async def _check_served(caller: RawLink, call_id: int) -> None:
    await caller.send(open_frame(call_id, "host", method_text=f"{SERVICE}/Echo", data=_SOUND))
    end = (await caller.carrier.receive_body("end")).end
    assert (end.status, end.data) == (0, _SOUND)


@pytest.mark.parametrize("shape", [*range(5), 99, -1])
async def test_host_serves_whatever_shape_a_caller_claims(
    shape: int, recorder: Recorder, caller: RawLink
) -> None:
    method = f"{SERVICE}/Echo"
    await caller.send(open_frame(1, "host", method_text=method, data=_SOUND, shape=shape))
    assert (await caller.carrier.receive_body("end")).end.status == 0


async def test_host_serves_calls_with_odd_metadata(recorder: Recorder, caller: RawLink) -> None:
    odd = [
        pb.Metadatum(key="UPPER", value=b"v"),
        pb.Metadatum(key="", value=b""),
        pb.Metadatum(key="grpc-timeout", value=b"soon"),
        pb.Metadatum(key="k\n", value=b"\xff\x00"),
    ]
    method = f"{SERVICE}/Echo"
    await caller.send(open_frame(1, "host", method_text=method, data=_SOUND, metadata=odd))
    assert (await caller.carrier.receive_body("end")).end.status == 0


async def test_host_puts_together_requests_cut_anywhere(
    recorder: Recorder, caller: RawLink
) -> None:
    """Ten messages in fragments of seeded sizes, behind an Open that holds a part of them."""
    chance = random.Random(3)
    text = b"".join(b"\x00\x00\x00\x08stream %d" % number for number in range(10))
    expected = b",".join(b"stream %d" % number for number in range(10))
    for call_id in range(1, 61, 2):
        cuts = sorted(chance.sample(range(1, len(text)), 5))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        method = f"{SERVICE}/Collect"
        await caller.send(
            open_frame(call_id, "host", method_text=method, data=pieces[0], half_close=False)
        )
        assert (await caller.carrier.receive_body("grant")).grant >= len(text)
        await caller.send(
            *[frame(call_id, data=piece) for piece in pieces[1:]], frame(call_id, half_close=True)
        )
        end = (await caller.carrier.receive_body("end")).end
        assert (end.status, end.data[4:]) == (0, expected)
