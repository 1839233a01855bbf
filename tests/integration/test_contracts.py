"""
The contracts of hosts at a hub. Goal: the hub knows what its hosts serve, whatever else happens to
them; a host that does not tell serves without a contract, and one that tells what is wrong not.

Method: real hubs and hosts in this process; hosts that lie answer the hub by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import (
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_reflection.v1alpha import reflection

import relayrpc.aio
from relayrpc.contract.descriptors import collect, load_pool
from relayrpc.contract.fingerprint import fingerprint_of, parse_file
from relayrpc.endpoint.contracts import GET_DESCRIPTOR_SET
from relayrpc.errors import LinkRefusedError
from relayrpc.hub.observer import HubObserver
from relayrpc.hub.server import Hub
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.link.messages import encode_message
from relayrpc.v1 import contract_pb2
from tests.support.contract_hosts import Liar, ask_contract, get_contract, serving_contract
from tests.support.contracts import make_file, make_pool, make_set, raw_set, set_pool, varint
from tests.support.exposed import SERVICE, descriptor_set, running_backend, running_exposed
from tests.support.log_records import hub_records
from tests.support.relay import ADDRESS, running_hub
from tests.support.tcp_proxy import TCPProxy
from tests.support.until import until


pytestmark = pytest.mark.integration

V1 = make_file(fields={"x": 1})
V2 = make_file(fields={"x": 1, "y": 2})
# Of about 900 KiB, in files that are small enough.
LARGE = [
    make_file(
        f"large{number}.proto",
        package=f"large{number}",
        service="",
        fields={f"a_field_with_a_name_{field:05}": field for field in range(1, 5_000)},
    )
    for number in range(4)
]


def at(hub: Hub, address: str = "a") -> str:
    return f"ws://127.0.0.1:{hub.http_port}/{address}"


def fingerprint(*files: FileDescriptorProto) -> bytes:
    return fingerprint_of(make_set(*files))


class Asked(HubObserver):
    """Counts the hub's questions to hosts."""

    def __init__(self, hub: Hub) -> None:
        self.count = 0
        hub.sessions.observers.add(self)

    def call_ended(self, call: Any, end: Any, registration: Any, duration_s: float) -> None:
        if call.method == GET_DESCRIPTOR_SET:
            self.count += 1


async def refusal(hub: Hub, address: str = "a", service: str = "t.Service") -> tuple[str, str]:
    """Return status and text of what the hub says instead of a contract."""
    with pytest.raises(relayrpc.aio.RpcError) as refused:
        await get_contract(hub, address, service)
    return refused.value.code().name, refused.value.details() or ""


async def is_served(hub: Hub, address: str = "a") -> bool:
    async with relayrpc.aio.channel(at(hub, address)) as channel:
        reply: bytes = await channel.unary_unary("/t.Service/Do")(b"hello")
        return reply == b"hello"


# --- hosts that keep to the rules ---


@pytest.mark.parametrize("scheme", ["relay", "ws"])
async def test_hub_knows_the_contract_of_a_host_that_has_just_come(scheme: str) -> None:
    async with running_hub() as hub:
        port = hub.grpc_port if scheme == "relay" else hub.http_port
        carrier = "grpc" if scheme == "relay" else "auto"
        url = f"{scheme}://127.0.0.1:{port}/a"
        async with serving_contract(url, V1, carrier=carrier):
            found = await get_contract(hub, "a")
            below = await get_contract(hub, "a/b/c")
    assert found.descriptor_set == make_set(V1)
    assert found.fingerprint == fingerprint(V1)
    assert below == found


async def test_hub_knows_the_contract_of_a_blocking_host() -> None:
    async with running_hub() as hub:
        server = relayrpc.server(at(hub), descriptor_pool=make_pool(V1))
        handler = grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
        server.add_registered_method_handlers("t.Service", {"Do": handler})
        await asyncio.to_thread(server.start)
        found = await get_contract(hub, "a")
        await asyncio.to_thread(server.stop(None).wait)
    assert found.descriptor_set == make_set(V1)


async def test_hub_knows_the_contract_of_an_exposed_server(tmp_path: Path) -> None:
    """From a file, and from the server's reflection; both are the same contract."""
    behaviors = {"uu:Do": lambda request, _context: request}
    given = tmp_path / "descriptors"
    given.write_bytes(descriptor_set(behaviors))
    pool = load_pool({file.name: file.SerializeToString() for file in files_of(given)})

    def add_reflection(server: grpc.aio.Server) -> None:
        reflection.enable_server_reflection([SERVICE], server, pool=pool)

    found = []
    for register, descriptors in ((None, str(given)), (add_reflection, None)):
        async with (
            running_backend(behaviors, register=register) as (authority, _),
            running_exposed(authority, descriptors=descriptors) as running,
        ):
            found.append(await ask_contract(running.channel, ADDRESS, SERVICE))
    assert found[0] == found[1]
    assert found[0].descriptor_set == collect(pool.FindFileByName("test.proto"))


async def test_contract_of_an_exposed_server_that_is_broken_costs_it_nothing_else(
    tmp_path: Path,
) -> None:
    given = tmp_path / "descriptors"
    file = make_file("test.proto", package="test", imports=["gone.proto"])
    given.write_bytes(raw_set(file))

    async def echo(request: bytes, _context: Any) -> bytes:
        return request

    async with (
        running_backend({"uu:Do": echo}) as (authority, _),
        running_exposed(authority, descriptors=str(given)) as running,
    ):
        assert await running.channel.unary_unary("/test.Service/Do")(b"x") == b"x"
        with pytest.raises(relayrpc.aio.RpcError) as refused:
            await ask_contract(running.channel, ADDRESS, SERVICE)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def files_of(descriptors: Path) -> list[FileDescriptorProto]:
    return list(FileDescriptorSet.FromString(descriptors.read_bytes()).file)


async def test_list_shows_fingerprints() -> None:
    async with running_hub() as hub, serving_contract(at(hub), V1):
        (registration,) = hub.sessions.forwarder.router.hosts_of("a", "t.Service")
    (service,) = registration.announce.services
    assert service.fingerprint == fingerprint(V1)


async def test_service_at_its_own_name_needs_no_address() -> None:
    async with running_hub() as hub, serving_contract(at(hub, ""), V1):
        assert (await get_contract(hub, "")).descriptor_set == make_set(V1)


async def test_hub_knows_its_own_contract() -> None:
    async with running_hub() as hub:
        found = await get_contract(hub, "$hub", "relayrpc.v1.Hub")
    assert b"GetContract" in found.descriptor_set


async def test_hub_says_as_of_a_call_that_nobody_serves() -> None:
    async with running_hub() as hub, serving_contract(at(hub), V1):
        nobody = await refusal(hub, "b")
        nothing = await refusal(hub, "a", "t.Other")
    assert nobody == ("UNAVAILABLE", "no host listens at 'b'")
    assert nothing == ("UNIMPLEMENTED", "no host at 'a' serves 't.Other'")


async def test_hub_says_that_a_host_announced_no_contract() -> None:
    async with running_hub() as hub, serving_contract(at(hub), V1, contracts=Liar(b"", _silence)):
        assert await is_served(hub)
        assert await refusal(hub) == (
            "NOT_FOUND",
            "the hosts of 't.Service' at 'a' announced no contract",
        )


async def test_one_of_many_hosts_is_asked() -> None:
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(running_hub())
        await get_contract(hub, "$hub", "relayrpc.v1.Hub")
        asked = Asked(hub)
        for number in range(5):
            await stack.enter_async_context(serving_contract(at(hub, f"a/{number}"), V1))
        for number in range(5):
            assert (await get_contract(hub, f"a/{number}")).descriptor_set == make_set(V1)
    assert asked.count == 1


async def test_host_that_comes_back_is_not_asked_again() -> None:
    async with running_hub() as hub:
        await get_contract(hub, "$hub", "relayrpc.v1.Hub")
        asked = Asked(hub)
        for _ in range(3):
            async with serving_contract(at(hub), V1):
                assert (await get_contract(hub, "a")).descriptor_set == make_set(V1)
            assert (await refusal(hub))[0] == "UNAVAILABLE"
    assert asked.count == 1


async def test_newest_version_is_the_answer_while_it_is_served() -> None:
    async with running_hub() as hub, AsyncExitStack() as stack, serving_contract(at(hub), V1):
        assert (await get_contract(hub, "a")).fingerprint == fingerprint(V1)
        async with serving_contract(at(hub), V2):
            assert (await get_contract(hub, "a")).fingerprint == fingerprint(V2)
            # Another host of the older one changes nothing.
            await stack.enter_async_context(serving_contract(at(hub), V1))
            assert (await get_contract(hub, "a")).fingerprint == fingerprint(V2)
        assert (await get_contract(hub, "a")).fingerprint == fingerprint(V1)


async def test_host_may_have_two_services_of_one_file() -> None:
    both = make_file()
    other = both.service.add(name="Other")
    other.method.add(name="Too", input_type=".t.M", output_type=".t.M")
    async with running_hub() as hub, serving_contract(at(hub), both):
        first = await get_contract(hub, "a")
        second = await get_contract(hub, "a", "t.Other")
    assert first == second


async def test_question_passes_by_a_hosts_interceptors() -> None:
    class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio ships no types
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            raise AssertionError(f"asked about {details.method}")

    async with running_hub() as hub, serving_contract(at(hub), V1, interceptors=[Guard()]):
        assert (await get_contract(hub, "a")).descriptor_set == make_set(V1)


async def test_question_needs_no_room_at_a_host_that_has_none() -> None:
    """It is asked again while the only call runs that the host takes."""
    is_called, may_end = asyncio.Event(), asyncio.Event()

    async def behavior(request: bytes, _context: Any) -> bytes:
        is_called.set()
        await may_end.wait()
        return request

    async with (
        running_hub() as hub,
        serving_contract(
            at(hub),
            V1,
            contracts=Liar(fingerprint(V1), _give_when_asked_again),
            behavior=behavior,
            slots=1,
            maximum_concurrent_rpcs=1,
        ),
    ):
        calling = asyncio.create_task(is_served(hub))
        await is_called.wait()
        assert (await get_contract(hub, "a")).descriptor_set == make_set(V1)
        may_end.set()
        assert await calling


# --- hosts and networks that fail ---


def _silence(_liar: Liar, _call: Any, _opening: Any) -> None:
    """Answer nothing."""


def _give_when_asked_again(liar: Liar, call: Any, opening: Any) -> None:
    if liar.asked_count == 1:
        _refuse(liar, call, opening)
    else:
        liar.give(call, opening, make_set(V1))


def _refuse(_liar: Liar, call: Any, _opening: Any) -> None:
    """Answer as a host that knows no such contract."""
    call.link.end_call(call, status=12, details="Method not found!", not_executed=True)
    call.link.flush_soon()


def _babble(_liar: Liar, call: Any, _opening: Any) -> None:
    """Answer with what is no answer."""
    call.link.end_call(call, data=encode_message(b"\xff\xff"))
    call.link.flush_soon()


def _large(liar: Liar, call: Any, opening: Any) -> None:
    liar.give(call, opening, bytes(DEFAULT_LIMITS.contract_bytes_max + 100))


def _other(liar: Liar, call: Any, opening: Any) -> None:
    liar.give(call, opening, make_set(V2))


def _contradicting() -> FileDescriptorProto:
    file = make_file()
    file.service[0].method[0].options.Extensions[contract_pb2.operation].terminating = True
    return file


UNTOLD: dict[str, tuple[Callable[[], Liar], str]] = {
    "silent": (lambda: Liar(fingerprint(V1), _silence), "DEADLINE_EXCEEDED: "),
    "unimplemented": (lambda: Liar(fingerprint(V1), _refuse), "UNIMPLEMENTED: Method not found!"),
}
WRONG: dict[str, tuple[Callable[[], Liar], str]] = {
    "no answer": (lambda: Liar(fingerprint(V1), _babble), "the host's answer does not parse"),
    "too large": (lambda: Liar(fingerprint(V1), _large), "RESOURCE_EXHAUSTED: "),
    "another set": (
        lambda: Liar(fingerprint(V1), _other),
        f"the host's descriptors have the fingerprint {fingerprint(V2).hex()}",
    ),
    "no set": (lambda: Liar.of(b"none"), "the bytes are no descriptor set"),
    "missing import": (
        lambda: Liar.of(raw_set(make_file(imports=["gone.proto"]))),
        "'t.proto' imports 'gone.proto', which does not stand before it",
    ),
    "circle": (
        lambda: Liar.of(raw_set(make_file(imports=["t.proto"]))),
        "'t.proto' imports 't.proto', which does not stand before it",
    ),
    "contradicting options": (
        lambda: Liar.of(make_set(_contradicting())),
        "t.proto: t.Service.Do: terminating, but the contract's session is ALLOWED",
    ),
    "not the service": (
        lambda: Liar.of(make_set(make_file(service="Other"))),
        "the descriptors do not define it",
    ),
}


@pytest.mark.parametrize("name", UNTOLD)
async def test_contract_that_is_not_told_is_logged_and_its_host_serves(name: str) -> None:
    make, reason = UNTOLD[name]
    limits = DEFAULT_LIMITS
    if name == "silent":
        limits = replace(limits, contract_pull_timeout_s=0.2)
    async with running_hub(limits=limits) as hub:
        with hub_records() as events:
            async with serving_contract(at(hub), V1, contracts=make(), instance="wrong"):
                assert await is_served(hub)
                status, details = await refusal(hub)
                assert await is_served(hub)
    assert status == "NOT_FOUND"
    assert details.startswith(
        "the hosts of 't.Service' at 'a' announced a contract that cannot be used: "
    )
    record = next(event for event in events if event.message == "contract unknown")
    assert record.fields["reason"].startswith(reason)
    assert record.fields["instance"] == "wrong"
    assert reason in details


@pytest.mark.parametrize("name", WRONG)
async def test_host_with_a_wrong_contract_is_refused_in_a_sentence(name: str) -> None:
    make, reason = WRONG[name]
    async with running_hub() as hub:
        with hub_records() as events:
            with pytest.raises(LinkRefusedError) as refused:
                async with serving_contract(at(hub), V1, contracts=make(), instance="wrong"):
                    pass
            assert await refusal(hub) == ("UNAVAILABLE", "no host listens at 'a'")
        async with serving_contract(at(hub), V1):
            assert await is_served(hub)
    text = f"the contract of 't.Service' cannot be used: {reason}"
    assert str(refused.value).startswith(f"the hub refused to register 'a': {text}")
    assert refused.value.detail["status"] == 9
    record = next(event for event in events if event.message == "host refused")
    assert record.fields["reason"].startswith(text)
    assert record.fields["instance"] == "wrong"


async def test_versions_of_the_options_themselves_live_side_by_side() -> None:
    """A host of a newer relayrpc has other options in the file of the same name."""
    old = FileDescriptorProto.FromString(contract_pb2.DESCRIPTOR.serialized_pb)
    new = FileDescriptorProto.FromString(contract_pb2.DESCRIPTOR.serialized_pb)
    added = new.message_type[0].field.add(name="region", number=99)
    added.type, added.label = FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.LABEL_OPTIONAL
    file = make_file(imports=[old.name])
    file.service[0].options.Extensions[contract_pb2.contract].address = "a"
    # The address, and a region.
    value = b"\x0a\x01b" + varint(99 << 3 | 2) + b"\x02eu"
    newer = parse_file(make_file(imports=[old.name]).SerializeToString())
    key = varint(contract_pb2.CONTRACT_FIELD_NUMBER << 3 | 2)
    newer.service[0].options.MergeFromString(key + varint(len(value)) + value)
    async with (
        running_hub() as hub,
        serving_contract(at(hub, ""), old, file),
        serving_contract(at(hub, ""), new, newer),
    ):
        found = {address: (await get_contract(hub, address)) for address in "ab"}
        assert await is_served(hub, "a")
        assert await is_served(hub, "b")
    assert found["a"].descriptor_set == make_set(old, file)
    assert found["b"].descriptor_set == make_set(new, newer)
    # Whoever reads it with the newer file sees the region.
    pool = set_pool(found["b"].descriptor_set)
    options = message_factory.GetMessageClass(
        pool.FindMessageTypeByName("google.protobuf.ServiceOptions")
    ).FromString(newer.service[0].options.SerializeToString())
    region = options.Extensions[pool.FindExtensionByName("relayrpc.v1.contract")].region
    assert region == "eu"


async def test_honest_host_is_asked_after_one_that_lies() -> None:
    """Two of them, for the same descriptors; what one of them says is no fault of the other."""
    liar = Liar(fingerprint(V1), _other)
    async with running_hub() as hub:
        with pytest.raises(LinkRefusedError, match="have the fingerprint"):
            async with serving_contract(at(hub), V1, contracts=liar):
                pass
        async with serving_contract(at(hub), V1):
            assert (await get_contract(hub, "a")).descriptor_set == make_set(V1)
    assert liar.asked_count == 1


async def test_host_that_was_away_is_asked_again_when_somebody_asks() -> None:
    liar = Liar(fingerprint(V1), _give_when_asked_again)
    async with running_hub() as hub, serving_contract(at(hub), V1, contracts=liar):
        assert (await get_contract(hub, "a")).descriptor_set == make_set(V1)
    assert liar.asked_count == 2


async def test_next_host_is_asked_when_one_is_lost_while_it_answers() -> None:
    liar = Liar(fingerprint(V1), _silence)
    async with running_hub() as hub, AsyncExitStack() as stack:
        lost = await stack.enter_async_context(serving_contract(at(hub), V1, contracts=liar))
        await until(lambda: liar.asked_count)
        await stack.enter_async_context(serving_contract(at(hub), V1))
        asking = asyncio.create_task(get_contract(hub, "a"))
        await lost.stop(None)
        assert (await asking).descriptor_set == make_set(V1)


async def test_answer_goes_on_over_the_next_carrier_when_one_is_cut() -> None:
    files = [*LARGE, make_file(imports=[file.name for file in LARGE])]
    size = len(make_set(*files))
    assert size > 400 * 1024
    async with running_hub() as hub, TCPProxy(hub.http_port) as proxy:
        await get_contract(hub, "$hub", "relayrpc.v1.Hub")
        asked = Asked(hub)
        url = f"ws://127.0.0.1:{proxy.port}/a"
        server = relayrpc.aio.server(url, descriptor_pool=make_pool(*files))
        handler = grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
        server.add_registered_method_handlers("t.Service", {"Do": handler})
        await server.live.connected()
        proxy.cut_after(size // 2)
        await server.start()
        found = await get_contract(hub, "a")
        await server.stop(None)
        assert proxy.cut_count == 1
    assert found.descriptor_set == make_set(*files)
    assert asked.count == 1


async def test_contracts_beyond_the_bound_are_not_kept() -> None:
    """One of the two is the hub's own."""
    limits = replace(DEFAULT_LIMITS, contracts_max=2)
    async with running_hub(limits=limits) as hub:
        await get_contract(hub, "$hub", "relayrpc.v1.Hub")
        async with serving_contract(at(hub), V1):
            await get_contract(hub, "a")
            async with serving_contract(at(hub, "b"), V2):
                status, details = await refusal(hub, "b")
                assert status == "NOT_FOUND"
                assert "the hub keeps 2 contracts" in details
                assert await is_served(hub, "b")
        # What nobody serves makes room.
        async with serving_contract(at(hub, "b"), V2):
            assert (await get_contract(hub, "b")).descriptor_set == make_set(V2)


async def test_fingerprint_that_is_none_is_refused() -> None:
    async with running_hub() as hub:
        with pytest.raises(LinkRefusedError, match="has not 32 bytes"):
            async with serving_contract(at(hub), V1, contracts=Liar(b"short", _silence)):
                pass


async def test_hub_stops_while_it_asks() -> None:
    liar = Liar(fingerprint(V1), _silence)
    async with running_hub() as hub, serving_contract(at(hub), V1, contracts=liar):
        await until(lambda: liar.asked_count)
        asking = asyncio.create_task(get_contract(hub, "a"))
        await until(lambda: hub.sessions.forwarder.router.hosts_of("$hub", "relayrpc.v1.Hub"))
        await hub.aclose()
        with pytest.raises(relayrpc.aio.RpcError) as ended:
            await asking
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
