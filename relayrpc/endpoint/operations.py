"""
What contracts say of methods that an endpoint holds them to, found once a service.

Owns: which options count at run time, and what is said of a call that they do not allow. Does not
own: reading options (contract/options.py).
Source: protos/relayrpc/v1/contract.proto; docs/reference/sessions.md, faults.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf.descriptor_pool import Default

from relayrpc.contract.options import ContractOptions, OperationOptions, SessionMode, read_options
from relayrpc.errors import ContractError


if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor_pool import DescriptorPool


__all__ = [
    "GENERATED_CONTRACTS",
    "Contracts",
    "callback_fault",
    "first_call_fault",
    "session_fault",
    "undeclared_fault",
]


class Contracts:
    """The options of contracts by the full names of their services, as one pool knows them."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool
        self._found: dict[str, ContractOptions] = {}

    def of_service(self, service: str) -> ContractOptions | None:
        """Return a contract's options; None: the pool has no such service, or they are unusable."""
        contract = self._found.get(service)
        if contract is None:
            # Looked for each time until it is there: generated code may be imported late.
            contract = self._find(service)
            if contract is not None:
                self._found[service] = contract
        return contract

    def of_method(self, method: str) -> OperationOptions | None:
        """Return the options of "pkg.Service/Method"; None: nothing is known of it."""
        service, _, name = method.partition("/")
        contract = self.of_service(service)
        return None if contract is None else contract.operations.get(name)

    def _find(self, service: str) -> ContractOptions | None:
        try:
            return read_options(self._pool.FindServiceByName(service))
        except (KeyError, ContractError):
            return None


GENERATED_CONTRACTS: Final = Contracts(Default())
"""What generated code says in this process; callers without any are told by hub and host."""


def session_fault(contract: ContractOptions | None, *, is_within: bool) -> str:
    """Say why a call may not be made within a session, or without one; empty: it may."""
    if contract is None:
        return ""
    if is_within and contract.session is SessionMode.NOT_ALLOWED:
        return f"{contract.service} has no sessions"
    if not is_within and contract.session is SessionMode.REQUIRED:
        return (
            f"{contract.service} is called within a session only; make one: channel.session(), or, "
            f"in a plain gRPC client, the call /{contract.service}/$session, and send the "
            "relay-session that it begins with"
        )
    return ""


def first_call_fault(contract: ContractOptions, name: str) -> str:
    """Say why a method may not be the contract's first in a session; empty: it may."""
    operation = contract.operations.get(name)
    if operation is None or operation.initiating:
        return ""
    return (
        f"{contract.service}/{name} may not be the first call of a session: the contract says "
        "initiating: false"
    )


def callback_fault(contract: ContractOptions | None, serves: Callable[[str], bool]) -> str:
    """
    Say why a session may not be opened for what its host calls back; empty: it may.

    Args:
        contract: Of the session's service; None: unknown.
        serves: Whether the caller has a service, by its full name.
    """
    if contract is None or not contract.callback or serves(contract.callback):
        return ""
    return (
        f"{contract.service} calls {contract.callback} back, which this channel does not serve; "
        "make it with callbacks=[(add_..._to_server, servicer)]"
    )


def undeclared_fault(
    contract: ContractOptions | None, method: str, message: str, *, is_strict: bool | None
) -> str:
    """
    Say why a handler's fault may not be sent; empty: it may.

    Args:
        contract: Of the method's service; None: unknown.
        method: "pkg.Service/Method".
        message: Full name of the fault's message.
        is_strict: Only declared ones are sent; None: where any operation of the contract declares
            one.
    """
    operations = {} if contract is None else contract.operations
    operation = operations.get(method.partition("/")[2])
    if operation is not None and message in operation.faults:
        return ""
    if is_strict is None:
        is_strict = any(each.faults for each in operations.values())
    if not is_strict:
        return ""
    return (
        f"{method} does not declare the fault {message}; add it to the operation's faults in the "
        ".proto file, or make the server with strict_faults=False"
    )
