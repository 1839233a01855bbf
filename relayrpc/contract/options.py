"""
The options of contracts, as they stand in the descriptors of services. Pure.

Descriptors come from any pool: the one generated code registers with, or one that
descriptors.load_pool() fills with what a peer or a compiler sent.
Owns: what an option that is not set means. Does not own: whether options contradict each other
(contradictions.py).
Source: protos/relayrpc/v1/contract.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError

from relayrpc.errors import ContractError
from relayrpc.v1 import contract_pb2 as pb


if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor
    from google.protobuf.descriptor_pb2 import MethodOptions, ServiceOptions
    from google.protobuf.duration_pb2 import Duration


__all__ = [
    "ContractOptions",
    "OperationOptions",
    "SessionMode",
    "parse_contract",
    "parse_operation",
    "read_options",
    "resolve_contract",
    "resolve_operation",
    "resolve_timeout",
]


# What protoc writes of them for type checkers does not say what they extend.
_CONTRACT: Final[Any] = pb.contract
_OPERATION: Final[Any] = pb.operation

_Options = TypeVar("_Options", descriptor_pb2.ServiceOptions, descriptor_pb2.MethodOptions)


class SessionMode(Enum):
    """Whether the calls of a contract belong to sessions."""

    ALLOWED = pb.Contract.ALLOWED
    """Within a session and without one."""
    REQUIRED = pb.Contract.REQUIRED
    """Within a session only."""
    NOT_ALLOWED = pb.Contract.NOT_ALLOWED
    """There are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationOptions:
    """What holds for one method, the contract's part included."""

    one_way: bool = False
    """The call is over when it is accepted."""
    initiating: bool = True
    """May be the first in a session."""
    terminating: bool = False
    """Ends the session."""
    faults: tuple[str, ...] = ()
    """Full names of messages, in the order of the proto."""
    default_timeout_s: float | None = None
    """Above 0; None: none."""
    maximum_timeout_s: float | None = None
    """Above 0; None: no bound."""
    scopes: tuple[str, ...] = ()
    """The contract's first, each once."""
    sticky_key: str = ""
    """Names of fields, joined by "."; empty: none."""
    event: bool = False
    """For everyone who listens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractOptions:
    """What holds for one service."""

    service: str
    """Full name."""
    address: str
    """Where hosts listen and callers call by default; never empty."""
    session: SessionMode = SessionMode.ALLOWED
    callback: str = ""
    """Full name of a service; empty: none."""
    operations: Mapping[str, OperationOptions]
    """By the names of the methods, all of them."""

    @property
    def declared_address(self) -> str:
        """The address that the contract says itself; empty: none."""
        return "" if self.address == self.service else self.address


def read_options(service: ServiceDescriptor) -> ContractOptions:
    """
    Read the options of a service and its methods.

    Raises:
        ContractError: They cannot be read.
    """
    contract = parse_contract(service.GetOptions())
    operations = {
        method.name: resolve_operation(contract, parse_operation(method.GetOptions()))
        for method in service.methods
    }
    return resolve_contract(service.full_name, contract, operations)


def parse_contract(options: ServiceOptions) -> pb.Contract:
    """
    Parse what stands in a service, nothing resolved.

    Args:
        options: Of the service, of any pool: the extension may be its own, or unknown to it.

    Raises:
        ContractError: It does not parse, or has a session mode of a version to come.
    """
    found: pb.Contract = _parse(descriptor_pb2.ServiceOptions, options).Extensions[_CONTRACT]
    if found.session not in pb.Contract.SessionMode.values():
        raise ContractError(f"session {found.session} is none that this version knows")
    return found


def parse_operation(options: MethodOptions) -> pb.Operation:
    """
    Parse what stands in a method, nothing resolved.

    Args:
        options: Of the method, of any pool.

    Raises:
        ContractError: It does not parse.
    """
    found: pb.Operation = _parse(descriptor_pb2.MethodOptions, options).Extensions[_OPERATION]
    return found


def _parse(kind: type[_Options], options: _Options) -> _Options:
    try:
        return kind.FromString(options.SerializeToString())
    except DecodeError as error:
        raise ContractError("the options do not parse") from error


def resolve_contract(
    service: str, contract: pb.Contract, operations: Mapping[str, OperationOptions]
) -> ContractOptions:
    """Say what a contract's options mean for the service of a full name."""
    return ContractOptions(
        service=service,
        address=contract.address or service,
        session=SessionMode(contract.session),
        callback=contract.callback,
        operations=operations,
    )


def resolve_operation(contract: pb.Contract, operation: pb.Operation) -> OperationOptions:
    """Say what a method's options mean within its contract."""
    return OperationOptions(
        one_way=operation.one_way,
        initiating=operation.initiating if operation.HasField("initiating") else True,
        terminating=operation.terminating,
        faults=tuple(operation.faults),
        default_timeout_s=resolve_timeout(contract, operation, "default_timeout"),
        maximum_timeout_s=resolve_timeout(contract, operation, "maximum_timeout"),
        scopes=tuple(dict.fromkeys([*contract.scopes, *operation.scopes])),
        sticky_key=operation.sticky_key,
        event=operation.event,
    )


def resolve_timeout(
    contract: pb.Contract, options: pb.Contract | pb.Operation, name: str
) -> float | None:
    """
    Return a timeout in seconds; None: there is none.

    Args:
        contract: What counts where `options` do not set it.
        options: Of a method, or of the contract itself.
        name: "default_timeout" or "maximum_timeout".
    """
    for source in (options, contract):
        if source.HasField(name):
            duration: Duration = getattr(source, name)
            return duration.seconds + duration.nanos / 1e9
    return None
