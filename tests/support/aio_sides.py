"""
grpc.aio, once direct and once through a relay, for tests that hold both to the same.

Servers and channels are grpc.aio's own, or relayrpc.aio's on a hub in this process.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

import relayrpc.aio
from relayrpc.testing import LoopbackHub, run_hub
from tests.support.blocking import SideName
from tests.support.carriers import TLSFiles
from tests.support.relay import ADDRESS, make_handlers, peer_links
from tests.support.until import until


__all__ = ["ServeAio", "serving_aio"]

ServeAio = Callable[..., contextlib.AbstractAsyncContextManager[grpc.aio.Channel]]
"""As `serving_aio`, of a side that was chosen."""


@contextlib.asynccontextmanager
async def serving_aio(
    side: SideName,
    behaviors: dict[str, Callable[..., Any]] | None = None,
    *,
    register: Callable[[grpc.aio.Server], None] | None = None,
    server_options: dict[str, Any] | None = None,
    channel_options: dict[str, Any] | None = None,
    tls: TLSFiles | None = None,
) -> AsyncIterator[grpc.aio.Channel]:
    """
    Serve behaviors as methods of `test.Service`, and open a channel to them.

    Args:
        side: "direct": grpc.aio's own server and channel; "relay": ours, through a hub.
        behaviors: As for `running_relay`.
        register: Adds handlers in another way.
        server_options: Keywords that both kinds of servers take.
        channel_options: Keywords that both kinds of channels take.
        tls: The server, or the hub, has this certificate; None: everything is plain.
    """
    async with contextlib.AsyncExitStack() as stack:
        if side == "direct":
            server, open_channel = _direct(server_options or {}, tls)
        else:
            server, open_channel = await _relayed(stack, server_options or {}, tls)
        if behaviors:
            server.add_registered_method_handlers("test.Service", make_handlers(behaviors))
        if register is not None:
            register(server)
        await server.start()
        stack.push_async_callback(server.stop, None)
        yield await stack.enter_async_context(open_channel(**channel_options or {}))


def _direct(options: dict[str, Any], tls: TLSFiles | None) -> tuple[Any, Callable[..., Any]]:
    server = grpc.aio.server(**options)
    if tls is None:
        port = server.add_insecure_port("127.0.0.1:0")
        return server, lambda **more: grpc.aio.insecure_channel(f"127.0.0.1:{port}", **more)
    key, chain, authority = [
        Path(path).read_bytes() for path in (tls.key_file, tls.cert_file, tls.ca_file)
    ]
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)]))
    trust = grpc.ssl_channel_credentials(authority)
    return server, lambda **more: grpc.aio.secure_channel(f"127.0.0.1:{port}", trust, **more)


async def _relayed(
    stack: contextlib.AsyncExitStack, options: dict[str, Any], tls: TLSFiles | None
) -> tuple[Any, Callable[..., Any]]:
    config = {} if tls is None else {"tls_cert": tls.cert_file, "tls_key": tls.key_file}
    hub = await stack.enter_async_context(run_hub(**config))
    trust = None if tls is None else relayrpc.aio.TLSOptions(ca_file=tls.ca_file)
    url = hub.url(ADDRESS, carrier="websocket")
    server = relayrpc.aio.server(url, tls=trust, include_exception_detail=True, **options)
    stack.push_async_callback(_nothing_left, hub, server)
    return server, lambda **more: relayrpc.aio.channel(url, tls=trust, **more)


async def _nothing_left(hub: LoopbackHub, server: relayrpc.aio.Server) -> None:
    """After server and channel have ended, whatever the test did, none of its calls is anywhere."""
    assert not server._contexts
    await until(lambda: not peer_links(hub.hub))
    assert not hub.hub.sessions.forwarder.queue
