"""
What a generated module calls the types of messages and of their fields. Pure.

Owns: annotations, and which modules of messages they need. Does not own: names of anything else
(names.py).
Source: protobuf's Python classes, of which what they take is what fields are annotated with.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from google.protobuf.descriptor import FieldDescriptor

from relayrpc_codegen.model import ANY_MESSAGE, Import
from relayrpc_codegen.names import aliases, can_be_imported, is_free, messages_module


if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor


__all__ = ["Annotations", "path_of"]

# An enum's number, or the name of its value: what type checkers know of it depends on who writes
# the .pyi files.
_ENUM: Final = "int | str"
_SCALARS: Final = {
    FieldDescriptor.CPPTYPE_BOOL: "bool",
    FieldDescriptor.CPPTYPE_DOUBLE: "float",
    FieldDescriptor.CPPTYPE_ENUM: _ENUM,
    FieldDescriptor.CPPTYPE_FLOAT: "float",
    FieldDescriptor.CPPTYPE_INT32: "int",
    FieldDescriptor.CPPTYPE_INT64: "int",
    FieldDescriptor.CPPTYPE_UINT32: "int",
    FieldDescriptor.CPPTYPE_UINT64: "int",
}


class Annotations:
    """Those of one module."""

    def __init__(self, own: str, messages: Iterable[Descriptor]) -> None:
        """
        Args:
            own: The module of the file's own messages.
            messages: All that are annotated.
        """
        self._own = own
        self._aliases = aliases({own, *(messages_module(each.file.name) for each in messages)})

    @property
    def aliases(self) -> frozenset[str]:
        """What the modules are called."""
        return frozenset(self._aliases.values())

    def imports(self) -> dict[str, Import]:
        """Return what is imported, by module, in the order of the statements."""
        return {
            module: Import(module=module, alias=alias, has_statement=can_be_imported(module))
            for module, alias in self._aliases.items()
            if module == self._own or can_be_imported(module)
        }

    def message(self, message: Descriptor) -> str:
        """Annotate a message: "orders_pb2.Order.Line"."""
        module, path = messages_module(message.file.name), path_of(message)
        if can_be_imported(module) and all(map(is_free, path)):
            return ".".join((self._aliases[module], *path))
        return ANY_MESSAGE

    def field(self, field: FieldDescriptor) -> str:
        """Annotate what a message's constructor takes for a field, where it is set."""
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            key, value = (self._item(entry.fields_by_name[name]) for name in ("key", "value"))
            return f"Mapping[{key}, {value}]"
        item = self._item(field)
        return f"Iterable[{item}]" if field.is_repeated else item

    def _item(self, field: FieldDescriptor) -> str:
        if field.message_type is not None:
            return self.message(field.message_type)
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return "bytes" if field.type == FieldDescriptor.TYPE_BYTES else "str"
        return _SCALARS[field.cpp_type]


def path_of(message: Descriptor) -> list[str]:
    """Return the names of a message and those that it is nested in, outermost first."""
    path = [message.name]
    while (outer := message.containing_type) is not None:
        message = outer
        path.insert(0, message.name)
    return path
