"""
Which messages have rules. Goal: those that do, wherever a rule stands, and no others. Method: one
message for each place, with the options known to this process and not.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from relayrpc.contract.rules import has_rules
from relayrpc.v1 import hub_pb2
from tests.support.ruled_contract import message_class


@pytest.mark.parametrize(
    ("name", "is_ruled"),
    [
        ("Order", True),
        ("Item", True),
        ("Either", True),
        ("Deep", True),
        ("Receipt", False),
        ("Remark", False),
    ],
)
def test_rules_are_found_where_they_stand(name: str, is_ruled: bool) -> None:
    assert has_rules(message_class(name).DESCRIPTOR) == is_ruled


def test_contract_with_other_options_has_no_rules() -> None:
    assert not has_rules(hub_pb2.ListRequest.DESCRIPTOR)


def test_rules_are_found_where_this_process_knows_the_options() -> None:
    """A program that imported generated code for buf/validate/validate.proto."""
    code = (
        "from google.protobuf import descriptor_pool as p, duration_pb2, field_mask_pb2\n"
        "from google.protobuf import descriptor_pb2, timestamp_pb2\n"
        "import protovalidate\n"
        "from google.protobuf.message_factory import GetMessageClassesForFiles as load\n"
        "file = protovalidate.ViolationsPb.desc().file.proto\n"
        "p.Default().AddSerializedFile(file.to_binary())\n"
        "load([file.name], p.Default())\n"
        "from tests.support.ruled_contract import message_class\n"
        "from relayrpc.contract.rules import has_rules\n"
        "field = message_class('Item').DESCRIPTOR.fields_by_name['count']\n"
        "print(len(field.GetOptions().ListFields()))\n"
        "print([has_rules(message_class(n).DESCRIPTOR) for n in ('Order', 'Deep', 'Remark')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout == "1\n[True, True, False]\n", done.stderr
