"""
A peer of a real hub that obeys nothing: raw carrier messages over both doors, hand-made batches.

Owns: two raw carriers made of the libraries alone, and frames as link.proto writes them. Uses none
of the relay's own code but the generated messages: a fault in the core must not hide itself here.
Source: protos/relayrpc/v1/link.proto.
"""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections import deque
from typing import Final, Literal

import grpc
import grpc.aio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from relayrpc.v1 import link_pb2 as pb


__all__ = ["Door", "RawCarrier", "RawLink", "batch", "frame", "hello", "open_frame", "open_raw"]

Door = Literal["grpc", "websocket"]

_METHOD: Final = "/relayrpc.v1.Link/Connect"
_SUBPROTOCOL: Final = Subprotocol("relayrpc.v1")
_ANSWER_TIMEOUT_S: Final = 20.0
_instances = itertools.count(1)


class RawCarrier(ABC):
    """One carrier: messages out, messages in."""

    def __init__(self) -> None:
        # Of the last batch: frames that nobody has looked at.
        self._frames: deque[pb.Frame] = deque()

    @abstractmethod
    async def send(self, message: bytes) -> None:
        """Send one message; no-op once the hub has ended the carrier."""

    @abstractmethod
    async def receive(self) -> bytes | None:
        """Return the next message; None when the hub has ended the carrier."""

    @abstractmethod
    async def aclose(self) -> None:
        """Drop the connection."""

    async def receive_batch(self) -> pb.Batch | None:
        """Return the next message as a batch; None when the hub has ended the carrier."""
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            message = await self.receive()
        return None if message is None else pb.Batch.FromString(message)

    async def receive_frame(self) -> pb.Frame | None:
        """Return the next frame; None when the hub has ended the carrier."""
        while not self._frames:
            received = await self.receive_batch()
            if received is None:
                return None
            self._frames.extend(received.frames)
        return self._frames.popleft()

    async def receive_body(self, body: str) -> pb.Frame:
        """Return the next frame with this body, whatever comes before it."""
        while (received := await self.receive_frame()) is not None:
            if received.WhichOneof("body") == body:
                return received
        raise AssertionError(f"the hub ended the carrier before any {body}")

    async def receive_last(self) -> pb.Frame | None:
        """Return the last frame before the hub ends the carrier; None when there is none."""
        last = None
        while (received := await self.receive_frame()) is not None:
            last = received
        return last


class _WebSocket(RawCarrier):
    def __init__(self, connection: ClientConnection) -> None:
        super().__init__()
        self.connection = connection

    async def send(self, message: bytes) -> None:
        try:
            await self.connection.send(message)
        except ConnectionClosed:
            return

    async def receive(self) -> bytes | None:
        try:
            message = await self.connection.recv()
        except ConnectionClosed:
            return None
        assert isinstance(message, bytes)
        return message

    async def aclose(self) -> None:
        if not self.connection.transport.is_closing():
            self.connection.transport.abort()
        await self.connection.wait_closed()


class _GRPCStream(RawCarrier):
    def __init__(self, port: int) -> None:
        super().__init__()
        # No pool of connections: carriers of one test must not share one.
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1))
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
        self.call = self.channel.stream_stream(_METHOD)()

    async def send(self, message: bytes) -> None:
        try:
            await self.call.write(message)
        except (grpc.RpcError, asyncio.InvalidStateError):
            return

    async def receive(self) -> bytes | None:
        try:
            message = await self.call.read()
        except grpc.RpcError:
            return None
        return None if message is grpc.aio.EOF else message

    async def aclose(self) -> None:
        self.call.cancel()
        await self.channel.close()


async def open_raw(door: Door, *, grpc_port: int, http_port: int) -> RawCarrier:
    """Open a carrier to one of a hub's doors; nothing is sent on it."""
    if door == "grpc":
        return _GRPCStream(grpc_port)
    return _WebSocket(
        await connect(
            f"ws://127.0.0.1:{http_port}{_METHOD}",
            subprotocols=[_SUBPROTOCOL],
            compression=None,
            max_size=None,
            ping_interval=None,
            proxy=None,
        )
    )


class RawLink:
    """A link after its handshake, on one raw carrier; counts batches, and nothing else."""

    def __init__(self, carrier: RawCarrier, welcome: pb.Welcome, instance: str) -> None:
        self.carrier = carrier
        self.welcome = welcome
        self.instance = instance
        self.number = 0

    @classmethod
    async def open(cls, carrier: RawCarrier, **fields: object) -> RawLink:
        """Say Hello and wait for Welcome."""
        first = hello(**fields)
        await carrier.send(batch(first))
        welcome = await carrier.receive_body("welcome")
        return cls(carrier, welcome.welcome, first.hello.instance)

    async def send(self, *frames: pb.Frame, **header: int) -> None:
        """Send frames in the next numbered batch."""
        self.number += 1
        await self.carrier.send(batch(*frames, number=self.number, **header))

    async def announce(self, address: str, service: str) -> None:
        """Serve there, and wait until the hub agrees."""
        announce = pb.Announce(id=1, address=address, services=[{"name": service}])
        await self.send(pb.Frame(announce=announce))
        announced = (await self.carrier.receive_body("announced")).announced
        assert announced.status == 0, announced.details

    def resume(self, attempt: int = 1, **changed: object) -> bytes:
        """Make a Resume for this link, with some fields changed."""
        fields: dict[str, object] = {
            "link_id": self.welcome.link_id,
            "secret": self.welcome.secret,
            "epoch": self.welcome.epoch,
            "attempt": attempt,
            "instance": self.instance,
            **changed,
        }
        return batch(pb.Frame(resume=pb.Resume(**fields)))  # type: ignore[arg-type]


def batch(*frames: pb.Frame, **header: int) -> bytes:
    """Serialize a batch."""
    return pb.Batch(frames=frames, **header).SerializeToString()  # type: ignore[arg-type]


def frame(call_id: int = 0, **body: object) -> pb.Frame:
    """Make a frame with one body."""
    return pb.Frame(call_id=call_id, **body)  # type: ignore[arg-type]


def hello(**fields: object) -> pb.Frame:
    """Make a Hello that is fit, but for the fields given."""
    defaults: dict[str, object] = {"versions": [1], "instance": f"raw-{next(_instances)}"}
    return pb.Frame(hello=pb.Hello(**{**defaults, **fields}))  # type: ignore[arg-type]


def open_frame(call_id: int = 1, address: str = "nowhere", **fields: object) -> pb.Frame:
    """Make an Open in full text, of a call with one empty request."""
    defaults: dict[str, object] = {
        "method_text": "samples.greeter.v1.Greeter/SayHello",
        "address_text": address,
        "shape": pb.SHAPE_UNARY_UNARY,
        "data": bytes(4),
        "half_close": True,
        "credit_bytes": 65_536,
    }
    return pb.Frame(call_id=call_id, open=pb.Open(**{**defaults, **fields}))  # type: ignore[arg-type]
