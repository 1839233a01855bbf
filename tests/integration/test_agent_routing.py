"""
What hubs make of an agent's backends. Goal: slots, priorities and several hubs work as for any
host.

Method: grpc.aio servers that stop or hold calls; hubs on loopback that drain.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
import pytest

import relayrpc.aio
from relayrpc.agent.backend import Backend
from relayrpc.errors import ConfigError
from relayrpc.testing import LoopbackHub, run_hub
from tests.support.exposed import SERVICE, Holding, running_agent, running_backend, running_exposed
from tests.support.relay import ADDRESS, Stub
from tests.support.until import until


pytestmark = pytest.mark.integration

def named(name: bytes) -> dict[str, Any]:
    async def who(_request: bytes, _context: Any) -> bytes:
        return name

    return {"uu:Who": who}


async def who(channel: grpc.aio.Channel, **options: Any) -> bytes:
    answer: bytes = await Stub(channel).unary_unary("Who")(b"", **options)
    return answer


# --- slots and priorities ---


async def test_calls_beyond_the_slots_wait_at_the_hub() -> None:
    holding = Holding()
    async with (
        running_backend({"uu:Hold": holding.hold}) as (authority, _),
        running_exposed(authority, slots=2) as running,
    ):
        hold = Stub(running.channel).unary_unary("Hold")
        calls = [asyncio.ensure_future(hold(b"%d" % number)) for number in range(5)]
        queue = running.hub.hub.sessions.forwarder.queue
        await until(lambda: holding.running_count == 2 and len(queue) == 3)
        holding.released.set()
        assert await asyncio.gather(*calls) == [b"%d" % number for number in range(5)]
        assert holding.running_most == 2


async def test_backend_of_a_higher_priority_number_stands_by(unused_tcp_port: int) -> None:
    async with (
        run_hub() as hub,
        running_backend(named(b"second")) as (second, _),
        relayrpc.aio.channel(hub.url(ADDRESS)) as channel,
    ):
        async with running_backend(named(b"first"), port=unused_tcp_port) as (first, _):
            exposing = running_agent(
                _backend(second, hub, priority=1), _backend(first, hub, priority=0)
            )
            _, reports = await exposing.__aenter__()
            assert {await who(channel) for _ in range(8)} == {b"first"}
        try:
            await reports.until("left routing")
            assert {await who(channel) for _ in range(8)} == {b"second"}
            async with running_backend(named(b"again"), port=unused_tcp_port):
                await reports.until(f"{first} at", 2)
                assert {await who(channel) for _ in range(8)} == {b"again"}
        finally:
            await exposing.__aexit__(None, None, None)


def _backend(authority: str, *hubs: LoopbackHub, **settings: Any) -> Backend:
    urls = tuple(hub.url(ADDRESS) for hub in hubs)
    return Backend(target=f"grpc://{authority}", at=urls, services=(SERVICE,), **settings)


# --- several hubs ---


async def test_agent_goes_to_the_next_hub_when_its_own_drains() -> None:
    holding = Holding()
    async with (
        run_hub() as first,
        run_hub() as second,
        running_backend({**named(b"me"), "uu:Hold": holding.hold}) as (authority, _),
        running_agent(_backend(authority, first, second)),
        relayrpc.aio.channel([first.url(ADDRESS), second.url(ADDRESS)]) as channel,
    ):
        held = asyncio.ensure_future(Stub(channel).unary_unary("Hold")(b"held"))
        await until(lambda: holding.running_count)
        draining = asyncio.create_task(first.hub.drain())
        async with relayrpc.aio.channel(second.url(ADDRESS)) as there:
            assert await who(there, wait_for_ready=True) == b"me"
        assert not held.done()
        holding.released.set()
        assert await held == b"held"
        await draining
        assert await who(channel, wait_for_ready=True) == b"me"


async def test_agent_finds_the_hub_that_is_there(unused_tcp_port: int) -> None:
    gone = f"relay://127.0.0.1:{unused_tcp_port}/{ADDRESS}"
    async with run_hub() as hub, running_backend(named(b"me")) as (authority, _):
        urls = (gone, hub.url(ADDRESS))
        backend = Backend(target=f"grpc://{authority}", at=urls, services=(SERVICE,))
        async with running_agent(backend), relayrpc.aio.channel(urls) as channel:
            assert await who(channel) == b"me"


def test_hubs_of_a_backend_have_one_address() -> None:
    backend = Backend(target="grpc://127.0.0.1:1", at=("relay://a/x", "relay://b/y"))
    with pytest.raises(ConfigError, match="cannot use 'relay://b:7350/y' beside 'relay://a:7350"):
        backend.check()
