"""
Goal: an unmodified gRPC client of another language calls through the hub as it calls a server.

Method: a hub process, `@grpc/grpc-js` in a Node.js process that reads the greeter's own .proto, and
a greeter in this process that does what its caller's words ask for.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import google.rpc
import grpc
import grpc_tools
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2, status_pb2

import relayrpc
import relayrpc.aio
from relayrpc.contract.descriptors import load_pool
from relayrpc.protos import include_folder
from relayrpc.v1 import contract_pb2
from samples.greeter import greeter_pb2, greeter_pb2_grpc
from samples.greeter.host import Greeter
from samples.orders.host import Orders
from samples.orders.orders_relay import add_OrdersServicer_to_server
from tests.e2e.node import NodeClient, needs_grpc_js, node_client, run_program
from tests.e2e.processes import RunningHub, running_hub
from tests.support.generated import SHOP, run_protoc
from tests.support.until import until_refused


pytestmark = [pytest.mark.e2e, needs_grpc_js]

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "samples/greeter/greeter.proto"
PAGE = ROOT / "docs/howto/call-from-another-language.md"
SERVICE = "samples.greeter.v1.Greeter"
AT = (("relay-address", "contoso/greeter"),)
DETAILS_KEY = "grpc-status-details-bin"


class WordyGreeter(Greeter):
    """A greeter whom names and lines tell what to do; it notes what happens to its handlers."""

    def __init__(self) -> None:
        # Released by each handler that is told to wait, and by each of them that was cancelled.
        self.started = asyncio.Semaphore(0)
        self.cancelled = asyncio.Semaphore(0)
        self.calls_count = 0
        self.metadata: list[tuple[str, Any]] = []

    async def SayHello(
        self, request: greeter_pb2.HelloRequest, context: grpc.aio.ServicerContext
    ) -> greeter_pb2.HelloReply:
        self.calls_count += 1
        self.metadata = [(key, value) for key, value in context.invocation_metadata()]
        match request.name:
            case "fail":
                status = status_pb2.Status(code=5, message="nobody of that name: ä")
                status.details.add().Pack(error_details_pb2.ErrorInfo(reason="UNKNOWN_NAME"))
                context.set_trailing_metadata(
                    ((DETAILS_KEY, status.SerializeToString()), ("why", "so"), ("why", "too"))
                )
                context.set_code(grpc.StatusCode.NOT_FOUND)
                context.set_details(status.message)
            case "wait":
                await self.wait()
            case "session":
                session = context.session  # type: ignore[attr-defined]  # the relay's
                return greeter_pb2.HelloReply(message="" if session is None else session.id)
            case _:
                await context.send_initial_metadata((("hello", "1"), ("hello-bin", b"\x00\xff")))
                context.set_trailing_metadata((("bye", "2"), ("bye", "3"), ("bye-bin", b"\xfe")))
        return greeter_pb2.HelloReply(message=f"Hello, {request.name}")

    async def ListGreetings(
        self, request: greeter_pb2.ListGreetingsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[greeter_pb2.HelloReply]:
        for number in range(1, request.count + 1):
            yield greeter_pb2.HelloReply(message=f"Hello, {request.name}", number=number)
        if request.name == "wait":
            await self.wait()

    async def CollectNames(
        self,
        request_iterator: AsyncIterator[greeter_pb2.HelloRequest],
        context: grpc.aio.ServicerContext,
    ) -> greeter_pb2.HelloReply:
        names = [request.name async for request in request_iterator]
        if "wait" in names:
            await self.wait()
        return greeter_pb2.HelloReply(message=f"Hello, {' and '.join(names)}")

    async def Chat(
        self,
        request_iterator: AsyncIterator[greeter_pb2.ChatLine],
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[greeter_pb2.ChatLine]:
        async for line in request_iterator:
            if line.text == "wait":
                await self.wait()
            yield greeter_pb2.ChatLine(text=line.text.upper())

    async def wait(self) -> None:
        self.started.release()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.release()


@pytest.fixture(scope="module")
def hub() -> Iterator[RunningHub]:
    with running_hub() as hub:
        yield hub


@contextlib.asynccontextmanager
async def hosted(
    hub: RunningHub,
    greeter: WordyGreeter,
    *,
    address: str = "/contoso/greeter",
    options: Any = None,
    descriptor_pool: DescriptorPool | None = None,
) -> AsyncIterator[tuple[relayrpc.aio.Server, NodeClient]]:
    server = relayrpc.aio.server(
        f"ws://127.0.0.1:{hub.http_port}{address}", descriptor_pool=descriptor_pool
    )
    greeter_pb2_grpc.add_GreeterServicer_to_server(greeter, server)
    await server.start()
    try:
        async with node_client(f"127.0.0.1:{hub.grpc_port}", PROTO, options=options) as client:
            yield server, client
    finally:
        # A test that fails leaves no host behind for the others' calls.
        await server.stop(0)


@pytest.mark.parametrize("address", ["", "/contoso/greeter"])
async def test_calls_without_an_address_go_to_the_contracts_default(
    hub: RunningHub, address: str
) -> None:
    file = FileDescriptorProto.FromString(greeter_pb2.DESCRIPTOR.serialized_pb)
    file.service[0].options.Extensions[contract_pb2.contract].address = "contoso/greeter"
    pool = load_pool({file.name: file.SerializeToString()})
    greeter = WordyGreeter()
    async with hosted(hub, greeter, address=address, descriptor_pool=pool) as (_, client):
        for metadata in ((), AT):
            hello = client.open(f"{SERVICE}/SayHello", {"name": "Ada"}, metadata=metadata)
            assert (await hello.message())["message"] == "Hello, Ada"


async def test_calls_of_every_shape(hub: RunningHub) -> None:
    async with hosted(hub, WordyGreeter()) as (_, client):
        hello = client.open(f"{SERVICE}/SayHello", {"name": "Ada"}, metadata=AT)
        assert (await hello.message())["message"] == "Hello, Ada"
        assert (await hello.status()).code is grpc.StatusCode.OK

        listed = client.open(f"{SERVICE}/ListGreetings", {"name": "Ada", "count": 300}, metadata=AT)
        assert [(await listed.message())["number"] for _ in range(300)] == list(range(1, 301))
        assert (await listed.status()).code is grpc.StatusCode.OK

        collected = client.open(f"{SERVICE}/CollectNames", metadata=AT)
        for name in ("Ada", "Grace"):
            collected.write({"name": name})
        collected.half_close()
        assert (await collected.message())["message"] == "Hello, Ada and Grace"
        assert (await collected.status()).code is grpc.StatusCode.OK

        chat = client.open(f"{SERVICE}/Chat", metadata=AT)
        for line in ("one", "two"):
            chat.write({"text": line})
            assert (await chat.message())["text"] == line.upper()
        chat.half_close()
        assert (await chat.status()).code is grpc.StatusCode.OK


async def test_default_address_is_the_name_of_the_service(hub: RunningHub) -> None:
    async with hosted(hub, WordyGreeter(), address="") as (_, client):
        hello = client.open(f"{SERVICE}/SayHello", {"name": "Ada"})
        assert (await hello.message())["message"] == "Hello, Ada"


async def test_metadata_passes_both_ways_with_several_values_a_key(hub: RunningHub) -> None:
    greeter = WordyGreeter()
    async with hosted(hub, greeter) as (_, client):
        sent = [("x", "1"), ("x", "2"), ("y-bin", b"\x00\x01"), ("y-bin", b"\xff,"), ("z", "")]
        hello = client.open(f"{SERVICE}/SayHello", {"name": "Ada"}, metadata=(*AT, *sent))
        begin = await hello.metadata()
        assert ("hello", "1") in begin
        assert ("hello-bin", b"\x00\xff") in begin
        await hello.message()
        status = await hello.status()
        # Node.js joins what is not binary, as HTTP allows.
        assert status.values("bye") in (["2", "3"], ["2, 3"])
        assert status.values("bye-bin") == [b"\xfe"]
        # The client adds some of its own.
        own = {"accept-encoding", "user-agent"}
        assert {key for key, _ in greeter.metadata} == own | {key for key, _ in sent}
        assert sorted(each for each in greeter.metadata if each[0] not in own) == sorted(sent)
        assert [value for key, value in greeter.metadata if key == "x"] == ["1", "2"]


async def test_status_of_the_host_arrives_with_its_details(hub: RunningHub) -> None:
    async with hosted(hub, WordyGreeter()) as (_, client):
        status = await client.open(f"{SERVICE}/SayHello", {"name": "fail"}, metadata=AT).status()
        assert status.code is grpc.StatusCode.NOT_FOUND
        assert status.details == "nobody of that name: ä"
        (packed,) = status.values(DETAILS_KEY)
        assert isinstance(packed, bytes)
        details = status_pb2.Status.FromString(packed)
        assert details.message == status.details
        assert details.details[0].Is(error_details_pb2.ErrorInfo.DESCRIPTOR)
        # It ran: a retry policy must not run it again.
        assert status.values("grpc-retry-pushback-ms") == ["-1"]


async def test_fault_of_the_contract_is_read_with_its_fields(
    hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client knows the .proto files, and nothing of the relay or of Python."""
    folders = (SHOP.parent, include_folder())
    outputs = (f"--{kind}_out={tmp_path}" for kind in ("python", "relayrpc"))
    done = run_protoc(*(f"-I{folder}" for folder in folders), *outputs, SHOP.name)
    assert done.returncode == 0, done.stderr
    monkeypatch.syspath_prepend(tmp_path)
    shop_relay = importlib.import_module("shop_relay")

    class Shop:
        async def Buy(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
            raise shop_relay.OutOfStockFault(
                sku=request.sku,
                left=2,
                why="WHY_SOLD",
                stores={"Ghent": 3},
                code=grpc.StatusCode.NOT_FOUND,
                reason="none left: ä",
            )

        Rent = Buy

    server = relayrpc.aio.server(f"ws://127.0.0.1:{hub.http_port}")
    shop_relay.add_ShopServicer_to_server(Shop(), server)
    await server.start()
    standard = Path(google.rpc.__path__[0]).parents[1]
    protos = (SHOP, standard / "google/rpc/status.proto")
    imports = (*folders, standard, Path(grpc_tools.__file__).parent / "_proto")
    target = f"127.0.0.1:{hub.grpc_port}"
    async with node_client(target, *protos, imports=imports) as client:
        status = await client.open("shop.Shop/Buy", {"sku": "A7"}).status()
    await server.stop(0)
    assert (status.code, status.details) == (grpc.StatusCode.NOT_FOUND, "none left: ä")
    (detail,) = status.rich
    assert detail == (
        "shop.OutOfStock",
        {"sku": "A7", "left": 2, "why": "WHY_SOLD", "others": [], "stores": {"Ghent": 3}},
    )


async def test_end_that_the_hub_made_says_what_ran(hub: RunningHub) -> None:
    greeter = WordyGreeter()
    async with hosted(hub, greeter) as (server, client):
        at = (("relay-address", "nowhere"),)
        status = await client.open(f"{SERVICE}/SayHello", {"name": "Ada"}, metadata=at).status()
        assert status.code is grpc.StatusCode.UNAVAILABLE
        assert "nowhere" in status.details
        assert status.values("relay-origin") == ["hub"]
        assert status.values("relay-may-have-executed") == ["false"]
        assert status.values("grpc-retry-pushback-ms") == []

        running = client.open(f"{SERVICE}/SayHello", {"name": "wait"}, metadata=AT)
        await greeter.started.acquire()
        await server.live.aclose()
        status = await running.status()
        assert status.code is grpc.StatusCode.UNAVAILABLE
        assert status.values("relay-origin") == ["hub"]
        assert status.values("relay-may-have-executed") == ["true"]
        assert status.values("grpc-retry-pushback-ms") == ["-1"]


async def test_retry_policy_does_not_run_a_call_twice(hub: RunningHub) -> None:
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.01s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE", "NOT_FOUND"],
    }
    config = {"methodConfig": [{"name": [{"service": SERVICE}], "retryPolicy": policy}]}
    options = {"grpc.service_config": json.dumps(config)}
    greeter = WordyGreeter()
    async with hosted(hub, greeter, options=options) as (_, client):
        status = await client.open(f"{SERVICE}/SayHello", {"name": "fail"}, metadata=AT).status()
        assert status.code is grpc.StatusCode.NOT_FOUND
        assert greeter.calls_count == 1


async def test_deadline_ends_calls_at_both_ends(hub: RunningHub) -> None:
    greeter = WordyGreeter()
    async with hosted(hub, greeter) as (_, client):
        chat = client.open(f"{SERVICE}/Chat", metadata=AT, deadline_s=2)
        chat.write({"text": "wait"})
        calls = [
            chat,
            client.open(f"{SERVICE}/SayHello", {"name": "wait"}, metadata=AT, deadline_s=2),
            client.open(f"{SERVICE}/ListGreetings", {"name": "wait"}, metadata=AT, deadline_s=2),
        ]
        for call in calls:
            assert (await call.status()).code is grpc.StatusCode.DEADLINE_EXCEEDED
            await greeter.cancelled.acquire()


@pytest.mark.parametrize("method", ["SayHello", "ListGreetings", "CollectNames", "Chat"])
async def test_cancel_reaches_the_handler(hub: RunningHub, method: str) -> None:
    greeter = WordyGreeter()
    request = {
        "SayHello": {"name": "wait"},
        "ListGreetings": {"name": "wait", "count": 1},
    }.get(method)
    async with hosted(hub, greeter) as (_, client):
        call = client.open(f"{SERVICE}/{method}", request, metadata=AT)
        if method == "CollectNames":
            call.write({"name": "wait"})
        if method == "Chat":
            call.write({"text": "one"})
            assert (await call.message())["text"] == "ONE"
            call.write({"text": "wait"})
        if method == "ListGreetings":
            assert (await call.message())["number"] == 1
        if method == "CollectNames":
            # Node.js ends the requests first, and resets the stream a moment later.
            call.half_close()
        await greeter.started.acquire()
        call.cancel()
        assert (await call.status()).code is grpc.StatusCode.CANCELLED
        await greeter.cancelled.acquire()


async def test_client_that_is_killed_is_a_cancellation(hub: RunningHub) -> None:
    greeter = WordyGreeter()
    async with hosted(hub, greeter) as (_, client):
        client.open(f"{SERVICE}/SayHello", {"name": "wait"}, metadata=AT)
        await greeter.started.acquire()
        client.process.kill()
        await greeter.cancelled.acquire()


async def test_running_call_finishes_while_the_hub_drains() -> None:
    with running_hub() as hub:
        async with hosted(hub, WordyGreeter()) as (_, client):
            chat = client.open(f"{SERVICE}/Chat", metadata=AT)
            chat.write({"text": "one"})
            assert (await chat.message())["text"] == "ONE"
            hub.process.send_signal(signal.SIGTERM)
            await until_refused(hub.grpc_port)
            chat.write({"text": "two"})
            assert (await chat.message())["text"] == "TWO"
            chat.half_close()
            assert (await chat.status()).code is grpc.StatusCode.OK
            assert await asyncio.to_thread(hub.wait) == 0


async def test_session_by_metadata(hub: RunningHub) -> None:
    async with hosted(hub, WordyGreeter()) as (_, client):

        async def session_of(metadata: Any) -> str:
            call = client.open(f"{SERVICE}/SayHello", {"name": "session"}, metadata=metadata)
            message: str = (await call.message())["message"]
            return message

        assert await session_of(AT) == ""
        session = client.open(f"{SERVICE}/$session", metadata=AT)
        name = dict(await session.metadata())["relay-session"]
        within = [("relay-session", name)]
        first = await session_of(within)
        assert first
        assert await session_of(within) == first
        session.half_close()
        assert (await session.status()).code is grpc.StatusCode.OK
        late = client.open(f"{SERVICE}/SayHello", {"name": "session"}, metadata=within)
        assert (await late.status()).code is grpc.StatusCode.FAILED_PRECONDITION


async def test_one_way_call_by_metadata(hub: RunningHub) -> None:
    """It is over although its handler never returns."""
    greeter = WordyGreeter()
    async with hosted(hub, greeter) as (_, client):
        metadata = [*AT, ("relay-confirm", "hub")]
        call = client.open(f"{SERVICE}/SayHello", {"name": "wait"}, metadata=metadata)
        assert await call.message() == {"message": "", "number": 0}
        assert (await call.status()).code is grpc.StatusCode.OK
        await greeter.started.acquire()


async def test_the_page_on_other_languages_does_what_it_says(hub: RunningHub) -> None:
    """Its blocks are one program, with the samples' own hosts."""
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(js|text)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    program = "".join(code for kind, code in blocks if kind == "js")
    assert "'127.0.0.1:7350'" in program
    program = program.replace("127.0.0.1:7350", f"127.0.0.1:{hub.grpc_port}")
    (expected,) = (text for kind, text in blocks if kind == "text")
    servers = []
    for address, add, servicer in (
        ("contoso/greeter", greeter_pb2_grpc.add_GreeterServicer_to_server, Greeter()),
        ("contoso/orders", add_OrdersServicer_to_server, relayrpc.servicer(Orders)),
    ):
        servers.append(relayrpc.aio.server(f"ws://127.0.0.1:{hub.http_port}/{address}"))
        add(servicer, servers[-1])
        await servers[-1].start()
    try:
        assert await run_program(program, folder=ROOT) == expected
    finally:
        for server in servers:
            await server.stop(0)
