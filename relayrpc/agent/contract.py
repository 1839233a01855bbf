"""
What a backend serves: asked of its reflection service, or read from a descriptor set.

Owns: services, methods and shapes, and the descriptors they come from. Does not own: what
descriptor sets of peers may hold (contract/), when it is asked (exposure.py).
Source: grpc/reflection/v1/reflection.proto; google/protobuf/descriptor.proto.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection_pb2 as pb

from relayrpc.contract.descriptors import load_pool, read_files
from relayrpc.contract.fingerprint import parse_file
from relayrpc.endpoint.handlers import SHAPES
from relayrpc.errors import ConfigError, ContractError, RelayError


if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool

    from relayrpc.limits import Limits


__all__ = ["BackendContract", "pull_contract", "read_contract"]

_LOGGER: Final = logging.getLogger("relayrpc.agent")
_VERSIONS: Final = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
_METHOD: Final = "ServerReflection/ServerReflectionInfo"


@dataclass(frozen=True, slots=True)
class BackendContract:
    """Services of one backend."""

    services: Mapping[str, Mapping[str, int]]
    """Full name -> method -> the link's number of its shape; no methods: they are not known."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Name -> a FileDescriptorProto, of everything they need; empty: not known."""

    def make_pool(self) -> DescriptorPool:
        """
        Load the files; none of them where they cannot be used together: the services are exposed
        all the same.
        """
        try:
            return load_pool(self.files)
        except ContractError as error:
            _LOGGER.warning("the contract is not told to the hub: %s", error)
            return load_pool({})

    def only(self, services: Iterable[str]) -> BackendContract:
        """Keep the services that are named, in that order, those not known too."""
        return BackendContract(
            {name: self.services.get(name, {}) for name in services}, self.files
        )


def read_contract(path: str) -> BackendContract:
    """
    Read a descriptor set, as protoc's --descriptor_set_out writes it.

    Raises:
        ConfigError: It cannot be used.
    """
    try:
        files = read_files(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"descriptors {path}: {error.strerror or error}") from error
    except ContractError as error:
        raise ConfigError(
            f"descriptors {path} are no descriptor set; make it with "
            "protoc --descriptor_set_out=FILE --include_imports"
        ) from error
    contract = _contract({name: parse_file(data) for name, data in files.items()})
    if not contract.services:
        raise ConfigError(f"descriptors {path} define no service")
    return contract


async def pull_contract(channel: grpc.aio.Channel, limits: Limits) -> BackendContract | None:
    """
    Ask a server for what it serves.

    Args:
        channel: To it.
        limits: `contract_pull_timeout_s`, `contract_files_max` and `contracts_bytes_max` bound all
            that it answers.

    Returns:
        None when it has no reflection service.

    Raises:
        RelayError: It has one that gives no usable answer.
        AioRpcError: It cannot be reached.
    """
    for version in _VERSIONS:
        # One question a stream, with its end: a status cannot get lost while more is being sent.
        ask = channel.unary_stream(
            f"/{version}.{_METHOD}",
            pb.ServerReflectionRequest.SerializeToString,
            pb.ServerReflectionResponse.FromString,
        )
        try:
            async with asyncio.timeout(limits.contract_pull_timeout_s):
                return await _pull(ask, limits)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
        except TimeoutError as error:
            raise RelayError(
                f"its reflection took longer than {limits.contract_pull_timeout_s:g} s"
            ) from error
        except DecodeError as error:
            raise RelayError("its reflection answers with what is no descriptor") from error
    return None


async def _pull(ask: Any, limits: Limits) -> BackendContract:
    listed = await _answer(ask, list_services="*")
    names = [service.name for service in listed.list_services_response.service]
    files: dict[str, FileDescriptorProto] = {}
    for name in names:
        _add(files, await _answer(ask, file_containing_symbol=name), limits)
    asked: set[str] = set()
    while missing := _imports(files) - {*files} - asked:
        asked |= missing
        for name in sorted(missing):
            _add(files, await _answer(ask, file_by_filename=name), limits)
    return _contract(files).only(names)


def _imports(files: Mapping[str, FileDescriptorProto]) -> set[str]:
    return {name for file in files.values() for name in file.dependency}


async def _answer(ask: Any, **question: str) -> pb.ServerReflectionResponse:
    async for answer in ask(pb.ServerReflectionRequest(**question)):
        return answer
    raise RelayError("its reflection ended without an answer")


def _add(
    files: dict[str, FileDescriptorProto], answer: pb.ServerReflectionResponse, limits: Limits
) -> None:
    """Keep the files of an answer. A server need not know those of every service it has."""
    for data in answer.file_descriptor_response.file_descriptor_proto:
        file = parse_file(data)
        files[file.name] = file
    size_bytes = sum(file.ByteSize() for file in files.values())
    if len(files) > limits.contract_files_max or size_bytes > limits.contracts_bytes_max:
        raise RelayError(
            f"its reflection has more than {limits.contract_files_max} files or "
            f"{limits.contracts_bytes_max} bytes"
        )


def _contract(files: Mapping[str, FileDescriptorProto]) -> BackendContract:
    services = {
        f"{file.package}.{service.name}" if file.package else service.name: {
            method.name: int(SHAPES[method.client_streaming, method.server_streaming][1])
            for method in service.method
        }
        for file in files.values()
        for service in file.service
    }
    return BackendContract(
        services, {name: file.SerializeToString() for name, file in files.items()}
    )
