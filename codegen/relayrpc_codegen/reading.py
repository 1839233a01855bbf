"""
From descriptors, as protoc and buf hand them to plugins, to the model. Pure.

Owns: what is taken from descriptors, and by which name Python has it. Does not own: what contract
options mean and when they contradict (relayrpc/contract), the text (rendering.py).
Source: google/protobuf/compiler/plugin.proto, descriptor.proto.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto, ServiceDescriptorProto

from relayrpc.contract.contradictions import OptionsCheck
from relayrpc.contract.descriptors import load_pool
from relayrpc.errors import ContractError
from relayrpc_codegen.model import Import, Method, Module, Service
from relayrpc_codegen.names import (
    aliases,
    can_be_imported,
    is_free,
    messages_module,
    module_path,
    rename,
    require_names,
)


if TYPE_CHECKING:
    from google.protobuf.descriptor import (
        Descriptor,
        FileDescriptor,
        MethodDescriptor,
        ServiceDescriptor,
    )

    from relayrpc.contract.options import ContractOptions, OperationOptions


__all__ = ["ANY_MESSAGE", "RESERVED", "read_modules"]

ANY_MESSAGE: Final = "typed.Message"
"""Annotation of a message that no program can name: one called `class`, or of a package `a.def`."""

RESERVED: Final = frozenset(
    {
        "AsyncIterator",
        "Iterator",
        "abstractmethod",
        "bool",
        "contract",
        "deprecated",
        "float",
        "typed",
    }
)
"""What generated classes need for themselves; modules of messages are such, too."""


def read_modules(
    files: Iterable[FileDescriptorProto], wanted: Sequence[str]
) -> Iterator[Module]:
    """
    Read files into what is generated from them.

    Args:
        files: The wanted ones, with source code info, and all that they import.
        wanted: Names of files; one without services gives nothing.

    Raises:
        ContractError: The files cannot be used together, or contract options contradict; the text
            has a line for each contradiction.
    """
    sources = {file.name: file for file in files}
    pool = load_pool({name: source.SerializeToString() for name, source in sources.items()})
    for name in wanted:
        if sources[name].service:
            yield _Reader(pool.FindFileByName(name), sources[name]).read()


class _Reader:
    """Reads one file."""

    def __init__(self, file: FileDescriptor, source: FileDescriptorProto) -> None:
        services = list(file.services_by_name.values())
        methods = [method for service in services for method in service.methods]
        full_names = [service.full_name for service in services]
        full_names += [method.full_name for method in methods]
        require_names(file.name, full_names)
        self._file = file
        self._contracts = _check(file, source)
        self._comments = {
            tuple(location.path): location.leading_comments or location.trailing_comments
            for location in source.source_code_info.location
        }
        used = {
            messages_module(message.file.name)
            for method in methods
            for message in (method.input_type, method.output_type)
        }
        self._own = messages_module(file.name)
        self._aliases = aliases({self._own, *used})

    def read(self) -> Module:
        imports = {
            module: Import(module=module, alias=alias, has_statement=can_be_imported(module))
            for module, alias in self._aliases.items()
            if module == self._own or can_be_imported(module)
        }
        return Module(
            proto=self._file.name,
            path=module_path(self._file.name),
            own=imports[self._own],
            imports=tuple(imports.values()),
            services=tuple(map(self._service, self._file.services_by_name.values())),
        )

    def _service(self, service: ServiceDescriptor) -> Service:
        options = self._contracts[service.full_name]
        names = rename(
            [method.name for method in service.methods], RESERVED | set(self._aliases.values())
        )
        return Service(
            name=service.name,
            full_name=service.full_name,
            comment=self._comment(FileDescriptorProto.SERVICE_FIELD_NUMBER, service.index),
            is_deprecated=service.GetOptions().deprecated,
            methods=tuple(
                self._method(method, names[method.name], options.operations[method.name])
                for method in service.methods
            ),
        )

    def _method(
        self, method: MethodDescriptor, python_name: str, options: OperationOptions
    ) -> Method:
        return Method(
            name=method.name,
            python_name=python_name,
            comment=self._comment(
                FileDescriptorProto.SERVICE_FIELD_NUMBER,
                method.containing_service.index,
                ServiceDescriptorProto.METHOD_FIELD_NUMBER,
                method.index,
            ),
            is_deprecated=method.GetOptions().deprecated,
            request=self._annotation(method.input_type),
            response=self._annotation(method.output_type),
            has_request_stream=bool(method.client_streaming),
            has_response_stream=bool(method.server_streaming),
            default_timeout_s=options.default_timeout_s,
        )

    def _annotation(self, message: Descriptor) -> str:
        path = [message.name]
        outer = message.containing_type
        while outer is not None:
            path.insert(0, outer.name)
            outer = outer.containing_type
        module = messages_module(message.file.name)
        if can_be_imported(module) and all(map(is_free, path)):
            return ".".join((self._aliases[module], *path))
        return ANY_MESSAGE

    def _comment(self, *path: int) -> str:
        return inspect.cleandoc(self._comments.get(path, "").expandtabs())


def _check(file: FileDescriptor, source: FileDescriptorProto) -> dict[str, ContractOptions]:
    """Return the options of a file's services, by their full names."""
    check = OptionsCheck(file, source)
    for _ in check.steps():
        pass
    if check.found:
        raise ContractError("\n".join(map(str, check.found)))
    return check.contracts
