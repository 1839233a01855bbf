"""
The greeter's contract with protovalidate rules for its requests, made from the one without.

Owns: which rules. They are there for their cost: every request keeps to them.
"""

from __future__ import annotations

from typing import Final

import protovalidate
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from samples.greeter import greeter_pb2


__all__ = ["ruled_greeter"]

# Of FieldOptions: (buf.validate.field).string.min_len = 1
_NOT_EMPTY: Final = bytes.fromhex("ba480472021001")
_RULED: Final = {"HelloRequest": "name", "ListGreetingsRequest": "name", "ChatLine": "text"}


def ruled_greeter() -> list[FileDescriptorProto]:
    """Return the files of the contract, the one with the service last."""
    rules = FileDescriptorProto.FromString(
        protovalidate.ViolationsPb.desc().file.proto.to_binary()
    )
    greeter = FileDescriptorProto()
    greeter_pb2.DESCRIPTOR.CopyToProto(greeter)
    greeter.dependency.append(rules.name)
    for message in greeter.message_type:
        for field in message.field:
            if _RULED.get(message.name) == field.name:
                field.options.MergeFromString(_NOT_EMPTY)
    return [rules, greeter]
