"""
Rules in contracts, at the hub. Goal: where an address's entry says so, no host is given a request
that breaks them, however its caller comes and whatever the host is.

Method: a real hub with entries for addresses, hosts that check nothing, links and a gRPC client.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

import relayrpc.aio
from relayrpc.agent.backend import Backend
from relayrpc.errors import ConfigError
from relayrpc.hub.addresses import AddressEntry
from relayrpc.limits import DEFAULT_LIMITS, KIB
from tests.support.exposed import running_agent, written
from tests.support.relay import running_hub
from tests.support.ruled_contract import DESCRIPTOR_SET, SERVICE
from tests.support.ruled_hosts import (
    BAD,
    GOOD,
    REASON,
    AsyncHandlers,
    Item,
    Order,
    Receipt,
    handlers_of,
    hosted,
    method,
    refused,
    violations_in,
)


pytestmark = pytest.mark.integration

CHECKED = {"rules": AddressEntry(validate=True), "rules/not": AddressEntry(validate=False)}
ORDER, BROKEN = Order(email="a@b.org", items=[GOOD]), Order(email="nobody", items=[BAD])


async def test_hub_checks_calls_of_all_shapes_before_a_host_has_them() -> None:
    async with (
        running_hub(addresses=CHECKED) as hub,
        hosted(hub, "async", validate=False) as (handlers, channel),
    ):
        for shape, name in (("unary_unary", "Place"), ("unary_stream", "List")):
            error = await refused(method(channel, shape, name, Order)(BROKEN), "hub")
            assert error.may_have_executed is False
            assert violations_in(error) == [
                ("email", "string.email"),
                ("items.count", "int32.gte_lte"),
            ]
        assert handlers.seen == []
        assert (await method(channel, "unary_unary", "Place", Order)(ORDER)).text == "placed"
        collected = await method(channel, "stream_unary", "Collect", Item)(iter([GOOD, GOOD]))
        assert collected.text == "collected"
        chat = method(channel, "stream_stream", "Chat", Item)()
        for _ in range(3):
            await chat.write(GOOD)
            assert (await chat.read()).text == "a"
        await chat.write(BAD)
        error = await refused(chat.read(), "hub")
        assert error.details() == REASON
        assert error.may_have_executed is True
    assert handlers.seen == [ORDER, GOOD, GOOD, GOOD, GOOD, GOOD]


async def test_hub_checks_calls_of_plain_grpc_clients() -> None:
    async with (
        running_hub(addresses=CHECKED) as hub,
        hosted(hub, "async", validate=False) as (handlers, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as channel,
    ):
        place = method(channel, "unary_unary", "Place", Order)
        metadata = (("relay-address", "rules"),)
        await place(ORDER, metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await place(BROKEN, metadata=metadata)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations_in(error)[0] == ("email", "string.email")
    assert handlers.seen == [ORDER]


async def test_hub_checks_calls_to_a_plain_server_behind_an_agent() -> None:
    handlers = AsyncHandlers()
    server = grpc.aio.server()
    server.add_registered_method_handlers(SERVICE, handlers_of(handlers))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with written(DESCRIPTOR_SET) as file:
        async with running_hub(addresses=CHECKED) as hub:
            url = f"ws://127.0.0.1:{hub.http_port}/rules"
            backend = Backend(target=f"grpc://127.0.0.1:{port}", at=url, descriptors=file)
            async with running_agent(backend), relayrpc.aio.channel(url) as channel:
                place = method(channel, "unary_unary", "Place", Order)
                await place(ORDER)
                await refused(place(BROKEN), "hub")
    await server.stop(None)
    assert handlers.seen == [ORDER]


async def test_addresses_are_checked_as_the_longest_entry_says() -> None:
    async with running_hub(addresses=CHECKED) as hub:
        seen: dict[str, int] = {}
        for path in ("rules/below", "rules/not", "elsewhere"):
            url = f"ws://127.0.0.1:{hub.http_port}/{path}"
            async with hosted(hub, "async", url=url, validate=False) as (handlers, channel):
                place = method(channel, "unary_unary", "Place", Order)
                if path == "rules/below":
                    await refused(place(BROKEN), "hub")
                else:
                    await place(BROKEN)
                seen[path] = len(handlers.seen)
    assert seen == {"rules/below": 0, "rules/not": 1, "elsewhere": 1}


async def test_call_below_an_unchecked_host_is_checked_by_its_own_entry() -> None:
    """A host at a prefix serves what is below; the entry of either counts."""
    entries = {"top/below": AddressEntry(validate=True)}
    async with running_hub(addresses=entries) as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/top"
        async with (
            hosted(hub, "async", url=url, validate=False) as (handlers, channel),
            relayrpc.aio.channel(f"{url}/below") as below,
        ):
            await method(channel, "unary_unary", "Place", Order)(BROKEN)
            await refused(method(below, "unary_unary", "Place", Order)(BROKEN), "hub")
    assert len(handlers.seen) == 1


async def test_call_that_waits_for_a_host_is_checked_when_it_comes() -> None:
    async with running_hub(addresses=CHECKED) as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/rules"
        async with relayrpc.aio.channel(url) as early:
            place = method(early, "unary_unary", "Place", Order)
            calls = [place(request, wait_for_ready=True) for request in (BROKEN, ORDER)]
            await early.channel_ready()
            async with hosted(hub, "async", validate=False) as (handlers, _):
                assert (await calls[1]).text == "placed"
                await refused(calls[0], "hub")
    assert handlers.seen == [ORDER]


async def test_host_without_a_contract_gets_no_calls_where_they_are_checked() -> None:
    async def place(request: bytes, _context: Any) -> bytes:
        raise AssertionError("nobody knows whether it may have this")

    async with running_hub(addresses=CHECKED) as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/rules"
        server = relayrpc.aio.server(url)
        handler = grpc.unary_unary_rpc_method_handler(place)
        server.add_registered_method_handlers(SERVICE, {"Place": handler})
        await server.start()
        async with relayrpc.aio.channel(url) as channel:
            with pytest.raises(relayrpc.aio.RpcError, match="its host has none") as caught:
                await method(channel, "unary_unary", "Place", Order)(ORDER)
        await server.stop(None)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.may_have_executed is False


async def test_requests_in_many_pieces_are_checked_whole_and_only_to_the_bound() -> None:
    limits = replace(DEFAULT_LIMITS, checked_message_bytes_max=300 * KIB)
    items = [Item(name="x" * 1000, count=1)] * 250
    async with (
        running_hub(addresses=CHECKED, limits=limits) as hub,
        hosted(hub, "async", validate=False) as (handlers, channel),
    ):
        place = method(channel, "unary_unary", "Place", Order)
        large = Order(email="a@b.org", items=items)
        assert (await place(large)).text == "placed"
        await refused(place(Order(email="a@b.org", items=[*items, BAD])), "hub")
        with pytest.raises(relayrpc.aio.RpcError, match="over 307200") as caught:
            await place(Order(email="a@b.org", items=items * 2))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert handlers.seen == [large]


async def test_many_calls_at_once_end_as_they_should() -> None:
    async with (
        running_hub(addresses=CHECKED) as hub,
        hosted(hub, "async", validate=False) as (handlers, channel),
    ):
        place = method(channel, "unary_unary", "Place", Order)
        requests = [ORDER if number % 3 else BROKEN for number in range(600)]
        calls = [place(request) for request in requests]
        codes = [await call.code() for call in calls]
        checks = hub.sessions.forwarder.checks
        assert checks is not None
        assert not checks.has_waiting
    assert [code is grpc.StatusCode.OK for code in codes] == [each is ORDER for each in requests]
    assert len(handlers.seen) == 400


async def test_streams_stay_in_order_under_checking() -> None:
    async def chat(requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield Receipt(text=request.name)

    async with (
        running_hub(addresses=CHECKED) as hub,
        hosted(hub, "async", validate=False, chat=chat) as (_, channel),
    ):
        names = [str(number) for number in range(2000)]
        call = method(channel, "stream_stream", "Chat", Item)(
            iter([Item(name=name, count=1) for name in names])
        )
        told = [response.text async for response in call]
    assert told == names


async def test_hub_that_is_to_check_does_not_start_without_what_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "protovalidate", None)
    monkeypatch.delitem(sys.modules, "relayrpc.contract.validation", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'relayrpc\[validation\]'"):
        async with running_hub(addresses=CHECKED):
            pass
    async with running_hub(addresses={"a": AddressEntry(validate=False)}):
        pass
