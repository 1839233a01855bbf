"""
What a case asks of a client, of whatever kind: calls as a whole, and calls step by step.

Owns: the terms the cases are written in. Never opens anything; the kinds do (python_clients.py,
node_client.py).
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from tests.interop import interop_pb2


__all__ = [
    "SERVICE",
    "UNIMPLEMENTED_SERVICE",
    "Call",
    "Client",
    "Outcome",
    "Pairs",
    "StatusLostError",
]

Pairs = list[tuple[str, str | bytes]]

SERVICE: Final = interop_pb2.DESCRIPTOR.services_by_name["Interop"].methods_by_name
"""Methods by name."""
UNIMPLEMENTED_SERVICE: Final = interop_pb2.DESCRIPTOR.services_by_name[
    "UnimplementedService"
].methods_by_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the client has of a call that is over."""

    responses: list[Any]
    """Those that no `read` took."""
    code: grpc.StatusCode
    details: str
    initial: Pairs
    trailing: Pairs


class StatusLostError(Exception):
    """
    grpcio lost the status of a call.

    Its asyncio client does, now and then and without any relay, where a send fails as the call
    ends: a deadline of 1 ms was INTERNAL 4 times of 150.
    """


class Call(Protocol):
    """A call in progress whose requests are written one by one."""

    async def write(self, request: Message) -> None:
        """Send one request. Where the call has ended, `end` tells how."""

    async def half_close(self) -> None:
        """Say that there are no more requests."""

    async def read(self) -> Any:
        """Wait for the next response."""

    async def cancel(self) -> None:
        """Cancel it, as the client's own API does."""

    async def end(self) -> Outcome:
        """Wait for its end."""


class Client(Protocol):
    """A client of the interop services."""

    async def run(
        self,
        method: MethodDescriptor,
        *requests: Message,
        metadata: Pairs | None = None,
        compression: grpc.Compression | None = None,
    ) -> Outcome:
        """Make one call with these requests, the way programs usually do."""

    async def open(self, method: MethodDescriptor, *, timeout_s: float | None = None) -> Call:
        """Begin a call of a method that takes a stream."""

    def another(self) -> AbstractAsyncContextManager[Client]:
        """A client of the same server on a channel of its own."""
