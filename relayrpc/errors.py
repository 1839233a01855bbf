"""
Every exception the relay raises, grouped by whose fault it is and who has to act.

The pure core raises only what is here; it ends a call with a `CallOutcome` (link/call.py), which
only the
public layer turns into gRPC's exceptions. Nothing here knows grpc or asyncio.

    RelayError                      root; `.detail` holds the numbers and names behind the text
    |- ConfigError (ValueError)     found before any I/O
    |- UsageError (RuntimeError)    the local program broke the API; nothing changed
    |- ProtocolError                the peer broke the wire; the link ends
    |   |- FrameDecodeError, FrameTooLargeError, FlowControlError, VersionError
    |   |- AbuseError               a bound on rates or counts was overrun
    |- CarrierError (OSError)       the network
        |- ConnectError, CarrierLostError, KeepaliveTimeoutError (TimeoutError)
    |- LinkRefusedError             the hub answered, and said no
    |- ContractError                descriptors that cannot be used
    |- StoreError                   a store's file, disk or network
        |- StoreFullError           no room, on the disk or within a bound
        |- RevisionError            somebody else was faster
        |- LeaseError               the lease is over
        |- PositionError            what was asked to go on from is not there
    |- JSONError (ValueError)       JSON that is no message, or a message that has no JSON

Source: docs/reference/errors.md; protos/relayrpc/v1/link.proto, Close.Code.
"""

from __future__ import annotations

from collections.abc import Mapping


__all__ = [
    "AbuseError",
    "CarrierError",
    "CarrierLostError",
    "ConfigError",
    "ConnectError",
    "ContractError",
    "FlowControlError",
    "FrameDecodeError",
    "FrameTooLargeError",
    "JSONError",
    "KeepaliveTimeoutError",
    "LeaseError",
    "LinkRefusedError",
    "PositionError",
    "ProtocolError",
    "RelayError",
    "RevisionError",
    "StoreError",
    "StoreFullError",
    "TakeoverError",
    "UsageError",
    "VersionError",
]

# Numbers of link.proto's Close.Code, repeated here because this module imports nothing.
_PROTOCOL_ERROR = 1
_LIMIT = 3
_VERSION = 4
_REFUSED = 5


class RelayError(Exception):
    """Root of the relay's own exceptions."""

    def __init__(self, text: str = "", **detail: str | int) -> None:
        super().__init__(text)
        self._detail = detail

    @property
    def detail(self) -> Mapping[str, str | int]:
        """The numbers and names the text was made from, by name."""
        return self._detail

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self.args, {"_detail": self._detail})


class ConfigError(RelayError, ValueError):
    """A setting, URL or file cannot be used; found before any I/O."""


class UsageError(RelayError, RuntimeError):
    """The local program called the API in a way it does not allow; nothing changed."""


class ProtocolError(RelayError):
    """The peer sent what link.proto forbids; the link ends."""

    close_code = _PROTOCOL_ERROR
    """The Close.Code this fault is answered with."""


class FrameDecodeError(ProtocolError):
    """Bytes that are no batch, or a field outside its range."""


class FrameTooLargeError(ProtocolError):
    """A batch, frame or list larger than agreed; `.detail` has size_bytes and limit_bytes."""


class FlowControlError(ProtocolError):
    """Credit added beyond what link.proto allows to be outstanding."""


class VersionError(ProtocolError):
    """No protocol version in common; `.detail` has offered and supported."""

    close_code = _VERSION


class AbuseError(ProtocolError):
    """The peer overran a bound on counts or rates; logged and counted apart."""

    close_code = _LIMIT


class TakeoverError(ProtocolError):
    """Links of one instance replace each other too often: two processes have the same id."""

    close_code = _REFUSED


class CarrierError(RelayError, OSError):
    """The network failed under a link."""


class ConnectError(CarrierError):
    """No carrier could be opened: refused, unreachable, TLS or proxy trouble."""


class CarrierLostError(CarrierError):
    """An open carrier ended; a link survives that within its resume window."""


class KeepaliveTimeoutError(CarrierLostError, TimeoutError):
    """The peer was silent for two keepalive intervals."""


class LinkRefusedError(RelayError, ConnectionError):
    """
    The hub answered the handshake with Close, or refused what a host announced; `.detail` has code,
    or status.
    """


class ContractError(RelayError):
    """Descriptors are broken, incomplete, too large, or not what their fingerprint says."""


class StoreError(RelayError):
    """A store cannot be opened, read or written: its file, its disk, its network."""


class StoreFullError(StoreError):
    """A store has no room for it: a bound of `Limits`, or the disk."""


class RevisionError(StoreError):
    """
    A key is not at the revision that was expected; `.detail` has key, expected and actual, where 0
    says that the key holds nothing.
    """


class LeaseError(StoreError):
    """A lease is over; `.detail` has lease_id."""


class PositionError(StoreError):
    """A watch or a reader cannot go on from where it was: begin anew."""


class JSONError(RelayError, ValueError):
    """
    JSON that does not stand for a message, or a message that has no JSON form; `.detail` has the
    path of the field, or line and column.
    """
