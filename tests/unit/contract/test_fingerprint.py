"""
The normal form. Goal: what it leaves out and what it keeps, and what it says of files that are no
contract. Method: small files made by hand; what compilers write is in the conformance tests.
"""

from __future__ import annotations

import hashlib

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.internal import encoder, wire_format

from relayrpc.contract.fingerprint import fingerprint_of, import_order, normalise, parse_file
from relayrpc.contract.standard import STANDARD_FILES
from relayrpc.errors import ContractError
from tests.support.contracts import make_file, make_set


def files_of(data: bytes) -> list[FileDescriptorProto]:
    return list(FileDescriptorSet.FromString(data).file)


def test_fingerprint_is_the_hash_of_the_set() -> None:
    data = make_set(make_file())
    assert fingerprint_of(data) == hashlib.sha256(data).digest()


@pytest.mark.parametrize(
    ("imports", "order"),
    [
        ({"r": []}, "r"),
        ({"r": ["b", "a"], "a": [], "b": []}, "abr"),
        ({"r": ["b", "a"], "a": ["b"], "b": []}, "bar"),
        ({"r": ["a", "b"], "a": ["c"], "b": ["c"], "c": []}, "cabr"),
        # Bytes decide, not alphabets.
        ({"r": ["b", "B", "é"], "b": [], "B": [], "é": []}, "Bbér"),
        ({"r": [], "left out": []}, "r"),
        ({"r": ["google/protobuf/any.proto"]}, "r"),
    ],
)
def test_imports_come_before_what_imports_them(
    imports: dict[str, list[str]], order: str
) -> None:
    assert import_order(imports, "r") == list(order)


@pytest.mark.parametrize(
    ("imports", "fault"),
    [
        ({"r": ["r"]}, "'r' imports itself"),
        ({"r": ["a"], "a": ["b"], "b": ["a"]}, "'a' imports itself"),
        ({"r": ["a"]}, "'a' is imported and missing"),
        ({}, "'r' is imported and missing"),
    ],
)
def test_imports_that_lead_nowhere_are_refused(
    imports: dict[str, list[str]], fault: str
) -> None:
    with pytest.raises(ContractError, match=fault):
        import_order(imports, "r")


def test_long_chain_of_imports_is_no_recursion() -> None:
    imports = {f"{number}": [f"{number + 1}"] for number in range(5_000)}
    imports["5000"] = []
    assert import_order(imports, "0")[0] == "5000"


def test_what_means_nothing_is_left_out() -> None:
    file = make_file(fields={"the_field": 1, "_odd__Name_": 2, "own": 3}, imports=["z", "b", "a"])
    others = [make_file(name, package=name, service="") for name in ("a", "b", "z")]
    expected = make_set(*others, file)
    file.source_code_info.location.add(span=[1, 2, 3])
    file.option_dependency.append("gone.proto")
    file.options.SetInParent()
    file.service[0].method[0].options.SetInParent()
    file.message_type[0].field[0].json_name = "theField"
    file.message_type[0].field[1].json_name = "OddName"
    file.dependency[:] = ["b", "a", "z"]
    assert make_set(*others, make_file("unused", package="unused"), file) == expected
    (*_, kept) = files_of(expected)
    assert kept.dependency == ["a", "b", "z"]
    assert not kept.message_type[0].field[0].HasField("json_name")


def test_public_and_weak_imports_stay_what_they_are() -> None:
    others = [make_file(name, package=name, service="") for name in ("a", "b", "c")]
    file = make_file(imports=["c", "a", "b"])
    file.public_dependency[:] = [2, 0]
    file.weak_dependency[:] = [1]
    (*_, kept) = files_of(make_set(*others, file))
    assert [kept.dependency[index] for index in kept.public_dependency] == ["b", "c"]
    assert [kept.dependency[index] for index in kept.weak_dependency] == ["a"]


def test_name_in_json_that_does_not_follow_is_kept() -> None:
    file = make_file(fields={"the_field": 1})
    plain = make_set(file)
    file.message_type[0].field[0].json_name = "thefield"
    assert make_set(file) != plain


def test_standard_files_are_left_out_and_named() -> None:
    name = "google/protobuf/timestamp.proto"
    assert name in STANDARD_FILES
    own = make_file(imports=[name])
    (kept,) = files_of(make_set(own))
    assert kept.dependency == [name]
    standard = FileDescriptorProto(name=name, package="google.protobuf")
    assert make_set(standard, own) == make_set(own)


def test_bytes_that_are_no_file_are_refused() -> None:
    with pytest.raises(ContractError, match=r"'a\.proto' is no FileDescriptorProto"):
        normalise({"a.proto": b"\x0a\xff"}, "a.proto")


def test_options_do_not_depend_on_what_this_process_has_imported() -> None:
    """Known ones would be written before unknown ones."""
    from google.api import annotations_pb2

    number = annotations_pb2.http.number
    options = _varint_field(number - 1, 7) + _bytes_field(number, b"\x12\x03/v1")
    file = parse_file(make_file().SerializeToString())
    file.service[0].method[0].options.MergeFromString(options)
    assert options in normalise({file.name: file.SerializeToString()}, file.name)


def _varint_field(number: int, value: int) -> bytes:
    return encoder.TagBytes(number, wire_format.WIRETYPE_VARINT) + bytes([value])


def _bytes_field(number: int, value: bytes) -> bytes:
    tag = encoder.TagBytes(number, wire_format.WIRETYPE_LENGTH_DELIMITED)
    return tag + bytes([len(value)]) + value
