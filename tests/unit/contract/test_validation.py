"""
Checking messages by their rules. Goal: what keeps to them passes, and what a caller is told of what
does not is true, bounded and readable by protovalidate's users.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from google.rpc import code_pb2, status_pb2

from relayrpc.contract.rules import Refusal
from relayrpc.contract.validation import Validator
from relayrpc.errors import ContractError
from relayrpc.limits import DEFAULT_LIMITS, KIB
from tests.support.ruled_contract import Violations, message_class


Item, Order = message_class("Item"), message_class("Order")


def check(message: Any, validator: Validator | None = None) -> Refusal | None:
    return (validator or Validator(DEFAULT_LIMITS)).check(message, message.ByteSize())


def told(refusal: Refusal | None) -> Any:
    """Read the violations from the details, as protovalidate's users do."""
    assert refusal is not None
    status = status_pb2.Status.FromString(refusal.details)
    assert (status.code, status.message) == (code_pb2.INVALID_ARGUMENT, refusal.text)
    (detail,) = status.details
    assert detail.type_url == "type.googleapis.com/buf.validate.Violations"
    return Violations.FromString(detail.value).violations


@pytest.mark.parametrize(
    "message",
    [Order(), Order(email="a@b.org", items=[Item(name="x")] * 11), message_class("Remark")()],
)
def test_message_that_keeps_to_its_rules_passes(message: Any) -> None:
    assert check(message) is None


def test_violations_are_told_with_their_fields() -> None:
    refusal = check(Order(email="nobody", items=[Item(name="x", count=10)]))
    assert refusal is not None
    assert refusal.status == code_pb2.INVALID_ARGUMENT
    assert refusal.text == (
        "invalid test.rules.Order: email: must be a valid email address, and 1 more violation"
    )
    email, count = told(refusal)
    assert [element.field_name for element in email.field.elements] == ["email"]
    assert (email.rule_id, email.message) == ("string.email", "must be a valid email address")
    assert [element.field_name for element in count.field.elements] == ["items", "count"]
    assert count.field.elements[0].index == 0


def test_rule_of_a_message_is_told_without_a_field() -> None:
    refusal = check(Order(items=[Item(name="x")] * 11))
    (violation,) = told(refusal)
    assert violation.rule_id == "order.size"
    assert not violation.HasField("field")


def test_of_a_large_message_the_first_violation_is_told() -> None:
    small, large = Order(items=[Item()] * 11), Order(items=[Item()] * 600)
    assert large.ByteSize() > DEFAULT_LIMITS.violations_request_bytes_max
    assert len(told(check(small))) == 12
    assert len(told(check(large))) == 1


def test_details_are_bounded() -> None:
    validator = Validator(replace(DEFAULT_LIMITS, violations_request_bytes_max=64 * KIB))
    refusal = check(Order(items=[Item()] * 600), validator)
    assert refusal is not None
    assert 1 < len(told(refusal)) < 100
    assert 3 * KIB < len(refusal.details) < 5 * KIB
    none = check(Order(email="x"), Validator(replace(DEFAULT_LIMITS, violations_bytes_max=1)))
    assert not told(none)


def test_rules_that_cannot_be_evaluated_are_the_hosts_fault() -> None:
    Division = message_class("Division")
    refusal = check(Division())
    assert refusal == Refusal(
        code_pb2.INTERNAL,
        "the rules of test.rules.Division cannot be evaluated: error evaluating division: divide "
        "by zero",
    )
    assert check(Division(by=3)) is None


def test_rules_that_cannot_be_used_are_found_before_there_is_a_message() -> None:
    validator = Validator(DEFAULT_LIMITS)
    for name in ("Order", "Division", "Remark"):
        validator.prepare(message_class(name))
    with pytest.raises(ContractError, match=r"^the rules of test\.rules\.Misfit cannot be used: "):
        validator.prepare(message_class("Misfit"))
    refusal = check(message_class("Misfit")(name="x"), validator)
    assert refusal is not None
    assert refusal.status == code_pb2.INTERNAL
