"""
Metadata between gRPC's objects and the wire's pairs of key and bytes, with gRPC's rules.

Order and duplicates are kept; nothing here goes through a dict. Keys that begin with "relay-" are
the relay's: those it takes from a caller are returned apart, any other is refused, so that none is
lost unsaid.
Source: link.proto, Metadatum; LINK.md "Shape"; gRPC's PROTOCOL-HTTP2, "Custom-Metadata".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from grpc.aio import InternalError, Metadata, UsageError


if TYPE_CHECKING:
    from relayrpc.v1 import link_pb2 as pb


__all__ = [
    "EMPTY",
    "InvalidMetadataError",
    "InvocationMetadata",
    "MetadataInput",
    "MetadataTooLargeError",
    "Metadatum",
    "RelayKeys",
    "check_size",
    "confirm_of",
    "decode_metadata",
    "decode_pairs",
    "encode_invocation_metadata",
    "encode_metadata",
]

MetadataInput: TypeAlias = "Metadata | Iterable[tuple[str, str | bytes]] | None"
"""What gRPC takes where metadata is meant."""

Pairs: TypeAlias = tuple[tuple[str, bytes], ...]

EMPTY: Final[Pairs] = ()

# Counted for every entry beside its key and value, as gRPC counts.
_ENTRY_BYTES: Final = 32
_RELAY_PREFIX: Final = "relay-"
_KEY: Final = re.compile(r"[0-9a-z_.-]+")
_VALUE: Final = re.compile(rb"[\x20-\x7e]*")
_USER_AGENT: Final = "user-agent"
# Set by a program they never reach the other side with gRPC either; they describe one HTTP/2 hop.
_HOP_KEYS: Final = frozenset(
    {
        "content-type",
        "grpc-accept-encoding",
        "grpc-encoding",
        "grpc-internal-encoding-request",
        "grpc-message",
        "grpc-status",
        "grpc-timeout",
        "te",
        _USER_AGENT,
    }
)
# The same of metadata that came from gRPC, where the caller's own is to be told.
_GRPC_KEYS: Final = _HOP_KEYS - {_USER_AGENT}


class Metadatum(NamedTuple):
    """One entry as a handler sees it; bytes for keys that end in "-bin", else str."""

    key: str
    value: str | bytes


class RelayKeys(NamedTuple):
    """What a caller told the relay by metadata; empty: nothing."""

    address: str = ""
    """Call at this address instead of the channel's."""
    instance: str = ""
    """Only this host instance will do."""
    sticky_key: str = ""
    """Calls with the same key get the same host while it is there."""
    dedupe_key: str = ""
    """The host runs calls with the same key once."""
    confirm: str = ""
    """Who says that a call is over: "host", or "hub" for a one-way call."""


_NO_RELAY_KEYS: Final = RelayKeys()


class InvocationMetadata(NamedTuple):
    """What a caller sends, encoded."""

    pairs: Pairs
    relay_keys: RelayKeys


_NO_INVOCATION_METADATA: Final = InvocationMetadata(EMPTY, _NO_RELAY_KEYS)
# As link.proto's Open has them.
_RELAY_VALUE_BYTES_MAX: Final = {
    "address": 512,
    "instance": 128,
    "sticky_key": 128,
    "dedupe_key": 128,
    "confirm": 4,
}


_CONFIRM: Final = (b"hub", b"host")
_CONFIRM_KEY: Final = "relay-confirm"


class InvalidMetadataError(InternalError):
    """A key or value that gRPC does not allow; grpc.aio raises the same class."""


class MetadataTooLargeError(ValueError):
    """A list of metadata over the limit; its text names both sizes."""


def encode_metadata(metadata: MetadataInput, *, limit_bytes: int) -> Pairs:
    """
    Encode what a handler sends.

    Raises:
        InvalidMetadataError: gRPC does not allow the key or the value.
        TypeError: A value of the wrong type.
        UsageError: A key of the relay's own.
        MetadataTooLargeError: Over `limit_bytes`, counting 32 an entry.
    """
    if not metadata:
        return EMPTY
    pairs, relay_pairs = _encode(metadata, limit_bytes)
    if relay_pairs:
        raise UsageError(f"metadata key {relay_pairs[0][0]!r} is the relay's own")
    return pairs


def encode_invocation_metadata(
    metadata: MetadataInput | InvocationMetadata, *, limit_bytes: int, has_user_agent: bool = False
) -> InvocationMetadata:
    """
    Encode what a caller sends, and take out what is meant for the relay itself; what is encoded
    already is returned as it is.

    Args:
        metadata: What a program gave, or what came from gRPC.
        limit_bytes: The most it may be.
        has_user_agent: It came from gRPC, and its user-agent is the caller's. A program's is
            dropped, as by gRPC.

    Raises:
        InvalidMetadataError, TypeError, UsageError, MetadataTooLargeError: As `encode_metadata`.
    """
    if not metadata:
        return _NO_INVOCATION_METADATA
    if isinstance(metadata, InvocationMetadata):
        return metadata
    dropped = _GRPC_KEYS if has_user_agent else _HOP_KEYS
    pairs, relay_pairs = _encode(metadata, limit_bytes, dropped)
    if not relay_pairs:
        return InvocationMetadata(pairs, _NO_RELAY_KEYS)
    taken: dict[str, str] = {}
    for key, value in relay_pairs:
        name = key.removeprefix(_RELAY_PREFIX).replace("-", "_")
        if name not in RelayKeys._fields:
            raise UsageError(
                f"metadata key {key!r} is not known to the relay; "
                "keys that begin with 'relay-' are its own"
            )
        if name in taken:
            raise UsageError(f"metadata key {key!r} is given twice")
        if name == "confirm" and value not in _CONFIRM:
            known = b", ".join(_CONFIRM).decode()
            raise UsageError(f"metadata key {key!r} is one of {known}")
        if len(value) > _RELAY_VALUE_BYTES_MAX[name]:
            raise UsageError(
                f"metadata key {key!r} takes at most {_RELAY_VALUE_BYTES_MAX[name]} bytes"
            )
        taken[name] = value.decode("ascii")
    return InvocationMetadata(pairs, RelayKeys(**taken))


def confirm_of(metadata: MetadataInput | InvocationMetadata) -> str:
    """Return what `relay-confirm` says; empty: nothing."""
    if isinstance(metadata, InvocationMetadata):
        return metadata.relay_keys.confirm
    for key, value in metadata or ():
        if key == _CONFIRM_KEY:
            return value if isinstance(value, str) else value.decode("ascii", "replace")
    return ""


def check_size(pairs: Pairs, limit_bytes: int) -> None:
    """
    Check lists that were put together.

    Raises:
        MetadataTooLargeError: Over `limit_bytes`, counting 32 an entry.
    """
    size = sum(len(key) + len(value) + _ENTRY_BYTES for key, value in pairs)
    if size > limit_bytes:
        raise MetadataTooLargeError(f"metadata of {size} bytes is over {limit_bytes} bytes")


def decode_metadata(entries: Iterable[pb.Metadatum]) -> tuple[Metadatum, ...]:
    """Read a received list; text a peer should not have sent becomes replacement characters."""
    return tuple([_decode(entry.key, entry.value) for entry in entries])


def decode_pairs(pairs: Iterable[tuple[str, bytes]]) -> tuple[Metadatum, ...]:
    """As `decode_metadata`, of wire pairs."""
    return tuple([_decode(key, value) for key, value in pairs])


def _decode(key: str, value: bytes) -> Metadatum:
    if key.endswith("-bin"):
        return Metadatum(key, value)
    return Metadatum(key, value.decode("ascii", errors="replace"))


def _encode(
    metadata: Iterable[tuple[str | bytes, str | bytes]],
    limit_bytes: int,
    dropped: frozenset[str] = _HOP_KEYS,
) -> tuple[Pairs, list[tuple[str, bytes]]]:
    pairs: list[tuple[str, bytes]] = []
    relay_pairs: list[tuple[str, bytes]] = []
    for raw_key, raw_value in metadata:
        key = raw_key.decode("ascii", errors="replace") if isinstance(raw_key, bytes) else raw_key
        if key in dropped:
            continue
        if _KEY.fullmatch(key) is None:
            raise InvalidMetadataError(f"Invalid metadata: key {key!r}")
        value = _encode_value(key, raw_value)
        if key.startswith(_RELAY_PREFIX):
            relay_pairs.append((key, value))
            continue
        pairs.append((key, value))
    encoded = tuple(pairs)
    check_size(encoded, limit_bytes)
    return encoded, relay_pairs


def _encode_value(key: str, value: object) -> bytes:
    if key.endswith("-bin"):
        if not isinstance(value, bytes):
            raise TypeError(f"expected bytes, {type(value).__name__} found: metadata {key!r}")
        return value
    if isinstance(value, str):
        try:
            encoded = value.encode("ascii")
        except UnicodeEncodeError:
            raise InvalidMetadataError(f"Invalid metadata: value of {key!r} is not ASCII") from None
    elif isinstance(value, bytes):
        encoded = value
    else:
        raise TypeError(f"expected str or bytes, {type(value).__name__} found: metadata {key!r}")
    if _VALUE.fullmatch(encoded) is None:
        raise InvalidMetadataError(
            f"Invalid metadata: value of {key!r} is not printable ASCII"
        )
    return encoded
