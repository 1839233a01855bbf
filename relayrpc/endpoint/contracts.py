"""
The contracts of a host: found in the descriptor pool that generated code registers with, announced
by their fingerprints, and given to the hub when it asks.

Owns: which descriptors a service has, and the contract relayrpc.v1.Host. Does not own: what a
descriptor set is (contract/).
Source: protos/relayrpc/v1/host.proto; docs/adr/0016-contract-fingerprint.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from relayrpc.contract.descriptors import collect
from relayrpc.contract.fingerprint import fingerprint_of
from relayrpc.contract.options import read_options
from relayrpc.endpoint.handlers import SHAPES
from relayrpc.errors import ContractError
from relayrpc.link.call import STATUS_INVALID_ARGUMENT, STATUS_NOT_FOUND, STATUS_UNIMPLEMENTED
from relayrpc.link.messages import LENGTH_BYTES, encode_message
from relayrpc.v1 import host_pb2
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool

    from relayrpc.limits import Limits
    from relayrpc.link.call import Call


__all__ = ["GET_DESCRIPTOR_SET", "HOST_ADDRESS", "HOST_SERVICE", "HostContracts"]

HOST_ADDRESS: Final = "$host"
HOST_SERVICE: Final = "relayrpc.v1.Host"
GET_DESCRIPTOR_SET: Final = f"{HOST_SERVICE}/GetDescriptorSet"

_LOGGER: Final = logging.getLogger("relayrpc")


class HostContracts:
    """The descriptor sets that one server announced."""

    def __init__(self) -> None:
        # By fingerprint.
        self._sets: dict[bytes, bytes] = {}

    def add_to(
        self, services: Iterable[pb.ServiceDescription], pool: DescriptorPool, limits: Limits
    ) -> None:
        """
        Add fingerprints and default addresses to what is announced, where there are descriptors
        that agree with it; and the methods, where a host does not know them otherwise.
        """
        for service in services:
            try:
                descriptor = pool.FindServiceByName(service.name)
            except KeyError:
                continue
            fault = _contradiction(service, descriptor) or self._add(service, descriptor, limits)
            if fault:
                _LOGGER.warning("%s is announced without its contract: %s", service.name, fault)

    def _add(
        self, service: pb.ServiceDescription, descriptor: ServiceDescriptor, limits: Limits
    ) -> str:
        """Add one; returns what is wrong with it."""
        try:
            data = collect(descriptor.file)
            options = read_options(descriptor)
        except ContractError as error:
            return str(error)
        if len(data) > limits.contract_bytes_max:
            return f"its descriptors have {len(data)} bytes, over {limits.contract_bytes_max}"
        service.fingerprint = fingerprint_of(data)
        service.default_address = options.declared_address
        self._sets[service.fingerprint] = data
        if not service.methods:
            service.methods.extend(_methods(descriptor))
        return ""

    def answer(self, call: Call, opening: pb.Open) -> None:
        """Answer a call to `HOST_ADDRESS`; nothing of the host's program is asked."""
        status, details, data = self._find(call.method, opening.data[LENGTH_BYTES:])
        call.link.end_call(
            call, status=status, details=details, data=data, not_executed=status != 0
        )
        call.link.flush_soon()

    def _find(self, method: str, request: bytes) -> tuple[int, str, bytes]:
        if method != GET_DESCRIPTOR_SET:
            return STATUS_UNIMPLEMENTED, f"{HOST_ADDRESS} has no method {method!r}", b""
        try:
            fingerprint = host_pb2.GetDescriptorSetRequest.FromString(request).fingerprint
        except DecodeError:
            return STATUS_INVALID_ARGUMENT, "the request does not parse", b""
        found = self._sets.get(fingerprint)
        if found is None:
            return STATUS_NOT_FOUND, "no service here has that fingerprint", b""
        response = host_pb2.GetDescriptorSetResponse(descriptor_set=found)
        return 0, "", encode_message(response.SerializeToString())


def _contradiction(service: pb.ServiceDescription, descriptor: ServiceDescriptor) -> str:
    """Say in what a service's handlers differ from a descriptor of the same name."""
    shapes = {method.name: method.shape for method in _methods(descriptor)}
    for method in service.methods:
        if method.name not in shapes:
            return f"{descriptor.file.name} has no method {method.name!r}"
        if method.shape != shapes[method.name]:
            return f"{descriptor.file.name} has another shape for {method.name!r}"
    return ""


def _methods(descriptor: ServiceDescriptor) -> list[pb.Method]:
    return [
        pb.Method(
            name=method.name,
            shape=SHAPES[bool(method.client_streaming), bool(method.server_streaming)][1],
        )
        for method in descriptor.methods
    ]
