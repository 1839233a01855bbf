"""
Rules in contracts, at a host. Goal: no handler sees a request that breaks them, and its caller is
told which. Method: a real hub, hosts of both flavours whose handlers note what they saw, stubs.
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
import pytest

import relayrpc
import relayrpc.aio
from relayrpc.errors import ConfigError, ContractError
from tests.support.relay import running_hub
from tests.support.ruled_contract import POOL, SERVICE, message_class
from tests.support.ruled_hosts import (
    BAD,
    GOOD,
    REASON,
    AsyncHandlers,
    Item,
    Order,
    Receipt,
    hosted,
    method,
    refused,
    violations_in,
)


pytestmark = pytest.mark.integration


class PassOn(grpc.aio.ServerInterceptor):
    """Changes nothing."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        return await continuation(details)


class SyncPassOn(grpc.ServerInterceptor):
    """Changes nothing."""

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        return continuation(details)


FLAVOURS = pytest.mark.parametrize("flavour", ["async", "threads", "blocking"])


@FLAVOURS
async def test_requests_that_keep_to_the_rules_are_served(flavour: str) -> None:
    order = Order(email="a@b.org", items=[GOOD])
    async with running_hub() as hub, hosted(hub, flavour) as (handlers, channel):
        assert (await method(channel, "unary_unary", "Place", Order)(order)).text == "placed"
        listed = [each async for each in method(channel, "unary_stream", "List", Order)(order)]
        collected = await method(channel, "stream_unary", "Collect", Item)(iter([GOOD, GOOD]))
        chat = method(channel, "stream_stream", "Chat", Item)(iter([GOOD]))
        told = [each.text async for each in chat]
    assert [each.text for each in listed] == ["listed"]
    assert collected.text == "collected"
    assert told == ["a", "goodbye"]
    assert handlers.seen == [order, order, GOOD, GOOD, GOOD]


@FLAVOURS
async def test_one_request_that_breaks_rules_reaches_no_handler(flavour: str) -> None:
    order = Order(email="nobody", items=[BAD])
    async with running_hub() as hub, hosted(hub, flavour) as (handlers, channel):
        for shape, name in (("unary_unary", "Place"), ("unary_stream", "List")):
            error = await refused(method(channel, shape, name, Order)(order))
            assert error.may_have_executed is False
            assert error.details().startswith("invalid test.rules.Order: email: must be")
            assert violations_in(error) == [
                ("email", "string.email"),
                ("items.count", "int32.gte_lte"),
            ]
    assert handlers.seen == []


@FLAVOURS
async def test_request_of_a_stream_that_breaks_rules_ends_its_call(flavour: str) -> None:
    """Also where the handler would go on without it."""
    async with running_hub() as hub, hosted(hub, flavour) as (handlers, channel):
        for shape, name in (("stream_unary", "Collect"), ("stream_stream", "Chat")):
            call = method(channel, shape, name, Item)(iter([GOOD, GOOD, BAD, GOOD]))
            error = await refused(call)
            assert error.details() == REASON
            assert error.may_have_executed is True
            assert violations_in(error) == [("count", "int32.gte_lte")]
    assert handlers.seen == [GOOD] * 4


@pytest.mark.parametrize(
    ("flavour", "interceptor"), [("async", PassOn()), ("blocking", SyncPassOn())]
)
async def test_rules_hold_behind_interceptors(flavour: str, interceptor: Any) -> None:
    async with (
        running_hub() as hub,
        hosted(hub, flavour, interceptors=[interceptor]) as (handlers, channel),
    ):
        await refused(method(channel, "unary_unary", "Place", Order)(Order(email="x")))
    assert handlers.seen == []


async def test_rules_hold_for_handlers_that_take_bytes() -> None:
    seen: list[bytes] = []

    async def place(request: bytes, _context: Any) -> bytes:
        seen.append(request)
        return b""

    class Opaque(grpc.ServiceRpcHandler):
        def service_name(self) -> str:
            return SERVICE

        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(place)

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/rules"
        server = relayrpc.aio.server(url, handlers=[Opaque()], descriptor_pool=POOL)
        await server.start()
        async with relayrpc.aio.channel(url) as channel:
            call = method(channel, "unary_unary", "Place", Order)
            await refused(call(Order(email="x")))
            await call(Order(email="a@b.org"))
        await server.stop(None)
    assert seen == [Order(email="a@b.org").SerializeToString()]


async def test_rules_are_not_enforced_where_the_host_says_so() -> None:
    async with running_hub() as hub, hosted(hub, "async", validate=False) as (handlers, channel):
        await method(channel, "unary_unary", "Place", Order)(Order(email="x"))
    assert len(handlers.seen) == 1


async def test_rules_that_cannot_be_used_stop_the_host_before_it_serves() -> None:
    misfit = message_class("Misfit")
    handler = grpc.unary_unary_rpc_method_handler(
        AsyncHandlers().place, misfit.FromString, Receipt.SerializeToString
    )
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/rules"
        server = relayrpc.aio.server(url, descriptor_pool=POOL)
        server.add_registered_method_handlers("test.rules.Broken", {"Do": handler})
        with pytest.raises(ContractError, match=r"test\.rules\.Misfit cannot be used"):
            await server.start()
        await server.stop(None)


async def test_without_what_checks_rules_a_host_warns_or_refuses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "protovalidate", None)
    monkeypatch.delitem(sys.modules, "relayrpc.contract.validation", raising=False)
    async with running_hub() as hub:
        async with hosted(hub, "async") as (handlers, channel):
            await method(channel, "unary_unary", "Place", Order)(Order(email="x"))
        with pytest.raises(ConfigError, match=r"pip install 'relayrpc\[validation\]'"):
            relayrpc.aio.server(f"ws://127.0.0.1:{hub.http_port}/rules", validate=True)
    assert len(handlers.seen) == 1
    warnings = [record.message for record in caplog.records if "rules of" in record.message]
    assert len(warnings) == 1
    assert warnings[0].startswith("the rules of test.rules.Order are not enforced: ")
