"""
What a carrier is: something that takes whole batches and hands over whole batches, in order, until
it ends.

Owns: the interface, nothing else. A carrier never looks inside a batch and never creates a task,
queue or future
per batch. Everything runs on the event loop's thread.

Source: LINK.md "Speed: the mechanism"; protos/relayrpc/v1/link.proto, Batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Protocol

from relayrpc.errors import CarrierLostError


__all__ = ["Carrier", "CarrierEvents", "CarrierKind"]

CarrierKind = Literal["grpc", "websocket", "memory"]


class CarrierEvents(Protocol):
    """The one who listens to a carrier: the driver. Its methods must not raise."""

    def batch_received(self, batch: bytes) -> None:
        """One whole carrier message arrived."""

    def writable(self) -> None:
        """`Carrier.is_writable` became true again after it was false."""

    def carrier_ended(self, error: CarrierLostError | None) -> None:
        """
        The carrier is over; called exactly once, and nothing after it.

        Args:
            error: None after an orderly end from either side, else what happened;
                `.detail["size_error"]` is 1 when the carrier
                ended because a batch was too large for it (gRPC RESOURCE_EXHAUSTED, WebSocket close
                code 1009).
        """


class Carrier(ABC):
    """One open connection to a peer."""

    kind: ClassVar[CarrierKind]

    peer: str
    """As gRPC writes peers: "ipv4:127.0.0.1:51234", "ipv6:[::1]:51234", "memory:1"."""
    is_secure: bool
    """True when TLS protects it."""
    is_loopback: bool
    """True when the peer is on this machine."""
    websocket_url: str
    """On a hub's gRPC door: the URL of the WebSocket door a link may move to; else empty."""
    is_writable: bool
    """
    False while the carrier holds as much as it may (64 KiB unsent where the socket is ours, one
    write on gRPC).
    """

    @abstractmethod
    def start(self, events: CarrierEvents) -> None:
        """
        Deliver from now on. Called once; what arrived before is delivered first, from within the
        call.
        """

    @abstractmethod
    def send_nowait(self, batch: bytes) -> None:
        """
        Hand over one batch; never blocks, never raises for network trouble. After the end it is a
        no-op.

        Only allowed while `is_writable`.
        """

    @abstractmethod
    def close(self) -> None:
        """
        End in order: what was handed over goes out first. Idempotent; `carrier_ended(None)` follows
        within a bounded time.
        """

    @abstractmethod
    def abort(self) -> None:
        """Drop the connection at once. Idempotent; `carrier_ended` follows."""
