"""
Goal: an operator reads in the hub's log who came and went, and what failed, each fact once.

Method: a real hub with hosts and callers on real sockets, whose records are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

import relayrpc.aio
from relayrpc.hub.server import Hub
from relayrpc.limits import Limits
from relayrpc.observe.logs import LOG_EVENTS, JSONFormatter, TextFormatter
from relayrpc.v1 import hub_pb2 as pb
from relayrpc.v1 import link_pb2
from tests.support.log_records import LoggedEvent, hub_records
from tests.support.raw_peer import RawLink, batch, frame, open_raw
from tests.support.relay import Stub, peer_links, running_hub
from tests.support.until import until


pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def said() -> Iterator[list[LoggedEvent]]:
    """What was logged; it is as the table says, whatever the test is about."""
    with hub_records() as events:
        yield events
    for event in events:
        of_table = LOG_EVENTS[event.message]
        assert event.level == of_table.level
        in_order = [name for name in of_table.fields if name in event.fields]
        assert [*event.fields] == in_order, event.message


def about(said: list[LoggedEvent], link_id: str) -> list[str]:
    """The messages that name a link, in order."""
    return [event.message for event in said if event.fields.get("link_id") == link_id]


def one(said: list[LoggedEvent], message: str, **fields: object) -> LoggedEvent:
    """The only record with this message and these fields."""
    (found,) = (
        event
        for event in said
        if event.message == message and fields.items() <= event.fields.items()
    )
    return found


def has(said: list[LoggedEvent], message: str) -> bool:
    return any(event.message == message for event in said)


async def echo(request: bytes, _context: Any) -> bytes:
    return request


async def refuse(_request: bytes, context: Any) -> bytes:
    await context.abort(grpc.StatusCode.NOT_FOUND, "card 1234 is not there")
    raise AssertionError("abort raises")


@contextlib.asynccontextmanager
async def serving(hub: Hub, wait: Any = echo, **options: Any) -> AsyncIterator[None]:
    """Serve at "a"; `wait` is its method Wait."""
    server = relayrpc.aio.server(f"ws://127.0.0.1:{hub.http_port}/a", **options)
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
        "Wait": grpc.unary_unary_rpc_method_handler(wait),
    }
    server.add_registered_method_handlers("test.Service", handlers)
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def calling(hub: Hub, path: str = "/a") -> AsyncIterator[Stub]:
    async with relayrpc.aio.channel(f"ws://127.0.0.1:{hub.http_port}{path}") as channel:
        yield Stub(channel)


async def test_a_host_from_its_link_to_its_end(said: list[LoggedEvent]) -> None:
    async with running_hub() as hub:
        async with serving(hub, instance="h1", slots=3, priority=1):
            (link,) = peer_links(hub)
            link_id = link.link_id.hex()
            driver = hub.sessions.driver(link)
            assert driver.carrier is not None
            driver.carrier.abort()
            await until(lambda: has(said, "link resumed"))
        await until(lambda: not peer_links(hub))
    assert about(said, link_id) == [
        "link opened",
        "host came",
        "link parked",
        "link resumed",
        "host went",
        "link ended",
    ]
    opened = one(said, "link opened", link_id=link_id)
    assert opened.fields["instance"] == opened.fields["identity"] == "h1"
    assert opened.fields["carrier"] == "websocket"
    assert opened.fields["peer"].startswith("ipv4:127.0.0.1:")
    assert opened.fields["agent"].startswith("relayrpc/")
    came = one(said, "host came", link_id=link_id)
    assert came.fields == {
        "link_id": link_id,
        "announcement_id": 1,
        "instance": "h1",
        "address": "a",
        "services": ["test.Service"],
        "slots": 3,
        "priority": 1,
    }
    resumed = one(said, "link resumed")
    assert resumed.fields["resumes_count"] == 1
    assert resumed.fields["peer"] != opened.fields["peer"]
    assert "error" not in one(said, "link ended", link_id=link_id).fields


async def test_the_hubs_own_part_is_told_like_any_other(said: list[LoggedEvent]) -> None:
    async with running_hub():
        pass
    (opened,) = (event for event in said if event.message == "link opened")
    assert (opened.fields["identity"], opened.fields["carrier"]) == ("$hub", "memory")
    assert about(said, opened.fields["link_id"]) == [
        "link opened",
        "host came",
        "host went",
        "link ended",
    ]


async def test_ids_are_those_that_the_hub_lists(said: list[LoggedEvent]) -> None:
    async with (
        running_hub() as hub,
        serving(hub),
        relayrpc.aio.channel(f"ws://127.0.0.1:{hub.http_port}/$hub") as channel,
    ):
        list_call = channel.unary_stream(
            "/relayrpc.v1.Hub/List", pb.ListRequest.SerializeToString, pb.ListResponse.FromString
        )
        listed = [
            (link.link_id, link.instance)
            async for part in list_call(pb.ListRequest())
            for link in part.links
        ]
        opened = [
            (event.fields["link_id"], event.fields["instance"])
            for event in said
            if event.message == "link opened"
        ]
    assert sorted(opened) == sorted(listed)


async def test_a_host_that_an_operator_drains(said: list[LoggedEvent]) -> None:
    async with (
        running_hub() as hub,
        serving(hub, instance="h1"),
        relayrpc.aio.channel(f"ws://127.0.0.1:{hub.http_port}/$hub") as channel,
    ):
        drain = channel.unary_unary(
            "/relayrpc.v1.Hub/Drain", pb.DrainRequest.SerializeToString, pb.DrainResponse.FromString
        )
        await drain(pb.DrainRequest(instance="h1"))
        await drain(pb.DrainRequest(instance="h1", undo=True))
    fields = {"instance": "h1", "address": "a", "calls_open_count": 0}
    one(said, "host drained", **fields)
    one(said, "host undrained", **fields)


async def test_a_host_that_may_not_listen_there(said: list[LoggedEvent]) -> None:
    async with running_hub() as hub:
        server = relayrpc.aio.server(f"ws://127.0.0.1:{hub.http_port}/$hub", instance="h1")
        handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
        server.add_registered_method_handlers("test.Service", handlers)
        with pytest.raises(relayrpc.errors.LinkRefusedError):
            await server.start()
        await server.stop(None)
    refused = one(said, "host refused")
    assert (refused.fields["instance"], refused.fields["address"]) == ("h1", "$hub")
    assert refused.fields["reason"] == "address '$hub' is reserved for the hub"
    assert about(said, refused.fields["link_id"]) == ["link opened", "host refused", "link ended"]


async def test_a_peer_that_leaves_by_itself(said: list[LoggedEvent]) -> None:
    async with running_hub() as hub:
        carrier = await open_raw("websocket", grpc_port=hub.grpc_port, http_port=hub.http_port)
        link = await RawLink.open(carrier)
        await link.announce("a", "test.Service")
        await link.send(frame(going_away=link_pb2.GoingAway(time_left_ms=1000)))
        await until(lambda: has(said, "link leaving"))
        await carrier.send(batch(frame(close=link_pb2.Close())))
        await carrier.aclose()
    assert about(said, link.welcome.link_id.hex()) == [
        "link opened",
        "host came",
        "link leaving",
        "host went",
        "link ended",
    ]


async def test_a_takeover_names_both_links(said: list[LoggedEvent]) -> None:
    async with running_hub() as hub, serving(hub, instance="h1"):
        (older,) = peer_links(hub)
        async with serving(hub, instance="h1"):
            await until(lambda: has(said, "link replaced"))
            (newer,) = peer_links(hub)
    replaced = one(said, "link replaced")
    assert replaced.fields["link_id"] == newer.link_id.hex()
    assert replaced.fields["replaced_link_id"] == older.link_id.hex()
    assert replaced.fields["replaced_peer"] == older.peer_address
    ended = one(said, "link ended", link_id=older.link_id.hex())
    assert ended.fields["error"] == "LinkRefusedError"


@pytest.mark.parametrize("door", ["grpc", "websocket"])
async def test_a_refused_carrier_names_peer_and_reason(door: Any, said: list[LoggedEvent]) -> None:
    async with running_hub() as hub:
        carrier = await open_raw(door, grpc_port=hub.grpc_port, http_port=hub.http_port)
        await carrier.send(batch(frame(ping=1)))
        await carrier.receive_last()
        await carrier.aclose()
    refused = one(said, "carrier refused")
    assert refused.fields == {
        "peer": refused.fields["peer"],
        "carrier": door,
        "error": "ProtocolError",
        "reason": "ping where hello or resume was due",
    }
    assert refused.fields["peer"].startswith("ipv4:127.0.0.1:")


async def test_a_peer_that_breaks_the_protocol(said: list[LoggedEvent]) -> None:
    async with running_hub() as hub:
        carrier = await open_raw("websocket", grpc_port=hub.grpc_port, http_port=hub.http_port)
        link = await RawLink.open(carrier)
        await link.send(frame(call_id=8, half_close=True))
        await carrier.receive_last()
        await carrier.aclose()
    broken = one(said, "link broken")
    assert broken.fields["link_id"] == link.welcome.link_id.hex()
    assert broken.fields["instance"] == link.instance
    assert broken.fields["error"] == "ProtocolError"
    assert broken.fields["reason"]


async def test_peers_that_are_refused_do_not_flood_the_log(said: list[LoggedEvent]) -> None:
    async with running_hub(limits=Limits(log_records_per_s_max=1)) as hub:
        for _ in range(3):
            carrier = await open_raw("websocket", grpc_port=hub.grpc_port, http_port=hub.http_port)
            await carrier.send(b"\xff" * 100)
            await carrier.receive_last()
            await carrier.aclose()
        refused_count = sum(event.message == "carrier refused" for event in said)
    # Also where a second passed in between.
    held_back = [event.fields for event in said if event.message == "records held back"]
    assert refused_count + sum(fields["count"] for fields in held_back) == 3
    assert all(fields["of"] == "carrier refused" for fields in held_back)


async def test_what_is_held_back_is_counted_within_a_second(said: list[LoggedEvent]) -> None:
    limits = Limits(log_records_per_s_max=1)
    async with running_hub(limits=limits) as hub, calling(hub, "/nowhere") as stub:
        calls = [stub.unary_unary("Echo")(b"x") for _ in range(20)]
        await asyncio.gather(*calls, return_exceptions=True)
        await until(lambda: has(said, "records held back"))
    failed = [event for event in said if event.message == "call failed"]
    assert failed[0].fields["details"] == "no host listens at 'nowhere'"
    held_back = [event.fields for event in said if event.message == "records held back"]
    assert len(failed) + sum(fields["count"] for fields in held_back) == 20
    kind = {"of": "call failed", "status": "UNAVAILABLE", "address": "nowhere"}
    assert all(kind.items() <= fields.items() for fields in held_back)


async def test_calls_that_end_well_are_told_when_asked(said: list[LoggedEvent]) -> None:
    async with running_hub() as hub, serving(hub), calling(hub) as stub:
        await stub.unary_unary("Echo")(b"x")
    assert not has(said, "call ended")
    async with (
        running_hub(log_calls=True) as hub,
        serving(hub, instance="h1"),
        calling(hub) as stub,
    ):
        for _ in range(2):
            await stub.unary_unary("Echo")(b"x")
        (link,) = [link for link in peer_links(hub) if link.instance != "h1"]
    ended = [event.fields for event in said if event.message == "call ended"]
    assert len(ended) == 2
    assert ended[0] == {
        "link_id": link.link_id.hex(),
        "call_id": 1,
        "peer": link.peer_address,
        "address": "a",
        "method": "test.Service/Echo",
        "status": "OK",
        "duration_s": ended[0]["duration_s"],
        "origin": "host",
        "may_have_executed": True,
        "instance": "h1",
    }
    assert ended[0]["duration_s"] > 0


async def test_calls_of_plain_grpc_clients_name_the_client(said: list[LoggedEvent]) -> None:
    async with (
        running_hub() as hub,
        grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as channel,
    ):
        with pytest.raises(grpc.RpcError):
            await Stub(channel).unary_unary("Echo")(b"x")
    failed = one(said, "call failed", address="test.Service")
    opened = one(said, "link opened", identity="$grpc")
    assert failed.fields["link_id"] == opened.fields["link_id"]
    assert failed.fields["peer"] == opened.fields["peer"]
    assert failed.fields["peer"].startswith("ipv4:127.0.0.1:")


async def test_no_secret_metadata_message_or_handlers_text_is_logged() -> None:
    written = [io.StringIO(), io.StringIO()]
    handlers = [logging.StreamHandler(stream) for stream in written]
    handlers[0].setFormatter(TextFormatter())
    handlers[1].setFormatter(JSONFormatter())
    logger = logging.getLogger("relayrpc")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        async with (
            running_hub(log_calls=True) as hub,
            serving(hub),
            calling(hub) as stub,
        ):
            metadata = (("authorization", "token-5678"),)
            await stub.unary_unary("Echo")(b"payload-9", metadata=metadata)
            with pytest.raises(grpc.RpcError):
                await stub.unary_unary("Refuse")(b"payload-9", metadata=metadata)
            secrets = [link.secret for link in hub.sessions.table.links]
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
        logger.setLevel(level)
    assert len(secrets) == 3
    for stream in written:
        text = stream.getvalue()
        assert "test.Service/Refuse" in text
        for private in ("1234", "token-5678", "payload-9", "authorization"):
            assert private not in text
        for secret in secrets:
            assert secret.hex() not in text
            assert repr(secret)[2:-1] not in text


async def test_a_drain_that_loses_nothing(said: list[LoggedEvent]) -> None:
    async with running_hub() as hub, serving(hub):
        await hub.drain()
    assert one(said, "hub draining").fields == {"timeout_s": 30.0}
    assert one(said, "hub drained").fields["duration_s"] >= 0
    assert not has(said, "hub drain cut short")


async def test_a_drain_that_cuts_a_call(said: list[LoggedEvent]) -> None:
    entered, never = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, _context: Any) -> bytes:
        entered.set()
        await never.wait()
        return request

    async with (
        running_hub(limits=Limits(drain_timeout_s=0.05)) as hub,
        serving(hub, wait),
        calling(hub) as stub,
    ):
        call = stub.unary_unary("Wait")(b"x")
        await entered.wait()
        await hub.drain()
        with pytest.raises(grpc.RpcError):
            await call
    fields = one(said, "hub drain cut short").fields
    assert fields["calls_open_count"] == 1
    assert one(said, "call failed").fields["status"] == "UNAVAILABLE"
