"""
Fingerprints and descriptor sets, over many files. Goal: what means nothing changes no fingerprint,
what means something does, and no bytes break the reader. Method: Hypothesis makes files, and
damages sets.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.duration_pb2 import Duration
from hypothesis import given, settings
from hypothesis import strategies as st

from relayrpc.contract.descriptors import checked, collect
from relayrpc.contract.fingerprint import normalise, parse_file
from relayrpc.contract.options import read_options
from relayrpc.errors import ContractError
from relayrpc.v1 import contract_pb2, hub_pb2
from tests.support import declared_contract
from tests.support.contracts import make_file, make_set, raw_set, set_pool, varint


_Field = FieldDescriptorProto
_TYPES = (_Field.TYPE_INT32, _Field.TYPE_STRING, _Field.TYPE_BYTES, _Field.TYPE_DOUBLE)
NAMES = st.from_regex(r"[a-z][a-z_]{0,6}", fullmatch=True)
RANDOM = st.randoms(use_true_random=False)


@st.composite
def contracts(draw: st.DrawFn) -> list[FileDescriptorProto]:
    """Draw the files of a contract, each behind what it imports, the service last."""
    files: list[FileDescriptorProto] = []
    for number in range(draw(st.integers(1, 4))):
        above = [file.name for file in files]
        imports = draw(st.sets(st.sampled_from(above))) if above else set()
        name = draw(NAMES.map(lambda text, number=number: f"{text}{number}.proto"))
        file = make_file(name, package=f"p{number}", service="", imports=sorted(imports))
        names = draw(st.sets(NAMES, max_size=4))
        for position, field in enumerate(sorted(names), start=1):
            file.message_type[0].field.add(
                name=field,
                number=position,
                type=draw(st.sampled_from(_TYPES)),
                label=draw(st.sampled_from((_Field.LABEL_OPTIONAL, _Field.LABEL_REPEATED))),
            )
        files.append(file)
    methods = draw(st.sets(NAMES, min_size=1))
    root = make_file("root.proto", imports=[file.name for file in files], methods=methods)
    return [*files, root]


def copy(file: FileDescriptorProto) -> FileDescriptorProto:
    return FileDescriptorProto.FromString(file.SerializeToString())


def rewritten(files: list[FileDescriptorProto], rng: random.Random) -> bytes:
    """Write the same contract as another compiler might."""
    changed = [copy(file) for file in files]
    for file in changed:
        names = list(file.dependency)
        rng.shuffle(names)
        file.dependency[:] = names
        if rng.random() < 0.5:
            file.source_code_info.location.add(path=[4, 0], leading_comments="what it is for")
        if rng.random() < 0.5:
            file.options.SetInParent()
        for field in file.message_type[0].field:
            first, *others = field.name.split("_")
            if rng.random() < 0.5:
                field.json_name = first + "".join(part[:1].upper() + part[1:] for part in others)
    rng.shuffle(changed)
    return normalise({file.name: file.SerializeToString() for file in changed}, files[-1].name)


@given(files=contracts(), rng=RANDOM)
def test_what_means_nothing_changes_nothing(
    files: list[FileDescriptorProto], rng: random.Random
) -> None:
    assert rewritten(files, rng) == make_set(*files)


@dataclass(frozen=True)
class _Place:
    """A value of a file that means something, and another one."""

    holder: Any
    name: str
    value: Any

    def change(self) -> None:
        setattr(self.holder, self.name, self.value)


def _places(file: FileDescriptorProto) -> list[_Place]:
    message = file.message_type[0]
    found = [_Place(file, "package", f"{file.package}x"), _Place(message, "name", "N")]
    for field in message.field:
        is_repeated = field.label == _Field.LABEL_REPEATED
        found += [
            _Place(field, "name", f"{field.name}x"),
            _Place(field, "number", field.number + 100),
            _Place(field, "type", _Field.TYPE_INT64),
            _Place(field, "label", 1 if is_repeated else 3),
            _Place(field, "json_name", "another"),
        ]
    for service in file.service:
        found.append(_Place(service, "name", "Other"))
        for method in service.method:
            found += [
                _Place(method, "name", f"{method.name}x"),
                _Place(method, "input_type", ".p0.M"),
                _Place(method, "client_streaming", not method.client_streaming),
                _Place(method, "server_streaming", not method.server_streaming),
                _Place(method.options, "idempotency_level", 2),
            ]
    return found


@given(files=contracts(), data=st.data())
def test_what_means_something_changes_the_fingerprint(
    files: list[FileDescriptorProto], data: st.DataObject
) -> None:
    before = make_set(*files)
    place = data.draw(st.sampled_from([place for file in files for place in _places(file)]))
    place.change()
    assert make_set(*files) != before


@given(files=contracts())
def test_normal_form_is_accepted_and_stays_as_it_is(files: list[FileDescriptorProto]) -> None:
    found = checked(make_set(*files))
    assert found.services == ("t.Service",)
    root = set_pool(found.data).FindFileByName("root.proto")
    assert collect(root) == found.data


SETS = (
    collect(hub_pb2.DESCRIPTOR),
    make_set(make_file("a", package="a", service=""), make_file()),
    make_set(*declared_contract.FILES),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a set some of whose bytes were changed, taken out, put in or written twice."""
    data = bytearray(draw(st.sampled_from(SETS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0:
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                del data[at : at + draw(st.integers(1, 8))]
            case 2:
                data[at:at] = draw(st.binary(min_size=1, max_size=8))
            case _:
                data[at:at] = data[(other := draw(st.integers(0, len(data)))) : other + 32]
    return bytes(data)


@st.composite
def made_up(draw: st.DrawFn) -> bytes:
    """Draw a set of files that are files, and fit together or not."""
    files: list[FileDescriptorProto] = []
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(["a", "b", "c", "google/protobuf/any.proto", ""]))
        imports = draw(st.lists(st.sampled_from(["a", "b", "c", "x"]), max_size=3))
        file = make_file(name, package=draw(st.sampled_from(["", "p", "q", "p..q"])))
        file.dependency[:] = imports
        file.public_dependency[:] = draw(st.lists(st.integers(-1, 3), max_size=2))
        file.syntax = draw(st.sampled_from(["", "proto2", "proto3", "editions", "proto9"]))
        message = file.message_type[0]
        field = message.field.add(name=draw(st.sampled_from(["f", "", "1", "M"])))
        field.number = draw(st.sampled_from([-1, 0, 1, 19_000, 2**29, 2**31 - 1]))
        field.type = draw(st.integers(1, 18))
        field.label = draw(st.integers(1, 3))
        field.type_name = draw(st.sampled_from(["", ".p.M", "M", ".q.E", "..", ".p.Service"]))
        field.default_value = draw(st.sampled_from(["", "1", "x", "\0"]))
        field.extendee = draw(st.sampled_from(["", ".p.M"]))
        field.oneof_index = draw(st.integers(-1, 1))
        files.append(file)
    return raw_set(*files)


_NAMES = st.sampled_from(
    ["", ".t.M", "t.M", "t.Service", "t.Service.Do", "M", "x", "\0", "f", "f.f"]
)
_DURATIONS = st.builds(
    Duration, seconds=st.sampled_from([-(2**63), -1, 0, 1, 2**63 - 1]), nanos=st.integers(-2, 2)
)
_BOTH = {"default_timeout": _DURATIONS, "maximum_timeout": _DURATIONS}
_CONTRACTS = st.fixed_dictionaries(
    {},
    optional={
        "address": st.sampled_from(["a/b", "/a", "$hub"]),
        "session": st.integers(-1, 4),
        "callback": _NAMES,
        "scopes": st.lists(_NAMES, max_size=3) | st.just(["s"] * 65),
        **_BOTH,
    },
)
_OPERATIONS = st.fixed_dictionaries(
    {},
    optional={
        "one_way": st.booleans(),
        "initiating": st.booleans(),
        "terminating": st.booleans(),
        "faults": st.lists(_NAMES, max_size=3) | st.just(["f"] * 65),
        "scopes": st.lists(_NAMES, max_size=3),
        "sticky_key": _NAMES,
        "event": st.booleans(),
        **_BOTH,
    },
)


@st.composite
def optioned(draw: st.DrawFn) -> bytes:
    """Draw a set whose service has options of any kind, or bytes in their place."""
    file = make_file(fields={"f": 1})
    service, method = file.service[0], file.service[0].method[0]
    method.client_streaming, method.server_streaming = draw(st.booleans()), draw(st.booleans())
    contract = contract_pb2.Contract(**draw(_CONTRACTS))
    service.options.Extensions[contract_pb2.contract].CopyFrom(contract)
    operation = contract_pb2.Operation(**draw(_OPERATIONS))
    method.options.Extensions[contract_pb2.operation].CopyFrom(operation)
    plain = parse_file(file.SerializeToString())
    number = draw(st.sampled_from([0, contract_pb2.OPERATION_FIELD_NUMBER]))
    if number:
        raw = draw(st.binary(max_size=8))
        more = varint(number << 3 | 2) + varint(len(raw)) + raw
        plain.service[0].method[0].options.MergeFromString(more)
    return raw_set(plain)


@settings(max_examples=300)
@given(data=damaged() | made_up() | optioned() | st.binary(max_size=64))
def test_any_bytes_are_accepted_or_refused(data: bytes) -> None:
    try:
        found = checked(data)
    except ContractError:
        return
    pool = set_pool(found.data)
    for service in found.services:
        name = found.file_of_symbol(service)
        assert name is not None
        assert pool.FindServiceByName(service).file.name == name
        assert found.with_imports(name)
        assert read_options(pool.FindServiceByName(service)) == found.contracts[service]
