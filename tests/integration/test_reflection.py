"""
grpc.reflection on the gRPC port. Goal: reflection clients see what calls with the same metadata
reach. Method: grpcio-reflection's client for v1alpha, its messages under the other name for v1.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

import relayrpc.aio
from relayrpc.contract.options import ContractOptions, read_options
from relayrpc.hub.server import Hub
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.v1 import contract_pb2
from samples.greeter import greeter_pb2, greeter_pb2_grpc
from tests.support import declared_contract
from tests.support.contract_hosts import Liar, get_contract, serving_contract
from tests.support.contracts import make_file, make_set
from tests.support.relay import running_hub
from tests.support.until import until


pytestmark = pytest.mark.integration

OWN = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "relayrpc.v1.Link",
]
V1 = make_file(fields={"x": 1})
V2 = make_file(fields={"x": 1, "y": 2})
GREETER = "samples.greeter.v1.Greeter"

Ask = Callable[..., Any]
"""Takes the fields of one question; awaited, gives the answer."""


def at(hub: Hub, address: str) -> str:
    return f"ws://127.0.0.1:{hub.http_port}/{address}"


@contextlib.asynccontextmanager
async def asking(hub: Hub, *, version: str = "v1", address: str = "") -> AsyncIterator[Ask]:
    """Open a stream of reflection."""
    metadata = (("relay-address", address),) if address else ()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as channel:
        call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )(metadata=metadata)

        async def ask(**question: Any) -> reflection_pb2.ServerReflectionResponse:
            request = reflection_pb2.ServerReflectionRequest(host="h", **question)
            await call.write(request)
            response = await call.read()
            assert isinstance(response, reflection_pb2.ServerReflectionResponse), response
            assert response.original_request == request
            return response

        yield ask
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK


def services(response: reflection_pb2.ServerReflectionResponse) -> list[str]:
    return [service.name for service in response.list_services_response.service]


def files(response: reflection_pb2.ServerReflectionResponse) -> list[FileDescriptorProto]:
    found = response.file_descriptor_response.file_descriptor_proto
    assert found, response
    return [FileDescriptorProto.FromString(data) for data in found]


def fields_of(response: reflection_pb2.ServerReflectionResponse) -> list[str]:
    """Return the names of the fields of the first message of the first file."""
    return [field.name for field in files(response)[0].message_type[0].field]


def error(response: reflection_pb2.ServerReflectionResponse) -> tuple[int, str]:
    assert response.HasField("error_response"), response
    return response.error_response.error_code, response.error_response.error_message


# --- the client that people have ---


def read_greeter(port: int, metadata: Sequence[tuple[str, str]] = ()) -> list[str]:
    """Do what grpcio-reflection's tutorial does; returns the greeter's methods."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        channel = grpc.intercept_channel(channel, _Metadata(metadata))
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(OWN) < set(database.get_services())
        pool = DescriptorPool(database)
        for service in (*OWN, "relayrpc.v1.Hub"):
            if service in database.get_services():
                assert pool.FindServiceByName(service).methods
        timestamp = pool.FindMessageTypeByName("google.protobuf.Timestamp")
        assert timestamp.file.name == "google/protobuf/timestamp.proto"
        assert database.FindAllExtensionNumbers("google.protobuf.MethodOptions") == []
        with pytest.raises(KeyError):
            pool.FindServiceByName("samples.Nothing")
        return [method.name for method in pool.FindServiceByName(GREETER).methods]


class _Metadata(grpc.StreamStreamClientInterceptor):  # type: ignore[misc]  # grpcio ships no types
    def __init__(self, metadata: Sequence[tuple[str, str]]) -> None:
        self._metadata = metadata

    def intercept_stream_stream(
        self, continuation: Any, details: Any, request_iterator: Any
    ) -> Any:
        return continuation(_Details(details, self._metadata), request_iterator)


class _Details(grpc.ClientCallDetails):  # type: ignore[misc]  # grpcio ships no types
    def __init__(self, details: Any, metadata: Sequence[tuple[str, str]]) -> None:
        self.method = details.method
        self.timeout = details.timeout
        self.metadata = metadata
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression


@contextlib.asynccontextmanager
async def greeting(hub: Hub, address: str) -> AsyncIterator[None]:
    server = relayrpc.aio.server(at(hub, address))
    servicer = greeter_pb2_grpc.GreeterServicer()
    greeter_pb2_grpc.add_GreeterServicer_to_server(servicer, server)
    await server.start()
    await get_contract(hub, address, GREETER)
    yield
    await server.stop(None)


@pytest.mark.parametrize("metadata", [(), (("relay-address", "contoso/greeter"),)])
async def test_grpcio_reflections_client_reads_a_relayed_service(
    metadata: Sequence[tuple[str, str]],
) -> None:
    async with running_hub() as hub, greeting(hub, "contoso/greeter"):
        methods = await asyncio.to_thread(read_greeter, hub.grpc_port, metadata)
    assert methods == [*greeter_pb2.DESCRIPTOR.services_by_name["Greeter"].methods_by_name]


def read_declared(port: int) -> ContractOptions:
    """Read a contract's options as a tool does that knows relayrpc's own."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        number = contract_pb2.CONTRACT_FIELD_NUMBER
        assert database.FindAllExtensionNumbers("google.protobuf.ServiceOptions") == [number]
        pool = DescriptorPool(database)
        service = pool.FindServiceByName(declared_contract.SERVICE)
        extension = pool.FindExtensionByNumber(
            pool.FindMessageTypeByName("google.protobuf.ServiceOptions"), number
        )
        assert extension.full_name == "relayrpc.v1.contract"
        return read_options(service)


async def test_grpcio_reflections_client_reads_the_options_of_a_contract() -> None:
    files = declared_contract.FILES
    async with running_hub() as hub, serving_contract(at(hub, ""), *files):
        await get_contract(hub, "", declared_contract.SERVICE)
        options = await asyncio.to_thread(read_declared, hub.grpc_port)
    assert options.address == declared_contract.ADDRESS


# --- which contracts ---


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_stream_is_told_of_the_address_it_names(version: str) -> None:
    other = make_file("u.proto", package="u", fields={"z": 1})
    async with (
        running_hub() as hub,
        serving_contract(at(hub, "a"), V1),
        serving_contract(at(hub, "b"), V2),
        serving_contract(at(hub, "b/c"), other),
    ):
        for address, service in (("a", "t.Service"), ("b", "t.Service"), ("b/c", "u.Service")):
            await get_contract(hub, address, service)
        async with asking(hub, version=version) as ask:
            everywhere = services(await ask(list_services=""))
        async with asking(hub, version=version, address="a") as ask:
            at_a = services(await ask(list_services=""))
            first = await ask(file_containing_symbol="t.Service")
            unknown = await ask(file_containing_symbol="u.Service")
        async with asking(hub, version=version, address="b/c/d") as ask:
            at_d = services(await ask(list_services=""))
            second = await ask(file_containing_symbol="t.Service.Do")
            third = await ask(file_containing_symbol=".u.M.z")
        async with asking(hub, version=version, address="nobody") as ask:
            nowhere = services(await ask(list_services=""))
    assert everywhere == sorted([*OWN, "relayrpc.v1.Hub", "t.Service", "u.Service"])
    assert at_a == sorted([*OWN, "t.Service"])
    assert at_d == sorted([*OWN, "t.Service", "u.Service"])
    assert nowhere == OWN
    assert fields_of(first) == ["x"]
    assert fields_of(second) == ["x", "y"]
    assert fields_of(third) == ["z"]
    assert error(unknown) == (5, "nothing is called 'u.Service'")


async def test_stream_without_an_address_gets_the_default_address_first() -> None:
    async with running_hub() as hub, serving_contract(at(hub, ""), V1):
        await get_contract(hub, "")
        async with serving_contract(at(hub, "b"), V2):
            await get_contract(hub, "b")
            async with asking(hub) as ask:
                assert fields_of(await ask(file_containing_symbol="t.Service")) == ["x"]
                assert fields_of(await ask(file_containing_symbol="t.M")) == ["x"]
            async with asking(hub) as ask:
                # A message alone is looked for in the newest.
                assert fields_of(await ask(file_containing_symbol="t.M")) == ["x", "y"]


async def is_known(hub: Hub, descriptor_set: bytes) -> bool:
    """Say whether the hub has fetched a version of what is at "a"."""
    return (await get_contract(hub, "a")).descriptor_set == descriptor_set


async def test_one_stream_gets_files_that_belong_together() -> None:
    """Two versions at one address: the newer one, down to its imports."""

    def version(number: int) -> list[FileDescriptorProto]:
        fields = {f"f{index}": index for index in range(1, number + 1)}
        common = make_file("common.proto", package="common", service="", fields=fields)
        return [common, make_file(fields=fields, imports=["common.proto"])]

    async with (
        running_hub() as hub,
        serving_contract(at(hub, "a"), *version(1)),
    ):
        await get_contract(hub, "a")
        newer = make_set(*version(2))
        async with serving_contract(at(hub, "a"), *version(2)), asking(hub, address="a") as ask:
            await until(functools.partial(is_known, hub, newer))
            root, common = files(await ask(file_containing_symbol="t.Service"))
            assert len(root.message_type[0].field) == 2
            assert len(common.message_type[0].field) == 2
            assert files(await ask(file_by_filename="common.proto")) == [common]
        async with asking(hub, address="a") as ask:
            (_, common) = files(await ask(file_containing_symbol="t.Service"))
            assert len(common.message_type[0].field) == 1


async def test_stream_waits_for_the_contract_of_a_host_that_has_just_come() -> None:
    async with (
        running_hub() as hub,
        serving_contract(at(hub, "a"), V1),
        asking(hub, address="a") as ask,
    ):
        assert fields_of(await ask(file_containing_symbol="t.Service")) == ["x"]


async def test_hosts_that_serve_reflection_answer_at_their_address() -> None:
    async with running_hub() as hub:
        server = relayrpc.aio.server(at(hub, "own"))
        reflection.enable_server_reflection(["only.This"], server)
        await server.start()
        async with asking(hub, version="v1alpha", address="own") as ask:
            assert services(await ask(list_services="")) == ["only.This"]
        async with asking(hub, version="v1", address="own") as ask:
            assert "grpc.reflection.v1alpha.ServerReflection" in services(
                await ask(list_services="")
            )
        await server.stop(None)


# --- questions ---


def extending_file() -> FileDescriptorProto:
    file = make_file()
    file.syntax = "proto2"
    file.message_type[0].extension_range.add(start=100, end=200)
    file.extension.add(name="more", number=120, type=5, label=1, extendee=".t.M")
    return file


async def test_every_kind_of_question_is_answered() -> None:
    async with running_hub() as hub, serving_contract(at(hub, "a"), extending_file()):
        await get_contract(hub, "a")
        async with asking(hub) as ask:
            named = await ask(file_by_filename="t.proto")
            assert named.valid_host == "h"
            assert files(named) == [extending_file_normal()]
            found = await ask(
                file_containing_extension={"containing_type": "t.M", "extension_number": 120}
            )
            assert files(found)[0].name == "t.proto"
            numbers = await ask(all_extension_numbers_of_type="t.M")
            assert numbers.all_extension_numbers_response.extension_number == [120]
            assert numbers.all_extension_numbers_response.base_type_name == "t.M"
            none = await ask(all_extension_numbers_of_type="google.protobuf.FieldOptions")
            assert none.all_extension_numbers_response.extension_number == []
            alone = files(await ask(file_by_filename="google/protobuf/any.proto"))
            assert [file.name for file in alone] == ["google/protobuf/any.proto"]
            (v1,) = files(await ask(file_containing_symbol="grpc.reflection.v1.ErrorResponse"))
            assert (v1.name, v1.package) == (
                "grpc/reflection/v1/reflection.proto",
                "grpc.reflection.v1",
            )


def extending_file_normal() -> FileDescriptorProto:
    file = extending_file()
    file.ClearField("syntax")
    return file


@pytest.mark.parametrize(
    ("question", "code", "text"),
    [
        ({"file_by_filename": "no.proto"}, 5, "no file 'no.proto'"),
        ({"file_containing_symbol": "t.No"}, 5, "nothing is called 't.No'"),
        ({"file_containing_symbol": "t.M.no"}, 5, "nothing is called 't.M.no'"),
        ({"file_containing_symbol": ""}, 5, "nothing is called ''"),
        (
            {"file_containing_extension": {"containing_type": "t.M", "extension_number": 1}},
            5,
            "no extension 1 of 't.M'",
        ),
        ({"all_extension_numbers_of_type": "t.No"}, 5, "nothing is called 't.No'"),
        ({}, 3, "an unknown question"),
    ],
)
async def test_question_without_an_answer_is_an_answer(
    question: dict[str, Any], code: int, text: str
) -> None:
    async with running_hub() as hub, serving_contract(at(hub, "a"), V1):
        await get_contract(hub, "a")
        async with asking(hub) as ask:
            assert error(await ask(**question)) == (code, text)
            # The stream goes on.
            assert "t.Service" in services(await ask(list_services=""))


async def test_service_without_a_contract_is_listed_and_said_to_have_none() -> None:
    nothing = Liar(b"", lambda *_: None)
    async with (
        running_hub() as hub,
        serving_contract(at(hub, "a"), V1, contracts=nothing),
        asking(hub, address="a") as ask,
    ):
        assert "t.Service" in services(await ask(list_services=""))
        assert error(await ask(file_containing_symbol="t.Service")) == (
            5,
            "the hosts of 't.Service' at 'a' announced no contract",
        )


# --- bounds ---


async def test_streams_beyond_the_bound_are_refused() -> None:
    limits = replace(DEFAULT_LIMITS, reflection_streams_max=1)
    async with running_hub(limits=limits) as hub, asking(hub) as ask:
        await ask(list_services="")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async with asking(hub) as second:
                await second(list_services="")
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await ask(list_services="")


async def test_question_of_a_name_that_nobody_has_is_refused() -> None:
    async with running_hub() as hub:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async with asking(hub) as ask:
                await ask(file_by_filename="x" * 5_000)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_client_that_leaves_gives_its_stream_back() -> None:
    limits = replace(DEFAULT_LIMITS, reflection_streams_max=1)
    async with running_hub(limits=limits) as hub:
        with contextlib.suppress(ConnectionResetError):
            async with asking(hub) as ask:
                await ask(list_services="")
                raise ConnectionResetError
        is_back = False
        while not is_back:
            # The hub hears of it a little later.
            with contextlib.suppress(grpc.aio.AioRpcError):
                async with asking(hub) as ask:
                    is_back = services(await ask(list_services="")) != []
