"""
Blocking gRPC, once direct and once through a relay, for tests that hold both to the same.

The hub runs on a thread of its own; servers and channels are the blocking ones of grpc or of
relayrpc.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import grpc

import relayrpc
import relayrpc.aio
from relayrpc.gateway.full_hub import full_hub
from relayrpc.hub.server import HubConfig
from tests.support.relay import make_handlers


__all__ = [
    "SIDES",
    "Behaviors",
    "HubThread",
    "Serve",
    "SideName",
    "hosting",
    "hub_thread",
    "serving",
]

SideName = Literal["direct", "relay"]
SIDES: tuple[SideName, ...] = ("direct", "relay")
Behaviors = dict[str, Callable[..., Any]]
Serve = Callable[..., contextlib.AbstractContextManager[grpc.Channel]]
"""As `serving`, of a side that was chosen."""


@dataclass
class HubThread:
    """A hub, and the loop it runs on."""

    loop: asyncio.AbstractEventLoop
    http_port: int
    grpc_port: int

    def url(self, address: str = "contoso/test") -> str:
        """What a server or channel at an address is made with."""
        return f"ws://127.0.0.1:{self.http_port}/{address}"

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on its loop, and wait."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()


@contextlib.contextmanager
def hub_thread(**options: Any) -> Iterator[HubThread]:
    """Run a hub on free ports, on a thread of its own; `options` are for HubConfig."""
    running: list[HubThread] = []
    started, stopping = threading.Event(), asyncio.Event()

    async def serve() -> None:
        hub = full_hub(HubConfig(grpc="127.0.0.1:0", http="127.0.0.1:0", **options))
        await hub.start()
        loop = asyncio.get_running_loop()
        running.append(HubThread(loop, hub.http_port, hub.grpc_port))
        started.set()
        await stopping.wait()
        await hub.aclose()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="hub")
    thread.start()
    started.wait()
    try:
        yield running[0]
    finally:
        running[0].loop.call_soon_threadsafe(stopping.set)
        thread.join()


@contextlib.contextmanager
def hosting(
    hub: HubThread, kind: str, register: Callable[[Any], None], **options: Any
) -> Iterator[Any]:
    """
    Run a server of the relay's; it is stopped at the end.

    Args:
        hub: Where it serves.
        kind: "blocking", or "async": on the loop of the hub.
        register: Adds its handlers.
        options: Of the server, `interceptors` and the like.
    """
    server: Any
    if kind == "blocking":
        server = relayrpc.server(hub.url(), **options)
        register(server)
        server.start()
        try:
            yield server
        finally:
            server.stop(None)
    else:
        server = relayrpc.aio.server(hub.url(), **options)
        register(server)
        hub.run(server.start())
        try:
            yield server
        finally:
            hub.run(server.stop(None))


@contextlib.contextmanager
def serving(
    side: SideName,
    hub: HubThread,
    behaviors: Behaviors | None = None,
    *,
    register: Callable[[Any], None] | None = None,
    **options: Any,
) -> Iterator[grpc.Channel]:
    """
    Serve plain `def` behaviors as methods of `test.Service`, and open a channel to them.

    Args:
        side: "direct": grpc's own server and channel; "relay": ours, through the hub.
        hub: For the relay.
        behaviors: As for `running_relay`.
        register: Adds handlers in another way.
        options: Of the server, `interceptors` and the like.
    """
    with ThreadPoolExecutor(16) as pool, contextlib.ExitStack() as stack:
        server: Any
        if side == "direct":
            server = grpc.server(pool, **options)
            target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            channel: Any = grpc.insecure_channel(target)
        else:
            server = relayrpc.server(
                hub.url(), pool, include_exception_detail=True, **options
            )
            channel = relayrpc.channel(hub.url())
        if behaviors:
            server.add_registered_method_handlers("test.Service", make_handlers(behaviors))
        if register is not None:
            register(server)
        server.start()
        stack.callback(lambda: server.stop(None).wait())
        yield stack.enter_context(channel)
