"""Hosts of the contract of ruled.proto, whose handlers note what they saw, and calls to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

import relayrpc
import relayrpc.aio
from relayrpc.hub.server import Hub
from tests.support.ruled_contract import POOL, SERVICE, Violations, message_class


__all__ = [
    "BAD",
    "GOOD",
    "REASON",
    "AsyncHandlers",
    "Item",
    "Order",
    "Receipt",
    "handlers_of",
    "hosted",
    "method",
    "refused",
    "violations_in",
]

Item, Order, Receipt = map(message_class, ("Item", "Order", "Receipt"))
GOOD, BAD = Item(name="a", count=1), Item(name="a", count=10)
REASON = (
    "invalid test.rules.Item: count: must be greater than or equal to 0 and less than or equal to 9"
)


class AsyncHandlers:
    """Handlers that note what they saw."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def place(self, request: Any, _context: Any) -> Any:
        self.seen.append(request)
        return Receipt(text="placed")

    async def list(self, request: Any, _context: Any) -> AsyncIterator[Any]:
        self.seen.append(request)
        yield Receipt(text="listed")

    async def collect(self, requests: AsyncIterator[Any], _context: Any) -> Any:
        async for request in requests:
            self.seen.append(request)
        return Receipt(text="collected")

    async def chat(self, requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
        # As one who thinks that nothing may stop a conversation.
        with contextlib.suppress(Exception):
            async for request in requests:
                self.seen.append(request)
                yield Receipt(text=request.name)
        yield Receipt(text="goodbye")


class SyncHandlers(AsyncHandlers):
    """Likewise, on threads."""

    def place(self, request: Any, _context: Any) -> Any:  # type: ignore[override]
        self.seen.append(request)
        return Receipt(text="placed")

    def list(self, request: Any, _context: Any) -> Iterator[Any]:  # type: ignore[override]
        self.seen.append(request)
        yield Receipt(text="listed")

    def collect(self, requests: Iterator[Any], _context: Any) -> Any:  # type: ignore[override]
        self.seen.extend(requests)
        return Receipt(text="collected")

    def chat(self, requests: Iterator[Any], _context: Any) -> Iterator[Any]:  # type: ignore[override]
        with contextlib.suppress(Exception):
            for request in requests:
                self.seen.append(request)
                yield Receipt(text=request.name)
        yield Receipt(text="goodbye")


def handlers_of(handlers: Any) -> dict[str, grpc.RpcMethodHandler]:
    def made(make: Callable[..., Any], behavior: Any, request: Any) -> grpc.RpcMethodHandler:
        return make(behavior, request.FromString, Receipt.SerializeToString)

    return {
        "Place": made(grpc.unary_unary_rpc_method_handler, handlers.place, Order),
        "List": made(grpc.unary_stream_rpc_method_handler, handlers.list, Order),
        "Collect": made(grpc.stream_unary_rpc_method_handler, handlers.collect, Item),
        "Chat": made(grpc.stream_stream_rpc_method_handler, handlers.chat, Item),
    }


@contextlib.asynccontextmanager
async def hosted(
    hub: Hub, flavour: str, *, url: str = "", chat: Any = None, **options: Any
) -> AsyncIterator[tuple[Any, Any]]:
    """Serve at "rules", or at a URL; yields the handlers, and a channel to them."""
    url = url or f"ws://127.0.0.1:{hub.http_port}/rules"
    options = {"descriptor_pool": POOL, **options}
    async with relayrpc.aio.channel(url) as channel:
        if flavour == "blocking":
            handlers: Any = SyncHandlers()
            with ThreadPoolExecutor(4) as pool:
                server = relayrpc.server(url, pool, **options)
                server.add_registered_method_handlers(SERVICE, handlers_of(handlers))
                await asyncio.to_thread(server.start)
                yield handlers, channel
                await asyncio.to_thread(lambda: server.stop(None).wait())
            return
        handlers = SyncHandlers() if flavour == "threads" else AsyncHandlers()
        if chat is not None:
            handlers.chat = chat
        server = relayrpc.aio.server(url, **options)
        server.add_registered_method_handlers(SERVICE, handlers_of(handlers))
        await server.start()
        yield handlers, channel
        await server.stop(None)


def method(channel: Any, shape: str, name: str, request: Any) -> Any:
    return getattr(channel, shape)(
        f"/{SERVICE}/{name}", request.SerializeToString, Receipt.FromString
    )


async def refused(call: Any, origin: str = "host") -> relayrpc.aio.RpcError:
    """Read a call to its end, which is the one that broken rules make."""
    with pytest.raises(relayrpc.aio.RpcError) as caught:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    error = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.origin == origin
    return error


def violations_in(error: relayrpc.aio.RpcError) -> list[tuple[str, str]]:
    """Field and rule of each, from the status details."""
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    assert status.message == error.details()
    found = Violations()
    assert status.details[0].Unpack(found)
    return [
        (".".join(element.field_name for element in each.field.elements), each.rule_id)
        for each in found.violations
    ]
