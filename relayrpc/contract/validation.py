"""
Checking messages by the rules in their contract, with protovalidate. Pure; needs [validation].

Owns: what a caller is told of a message that breaks them. Does not own: who checks which messages
(endpoint/validation.py).
Source: https://protovalidate.com; google/rpc/status.proto.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import protovalidate
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, status_pb2

from relayrpc.contract.rules import Refusal
from relayrpc.errors import ContractError


if TYPE_CHECKING:
    from relayrpc.limits import Limits


__all__ = ["Validator"]

_TYPE_URL: Final = "type.googleapis.com/buf.validate.Violations"
_TEXT_CHARS_MAX: Final = 500
# Before each of them in Violations: its tag, and how long it is.
_ENTRY_BYTES: Final = 4


class Validator:
    """Checks messages; what it has made of the rules of one type serves for all of that type."""

    def __init__(self, limits: Limits) -> None:
        """
        Args:
            limits: `violations_*` count here.
        """
        self._limits = limits
        self._validator = protovalidate.Validator()

    def prepare(self, message_type: Any) -> None:
        """
        Make of the rules of a type what takes time, so that the first message need not wait for it.

        Raises:
            ContractError: They contradict the fields that they are of, or are no expressions.
        """
        try:
            self._validator.validate(message_type(), fail_fast=True)
        except protovalidate.CompilationError as error:
            name = message_type.DESCRIPTOR.full_name
            raise ContractError(f"the rules of {name} cannot be used: {_plain(error)}") from error
        except (protovalidate.EvaluationError, protovalidate.ValidationError):
            pass

    def check(self, message: Any, size_bytes: int) -> Refusal | None:
        """
        Check a message; None: it keeps to its rules.

        Args:
            message: A protobuf message.
            size_bytes: What it took on its way.
        """
        name = message.DESCRIPTOR.full_name
        # Every violation costs more than most messages do: not of any number of them.
        is_first_enough = size_bytes > self._limits.violations_request_bytes_max
        try:
            self._validator.validate(message, fail_fast=is_first_enough)
        except protovalidate.ValidationError as error:
            text = f"invalid {name}: {_plain(error)}"
            return Refusal(code_pb2.INVALID_ARGUMENT, text, self._details(text, error))
        except (protovalidate.CompilationError, protovalidate.EvaluationError) as error:
            text = f"the rules of {name} cannot be evaluated: {_plain(error)}"
            return Refusal(code_pb2.INTERNAL, text)
        return None

    def _details(self, text: str, error: protovalidate.ValidationError) -> bytes:
        left_bytes = self._limits.violations_bytes_max
        told = protovalidate.ViolationsPb()
        for violation in error.violations:
            proto = violation.proto
            left_bytes -= len(proto.to_binary()) + _ENTRY_BYTES
            if left_bytes < 0:
                break
            told.violations.append(proto)
        status = status_pb2.Status(
            code=code_pb2.INVALID_ARGUMENT,
            message=text,
            details=[AnyMessage(type_url=_TYPE_URL, value=told.to_binary())],
        )
        return bytes(status.SerializeToString())


def _plain(error: Exception) -> str:
    """Return what it says on one line, as long as it can be read."""
    text = " ".join(str(error).split())
    return text if len(text) <= _TEXT_CHARS_MAX else f"{text[:_TEXT_CHARS_MAX]}..."
