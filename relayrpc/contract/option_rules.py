"""
Which options of contracts go together, and what may stand in each. Pure.

Owns: the rules, as sentences about one service or method. Does not own: going through a file, and
where in it a fault stands (contradictions.py); what an option means (options.py).
Source: protos/relayrpc/v1/contract.proto.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from google.protobuf.descriptor import FieldDescriptor

from relayrpc.contract.address import check_address
from relayrpc.contract.options import parse_contract, resolve_timeout
from relayrpc.errors import ContractError
from relayrpc.v1 import contract_pb2 as pb


if TYPE_CHECKING:
    from google.protobuf.descriptor import (
        Descriptor,
        FileDescriptor,
        MethodDescriptor,
        ServiceDescriptor,
    )
    from google.protobuf.duration_pb2 import Duration


__all__ = ["Fault", "contract_faults", "operation_faults"]

_EMPTY: Final = "google.protobuf.Empty"
_SCOPE: Final = re.compile(r"[!#-\[\]-~]{1,128}")
# Of one list of faults or scopes.
_ENTRIES_MAX: Final = 64
_STICKY_KEY_BYTES_MAX: Final = 512
_SHOWN_CHARS_MAX: Final = 80
# google/protobuf/duration.proto, Duration.
_SECONDS_MAX: Final = 315_576_000_000
_NANOS_MAX: Final = 999_999_999
_NO_KEYS: Final = {
    FieldDescriptor.TYPE_DOUBLE: "a double",
    FieldDescriptor.TYPE_FLOAT: "a float",
    FieldDescriptor.TYPE_GROUP: "a message",
    FieldDescriptor.TYPE_MESSAGE: "a message",
}


class Fault(NamedTuple):
    """What is wrong with an option."""

    option: str
    """Its name."""
    reason: str


def contract_faults(
    service: ServiceDescriptor, contract: pb.Contract, visible: Collection[str]
) -> Iterator[Fault]:
    """
    Yield what is wrong with the options that stand in a service itself.

    Args:
        service: In its pool.
        contract: The options.
        visible: Names of the files that names in options may come from.
    """
    wrong_address = check_address(contract.address)
    if wrong_address:
        yield Fault("address", wrong_address)
    if contract.callback:
        yield from _callback_faults(service, contract, visible)
    yield from _timeout_faults(contract, contract)
    yield from _scope_faults(contract.scopes)


def operation_faults(
    method: MethodDescriptor,
    contract: pb.Contract,
    operation: pb.Operation,
    visible: Collection[str],
) -> Iterator[Fault]:
    """
    Yield what is wrong with the options that stand in a method, in a contract with those.

    Args:
        method: In its pool.
        contract: The options of its service.
        operation: Its own.
        visible: Names of the files that names in options may come from.
    """
    if operation.one_way:
        yield from _one_way_faults(method, operation)
    if contract.session != pb.Contract.REQUIRED:
        mode = pb.Contract.SessionMode.Name(contract.session)
        reason = f"the contract's session is {mode}, and has to be REQUIRED"
        if operation.terminating:
            yield Fault("terminating", f"terminating, but {reason}")
        if operation.HasField("initiating") and not operation.initiating:
            yield Fault("initiating", f"not initiating, but {reason}")
    yield from _fault_faults(method, operation.faults, visible)
    yield from _timeout_faults(contract, operation)
    yield from _scope_faults(operation.scopes)
    if operation.sticky_key:
        wrong_key = _check_sticky_key(method, operation.sticky_key)
        if wrong_key:
            yield Fault("sticky_key", f"sticky_key {_shown(operation.sticky_key)}: {wrong_key}")
    if operation.event:
        if not operation.one_way:
            yield Fault("event", "an event, but not one_way")
        if operation.sticky_key:
            yield Fault("event", "an event, which is for every host, but has a sticky_key")


def _one_way_faults(method: MethodDescriptor, operation: pb.Operation) -> Iterator[Fault]:
    returned = method.output_type.full_name
    if returned != _EMPTY:
        yield Fault("one_way", f"one_way, but returns {returned} instead of {_EMPTY}")
    if method.client_streaming:
        yield Fault("one_way", "one_way, but streams its request")
    if method.server_streaming:
        yield Fault("one_way", "one_way, but streams its response")
    if operation.faults:
        yield Fault("one_way", "one_way, but has faults, of which its caller would not learn")


def _callback_faults(
    service: ServiceDescriptor, contract: pb.Contract, visible: Collection[str]
) -> Iterator[Fault]:
    name = contract.callback
    if name == service.full_name:
        yield Fault("callback", "callback is the service itself")
        return
    file = service.file
    if not _is_found(file.pool.FindServiceByName, name, visible):
        yield Fault("callback", _not_found(file, "callback", name, "service"))
    elif _requires_session(file.pool.FindServiceByName(name)):
        yield Fault(
            "callback",
            f"callback {_shown(name)} requires a session, and callbacks have none but that of "
            "their caller",
        )
    if contract.session == pb.Contract.NOT_ALLOWED:
        yield Fault("callback", "callback needs a session, and the session is NOT_ALLOWED")


def _requires_session(service: ServiceDescriptor) -> bool:
    try:
        return parse_contract(service.GetOptions()).session == pb.Contract.REQUIRED
    except ContractError:
        # Told where it stands.
        return False


def _fault_faults(
    method: MethodDescriptor, names: Sequence[str], visible: Collection[str]
) -> Iterator[Fault]:
    if len(names) > _ENTRIES_MAX:
        yield Fault("faults", f"{len(names)} faults, more than {_ENTRIES_MAX}")
        return
    file = method.containing_service.file
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield Fault("faults", f"fault {_shown(name)} is there twice")
            continue
        seen.add(name)
        if not _is_found(file.pool.FindMessageTypeByName, name, visible):
            yield Fault("faults", _not_found(file, "fault", name, "message"))


def _is_found(
    find: Callable[[str], Descriptor | ServiceDescriptor], name: str, visible: Collection[str]
) -> bool:
    if name.startswith("."):
        # Not every pool refuses it.
        return False
    try:
        return find(name).file.name in visible
    except KeyError:
        return False


def _not_found(file: FileDescriptor, option: str, name: str, kind: str) -> str:
    text = f"{option} {_shown(name)}"
    if name.startswith("."):
        return f"{text} begins with a dot; write the full name without it"
    return f"{text} is no {kind} of {file.name} or of a file that it imports; write its full name"


def _timeout_faults(
    contract: pb.Contract, options: pb.Contract | pb.Operation
) -> Iterator[Fault]:
    """Yield what is wrong with the timeouts of a contract itself, or of a method in it."""
    own = [name for name in ("default_timeout", "maximum_timeout") if options.HasField(name)]
    wrong = [(name, _check_timeout(getattr(options, name))) for name in own]
    yield from (Fault(name, f"{name} {reason}") for name, reason in wrong if reason)
    default_s = resolve_timeout(contract, options, "default_timeout")
    maximum_s = resolve_timeout(contract, options, "maximum_timeout")
    if own and default_s is not None and maximum_s is not None and default_s > maximum_s:
        yield Fault(
            own[0],
            f"default_timeout of {default_s:g} s is above the maximum_timeout of {maximum_s:g} s",
        )


def _check_timeout(value: Duration) -> str:
    """Say what is wrong with a timeout; empty when nothing is."""
    if (
        abs(value.seconds) > _SECONDS_MAX
        or abs(value.nanos) > _NANOS_MAX
        or value.seconds * value.nanos < 0
    ):
        return "is no google.protobuf.Duration"
    if value.seconds < 0 or value.nanos < 0 or not (value.seconds or value.nanos):
        return "has to be above 0 s"
    return ""


def _scope_faults(scopes: Sequence[str]) -> Iterator[Fault]:
    if len(scopes) > _ENTRIES_MAX:
        yield Fault("scopes", f"{len(scopes)} scopes, more than {_ENTRIES_MAX}")
        return
    for scope in scopes:
        if not _SCOPE.fullmatch(scope):
            yield Fault(
                "scopes",
                f"scope {_shown(scope)} is not 1 to 128 printable ASCII characters without space, "
                "quotation mark and backslash",
            )


def _check_sticky_key(method: MethodDescriptor, path: str) -> str:
    """Say why a path leads to no field that can be a key; empty when it does."""
    if method.client_streaming:
        return "the method streams its requests"
    if len(path.encode()) > _STICKY_KEY_BYTES_MAX:
        return f"more than {_STICKY_KEY_BYTES_MAX} bytes"
    message: Descriptor | None = method.input_type
    place, kind = method.input_type.full_name, FieldDescriptor.TYPE_MESSAGE
    for name in path.split("."):
        field = None if message is None else message.fields_by_name.get(name)
        if field is None:
            return f"{place} has no field {_shown(name)}"
        if field.is_repeated:
            return f"{field.full_name} is repeated"
        place, kind, message = field.full_name, field.type, field.message_type
    return f"{place} is {_NO_KEYS[kind]}" if kind in _NO_KEYS else ""


def _shown(text: str) -> str:
    return repr(text[:_SHOWN_CHARS_MAX])
