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

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)

from relayrpc.contract.contradictions import OptionsCheck
from relayrpc.contract.descriptors import load_pool
from relayrpc.contract.options import SessionMode
from relayrpc.errors import ContractError
from relayrpc_codegen.annotations import Annotations, path_of
from relayrpc_codegen.model import Fault, Field, Method, Module, Service
from relayrpc_codegen.names import (
    fault_names,
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


__all__ = ["FAULT_RESERVED", "RESERVED", "SESSION_RESERVED", "read_modules"]

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

SESSION_RESERVED: Final = frozenset({"session"})
"""What callers with a session of their own have besides."""

FAULT_RESERVED: Final = frozenset({"code", "reason", "self", "super"})
"""What constructors of faults need for themselves."""


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
        faults = {
            name: file.pool.FindMessageTypeByName(name)
            for contract in self._contracts.values()
            for operation in contract.operations.values()
            for name in operation.faults
        }
        used = [
            message for method in methods for message in (method.input_type, method.output_type)
        ]
        for message in faults.values():
            used += [message, *_messages_in(message)]
        fields = [field for message in faults.values() for field in message.fields]
        require_names(file.name, (field.full_name for field in fields))
        self._own = messages_module(file.name)
        self._annotations = Annotations(self._own, used)
        self._faults = faults

    def read(self) -> Module:
        imports = self._annotations.imports()
        paths = {name: ".".join(path_of(message)) for name, message in self._faults.items()}
        names = fault_names(paths)
        return Module(
            proto=self._file.name,
            path=module_path(self._file.name),
            own=imports[self._own],
            imports=tuple(imports.values()),
            faults=tuple(
                self._fault(message, names[full_name])
                for full_name, message in self._faults.items()
            ),
            services=tuple(map(self._service, self._file.services_by_name.values())),
        )

    def _service(self, service: ServiceDescriptor) -> Service:
        options = self._contracts[service.full_name]
        has_sessions_only = options.session is SessionMode.REQUIRED
        reserved = RESERVED | self._annotations.aliases
        if has_sessions_only:
            reserved |= SESSION_RESERVED
        names = rename([method.name for method in service.methods], reserved)
        return Service(
            name=service.name,
            full_name=service.full_name,
            comment=self._comment(FileDescriptorProto.SERVICE_FIELD_NUMBER, service.index),
            is_deprecated=service.GetOptions().deprecated,
            has_sessions_only=has_sessions_only,
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
            request=self._annotations.message(method.input_type),
            response=self._annotations.message(method.output_type),
            has_request_stream=bool(method.client_streaming),
            has_response_stream=bool(method.server_streaming),
            is_one_way=options.one_way,
            default_timeout_s=options.default_timeout_s,
        )

    def _fault(self, message: Descriptor, name: str) -> Fault:
        names = rename([field.name for field in message.fields], FAULT_RESERVED, prefix="field")
        return Fault(
            name=name,
            full_name=message.full_name,
            comment=self._message_comment(message),
            message=self._annotations.message(message),
            fields=tuple(
                Field(
                    name=field.name,
                    python_name=names[field.name],
                    annotation=self._annotations.field(field),
                )
                for field in message.fields
            ),
        )

    def _message_comment(self, message: Descriptor) -> str:
        """Return the comment of a message; those of other files are not known."""
        if message.file.name != self._file.name:
            return ""
        outermost, *inner = path_of(message)
        index = list(self._file.message_types_by_name).index(outermost)
        path = [FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER, index]
        outer = self._file.message_types_by_name[outermost]
        for name in inner:
            index = list(outer.nested_types_by_name).index(name)
            path += [DescriptorProto.NESTED_TYPE_FIELD_NUMBER, index]
            outer = outer.nested_types_by_name[name]
        return self._comment(*path)

    def _comment(self, *path: int) -> str:
        return inspect.cleandoc(self._comments.get(path, "").expandtabs())


def _messages_in(message: Descriptor) -> Iterator[Descriptor]:
    """Yield the messages that fields are of; of a map, what its values are of."""
    for field in message.fields:
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            inner = inner.fields_by_name["value"].message_type
        if inner is not None:
            yield inner


def _check(file: FileDescriptor, source: FileDescriptorProto) -> dict[str, ContractOptions]:
    """Return the options of a file's services, by their full names."""
    check = OptionsCheck(file, source)
    for _ in check.steps():
        pass
    if check.found:
        raise ContractError("\n".join(map(str, check.found)))
    return check.contracts
