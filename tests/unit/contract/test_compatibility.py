"""
Differences of two versions. Goal: each is said in a sentence that names the element, and however
large the sets are, the comparison is bounded. Method: sets made by hand.

Which changes break is tested with buf, in tests/conformance/test_compatibility.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message_factory import GetMessageClass

from relayrpc.contract.compatibility import Comparison, Difference, Level, compare
from relayrpc.contract.descriptors import checked
from relayrpc.limits import DEFAULT_LIMITS, Limits
from tests.support.contracts import make_file, make_pool, make_set


def differences(
    old: FileDescriptorProto,
    new: FileDescriptorProto,
    service: str = "t.Service",
    *,
    level: Level = Level.WIRE_JSON,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[Difference, ...]:
    sides = checked(make_set(old)), checked(make_set(new))
    return compare(*sides, service, level=level, limits=limits)


def texts(old: FileDescriptorProto, new: FileDescriptorProto) -> list[str]:
    return [str(each) for each in differences(old, new)]


def test_difference_says_where_what_and_which_rule() -> None:
    (found,) = differences(make_file(fields={"a": 1}), make_file(fields={"b": 1, "a": 2}))[:1]
    assert found == Difference(
        rule="FIELD_SAME_NAME",
        what="t.M.a",
        file="t.proto",
        text="field 1 (t.M.a) is called 'b' now",
    )
    assert str(found) == "t.proto: field 1 (t.M.a) is called 'b' now [FIELD_SAME_NAME]"


def test_texts_name_what_was_and_what_is() -> None:
    old = make_file(fields={"a": 1, "b": 2, "c": 3}, methods=("Do", "Go"))
    new = make_file(fields={"a": 1, "b": 2})
    old.message_type[0].reserved_range.add(start=8, end=10)
    old.message_type[0].reserved_name.append("z")
    new.message_type[0].field[0].type = 3
    new.message_type[0].field[1].label = 3
    new.service[0].method[0].server_streaming = True
    new.service[0].method[0].options.idempotency_level = 1
    assert texts(old, new) == [
        "t.proto: t.Service.Do: has a stream of responses [RPC_SAME_SERVER_STREAMING]",
        "t.proto: t.Service.Do: was IDEMPOTENCY_UNKNOWN and is NO_SIDE_EFFECTS "
        "[RPC_SAME_IDEMPOTENCY_LEVEL]",
        "t.proto: t.Service.Go: is gone [RPC_NO_DELETE]",
        "t.proto: t.M: no longer reserves 8 to 9 [RESERVED_MESSAGE_NO_DELETE]",
        "t.proto: t.M: no longer reserves 'z' [RESERVED_MESSAGE_NO_DELETE]",
        "t.proto: field 1 (t.M.a) changed its type from int32 to int64 "
        "[FIELD_WIRE_JSON_COMPATIBLE_TYPE]",
        "t.proto: field 2 (t.M.b) was singular and is repeated "
        "[FIELD_WIRE_JSON_COMPATIBLE_CARDINALITY]",
        "t.proto: field 3 (t.M.c) is gone and its number is not reserved "
        "[FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED]",
        "t.proto: field 3 (t.M.c) is gone and its name is not reserved "
        "[FIELD_NO_DELETE_UNLESS_NAME_RESERVED]",
    ]


def test_enums_are_named_by_number_and_name() -> None:
    assert texts(with_enum(ONE=1, TWO=2), with_enum(EINS=1)) == [
        "t.proto: t.E: value 1 (ONE) is called EINS now [ENUM_VALUE_SAME_NAME]",
        "t.proto: t.E: value 2 (TWO) is gone and its number is not reserved "
        "[ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED]",
        "t.proto: t.E: value 2 (TWO) is gone and its name is not reserved "
        "[ENUM_VALUE_NO_DELETE_UNLESS_NAME_RESERVED]",
    ]


def test_narrowing_says_which_types() -> None:
    old, new = make_file(fields={"a": 1}), make_file(fields={"a": 1})
    new.message_type[0].field[0].type = 13
    (found,) = differences(old, new)
    assert found.rule == "FIELD_NO_NARROWING"
    assert found.text == (
        "field 1 (t.M.a) changed its type from int32 to uint32, which holds fewer numbers"
    )


def test_level_says_what_counts() -> None:
    old, new = make_file(fields={"a": 1}), make_file(fields={"b": 1})
    assert {each.rule for each in differences(old, new)} == {
        "FIELD_SAME_NAME",
        "FIELD_SAME_JSON_NAME",
    }
    assert not differences(old, new, level=Level.WIRE)


def test_service_in_another_package_is_gone() -> None:
    old, new = make_file(), make_file("u.proto", package="u")
    (found,) = differences(old, new)
    assert found.text == "t.Service: the service is gone"
    assert found.file == "t.proto"
    assert not differences(old, new, "u.Service")


def test_only_the_service_that_is_called_keeps_its_methods() -> None:
    old, new = make_file(methods=("Do", "Go")), make_file()
    for file in (old, new):
        file.service.add(name="Other").CopyFrom(make_file(service="Other").service[0])
    assert [each.what for each in differences(old, new)] == ["t.Service.Go"]
    assert not differences(old, new, "t.Other")


def test_service_that_is_called_comes_first() -> None:
    sides = []
    for is_streaming in (False, True):
        file = make_file(fields={"a": 1} if is_streaming else {"b": 1}, service="Other")
        file.service.append(make_file().service[0])
        for service in file.service:
            service.method[0].client_streaming = is_streaming
        sides.append(file)
    found = [each.what for each in differences(*sides)]
    assert found[:2] == ["t.Service.Do", "t.Other.Do"]


# --- what would break later ---


def with_enum(**values: int) -> FileDescriptorProto:
    """Make a file whose message has an open enum."""
    file = make_file()
    file.message_type[0].field.add(name="a", number=1, type=14, type_name=".t.E", label=1)
    enum = file.enum_type.add(name="E")
    enum.value.add(name="ZERO", number=0)
    for name, number in values.items():
        enum.value.add(name=name, number=number)
    return file


def reserving(file: FileDescriptorProto, *reserved: int | str) -> FileDescriptorProto:
    """Reserve numbers and names in the enum of a file, or in its message where it has none."""
    holder = file.enum_type[0] if file.enum_type else file.message_type[0]
    for each in reserved:
        if isinstance(each, str):
            holder.reserved_name.append(each)
        else:
            holder.reserved_range.add(start=each, end=each + (not file.enum_type))
    return file


@pytest.mark.parametrize(
    ("versions", "rule", "sent", "got"),
    [
        (
            (
                make_file(fields={"a": 1}),
                reserving(make_file(), "a"),
                reserving(make_file(fields={"b": 1}), "a"),
            ),
            "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED",
            {"a": 7},
            {"b": 7},
        ),
        (
            (
                make_file(fields={"a": 1}),
                reserving(make_file(), 1),
                reserving(make_file(fields={"a": 2}), 1),
            ),
            "FIELD_NO_DELETE_UNLESS_NAME_RESERVED",
            '{"a": 7}',
            {"a": 7},
        ),
        (
            (
                with_enum(ONE=1),
                reserving(with_enum(), "ONE"),
                reserving(with_enum(OTHER=1), "ONE"),
            ),
            "ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED",
            {"a": 1},
            {"a": "OTHER"},
        ),
        (
            (with_enum(ONE=1), reserving(with_enum(), 1), reserving(with_enum(ONE=2), 1)),
            "ENUM_VALUE_NO_DELETE_UNLESS_NAME_RESERVED",
            '{"a": "ONE"}',
            {"a": "ONE"},
        ),
    ],
)
def test_what_is_not_reserved_may_be_given_away(
    versions: tuple[FileDescriptorProto, ...], rule: str, sent: object, got: object
) -> None:
    """The version after next is compatible with the next one, and misreads what the first sent."""
    first, second, third = versions
    assert [each.rule for each in differences(first, second)] == [rule]
    assert not differences(second, third)
    classes = [GetMessageClass(make_pool(each).FindMessageTypeByName("t.M")) for each in versions]
    if isinstance(sent, str):
        # The first one reads it as it was meant.
        json_format.Parse(sent, classes[0]())
        message = json_format.Parse(sent, classes[2]())
    else:
        message = classes[2].FromString(classes[0](**sent).SerializeToString())
    assert json_format.MessageToDict(message) == got


@pytest.mark.parametrize(
    ("versions", "rule"),
    [
        (
            (reserving(make_file(), 1), make_file(), make_file(fields={"b": 1})),
            "RESERVED_MESSAGE_NO_DELETE",
        ),
        ((reserving(with_enum(), 1), with_enum(), with_enum(ONE=1)), "RESERVED_ENUM_NO_DELETE"),
    ],
)
def test_what_is_no_longer_reserved_may_be_given_away(
    versions: tuple[FileDescriptorProto, ...], rule: str
) -> None:
    first, second, third = versions
    assert [each.rule for each in differences(first, second)] == [rule]
    assert not differences(second, third)


def test_same_contract_is_not_read() -> None:
    contract = checked(make_set(make_file()))
    comparison = Comparison(contract, contract, "t.Service", level=Level.WIRE_JSON)
    assert not list(comparison.check(DEFAULT_LIMITS))
    assert comparison.differences == ()


# --- bounds ---


@pytest.mark.parametrize("count", [7, 8, 9])
def test_differences_are_bounded(count: int) -> None:
    limits = replace(DEFAULT_LIMITS, contract_differences_max=8)
    old = make_file(fields={f"f{number}": number for number in range(1, count + 1)})
    sides = checked(make_set(old)), checked(make_set(make_file()))
    comparison = Comparison(*sides, "t.Service", level=Level.WIRE)
    for _ in comparison.check(limits):
        pass
    assert len(comparison.differences) == min(count, 8)


def test_long_names_are_cut() -> None:
    name = "x" * 50_000
    (found,) = differences(make_file(fields={name: 1}), make_file(), level=Level.WIRE)
    assert len(found.text) < 512
    assert found.what == f"t.M.{'x' * 195}…"


def test_many_names_of_one_value_are_cut() -> None:
    old, new = with_enum(**{f"A{number}": 1 for number in range(1_000)}), with_enum(B=1)
    for file in (old, new):
        file.enum_type[0].options.allow_alias = True
    (found,) = differences(old, new)
    assert found.text.startswith("t.E: value 1 (A0, A1, A2, ")
    assert found.text.endswith("…) is called B now")
    assert len(found.text) < 512


def with_fields(count: int) -> FileDescriptorProto:
    return make_file(fields={f"f{number}": number for number in range(1, count + 1)})


def with_messages(count: int) -> FileDescriptorProto:
    file = make_file()
    for number in range(count):
        file.message_type.add(name=f"M{number}")
    return file


def with_values(count: int) -> FileDescriptorProto:
    file = make_file()
    enum = file.enum_type.add(name="E")
    for number in range(count):
        enum.value.add(name=f"E{number}", number=number)
    return file


def with_reserved(count: int) -> FileDescriptorProto:
    file = make_file()
    for number in range(count):
        file.message_type[0].reserved_name.append(f"f{number}")
        file.message_type[0].reserved_range.add(start=2 * number + 1, end=2 * number + 2)
    return file


def with_methods(count: int) -> FileDescriptorProto:
    return make_file(methods=[f"Do{number}" for number in range(count)])


@pytest.mark.parametrize(
    "make", [with_fields, with_messages, with_values, with_reserved, with_methods]
)
def test_large_sets_are_compared_in_steps(
    make: Callable[[int], FileDescriptorProto],
) -> None:
    """Each step looks at a bounded number of whatever a set has many of."""
    old, new = make(4_000), make(4_000)
    new.message_type[0].field.add(name="more", number=9_999, type=5, label=1)
    sides = checked(make_set(old)), checked(make_set(new))
    comparison = Comparison(*sides, "t.Service", level=Level.WIRE_JSON)
    assert sum(1 for _ in comparison.check(DEFAULT_LIMITS)) >= 4_000 // 128
    assert comparison.differences == ()
