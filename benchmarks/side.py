"""
What every compared system is to the benchmark: something to start, to serve with, to call through.

Owns: the interface. A scenario is written once against it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol


if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from benchmarks.harness import Processes


__all__ = [
    "ADDRESS",
    "CALL_TIMEOUT_S",
    "STREAM_TIMEOUT_S",
    "Caller",
    "Service",
    "Side",
    "SideName",
    "StreamCall",
    "at",
]

SideName = Literal["direct", "nats", "websocket", "grpc", "native", "core"]

ADDRESS = "bench/echo"
"""Where relayed services listen; where they listen at many, their numbers follow: `at`."""
CALL_TIMEOUT_S = 10.0
"""Every call carries a deadline, as calls should."""
STREAM_TIMEOUT_S = 120.0


def at(path: str, number: int) -> str:
    """Return one of many addresses below an address or a URL."""
    return f"{path}/{number}"


class StreamCall(Protocol):
    """A server stream under way."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def initial_metadata(self) -> Any:
        """Wait until the server has begun."""

    def cancel(self) -> bool:
        """End it."""


class Caller(ABC):
    """One connection to the service; its callables are bare: no wrapper of ours is measured."""

    echo: Callable[[bytes], Awaitable[Any]]
    """Bytes there and back."""
    greet: Callable[[], Awaitable[Any]] | None
    """A generated protobuf stub's unary call."""
    orders: Mapping[str, Callable[[], Awaitable[Any]]] | None
    """What sends or fetches 2 KiB, by name: "stub_put", "stub_get", "raw_put", "raw_get"."""
    echo_at: Callable[[int], Callable[[bytes], Awaitable[Any]]] | None
    """Returns `echo` of one of many addresses, by number."""
    stream: Callable[[int, int], StreamCall] | None
    """Count and size in bytes of the messages to be sent; count 0 goes on until cancelled."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A side's processes, up and reachable."""

    side: Side
    url: str
    """What a caller process connects to."""
    host: str
    port: int
    """The same as a TCP address, for a proxy in front."""
    pids: dict[str, int] = field(default_factory=dict)
    """Process ids by role: "host" (the server), "hub" (what stands between)."""

    def through(self, proxy_port: int) -> str:
        """The URL with a proxy's port for the service's own."""
        return self.url.replace(f"{self.host}:{self.port}", f"{self.host}:{proxy_port}")


class Side(ABC):
    """One compared system."""

    name: ClassVar[SideName]
    has_streams: ClassVar[bool] = True

    @abstractmethod
    async def start(self, processes: Processes) -> Service:
        """In the benchmark: start the side's processes and wait until calls get through."""

    @abstractmethod
    async def serve(self, url: str) -> str:
        """In the host's process: serve, and return the URL for callers."""

    @abstractmethod
    async def connect(self, url: str) -> Caller:
        """In a caller's process: connect and make sure that calls get through."""
