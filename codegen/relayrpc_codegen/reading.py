"""
From descriptors, as protoc and buf hand them to plugins, to the model. Pure.

Owns: what is taken from descriptors, and by which name Python has it. Does not own: what contract
options mean (relayrpc/contract), the text (rendering.py).
Source: google/protobuf/compiler/plugin.proto, descriptor.proto.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from relayrpc_codegen.model import Import, Method, Module, Service
from relayrpc_codegen.names import (
    aliases,
    can_be_imported,
    is_free,
    messages_module,
    module_path,
    rename,
)


if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import (
        DescriptorProto,
        FileDescriptorProto,
        MethodDescriptorProto,
        ServiceDescriptorProto,
    )


__all__ = ["ANY_MESSAGE", "RESERVED", "read_modules"]

ANY_MESSAGE: Final = "typed.Message"
"""Annotation of a message that no program can name: one called `class`, or of a package `a.def`."""

RESERVED: Final = frozenset(
    ("AsyncIterator", "Iterator", "bool", "contract", "deprecated", "float", "typed")
)
"""What generated classes need for themselves; modules of messages are such, too."""

# Numbers of fields, as paths of source code info have them.
_FILE_SERVICE: Final = 6
_SERVICE_METHOD: Final = 2


def read_modules(
    files: Iterable[FileDescriptorProto], wanted: Sequence[str]
) -> Iterator[Module]:
    """
    Read files into what is generated from them.

    Args:
        files: The wanted ones and all that they import.
        wanted: Names of files; one without services gives nothing.
    """
    by_name = {file.name: file for file in files}
    messages = {
        full_name: (file.name, path)
        for file in by_name.values()
        for full_name, path in _messages(file)
    }
    for name in wanted:
        if by_name[name].service:
            yield _Reader(by_name[name], messages).read()


class _Reader:
    """Reads one file."""

    def __init__(
        self, file: FileDescriptorProto, messages: dict[str, tuple[str, tuple[str, ...]]]
    ) -> None:
        """
        Args:
            messages: Full names, as ".a.Outer.Inner" -> the file, and ("Outer", "Inner").
        """
        self._file = file
        self._messages = messages
        self._comments = {
            tuple(location.path): location.leading_comments or location.trailing_comments
            for location in file.source_code_info.location
        }
        own = messages_module(file.name)
        used = {
            messages_module(messages[name][0])
            for service in file.service
            for method in service.method
            for name in (method.input_type, method.output_type)
        }
        self._aliases = aliases({own, *used})
        self._own = own

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
            services=tuple(
                self._service(index, service) for index, service in enumerate(self._file.service)
            ),
        )

    def _service(self, index: int, service: ServiceDescriptorProto) -> Service:
        package = self._file.package
        names = rename(
            [method.name for method in service.method], RESERVED | set(self._aliases.values())
        )
        return Service(
            name=service.name,
            full_name=f"{package}.{service.name}" if package else service.name,
            comment=self._comment(_FILE_SERVICE, index),
            is_deprecated=service.options.deprecated,
            methods=tuple(
                self._method((index, number), method, names[method.name])
                for number, method in enumerate(service.method)
            ),
        )

    def _method(
        self, where: tuple[int, int], method: MethodDescriptorProto, python_name: str
    ) -> Method:
        return Method(
            name=method.name,
            python_name=python_name,
            comment=self._comment(_FILE_SERVICE, where[0], _SERVICE_METHOD, where[1]),
            is_deprecated=method.options.deprecated,
            request=self._annotation(method.input_type),
            response=self._annotation(method.output_type),
            has_request_stream=method.client_streaming,
            has_response_stream=method.server_streaming,
            default_timeout_s=None,
        )

    def _annotation(self, message: str) -> str:
        file, path = self._messages[message]
        module = messages_module(file)
        if can_be_imported(module) and all(map(is_free, path)):
            return ".".join((self._aliases[module], *path))
        return ANY_MESSAGE

    def _comment(self, *path: int) -> str:
        return inspect.cleandoc(self._comments.get(path, "").expandtabs())


def _messages(file: FileDescriptorProto) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the full name of every message of a file, and its way from the top."""
    prefix = f".{file.package}" if file.package else ""
    pending: list[tuple[tuple[str, ...], DescriptorProto]] = [
        ((message.name,), message) for message in file.message_type
    ]
    for path, message in pending:
        yield ".".join((prefix, *path)), path
        # The list grows while it is gone through.
        pending += [((*path, inner.name), inner) for inner in message.nested_type]
