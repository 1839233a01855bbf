"""A hub, a host and a caller in one process, over real sockets on loopback."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc

import relayrpc.aio
from relayrpc.hub.server import Hub
from relayrpc.link.link import Link
from relayrpc.testing import run_hub


__all__ = [
    "ADDRESS",
    "Relay",
    "Stub",
    "make_handlers",
    "peer_links",
    "running_hub",
    "running_relay",
]

ADDRESS = "contoso/test"


@dataclass
class Relay:
    """What a test works with."""

    hub: Hub
    server: relayrpc.aio.Server
    channel: relayrpc.aio.Channel
    url: str


class Stub:
    """Methods of any name on `test.Service`, messages as bytes."""

    def __init__(self, channel: Any, service: str = "test.Service") -> None:
        self._channel = channel
        self._service = service

    def unary_unary(self, method: str) -> Any:
        return self._channel.unary_unary(f"/{self._service}/{method}")

    def unary_stream(self, method: str) -> Any:
        return self._channel.unary_stream(f"/{self._service}/{method}")

    def stream_unary(self, method: str) -> Any:
        return self._channel.stream_unary(f"/{self._service}/{method}")

    def stream_stream(self, method: str) -> Any:
        return self._channel.stream_stream(f"/{self._service}/{method}")


def peer_links(hub: Hub) -> list[Link]:
    """The links of a hub that are not its own parts'."""
    return [link for link in hub.sessions.table.links if not link.is_local]


_HANDLER_MAKERS = {
    "uu": grpc.unary_unary_rpc_method_handler,
    "us": grpc.unary_stream_rpc_method_handler,
    "su": grpc.stream_unary_rpc_method_handler,
    "ss": grpc.stream_stream_rpc_method_handler,
}


def make_handlers(behaviors: dict[str, Callable[..., Any]]) -> dict[str, grpc.RpcMethodHandler]:
    """Make handlers by method of {"uu:Echo": handler}; the prefix says which side streams."""
    handlers = {}
    for name, behavior in behaviors.items():
        kind, method = name.split(":")
        handlers[method] = _HANDLER_MAKERS[kind](behavior)
    return handlers


@contextlib.asynccontextmanager
async def running_hub(**options: Any) -> AsyncIterator[Hub]:
    """Run a hub on free ports; `options` are for HubConfig."""
    async with run_hub(**options) as running:
        yield running.hub


@contextlib.asynccontextmanager
async def running_relay(
    behaviors: dict[str, Callable[..., Any]] | None = None,
    *,
    register: Callable[[relayrpc.aio.Server], None] | None = None,
    server_options: dict[str, Any] | None = None,
    channel_options: dict[str, Any] | None = None,
) -> AsyncIterator[Relay]:
    """
    Run a relay whose host serves `behaviors` as methods of `test.Service`.

    Args:
        behaviors: "uu:Echo" -> handler; the prefix says which side streams.
        register: Adds handlers in another way.
        server_options: For relayrpc.aio.server().
        channel_options: For relayrpc.aio.channel().
    """
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        server = relayrpc.aio.server(url, **(server_options or {}))
        if behaviors:
            server.add_registered_method_handlers("test.Service", make_handlers(behaviors))
        if register is not None:
            register(server)
        await server.start()
        channel = relayrpc.aio.channel(url, **(channel_options or {}))
        try:
            yield Relay(hub, server, channel, url)
        finally:
            await channel.close()
            await server.stop(None)
