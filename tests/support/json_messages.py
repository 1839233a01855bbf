"""The messages of tests/conformance/json, compiled, and strategies that make any of them."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from relayrpc.contract.descriptors import load_pool


__all__ = ["MESSAGES", "json_pool", "message_class", "messages"]

MESSAGES: Final = ("relay.json.Edition", "relay.json.Everything", "relay.json.Older")

_FOLDER: Final = Path(__file__).resolve().parents[1] / "conformance" / "json"
_Field: Final = FieldDescriptor
_DEPTH_MAX: Final = 3
# It stands for null, whatever number it has.
_NULL: Final = "google.protobuf.NullValue"
_ANY_TYPES: Final = (*MESSAGES, "google.protobuf.Duration", "google.protobuf.BytesValue")


@functools.cache
def json_pool() -> DescriptorPool:
    """Compile the .proto files into a pool of their own."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "set"
        protos = sorted(path.name for path in _FOLDER.glob("*.proto"))
        command = [
            sys.executable, "-m", "grpc_tools.protoc", f"-I{_FOLDER}",
            f"--descriptor_set_out={target}", "--include_imports", *protos,
        ]  # fmt: skip
        subprocess.run(command, check=True)
        files = FileDescriptorSet.FromString(target.read_bytes()).file
    names = {f"{name}.proto" for name in ("edition", "everything", "older")}
    return load_pool({file.name: file.SerializeToString() for file in files if file.name in names})


def message_class(name: str) -> Any:
    """Return the class of a message by its full name."""
    return GetMessageClass(json_pool().FindMessageTypeByName(name))


# --- any message ---


@st.composite
def messages(draw: st.DrawFn, name: str, depth: int = 0) -> Any:
    """Draw a message that has a JSON form, and the same message back from it."""
    if special := _SPECIAL.get(name):
        return draw(special(depth))
    message = message_class(name)()
    wanted = list(message.DESCRIPTOR.fields)
    if message.DESCRIPTOR.is_extendable:
        wanted += json_pool().FindAllExtensions(message.DESCRIPTOR)
    if name != "google.protobuf.Empty":
        chosen = draw(st.sets(st.sampled_from(range(len(wanted))), max_size=5))
        for index in sorted(chosen):
            _fill(draw, message, wanted[index], depth)
    for field in wanted:
        if field.is_required and not message.HasField(field.name):
            setattr(message, field.name, draw(_scalars(field)))
    return message


def _fill(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    """Give a field some value, or several."""
    held = field.message_type
    if depth >= _DEPTH_MAX and held is not None:
        return
    if not field.is_repeated:
        value = draw(_values(field, depth))
        if held is not None:
            _part(message, field).CopyFrom(value)
        elif field.is_extension:
            message.Extensions[field] = value
        else:
            setattr(message, field.name, value)
        return
    count = draw(st.integers(1, 3))
    if held is not None and held.GetOptions().map_entry:
        key, inner = held.fields_by_name["key"], held.fields_by_name["value"]
        for _ in range(count):
            name, value = draw(_scalars(key)), draw(_values(inner, depth))
            if inner.message_type is not None:
                _part(message, field)[name].CopyFrom(value)
            else:
                _part(message, field)[name] = value
        return
    for _ in range(count):
        _part(message, field).append(draw(_values(field, depth)))


def _part(message: Any, field: FieldDescriptor) -> Any:
    return message.Extensions[field] if field.is_extension else getattr(message, field.name)


def _values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    held = field.message_type
    return _scalars(field) if held is None else messages(held.full_name, depth + 1)


def _scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    bits = 64 if "64" in _integer_name(field) else 32
    if field.type == _Field.TYPE_ENUM:
        known = st.sampled_from([value.number for value in field.enum_type.values])
        has_others = not (field.enum_type.is_closed or field.enum_type.full_name == _NULL)
        return known | st.integers(-(2**31), 2**31 - 1) if has_others else known
    if field.cpp_type in (_Field.CPPTYPE_UINT32, _Field.CPPTYPE_UINT64):
        return st.integers(0, 2**bits - 1)
    if field.cpp_type in (_Field.CPPTYPE_INT32, _Field.CPPTYPE_INT64):
        return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return {
        _Field.TYPE_BOOL: st.booleans(),
        _Field.TYPE_BYTES: st.binary(max_size=9),
        _Field.TYPE_DOUBLE: st.floats(),
        _Field.TYPE_FLOAT: st.floats(width=32),
        _Field.TYPE_STRING: _TEXTS,
    }[field.type]


def _integer_name(field: FieldDescriptor) -> str:
    is_wide = field.cpp_type in (_Field.CPPTYPE_INT64, _Field.CPPTYPE_UINT64)
    return "int64" if is_wide else "int32"


_TEXTS: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)


# --- those with a form of their own ---


def _make(name: str, **fields: Any) -> Any:
    return message_class(f"google.protobuf.{name}")(**fields)


def _durations(_: int) -> st.SearchStrategy[Any]:
    def made(seconds: int, nanos: int) -> Any:
        return _make("Duration", seconds=seconds, nanos=-nanos if seconds < 0 else nanos)

    bound = 315_576_000_000
    return st.builds(made, st.integers(-bound + 1, bound - 1), st.integers(0, 999_999_999))


def _timestamps(_: int) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda seconds, nanos: _make("Timestamp", seconds=seconds, nanos=nanos),
        st.integers(-62_135_596_800, 253_402_300_799),
        st.integers(0, 999_999_999),
    )


def _masks(_: int) -> st.SearchStrategy[Any]:
    paths = st.lists(st.from_regex(r"[a-z]{1,3}(_[a-z]{1,3}){0,2}", fullmatch=True), max_size=3)
    return paths.map(lambda found: _make("FieldMask", paths=found))


def _free(depth: int) -> st.SearchStrategy[Any]:
    def made(value: Any) -> Any:
        from google.protobuf import json_format

        # What any JSON stands for is not at stake here.
        return json_format.ParseDict(value, _make("Value"))

    simple = st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | _TEXTS
    nested = st.recursive(
        simple,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_TEXTS, inner, max_size=2),
        max_leaves=4,
    )
    return nested.map(made)


def _structs(depth: int) -> st.SearchStrategy[Any]:
    def made(values: dict[str, Any]) -> Any:
        struct = _make("Struct")
        for name, value in values.items():
            struct.fields[name].CopyFrom(value)
        return struct

    return st.dictionaries(_TEXTS, _free(depth), max_size=2).map(made)


def _lists(depth: int) -> st.SearchStrategy[Any]:
    return st.lists(_free(depth), max_size=2).map(lambda values: _make("ListValue", values=values))


def _anys(depth: int) -> st.SearchStrategy[Any]:
    def made(held: Any) -> Any:
        any_message = _make("Any")
        any_message.Pack(held, deterministic=True)
        return any_message

    held = [messages(name, depth + 1) for name in _ANY_TYPES]
    return st.one_of(held).map(made)


_SPECIAL: Final[dict[str, Any]] = {
    "google.protobuf.Any": _anys,
    "google.protobuf.Duration": _durations,
    "google.protobuf.FieldMask": _masks,
    "google.protobuf.ListValue": _lists,
    "google.protobuf.Struct": _structs,
    "google.protobuf.Timestamp": _timestamps,
    "google.protobuf.Value": _free,
}
