"""
grpc.reflection on the hub's gRPC port, v1 and v1alpha: what the services behind it look like, and
the port's own.

Owns: the two services, which differ in their names only, and which descriptors answer what. Does
not own: the contracts of hosts (contracts.py), what is found in a set (contract/descriptors.py).
Source: grpc/reflection/v1/reflection.proto; docs/reference/hub-service.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2 as pb

from relayrpc.contract.descriptors import DescriptorSet, checked, collect
from relayrpc.contract.fingerprint import normalise
from relayrpc.contract.standard import standard_file_of
from relayrpc.errors import ContractError
from relayrpc.hub.grpc_door import named_address
from relayrpc.link.call import retry_pushback
from relayrpc.v1 import link_pb2


if TYPE_CHECKING:
    from relayrpc.hub.contracts import HubContracts
    from relayrpc.hub.session import HubSessions


__all__ = ["HubReflection"]

_PACKAGE: Final = "grpc.reflection.v1"
_ALPHA_PACKAGE: Final = "grpc.reflection.v1alpha"
_V1_FILE: Final = "grpc/reflection/v1/reflection.proto"
_METHOD: Final = "ServerReflection/ServerReflectionInfo"
# No name that is asked for is longer.
_REQUEST_BYTES_MAX: Final = 4096
# gRPC clients take no message above 4 MiB unless told so.
_LIST_BYTES_MAX: Final = 4_000_000


class HubReflection(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio ships no types
    """
    The reflection services of one hub.

    A stream whose metadata `relay-address` names an address is told what calls with the same
    metadata would reach; else, of every service. Where hosts serve reflection themselves at the
    address that is named, they answer.
    """

    def __init__(self, sessions: HubSessions, contracts: HubContracts) -> None:
        """
        Args:
            sessions: Of the hub. Its limits' `reflection_streams_max` counts here.
            contracts: Of its hosts.
        """
        self.router = sessions.forwarder.router
        self.contracts = contracts
        self.own = _own_contracts()
        """Of what the port serves by itself, whatever the address."""
        self._limits = sessions.limits
        self._streams_count = 0
        self._method = grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=pb.ServerReflectionRequest.FromString,
            response_serializer=pb.ServerReflectionResponse.SerializeToString,
        )

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return what serves a method; None: it is not the hub's to serve."""
        if details.method not in (f"/{_PACKAGE}.{_METHOD}", f"/{_ALPHA_PACKAGE}.{_METHOD}"):
            return None
        address = named_address(details.invocation_metadata)
        if address and self.router.place_of(address, details.method.removeprefix("/")):
            return None
        return self._method

    async def _serve(
        self, requests: AsyncIterator[pb.ServerReflectionRequest], context: Any
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        streams_max = self._limits.reflection_streams_max
        if self._streams_count >= streams_max:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{streams_max} streams of reflection are open on this hub; try later",
                (retry_pushback(self._limits.retry_after_s),),
            )
        self._streams_count += 1
        try:
            stream = _Stream(self, named_address(context.invocation_metadata()))
            async for request in requests:
                if request.ByteSize() > _REQUEST_BYTES_MAX:
                    await context.abort(
                        grpc.StatusCode.INVALID_ARGUMENT,
                        f"a request of {request.ByteSize()} bytes is over {_REQUEST_BYTES_MAX}",
                    )
                response = await stream.answer(request)
                response.valid_host = request.host
                response.original_request.CopyFrom(request)
                yield response
        finally:
            self._streams_count -= 1


class _NotFoundError(Exception):
    """Nothing of that name; the text says so to the client."""


class _Stream:
    """
    One client's questions. What is found by name only is looked for where the last answer came
    from first, so that a client that follows imports gets files that belong together.
    """

    def __init__(self, reflection: HubReflection, address: str) -> None:
        self._reflection = reflection
        self._address = address
        # Where the last answer came from; None: there was none.
        self._last: DescriptorSet | None = None

    async def answer(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        """Answer one question; what cannot be is an answer too."""
        response = pb.ServerReflectionResponse()
        kind = request.WhichOneof("message_request")
        try:
            match kind:
                case "list_services":
                    self._list(response)
                case "file_by_filename":
                    name = request.file_by_filename
                    self._add_file(response, self._set_with_file(name), name)
                case "file_containing_symbol":
                    symbol = request.file_containing_symbol.removeprefix(".")
                    self._add_file(response, *await self._find_symbol(symbol))
                case "file_containing_extension":
                    wanted = request.file_containing_extension
                    self._add_file(response, *self._find_extension(wanted))
                case "all_extension_numbers_of_type":
                    self._add_numbers(response, request.all_extension_numbers_of_type)
                case _:
                    _fail(response, grpc.StatusCode.INVALID_ARGUMENT, "an unknown question")
        except (_NotFoundError, ContractError) as error:
            _fail(response, grpc.StatusCode.NOT_FOUND, str(error))
        return response

    def _list(self, response: pb.ServerReflectionResponse) -> None:
        names = self._reflection.router.services_at(self._address)
        for own in self._reflection.own:
            names.update(own.services)
        services = response.list_services_response.service
        services.extend(pb.ServiceResponse(name=name) for name in sorted(names))
        if response.ByteSize() > _LIST_BYTES_MAX:
            text = f"{len(names)} services; name an address in the metadata relay-address"
            _fail(response, grpc.StatusCode.RESOURCE_EXHAUSTED, text)

    # --- finding ---

    def _sets(self) -> Iterator[DescriptorSet]:
        """Yield the sets in which something is looked for, in that order."""
        if self._last is not None:
            yield self._last
        yield from self._reflection.own
        yield from self._reflection.contracts.at(self._address)

    def _set_with_file(self, name: str) -> DescriptorSet:
        found = next((each for each in self._sets() if name in each), None)
        if found is None:
            raise _NotFoundError(f"no file {name!r}")
        return found

    async def _find_symbol(self, symbol: str) -> tuple[DescriptorSet, str]:
        # A service's own contract, or its method's, before whatever else knows the name.
        for service in (symbol, symbol.rpartition(".")[0]):
            address = self._address or service
            if self._reflection.router.hosts_of(address, service):
                found = await self._reflection.contracts.find(address, service)
                return found, _known(found.file_of_symbol(symbol), symbol)
        return self._locate(symbol)

    def _locate(self, symbol: str) -> tuple[DescriptorSet, str]:
        for each in self._sets():
            if each.top_of(symbol) is not None:
                return each, _known(each.file_of_symbol(symbol), symbol)
        return self._reflection.own[0], _known(standard_file_of(symbol), symbol)

    def _find_extension(self, wanted: pb.ExtensionRequest) -> tuple[DescriptorSet, str]:
        message, number = wanted.containing_type.removeprefix("."), wanted.extension_number
        for each in self._sets():
            name = each.file_of_extension(message, number)
            if name is not None:
                return each, name
        raise _NotFoundError(f"no extension {number} of {message!r}")

    # --- answering ---

    def _add_file(
        self, response: pb.ServerReflectionResponse, found: DescriptorSet, name: str
    ) -> None:
        self._last = found
        response.file_descriptor_response.file_descriptor_proto.extend(found.with_imports(name))

    def _add_numbers(self, response: pb.ServerReflectionResponse, message: str) -> None:
        name = message.removeprefix(".")
        numbers = next(filter(None, (each.extension_numbers(name) for each in self._sets())), [])
        if not numbers:
            self._locate(name)
        response.all_extension_numbers_response.base_type_name = message
        response.all_extension_numbers_response.extension_number.extend(numbers)


def _known(name: str | None, symbol: str) -> str:
    if name is None:
        raise _NotFoundError(f"nothing is called {symbol!r}")
    return name


def _fail(
    response: pb.ServerReflectionResponse, code: grpc.StatusCode, text: str
) -> None:
    response.error_response.error_code = code.value[0]
    response.error_response.error_message = text


def _own_contracts() -> list[DescriptorSet]:
    """Return those of what the gRPC port serves by itself."""
    alpha = pb.DESCRIPTOR
    data = [collect(file) for file in (link_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR, alpha)]
    data.append(normalise({_V1_FILE: _v1_file(alpha.serialized_pb)}, _V1_FILE))
    return [checked(each) for each in data]


def _v1_file(alpha: bytes) -> bytes:
    """Make v1's file of v1alpha's, which is the one that grpcio-reflection has."""
    file = FileDescriptorProto.FromString(alpha)
    file.name = _V1_FILE
    file.package = _PACKAGE
    file.ClearField("options")
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(_ALPHA_PACKAGE, _PACKAGE)
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(_ALPHA_PACKAGE, _PACKAGE)
            method.output_type = method.output_type.replace(_ALPHA_PACKAGE, _PACKAGE)
    return file.SerializeToString()
