"""
What a method takes and gives, from .proto files or a descriptor set.

Owns: finding it, and what is said of messages that are not its. Does not own: their JSON form
(contract/json.py), the call, and asking the hub for a set (call.py).
Source: docs/reference/cli.md.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory
from google.protobuf.message import DecodeError

from relayrpc.contract.descriptors import load_pool, read_files
from relayrpc.contract.json import parse_json, write_json
from relayrpc.errors import ConfigError, ContractError, JSONError, RelayError
from relayrpc_codegen.compiling import compile_protos
from relayrpc_codegen.includes import Includes


if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool


__all__ = ["Method", "find_method", "load_method", "read_descriptors", "split_method"]


class Method:
    """One method of a contract."""

    def __init__(self, descriptor: MethodDescriptor, pool: DescriptorPool) -> None:
        """
        Args:
            descriptor: What it is.
            pool: Where the messages are found that an Any holds.
        """
        service = descriptor.containing_service
        self.path = f"/{service.full_name}/{descriptor.name}"
        self.has_request_stream = bool(descriptor.client_streaming)
        self.has_response_stream = bool(descriptor.server_streaming)
        self._request = message_factory.GetMessageClass(descriptor.input_type)
        self._response = message_factory.GetMessageClass(descriptor.output_type)
        self._pool = pool

    @property
    def shape(self) -> str:
        """As grpc's channels name it: "unary_stream"."""
        words = {False: "unary", True: "stream"}
        return f"{words[self.has_request_stream]}_{words[self.has_response_stream]}"

    def encode(self, text: str, where: str) -> bytes:
        """
        Read a request.

        Raises:
            ConfigError: It is no JSON, or not of the request's type; the text says where.
        """
        try:
            return parse_json(text, self._request, pool=self._pool).SerializeToString()
        except JSONError as error:
            raise ConfigError(
                f"{where} is no {self._request.DESCRIPTOR.full_name}: {error}"
            ) from error

    def decode(self, data: bytes) -> str:
        """
        Write a response as one line of JSON.

        Raises:
            RelayError: It is not of the response's type, or holds one that is not known.
        """
        try:
            return write_json(self._response.FromString(data), pool=self._pool)
        except (DecodeError, JSONError) as error:
            name = self._response.DESCRIPTOR.full_name
            raise RelayError(
                f"a response cannot be shown as {name}: {_one_line(error)}; is the host's contract "
                "another one?"
            ) from error

    def decode_details(self, data: bytes) -> list[str]:
        """Write the rich details of a status, each as one line; what is not known as its name."""
        # The types that most details are of come with it.
        from google.rpc import error_details_pb2, status_pb2

        standard = error_details_pb2.DESCRIPTOR.pool
        try:
            status = status_pb2.Status.FromString(data)
        except DecodeError:
            return [f"{len(data)} bytes that are no google.rpc.Status"]
        return [_describe_any(detail, (self._pool, standard)) for detail in status.details]


def _describe_any(detail: Any, pools: Iterable[DescriptorPool]) -> str:
    for pool in pools:
        try:
            return write_json(detail, pool=pool)
        except JSONError:
            continue
    return f"{detail.type_url}, {len(detail.value)} bytes of a type that is not known here"


def split_method(name: str) -> tuple[str, str]:
    """
    Part "package.Service/Method".

    Raises:
        ConfigError: It is no such thing.
    """
    service, slash, method = name.removeprefix("/").rpartition("/")
    if not (slash and service and method):
        raise ConfigError(f"{name!r} is no method: write package.Service/Method")
    return service, method


def load_method(
    name: str,
    *,
    protos: Sequence[str] = (),
    includes: Sequence[str] = (),
    descriptor_set: str | None = None,
) -> Method | None:
    """
    Find a method in the user's files; None: there are none.

    Args:
        name: "package.Service/Method".
        protos: .proto files that define it; compiled here.
        includes: Folders in which their imports are found; none: the folders they stand in.
        descriptor_set: A FileDescriptorSet with everything that is imported.

    Raises:
        ConfigError: It cannot be found; the text says what there is instead.
    """
    split_method(name)
    read = read_descriptors(protos=protos, includes=includes, descriptor_set=descriptor_set)
    if read is None:
        return None
    where, data = read
    try:
        return find_method(name, data)
    except ContractError as error:
        raise ConfigError(
            f"{where} is no usable descriptor set: {error}; make it with "
            "protoc --descriptor_set_out=FILE --include_imports"
        ) from error


def read_descriptors(
    *, protos: Sequence[str], includes: Sequence[str], descriptor_set: str | None
) -> tuple[str, bytes] | None:
    """
    Read the user's files; None: there are none.

    Returns:
        What they are called, and a serialized FileDescriptorSet.

    Raises:
        ConfigError: They cannot be read, or do not go together.
    """
    if protos and descriptor_set is not None:
        raise ConfigError("--proto and --descriptor-set exclude each other")
    if includes and not protos:
        raise ConfigError("-I has no use without --proto")
    if protos:
        return ", ".join(protos), _compile(protos, includes)
    if descriptor_set is not None:
        return descriptor_set, _read(descriptor_set)
    return None


def find_method(name: str, descriptor_set: bytes) -> Method:
    """
    Find a method in a descriptor set; protobuf's own files may be missing there.

    Raises:
        ConfigError: It is not there; the text says what is.
        ContractError: The set cannot be used.
    """
    service_name, method_name = split_method(name)
    files = read_files(descriptor_set)
    pool = load_pool(files)
    try:
        service = pool.FindServiceByName(service_name)
    except KeyError:
        services = [
            service.full_name
            for file in files
            for service in pool.FindFileByName(file).services_by_name.values()
        ]
        raise ConfigError(
            f"service {service_name!r} is not known: there is {_enumerate(services)}"
        ) from None
    if method_name not in service.methods_by_name:
        raise ConfigError(
            f"{service_name} has no method {method_name!r}: there is "
            f"{_enumerate(service.methods_by_name)}"
        )
    return Method(service.methods_by_name[method_name], pool)


def _compile(protos: Sequence[str], includes: Sequence[str]) -> bytes:
    if importlib.util.find_spec("grpc_tools") is None:
        raise ConfigError(
            "--proto needs grpc_tools, which comes with the extra [codegen]: "
            "pip install 'relayrpc[codegen]'; or pass what protoc made, with --descriptor-set"
        )
    try:
        return compile_protos(Includes(protos, includes)).SerializeToString()
    except ConfigError as error:
        raise ConfigError(f"--proto cannot be compiled: {error}") from error


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"--descriptor-set {path}: {error.strerror or error}") from error


def _enumerate(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
