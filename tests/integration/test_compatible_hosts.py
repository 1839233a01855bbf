"""
Hosts whose contracts differ. Goal: a version that would break callers of those before is refused,
with what and why, whoever serves by then; one that does not serves beside them; and what a hub once
accepted is accepted again. Method: real hubs and hosts in this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

import relayrpc
import relayrpc.aio
from relayrpc.contract.fingerprint import fingerprint_of
from relayrpc.errors import LinkRefusedError
from relayrpc.hub.addresses import AddressEntry, Compatibility
from relayrpc.hub.server import Hub
from relayrpc.limits import DEFAULT_LIMITS
from tests.support.contract_hosts import Liar, get_contract, serving_contract
from tests.support.contracts import make_file, make_pool, make_set
from tests.support.log_records import hub_records
from tests.support.relay import peer_links, running_hub
from tests.support.tcp_proxy import TCPProxy
from tests.support.until import until


pytestmark = pytest.mark.integration

_Field = FieldDescriptorProto
V1 = make_file(fields={"x": 1})
V2 = make_file(fields={"x": 1, "y": 2})
V3 = make_file(fields={"x": 1, "y": 2, "z": 3})
# Breaks those who hold any of them, in JSON alone.
RENAMED = make_file(fields={"renamed": 1, "y": 2, "z": 3})
# Nobody listens there.
_NOWHERE = 1
WIRE = AddressEntry(compatibility=Compatibility.WIRE)
ANYTHING = AddressEntry(compatibility=Compatibility.NONE)


def at(hub: Hub, address: str = "a") -> str:
    return f"ws://127.0.0.1:{hub.http_port}/{address}"


def fingerprint(*files: FileDescriptorProto) -> bytes:
    return fingerprint_of(make_set(*files))


def rich() -> FileDescriptorProto:
    """A file with an enum and two methods, to be changed."""
    file = make_file(fields={"x": 1, "y": 2}, methods=("Do", "Go"))
    file.message_type[0].field[1].type = _Field.TYPE_INT64
    enum = file.enum_type.add(name="E")
    enum.value.add(name="NONE", number=0)
    enum.value.add(name="ONE", number=1)
    file.message_type[0].field.add(
        name="e", number=3, type=_Field.TYPE_ENUM, type_name=".t.E", label=_Field.LABEL_OPTIONAL
    )
    return file


async def refusal(hub: Hub, *files: FileDescriptorProto, address: str = "a") -> str:
    """Have a host come that is refused; returns what it is told."""
    with pytest.raises(LinkRefusedError) as refused:
        async with serving_contract(at(hub, address), *files):
            pass
    assert refused.value.detail["status"] == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    return str(refused.value)


async def served(hub: Hub, address: str = "a") -> bytes:
    return (await get_contract(hub, address)).fingerprint


def hosts_count(hub: Hub, address: str = "a") -> int:
    return len(hub.sessions.forwarder.router.hosts_of(address, "t.Service"))


# --- what differs ---


def _type(file: FileDescriptorProto) -> None:
    file.message_type[0].field[0].type = _Field.TYPE_STRING


def _narrower(file: FileDescriptorProto) -> None:
    file.message_type[0].field[1].type = _Field.TYPE_INT32


def _number(file: FileDescriptorProto) -> None:
    file.message_type[0].field[0].number = 7


def _label(file: FileDescriptorProto) -> None:
    file.message_type[0].field[0].label = _Field.LABEL_REPEATED


def _enum(file: FileDescriptorProto) -> None:
    file.enum_type[0].value[1].number = 2


def _shape(file: FileDescriptorProto) -> None:
    file.service[0].method[0].server_streaming = True


def _method(file: FileDescriptorProto) -> None:
    file.service[0].method[1].name = "Walk"


DIFFERENCES: dict[str, tuple[Callable[[FileDescriptorProto], None], str]] = {
    "type": (_type, "(t.M.x) changed its type from int32 to string [FIELD_WIRE_JSON_COMPATIBLE"),
    "narrower type": (_narrower, "from int64 to int32 [FIELD_WIRE_JSON_COMPATIBLE_TYPE]"),
    "number": (_number, "is not reserved [FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED]"),
    "label": (_label, "[FIELD_WIRE_JSON_COMPATIBLE_CARDINALITY]"),
    "enum": (_enum, "[ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED]"),
    "shape": (_shape, "t.Service.Do: has a stream of responses [RPC_SAME_SERVER_STREAMING]"),
    "method": (_method, "t.Service.Go: is gone [RPC_NO_DELETE]"),
}


@pytest.mark.parametrize("name", DIFFERENCES)
async def test_version_that_breaks_callers_is_refused_with_the_difference(name: str) -> None:
    change, text = DIFFERENCES[name]
    old, new = rich(), rich()
    change(new)
    async with running_hub() as hub, serving_contract(at(hub), old):
        told = await refusal(hub, new)
        assert await served(hub) == fingerprint(old)
    assert told.startswith(
        "the hub refused to register 'a': the contract of 't.Service' breaks callers of its "
        f"version {fingerprint(old).hex()[:12]}: t.proto: "
    )
    assert text in told


async def test_refusal_tells_of_many_differences_a_few() -> None:
    old = make_file(fields={f"field_{number}": number for number in range(1, 500)})
    async with running_hub() as hub, serving_contract(at(hub), old):
        told = await refusal(hub, make_file())
    assert told.endswith("; and 59 more")
    assert len(told) < 2_500


async def test_refused_host_is_logged_and_its_link_is_of_use() -> None:
    async with running_hub() as hub, serving_contract(at(hub), V1):
        with hub_records() as events:
            await refusal(hub, RENAMED)
        async with serving_contract(at(hub, "b"), RENAMED):
            assert hosts_count(hub, "b") == 1
    (record,) = (event for event in events if event.message == "host refused")
    assert "[FIELD_SAME_NAME]" in record.fields["reason"]


async def test_blocking_host_is_refused_with_the_difference_too() -> None:
    async with running_hub() as hub, serving_contract(at(hub), V1):
        server = relayrpc.server(at(hub), descriptor_pool=make_pool(RENAMED))
        handler = grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
        server.add_registered_method_handlers("t.Service", {"Do": handler})
        with pytest.raises(LinkRefusedError, match=r"\[FIELD_SAME_NAME\]"):
            await asyncio.to_thread(server.start)
        await asyncio.to_thread(server.stop(None).wait)


async def test_callers_are_protected_when_no_host_is_there() -> None:
    async with running_hub() as hub:
        async with serving_contract(at(hub), V1):
            pass
        assert "[FIELD_SAME_NAME]" in await refusal(hub, RENAMED)


async def test_one_service_that_breaks_callers_has_all_that_is_announced_with_it_refused() -> None:
    good = make_file("good.proto", package="good")
    async with running_hub() as hub:
        async with serving_contract(at(hub), V1):
            pass
        assert "'t.Service'" in await refusal(hub, good, RENAMED)
        # It left nothing behind that others would have to keep to.
        other = make_file("good.proto", package="good", fields={"x": 1}, methods=("Other",))
        async with serving_contract(at(hub), other):
            assert await get_contract(hub, "a", "good.Service")


# --- what does not ---


async def test_compatible_versions_serve_side_by_side() -> None:
    async with running_hub() as hub, AsyncExitStack() as stack:
        for version in (V1, V2, V3):
            await stack.enter_async_context(serving_contract(at(hub), version))
        assert hosts_count(hub) == 3
        assert await served(hub) == fingerprint(V3)
        # However often the older ones come back.
        await stack.enter_async_context(serving_contract(at(hub), V1))
        assert hosts_count(hub) == 4
        assert await served(hub) == fingerprint(V3)


async def test_host_goes_back_to_an_older_version() -> None:
    async with running_hub() as hub:
        for version in (V1, V2, V1, V2):
            async with serving_contract(at(hub), version):
                assert await served(hub) == fingerprint(version)


async def test_services_of_one_name_in_two_packages_are_two() -> None:
    one, other = make_file(), make_file(package="u", fields={"y": 1}, methods=("Go",))
    async with running_hub() as hub, serving_contract(at(hub), one):
        async with serving_contract(at(hub), other):
            assert (await get_contract(hub, "a", "u.Service")).fingerprint == fingerprint(other)
        assert (await get_contract(hub, "a", "t.Service")).fingerprint == fingerprint(one)


async def test_addresses_have_nothing_to_do_with_each_other() -> None:
    async with running_hub() as hub, serving_contract(at(hub, "a"), V3):
        for address in ("b", "a/b", "ab"):
            async with serving_contract(at(hub, address), RENAMED):
                assert await served(hub, address) == fingerprint(RENAMED)


async def test_hosts_without_a_contract_serve_as_ever() -> None:
    async with (
        running_hub() as hub,
        serving_contract(at(hub), V1),
        serving_contract(at(hub), RENAMED, contracts=Liar(b"", _silence)),
    ):
        assert hosts_count(hub) == 2


# --- what an operator says ---


async def test_entry_of_an_address_says_how_much_has_to_go_on_working() -> None:
    addresses = {"json": AddressEntry(), "wire": WIRE, "wire/any": ANYTHING}
    async with running_hub(addresses=addresses) as hub:
        for address in ("json", "wire/below", "wire/any"):
            async with serving_contract(at(hub, address), V3):
                pass
        await refusal(hub, RENAMED, address="json")
        async with serving_contract(at(hub, "wire/below"), RENAMED):
            pass
        await refusal(hub, make_file(), address="wire/below")
        async with serving_contract(at(hub, "wire/any"), make_file()):
            pass


# --- coming back ---


@pytest.mark.parametrize("first", [V1, V2], ids=["older first", "newer first"])
async def test_hub_that_forgot_everything_takes_back_whom_it_had(
    first: FileDescriptorProto,
) -> None:
    """The older one of two versions, come second, would break those who hold the newer one."""
    async with AsyncExitStack() as stack:
        async with running_hub() as hub:
            proxies = [await stack.enter_async_context(TCPProxy(hub.http_port)) for _ in (V1, V2)]
            for proxy, version in zip(proxies, (V1, V2), strict=True):
                url = f"ws://127.0.0.1:{proxy.port}/a"
                await stack.enter_async_context(serving_contract(url, version))
                proxy.target_port = _NOWHERE
        hub = await stack.enter_async_context(running_hub())
        if first is V2:
            proxies.reverse()
        for count, proxy in enumerate(proxies, start=1):
            proxy.target_port = hub.http_port
            await until(lambda count=count: hosts_count(hub) == count)
            await get_contract(hub, "a")
        # Who is new has to keep to both of them.
        assert "[FIELD_SAME_NAME]" in await refusal(hub, RENAMED)


async def test_descriptors_that_are_stored_are_not_asked_for(tmp_path: Path) -> None:
    store = str(tmp_path / "hub.db")
    silent = Liar(fingerprint(V1), _silence)
    async with running_hub(store=store) as hub, serving_contract(at(hub), V1):
        pass
    async with running_hub(store=store) as hub, serving_contract(at(hub), V1, contracts=silent):
        assert (await get_contract(hub, "a")).descriptor_set == make_set(V1)
    assert not silent.asked_count


async def test_host_that_is_stopped_while_the_hub_asks_it_leaves_nothing() -> None:
    liar = Liar(fingerprint(V1), _silence)
    async with running_hub() as hub:
        server = _server(hub, liar)
        starting = asyncio.create_task(server.start())
        await until(lambda: liar.asked_count)
        starting.cancel()
        await asyncio.wait([starting])
        await server.stop(None)
        async with serving_contract(at(hub), RENAMED):
            assert await served(hub) == fingerprint(RENAMED)
        await until(lambda: not peer_links(hub))


async def test_host_that_does_not_tell_is_let_in_when_it_has_waited_enough() -> None:
    """It is never its turn: another one is being asked, which is silent."""
    limits = replace(DEFAULT_LIMITS, contract_pulls_max=1, contract_decision_timeout_s=0.2)
    silent, other = Liar(fingerprint(V1), _silence), Liar(fingerprint(V2), _silence)
    async with (
        running_hub(limits=limits) as hub,
        serving_contract(at(hub), V1, contracts=silent),
        serving_contract(at(hub), V2, contracts=other),
    ):
        assert hosts_count(hub) == 2
        assert (silent.asked_count, other.asked_count) == (1, 0)


async def test_hub_drains_while_a_host_waits_for_its_answer() -> None:
    """The host finds another hub, as any does."""
    liar = Liar(fingerprint(V1), _silent_once)
    async with running_hub() as hub, running_hub() as next_hub, TCPProxy(hub.http_port) as proxy:
        server = _server(hub, liar, f"ws://127.0.0.1:{proxy.port}/a")
        starting = asyncio.create_task(server.start())
        await until(lambda: liar.asked_count)
        proxy.target_port = next_hub.http_port
        await hub.drain()
        await starting
        assert hosts_count(next_hub) == 1
        await server.stop(None)


def _server(hub: Hub, liar: Liar, url: str | None = None) -> relayrpc.aio.Server:
    server = relayrpc.aio.server(url or at(hub), descriptor_pool=make_pool(V1))
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
    server.add_registered_method_handlers("t.Service", {"Do": handler})
    server._contracts = liar
    return server


def _silence(_liar: Liar, _call: Any, _opening: Any) -> None:
    """Answer nothing."""


def _silent_once(liar: Liar, call: Any, opening: Any) -> None:
    if liar.asked_count > 1:
        liar.give(call, opening, make_set(V1))
