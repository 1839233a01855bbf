"""
Checking requests at a host by the rules in their contract, before a handler sees them.

Owns: which methods of a server are checked. Does not own: rules (contract/rules.py), checking
(contract/validation.py), what a refused request does to its call (context.py).
Source: docs/reference/validation.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from relayrpc.contract.rules import has_rules
from relayrpc.endpoint.failure import RefusedError
from relayrpc.errors import ConfigError
from relayrpc.extras import needs_extra


if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.descriptor_pool import DescriptorPool

    from relayrpc.contract.validation import Validator
    from relayrpc.limits import Limits


__all__ = ["RequestRules", "make_validator"]

_LOGGER: Final = logging.getLogger("relayrpc")
_MAKE_HANDLER: Final = {
    (False, False): (grpc.unary_unary_rpc_method_handler, "unary_unary"),
    (False, True): (grpc.unary_stream_rpc_method_handler, "unary_stream"),
    (True, False): (grpc.stream_unary_rpc_method_handler, "stream_unary"),
    (True, True): (grpc.stream_stream_rpc_method_handler, "stream_stream"),
}


def make_validator(limits: Limits, *, what: str) -> Validator:
    """
    Make what checks messages.

    Args:
        limits: `violations_*` count here.
        what: Who needs it, as a user knows it.

    Raises:
        ConfigError: What it needs is not installed.
    """
    with needs_extra("validation", what=what):
        from relayrpc.contract.validation import Validator
    return Validator(limits)


class RequestRules:
    """The rules that one server holds its requests to."""

    def __init__(self, pool: DescriptorPool, limits: Limits, validator: Validator | None) -> None:
        """
        Args:
            pool: Where contracts are found.
            limits: Of the server.
            validator: None: one is made once there is a rule, if what it needs is installed.
        """
        self._pool = pool
        self._limits = limits
        self._validator = validator
        # Methods that have rules, "pkg.Service/Method" -> the type of their requests; None: that
        # have none.
        self._types: dict[str, Any] = {}
        self._is_missing = False

    def guard(self, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        """
        Have what a handler takes for a request checked; itself where there is no rule.

        Args:
            method: "pkg.Service/Method".
            handler: Of it.

        Raises:
            ContractError: The rules cannot be used.
        """
        if method not in self._types:
            descriptor = self._request(method)
            if descriptor is None:
                return handler
            self._types[method] = self._type_with_rules(descriptor)
        request_type = self._types[method]
        if request_type is None:
            return handler
        make, behavior = _MAKE_HANDLER[handler.request_streaming, handler.response_streaming]
        return make(
            getattr(handler, behavior),
            self._checked(handler, request_type),
            handler.response_serializer,
        )

    def _request(self, method: str) -> Descriptor | None:
        service, _, name = method.partition("/")
        try:
            return self._pool.FindMethodByName(f"{service}.{name}").input_type
        except KeyError:
            return None

    def _type_with_rules(self, descriptor: Descriptor) -> Any:
        if self._is_missing or not has_rules(descriptor):
            return None
        if self._validator is None:
            try:
                self._validator = make_validator(self._limits, what="checking them")
            except ConfigError as error:
                # Nobody said that rules must be checked.
                self._is_missing = True
                _LOGGER.warning("the rules of %s are not enforced: %s", descriptor.full_name, error)
                return None
        request_type = GetMessageClass(descriptor)
        self._validator.prepare(request_type)
        return request_type

    def _checked(
        self, handler: grpc.RpcMethodHandler, request_type: Any
    ) -> Callable[[bytes], Any]:
        deserializer: Callable[[bytes], Any] | None = handler.request_deserializer
        validator = self._validator
        assert validator is not None
        # Of a stream the handler has begun.
        not_executed = not handler.request_streaming

        def deserialize(data: bytes) -> Any:
            request = data if deserializer is None else deserializer(data)
            message = request if isinstance(request, Message) else request_type.FromString(data)
            refusal = validator.check(message, len(data))
            if refusal is not None:
                raise RefusedError(
                    refusal.status, refusal.text, not_executed=not_executed, details=refusal.details
                )
            return request

        return deserialize
