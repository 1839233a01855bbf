"""
The contract object of generated code: one service, its descriptors, and the fingerprint by which
hubs know them. Pure.

Source: docs/reference/codegen.md; docs/adr/0016-contract-fingerprint.md.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from relayrpc.contract.descriptors import collect
from relayrpc.contract.fingerprint import fingerprint_of
from relayrpc.contract.options import read_options


if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor

    from relayrpc.contract.options import ContractOptions


__all__ = ["Contract"]


class Contract:
    """
    One service.

    Attributes:
        descriptor: protobuf's; its methods, messages and options are found from there.
    """

    def __init__(self, file: FileDescriptor, service: str) -> None:
        """
        Args:
            file: Defines the service.
            service: Its name, without the package.
        """
        self.descriptor: ServiceDescriptor = file.services_by_name[service]

    @property
    def name(self) -> str:
        """The service's full name, "contoso.orders.v1.Orders"."""
        name: str = self.descriptor.full_name
        return name

    @functools.cached_property
    def options(self) -> ContractOptions:
        """What the .proto file says of the service and its methods, defaults filled in."""
        return read_options(self.descriptor)

    @functools.cached_property
    def descriptor_set(self) -> bytes:
        """
        The file that defines the service with all that it imports, in normal form: what hosts give
        their hub.
        """
        return collect(self.descriptor.file)

    @functools.cached_property
    def fingerprint(self) -> bytes:
        """
        The 32 bytes that name the descriptor set. Found when first asked for, not when the code was
        generated: files that are imported may have been generated anew since.
        """
        return fingerprint_of(self.descriptor_set)

    def __repr__(self) -> str:
        return f"<Contract {self.name}>"
