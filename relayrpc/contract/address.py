"""
The addresses at which hosts listen. Pure.

Owns: their form, and what stands for one that is not named. Does not own: what else a relay URL may
say (carrier/url.py).
Source: protos/relayrpc/v1/link.proto, Announce.address and ServiceDescription.default_address.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final


if TYPE_CHECKING:
    from collections.abc import Collection

    from relayrpc.v1.link_pb2 import Announce, ServiceDescription


__all__ = ["ADDRESS_BYTES_MAX", "address_of", "check_address", "services_of"]

_ADDRESS: Final = re.compile(r"[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*")
ADDRESS_BYTES_MAX: Final = 512


def check_address(address: str, *, is_local: bool = False) -> str:
    """
    Say what is wrong with an announced address; empty when nothing is.

    Args:
        address: The path.
        is_local: It is the hub's own host that announces, which has the reserved ones.
    """
    path = address.removeprefix("$") if is_local else address
    if not address or (_ADDRESS.fullmatch(path) and len(path) <= ADDRESS_BYTES_MAX):
        return ""
    if address.startswith("$"):
        return f"address {address[:80]!r} is reserved for the hub"
    return (
        f"address {address[:80]!r} is no path: segments of letters, digits and ._~- "
        f"joined by /, at most {ADDRESS_BYTES_MAX} bytes"
    )


def address_of(announced: str, service: ServiceDescription) -> str:
    """
    Return where a host listens with a service.

    Args:
        announced: The address of the announcement; empty: it names none.
        service: As announced.
    """
    return announced or service.default_address or service.name


def services_of(announce: Announce) -> Collection[ServiceDescription]:
    """Return what an announcement says of each service: of entries with one name, the last."""
    return {service.name: service for service in announce.services}.values()
