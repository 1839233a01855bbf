"""
The check of contract options. Goal: it is bounded, and options of other versions, or that are none,
are met. Method: files made by hand; the rules themselves are in tests/conformance/options.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from relayrpc.contract.contradictions import OptionsCheck
from relayrpc.contract.fingerprint import parse_file
from relayrpc.contract.options import ContractOptions, OperationOptions, read_options
from relayrpc.errors import ContractError
from relayrpc.v1 import contract_pb2 as pb
from tests.support.contracts import make_file, make_pool, varint


def with_operation(operation: pb.Operation, *, methods: int = 1) -> FileDescriptorProto:
    file = make_file(methods=[f"Do{number}" for number in range(methods)])
    for method in file.service[0].method:
        method.options.Extensions[pb.operation].CopyFrom(operation)
    return file


def with_raw_contract(data: bytes) -> FileDescriptorProto:
    """Make a file whose contract option holds these bytes, whatever they are."""
    # Of a pool that knows no custom option.
    file = parse_file(make_file().SerializeToString())
    file.service[0].options.MergeFromString(_raw(pb.CONTRACT_FIELD_NUMBER, data))
    return file


def with_raw_operation(data: bytes) -> FileDescriptorProto:
    file = parse_file(make_file().SerializeToString())
    file.service[0].method[0].options.MergeFromString(_raw(pb.OPERATION_FIELD_NUMBER, data))
    return file


def _raw(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def loaded(file: FileDescriptorProto) -> FileDescriptor:
    return make_pool(file).FindFileByName(file.name)


def checked(file: FileDescriptorProto) -> OptionsCheck:
    checking = OptionsCheck(loaded(file), file)
    for _ in checking.steps():
        pass
    return checking


def reasons(file: FileDescriptorProto) -> list[str]:
    return [each.reason for each in checked(file).found]


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (pb.Operation(faults=["t.M"] * 65), "65 faults, more than 64"),
        (pb.Operation(scopes=["s"] * 65), "65 scopes, more than 64"),
        (pb.Operation(sticky_key="a." * 256 + "a"), "more than 512 bytes"),
        (pb.Operation(faults=["x" * 10_000]), "is no message of"),
        (pb.Operation(scopes=["x" * 129]), "is not 1 to 128"),
    ],
)
def test_one_option_has_one_short_sentence_however_large_it_is(
    operation: pb.Operation, reason: str
) -> None:
    (found,) = reasons(with_operation(operation))
    assert reason in found
    assert len(found) < 300


def test_lists_at_their_bounds_are_accepted() -> None:
    scopes = [f"{'s' * 120}{number}" for number in range(64)]
    assert not reasons(with_operation(pb.Operation(scopes=scopes)))


def test_no_more_than_a_hundred_contradictions_are_found() -> None:
    file = with_operation(pb.Operation(terminating=True, initiating=False), methods=1_000)
    checking = OptionsCheck(loaded(file), file)
    steps = sum(1 for _ in checking.steps())
    assert len(checking.found) == 100
    assert steps < 100


def test_large_service_is_checked_in_steps() -> None:
    file = with_operation(pb.Operation(one_way=False), methods=1_000)
    checking = OptionsCheck(loaded(file), file)
    assert sum(1 for _ in checking.steps()) > 1_000


def test_options_of_a_newer_version_are_passed_over() -> None:
    file = with_raw_contract(pb.Contract(address="a/b").SerializeToString() + b"\xf8\x07\x01")
    assert not reasons(file)
    service = make_pool(file).FindServiceByName("t.Service")
    assert read_options(service) == ContractOptions(
        service="t.Service", address="a/b", operations={"Do": OperationOptions()}
    )


@pytest.mark.parametrize("make", [with_raw_contract, with_raw_operation])
def test_options_that_do_not_parse_are_refused(
    make: Callable[[bytes], FileDescriptorProto],
) -> None:
    file = make(b"\x22\xff")
    with pytest.raises(ContractError, match=r"the options do not parse|Truncated"):
        # protobuf's implementation in Python does not load such a file.
        raise ContractError(", ".join(reasons(file)))


def test_contradictions_of_one_service_leave_the_others_their_options() -> None:
    file = with_operation(pb.Operation(terminating=True))
    other = file.service.add(name="Other")
    other.options.Extensions[pb.contract].address = "a/b"
    checking = checked(file)
    assert [each.element for each in checking.found] == ["t.Service.Do0"]
    assert [each.address for each in checking.contracts.values()] == ["a/b"]
