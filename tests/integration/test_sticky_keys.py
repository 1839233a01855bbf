"""
Goal: calls with one value of the metadata `relay-sticky-key` have one host for as long as it
listens, whoever makes them; another one afterwards.

Method: hosts, relay channels and a plain gRPC client over a real hub on loopback.
"""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from tests.support.relay import ADDRESS, Stub, make_handlers, running_hub


pytestmark = pytest.mark.integration

KEYS = [f"key-{number}" for number in range(24)]


async def start_host(url: str, name: str) -> relayrpc.aio.Server:
    async def who(request: bytes, context: Any) -> bytes:
        assert not [key for key, _ in context.invocation_metadata() if key.startswith("relay-")]
        return name.encode()

    server = relayrpc.aio.server(f"{url}/{ADDRESS}", instance=name)
    server.add_registered_method_handlers("test.Service", make_handlers({"uu:Who": who}))
    await server.start()
    return server


async def hosts_by_key(channel: Any, *more: tuple[str, str]) -> dict[str, bytes]:
    who = Stub(channel).unary_unary("Who")
    return {key: await who(b"", metadata=[("relay-sticky-key", key), *more]) for key in KEYS}


async def test_a_key_keeps_its_host_until_that_goes() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        names = [b"host-0", b"host-1", b"host-2"]
        servers = [await start_host(url, name.decode()) for name in names]
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            first = await hosts_by_key(channel)
            assert set(first.values()) == set(names)
            assert await hosts_by_key(channel) == first
            # The same for another caller, and for one without this library.
            async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as other:
                assert await hosts_by_key(other) == first
            async with grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as plain:
                assert await hosts_by_key(plain, ("relay-address", ADDRESS)) == first
            await servers.pop().stop(0)
            later = await hosts_by_key(channel)
            kept = {key: name for key, name in first.items() if name != b"host-2"}
            assert {key: later[key] for key in kept} == kept
            assert set(later.values()) == {b"host-0", b"host-1"}
            # Whoever comes with the same instance has the same keys.
            servers.append(await start_host(url, "host-2"))
            assert await hosts_by_key(channel) == first
        for server in servers:
            await server.stop(0)


async def test_a_key_has_at_most_128_bytes() -> None:
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, "host")
        async with relayrpc.aio.channel(f"{url}/{ADDRESS}") as channel:
            who = Stub(channel).unary_unary("Who")
            with pytest.raises(grpc.aio.UsageError, match="at most 128 bytes"):
                await who(b"", metadata=[("relay-sticky-key", "k" * 129)])
            assert await who(b"", metadata=[("relay-sticky-key", "k" * 128)]) == b"host"
        await server.stop(0)
