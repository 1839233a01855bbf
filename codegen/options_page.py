"""
Writes the tables of docs/reference/contract-options.md from the comments of contract.proto.

Owns: the tables' form. What an option means stands in the proto only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from codegen.marked import put_between_marks
from relayrpc.contract.elements import TYPE_NAMES
from relayrpc_codegen.compiling import compile_protos
from relayrpc_codegen.includes import Includes


__all__ = ["PAGE", "SOURCE", "render"]

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = "protos/relayrpc/v1/contract.proto"
PAGE: Final = ROOT / "docs" / "reference" / "contract-options.md"

_Comments = Mapping[tuple[int, ...], str]

_TITLES: Final = {"Contract": "Of a service", "Operation": "Of a method"}


def render(page: str) -> str:
    """
    Return the page with its tables written anew.

    Raises:
        ValueError: It lacks the marks.
    """
    file = compile_protos(Includes([str(ROOT / SOURCE)], [str(ROOT / "protos")])).file[-1]
    comments = {
        tuple(location.path): " ".join(location.leading_comments.split())
        for location in file.source_code_info.location
        if location.leading_comments
    }
    lines = [
        line
        for index, message in enumerate(file.message_type)
        for line in _section(
            message, (FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER, index), comments
        )
    ]
    return put_between_marks(page, source=SOURCE, made="".join(f"{line}\n" for line in lines))


def _section(
    message: DescriptorProto, path: tuple[int, ...], comments: _Comments
) -> Iterator[str]:
    yield from (f"## {_TITLES[message.name]}: `{message.name}`", "", comments[path], "")
    yield from ("| option | type | meaning |", "|---|---|---|")
    for index, field in enumerate(message.field):
        meaning = comments[*path, DescriptorProto.FIELD_FIELD_NUMBER, index]
        yield f"| `{field.name}` | {_type(field)} | {meaning} |"
    yield ""
    for enum_index, enum in enumerate(message.enum_type):
        enum_path = (*path, DescriptorProto.ENUM_TYPE_FIELD_NUMBER, enum_index)
        yield from (f"### `{enum.name}`", "", comments[enum_path], "")
        yield from ("| value | meaning |", "|---|---|")
        for index, value in enumerate(enum.value):
            meaning = comments[*enum_path, EnumDescriptorProto.VALUE_FIELD_NUMBER, index]
            yield f"| `{value.name}` | {meaning} |"
        yield ""


def _type(field: FieldDescriptorProto) -> str:
    """Name a field's type as the proto does."""
    full_name = field.type_name.removeprefix(".")
    name = full_name.removeprefix("relayrpc.v1.Contract.") or TYPE_NAMES[field.type]
    is_repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    return f"repeated `{name}`" if is_repeated else f"`{name}`"
