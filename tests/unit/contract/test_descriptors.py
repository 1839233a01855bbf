"""
Descriptor sets from elsewhere. Goal: what is wrong with one is said in a sentence, and what passes
answers every question. Method: sets made by hand, and the questions protobuf's own pool answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from relayrpc.contract.descriptors import DescriptorSet, checked, collect, load_pool
from relayrpc.contract.fingerprint import fingerprint_of, parse_file
from relayrpc.contract.standard import STANDARD_FILES, standard_file
from relayrpc.errors import ContractError
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.v1 import contract_pb2, hub_pb2
from tests.support.contracts import make_file, make_pool, make_set, raw_set


A = make_file("a.proto", package="a", service="")
B = make_file("b.proto", imports=["a.proto"])


def with_info() -> FileDescriptorProto:
    file = make_file()
    file.source_code_info.SetInParent()
    return file


def with_unknown_type() -> FileDescriptorProto:
    file = make_file()
    file.service[0].method[0].input_type = ".t.Nothing"
    return file


def unfinished() -> bytes:
    """Make a file that lacks what descriptor.proto requires; upb reads and writes it anyway."""
    file = make_file()
    file.options.uninterpreted_option.add().name.add()
    return file.SerializePartialToString()


def with_name_that_is_no_text() -> bytes:
    file = make_file(fields={"a": 1})
    file.message_type[0].field[0].json_name = "XY"
    return file.SerializeToString().replace(b"XY", b"\xff\xff")


def many_files(count: int) -> bytes:
    files = [make_file(f"{number:03}", package=f"p{number}", service="") for number in range(count)]
    return make_set(*files, make_file(imports=[file.name for file in files]))


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "the descriptor set is empty"),
        (b"\x12\x00", "no descriptor set"),
        (b"\x0a", "no descriptor set"),
        (b"\x0a\x05abc", "no descriptor set"),
        (b"\x0a\xff\xff\xff\xff\x0f", "no descriptor set"),
        (b"\x0a\x01\xff", "file 1 of the descriptor set cannot be used"),
        (b"\x0a\x00", "'' is no name of a file"),
        (raw_set(make_file("a\nb")), r"'a\\nb' is no name"),
        (b"\x0a\x03\x0a\x01\xff", "file 1 of the descriptor set cannot be used"),
        (raw_set(A, A), "'a.proto' is in the descriptor set twice"),
        (raw_set(B), "'b.proto' imports 'a.proto', which does not stand before it"),
        (raw_set(B, A), "'b.proto' imports 'a.proto', which does not stand before it"),
        (raw_set(make_file("c", imports=["c"])), "'c' imports 'c', which does not stand before it"),
        (raw_set(A, make_file()), "other files than 't.proto' imports"),
        (raw_set(with_info()), "has source code info"),
        (raw_set(with_name_that_is_no_text()), "file 1 .* cannot be used: .*(utf-8|UTF-8)"),
        (raw_set(unfinished()), "file 1 .* cannot be used: required fields are missing"),
        (raw_set(with_unknown_type()), r"file 1 .* cannot be used: .*\.t\.Nothing"),
        (raw_set(make_file(package="a"), A), "file 2 of the descriptor set cannot be used"),
        (raw_set(standard_file("google/protobuf/any.proto")), "protobuf's own"),
        # What is under another name what protobuf has.
        (
            raw_set(make_file(package="google.protobuf", service="Timestamp")),
            "duplicate|defined|conflict",
        ),
        (b"\x0a\x81\x80\x10" + bytes(256 * 1024 + 1), "a file .* has 262145 bytes, over 262144"),
        (bytes(1024 * 1024 + 1), "has 1048577 bytes, over 1048576"),
        (many_files(1024), "more than 1024 files"),
    ],
)
def test_set_that_cannot_be_used_is_refused(data: bytes, fault: str) -> None:
    with pytest.raises(ContractError, match=fault) as refused:
        checked(data)
    assert len(str(refused.value)) < 512


def test_imports_in_another_order_are_refused() -> None:
    others = [make_file(name, package=name, service="") for name in ("x", "y")]
    file = make_file(imports=["x", "y"])
    checked(raw_set(*others, file))
    with pytest.raises(ContractError, match="another order"):
        checked(raw_set(*reversed(others), file))


def test_reason_is_short_however_long_names_are() -> None:
    file = make_file()
    file.service[0].method[0].input_type = ".t." + "x" * 100_000
    with pytest.raises(ContractError) as refused:
        checked(raw_set(file))
    assert len(str(refused.value)) < 512


def test_set_whose_options_contradict_each_other_is_refused_with_the_first_of_them() -> None:
    file = make_file(methods=[f"Do{number}" for number in range(7)])
    for method in file.service[0].method:
        method.options.Extensions[contract_pb2.operation].terminating = True
    with pytest.raises(ContractError) as refused:
        checked(make_set(file))
    text = str(refused.value)
    assert text.startswith("t.proto: t.Service.Do0: terminating, but the contract's session is ")
    assert text.count("t.proto: ") == 5
    assert text.endswith("; and 2 more")


def test_checked_set_has_the_options_of_its_services() -> None:
    file = make_file()
    file.service[0].options.Extensions[contract_pb2.contract].address = "a/b"
    plain, found = checked(make_set(make_file())), checked(make_set(file))
    assert plain.contracts["t.Service"].address == "t.Service"
    assert found.contracts["t.Service"].address == "a/b"


def test_large_set_is_checked_in_steps() -> None:
    steps = sum(1 for _ in DescriptorSet(many_files(100)).check(DEFAULT_LIMITS))
    # Twice: the options may use names of each file.
    assert steps > 2 * 101
    large = make_file()
    for number in range(10_000):
        large.message_type.add(name=f"M{number}")
    assert sum(1 for _ in DescriptorSet(make_set(large)).check(DEFAULT_LIMITS)) > 10


def many_types() -> Iterator[FileDescriptorProto]:
    """Yield files with 10 of each kind of type."""
    for kind in ("enum", "message", "service", "extension", "nested", "deep"):
        file = make_file(service="")
        for number in range(10):
            message = file.message_type[0]
            match kind:
                case "enum":
                    file.enum_type.add(name=f"E{number}").value.add(name=f"V{number}")
                case "message":
                    file.message_type.add(name=f"M{number}")
                case "service":
                    file.service.add(name=f"S{number}")
                case "extension":
                    file.syntax = "proto2"
                    message.extension_range.add(start=100 + number, end=101 + number)
                    message.extension.add(
                        name=f"x{number}", number=100 + number, type=5, label=1, extendee=".t.M"
                    )
                case "nested":
                    message.nested_type.add(name=f"N{number}")
                case _:
                    for _ in range(number):
                        message = message.nested_type[0]
                    message.nested_type.add(name="N")
        yield file


@pytest.mark.parametrize("file", list(many_types()))
def test_types_of_each_kind_count(file: FileDescriptorProto) -> None:
    checked(raw_set(file), replace(DEFAULT_LIMITS, contract_types_max=11))
    with pytest.raises(ContractError, match="declares more than 10 messages, enums, extensions"):
        checked(raw_set(file), replace(DEFAULT_LIMITS, contract_types_max=10))


def test_bounds_are_the_limits() -> None:
    data = make_set(A, B)
    size = max(len(A.SerializeToString()), len(B.SerializeToString()))
    exact = replace(
        DEFAULT_LIMITS,
        contract_bytes_max=len(data),
        contract_file_bytes_max=size,
        contract_files_max=2,
        # A message each, and a service.
        contract_types_max=3,
    )
    checked(data, exact)
    for name in (
        "contract_bytes_max",
        "contract_file_bytes_max",
        "contract_files_max",
        "contract_types_max",
    ):
        with pytest.raises(ContractError):
            checked(data, replace(exact, **{name: getattr(exact, name) - 1}))


# --- what is found ---


def rich_file() -> FileDescriptorProto:
    """Make a file with one of everything that has a name."""
    file = make_file(fields={"number": 1})
    file.syntax = "proto2"
    message = file.message_type[0]
    message.oneof_decl.add(name="choice")
    message.field.add(name="chosen", number=2, type=5, label=1, oneof_index=0)
    message.enum_type.add(name="Inner").value.add(name="INNER_ZERO", number=0)
    message.extension_range.add(start=100, end=200)
    nested = message.nested_type.add(name="Nested")
    nested.nested_type.add(name="Deep").field.add(name="x", number=1, type=5, label=1)
    nested.extension.add(name="within", number=101, type=5, label=1, extendee=".t.M")
    file.extension.add(name="top", number=100, type=5, label=1, extendee=".t.M")
    file.enum_type.add(name="E").value.add(name="ZERO", number=0)
    return file


RICH = checked(make_set(rich_file()))
NAMES = (
    "t.M",
    "t.M.number",
    "t.M.choice",
    "t.M.chosen",
    "t.M.Inner",
    "t.M.INNER_ZERO",
    "t.M.Nested",
    "t.M.Nested.Deep",
    "t.M.Nested.Deep.x",
    "t.M.Nested.within",
    "t.top",
    "t.E",
    "t.ZERO",
    "t.Service",
    "t.Service.Do",
)


@pytest.mark.parametrize("name", NAMES)
def test_everything_with_a_name_is_found(name: str) -> None:
    assert RICH.file_of_symbol(name) == "t.proto"
    pool = make_pool(rich_file())
    # Not every implementation takes methods for symbols.
    find = pool.FindMethodByName if name == "t.Service.Do" else pool.FindFileContainingSymbol
    assert find(name) is not None


@pytest.mark.parametrize(
    "name",
    [
        *(f"{name}x" for name in NAMES),
        *(f"{name}.y" for name in NAMES),
        "",
        ".",
        "t",
        "t.",
        "M",
        "t.M.",
        "t.M.Nested.Deep.x.y",
        "t.E.ZERO",
        "t.M." + "." * 5_000,
        "." * 1_000_000,
    ],
)
def test_what_is_not_there_is_not_found(name: str) -> None:
    assert RICH.file_of_symbol(name) is None


def test_protobufs_own_names_are_found_in_any_set() -> None:
    assert RICH.file_of_symbol("google.protobuf.Any") == "google/protobuf/any.proto"
    for name in STANDARD_FILES:
        assert name in RICH
        first, *others = RICH.with_imports(name)
        assert parse_file(first).name == name
        assert set(parse_file(first).dependency) <= {parse_file(file).name for file in others}


def test_extensions_are_found() -> None:
    assert RICH.extension_numbers("t.M") == [100, 101]
    assert RICH.extension_numbers("t.E") == []
    assert RICH.file_of_extension("t.M", 101) == "t.proto"
    assert RICH.file_of_extension("t.M", 102) is None
    assert RICH.file_of_extension("t.Nothing", 100) is None


def test_file_without_a_package_is_found() -> None:
    found = checked(make_set(make_file(package="")))
    assert found.services == ("Service",)
    assert found.file_of_symbol("Service.Do") == "t.proto"
    assert found.file_of_symbol("M") == "t.proto"


def test_file_comes_with_all_that_it_needs_and_no_more() -> None:
    def imported() -> Iterator[FileDescriptorProto]:
        yield make_file("a", package="a", service="")
        yield make_file("b", package="b", service="", imports=["a"])
        yield make_file("c", package="c", service="")
        yield make_file(imports=["a", "b", "c", "google/protobuf/api.proto"])

    found = checked(make_set(*imported()))
    names = [parse_file(file).name for file in found.with_imports("t.proto")]
    assert names[:4] == ["t.proto", "a", "b", "c"]
    assert set(names[4:]) == {
        f"google/protobuf/{name}.proto" for name in ("any", "api", "source_context", "type")
    }
    assert [parse_file(file).name for file in found.with_imports("b")] == ["b", "a"]


def test_weight_grows_with_what_is_kept_to_find_things() -> None:
    few = make_file(fields={f"field_{number:04}": number for number in range(1, 500)})
    many = make_file()
    for number in range(700):
        many.message_type.add(name=f"M{number:04}")
    sets = [checked(make_set(file)) for file in (few, many)]
    assert abs(len(sets[0].data) - len(sets[1].data)) < 10_000
    assert sets[1].weight_bytes > sets[0].weight_bytes + 100_000


# --- collecting ---


def test_contract_of_generated_code_is_collected() -> None:
    data = collect(hub_pb2.DESCRIPTOR)
    found = checked(data)
    assert found.fingerprint == fingerprint_of(data)
    assert found.services == ("relayrpc.v1.Hub",)
    assert found.file_of_symbol("relayrpc.v1.Shape") == "relayrpc/v1/link.proto"


def test_contract_is_the_same_from_any_pool() -> None:
    first = collect(hub_pb2.DESCRIPTOR)
    files = descriptor_pb2.FileDescriptorSet.FromString(first).file
    pool = make_pool(*files)
    assert collect(pool.FindFileByName(hub_pb2.DESCRIPTOR.name)) == first


def test_field_numbers_types_and_labels_are_kept() -> None:
    file = make_file(fields={"x": 1})
    plain = make_set(file)
    (field,) = file.message_type[0].field
    for change in ({"number": 2}, {"type": FieldDescriptorProto.TYPE_INT64}, {"label": 3}):
        changed = FileDescriptorProto.FromString(file.SerializeToString())
        for name, value in change.items():
            setattr(changed.message_type[0].field[0], name, value)
        assert make_set(changed) != plain
    assert make_set(file) == plain
    assert field.number == 1


# --- loading ---


def test_files_are_loaded_in_any_order() -> None:
    files = {file.name: file.SerializeToString() for file in (B, A)}
    pool = load_pool(files)
    assert pool.FindServiceByName("t.Service").file.name == "b.proto"
    assert pool.FindMessageTypeByName("google.protobuf.Any")


def test_files_that_bring_protobufs_own_get_this_runtimes() -> None:
    name = "google/protobuf/any.proto"
    own = FileDescriptorProto(name=name, package="google.protobuf")
    files = {file.name: file.SerializeToString() for file in (own, make_file(imports=[name]))}
    assert load_pool(files).FindMessageTypeByName("google.protobuf.Any").fields


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"a": b"\xff"}, "corrupt|parsing"),
        ({"a": make_file("a", imports=["b"]).SerializeToString()}, "'b' is imported and missing"),
        ({"a": make_file("a", imports=["a"]).SerializeToString()}, "'a' imports itself"),
        ({"a": with_unknown_type().SerializeToString()}, "Nothing"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(files: dict[str, bytes], fault: str) -> None:
    with pytest.raises(ContractError, match=f"(?i){fault}"):
        load_pool(files)
