"""
What a method takes and gives, as `relayrpc call` shows it. Goal: details of a status can be read.

Method: details that a host makes, with the contract as the hub tells it.
"""

from __future__ import annotations

import json

from relayrpc.cli.schema import find_method
from relayrpc.contract.validation import Validator
from relayrpc.limits import DEFAULT_LIMITS
from tests.support.ruled_contract import DESCRIPTOR_SET, SERVICE, message_class


def test_violations_of_rules_are_shown_by_the_contract_they_are_of() -> None:
    method = find_method(f"{SERVICE}/Place", DESCRIPTOR_SET)
    refusal = Validator(DEFAULT_LIMITS).check(message_class("Order")(email="x"), 3)
    assert refusal is not None
    (line,) = method.decode_details(refusal.details)
    told = json.loads(line)
    assert told["@type"] == "type.googleapis.com/buf.validate.Violations"
    assert told["violations"][0]["ruleId"] == "string.email"
