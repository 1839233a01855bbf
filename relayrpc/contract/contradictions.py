"""
Contract options that contradict each other, or what they stand beside. Pure.

Whoever compiles a contract and whoever is told of one asks here, and says the same of it. The check
goes in steps, so that whoever reads a large contract can do something else in between.
Owns: going through a file, and where in it a contradiction stands. Does not own: the rules
(option_rules.py).
Source: protos/relayrpc/v1/contract.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from google.protobuf.descriptor_pb2 import (
    FileDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

from relayrpc.contract.option_rules import Fault, contract_faults, operation_faults
from relayrpc.contract.options import (
    ContractOptions,
    OperationOptions,
    parse_contract,
    parse_operation,
    resolve_contract,
    resolve_operation,
)
from relayrpc.errors import ContractError
from relayrpc.v1 import contract_pb2 as pb


if TYPE_CHECKING:
    from google.protobuf.descriptor import (
        FileDescriptor,
        MethodDescriptor,
        ServiceDescriptor,
    )


__all__ = ["Contradiction", "OptionsCheck"]

# More of them say nothing new.
_FOUND_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """One of them; `str()` says it in a line, as compilers do."""

    file: str
    line: int
    """1, 2, ...; 0: unknown, as where descriptors came without source code info."""
    element: str
    """Full name of the service or method."""
    reason: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.element}: {self.reason}"


class OptionsCheck:
    """
    The check of one file's services.

    Attributes:
        found: What contradicts, in the order of the file; the first hundred.
        contracts: The options of the services, by full name; only where nothing contradicts.
    """

    def __init__(self, file: FileDescriptor, source: FileDescriptorProto) -> None:
        """
        Args:
            file: What defines the services, in a pool with all that it imports.
            source: The same as it came. Places are known where it has source code info.
        """
        self._file = file
        self._source = source
        # Names of the files that names in options may come from; the pool may have others.
        self._visible: set[str] = set()
        self.found: list[Contradiction] = []
        self.contracts: dict[str, ContractOptions] = {}

    def steps(self) -> Iterator[None]:
        """Check, a bounded part of it with each step. Once."""
        reached = [self._file]
        while reached:
            file = reached.pop()
            if file.name not in self._visible:
                self._visible.add(file.name)
                reached += file.dependencies
                yield
        for service in self._file.services_by_name.values():
            yield from self._check_service(service)
            if len(self.found) >= _FOUND_MAX:
                break

    def _check_service(self, service: ServiceDescriptor) -> Iterator[None]:
        found_count = len(self.found)
        place = _Place(
            service.full_name,
            (FileDescriptorProto.SERVICE_FIELD_NUMBER, service.index),
            (ServiceDescriptorProto.OPTIONS_FIELD_NUMBER, pb.CONTRACT_FIELD_NUMBER),
            pb.Contract,
        )
        try:
            contract = parse_contract(self._source.service[service.index].options)
        except ContractError as error:
            self._add(place, [Fault("", str(error))])
            return
        self._add(place, contract_faults(service, contract, self._visible))
        yield
        operations: dict[str, OperationOptions] = {}
        for method in service.methods:
            self._check_method(method, contract, operations)
            yield
            if len(self.found) >= _FOUND_MAX:
                return
        if (
            contract.session == pb.Contract.REQUIRED
            and operations
            and not any(operation.initiating for operation in operations.values())
        ):
            self._add(place, [Fault("session", "session is REQUIRED, and no method is initiating")])
        if len(self.found) == found_count:
            options = resolve_contract(service.full_name, contract, operations)
            self.contracts[service.full_name] = options

    def _check_method(
        self,
        method: MethodDescriptor,
        contract: pb.Contract,
        operations: dict[str, OperationOptions],
    ) -> None:
        """Check one, and add its options to those of the others."""
        service_index, index = method.containing_service.index, method.index
        place = _Place(
            method.full_name,
            (
                FileDescriptorProto.SERVICE_FIELD_NUMBER,
                service_index,
                ServiceDescriptorProto.METHOD_FIELD_NUMBER,
                index,
            ),
            (MethodDescriptorProto.OPTIONS_FIELD_NUMBER, pb.OPERATION_FIELD_NUMBER),
            pb.Operation,
        )
        try:
            source = self._source.service[service_index].method[index]
            operation = parse_operation(source.options)
        except ContractError as error:
            self._add(place, [Fault("", str(error))])
            return
        self._add(place, operation_faults(method, contract, operation, self._visible))
        operations[method.name] = resolve_operation(contract, operation)

    def _add(self, place: _Place, faults: Iterable[Fault]) -> None:
        for fault in faults:
            if len(self.found) < _FOUND_MAX:
                self.found.append(
                    Contradiction(
                        file=self._file.name,
                        line=place.line(self._source, fault.option),
                        element=place.element,
                        reason=fault.reason,
                    )
                )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the options of a service or method stand."""

    element: str
    """Its full name."""
    path: tuple[int, ...]
    """As in descriptor.proto's SourceCodeInfo.Location."""
    extension: tuple[int, int]
    """What leads on from there to the options."""
    options: type[pb.Contract | pb.Operation]

    def line(self, source: FileDescriptorProto, option: str) -> int:
        """Return the line of an option, or of what it stands in; 0: unknown."""
        within = self.path + self.extension
        paths = [within, self.path]
        if option:
            paths.insert(0, (*within, self.options.DESCRIPTOR.fields_by_name[option].number))
        for path in paths:
            for location in source.source_code_info.location:
                if tuple(location.path[: len(path)]) == path:
                    return location.span[0] + 1
        return 0
