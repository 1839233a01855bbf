"""
What a relay URL says: which hub, with TLS or without, at which address, over which carriers.

Owns: parsing and printing. Does not own: connecting (dial.py), or what an address means.
Source: DESIGN.md "Front doors"; protos/relayrpc/v1/link.proto, Announce.address.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn
from urllib.parse import SplitResult, urlsplit

from relayrpc.errors import ConfigError
from relayrpc.limits import DEFAULT_LIMITS


__all__ = [
    "DEFAULT_GRPC_PORT",
    "DEFAULT_HTTP_PORT",
    "CarrierChoice",
    "RelayURL",
    "parse_url",
    "parse_urls",
]

DEFAULT_GRPC_PORT: Final = 7350
DEFAULT_HTTP_PORT: Final = 7351

CarrierChoice = Literal["auto", "grpc", "websocket"]

_SCHEMES: Final[dict[str, tuple[Literal["grpc", "websocket"], bool]]] = {
    "relay": ("grpc", False),
    "relays": ("grpc", True),
    "ws": ("websocket", False),
    "wss": ("websocket", True),
}
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._~$-]+")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._~-]+)?")
_EXAMPLE: Final = "relay://hub:7350/contoso/greeter"


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayURL:
    """A parsed relay URL; `str()` gives it back with its port, and it never holds a secret."""

    host: str
    """A name or an IP address; IPv6 without brackets."""
    port: int
    is_secure: bool
    address: str
    """Path segments joined by "/", "contoso/greeter"; empty when the URL names none."""
    first_carrier: Literal["grpc", "websocket"]
    """The door to dial first."""
    may_move: bool
    """The link may move to the WebSocket door that the gRPC door names."""
    pinned: CarrierChoice
    """
    "websocket" behind a relay:// URL: ask the gRPC door for the WebSocket door, then stay on that.
    """

    def __str__(self) -> str:
        scheme = {"grpc": "relay", "websocket": "ws"}[self.first_carrier]
        path = f"/{self.address}" if self.address else ""
        return f"{scheme}{'s' if self.is_secure else ''}://{self.authority}{path}"

    @property
    def authority(self) -> str:
        """`host:port`, IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_url(text: str, *, carrier: str = "auto") -> RelayURL:
    """
    Read a relay URL.

    Args:
        text: `relay://`, `relays://`, `ws://` or `wss://`, then host, optional port and address.
        carrier: "auto", "grpc" or "websocket".

    Raises:
        ConfigError: If it cannot be used; the text says why and shows no credentials.
    """
    if not isinstance(text, str):
        raise ConfigError(f"a relay URL is a text like {_EXAMPLE!r}, not {text!r}")
    if carrier not in ("auto", "grpc", "websocket"):
        raise ConfigError(f"unknown carrier {carrier!r}: use 'auto', 'grpc' or 'websocket'")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        _reject(text, f"{error}".lower(), f"write it as {_EXAMPLE}")
    if parts.scheme not in _SCHEMES:
        _reject(text, "no relay URL", "it starts with relay://, relays://, ws:// or wss://")
    first_carrier, is_secure = _SCHEMES[parts.scheme]
    if first_carrier == "websocket" and carrier == "grpc":
        _reject(text, "a WebSocket URL with carrier='grpc'", "use relay:// or relays://")
    if port is None:
        port = DEFAULT_GRPC_PORT if first_carrier == "grpc" else DEFAULT_HTTP_PORT
    if port == 0:
        _reject(text, "port 0", "write the port the hub listens on")
    return RelayURL(
        host=_host(parts, text),
        port=port,
        is_secure=is_secure,
        address=_address(parts, text),
        first_carrier=first_carrier,
        may_move=first_carrier == "grpc" and carrier == "auto",
        pinned=_pinned(first_carrier, carrier),
    )


def parse_urls(urls: str | Sequence[str], *, carrier: str = "auto") -> tuple[RelayURL, ...]:
    """
    Read a relay URL, or several of hubs that take each other's place.

    Args:
        urls: One, or a sequence, the first choice first.
        carrier: As for `parse_url`.

    Raises:
        ConfigError: There is none, one cannot be used, or they differ in address or TLS.
    """
    given: Any = urls
    # Whatever else a program may give is one that parse_url refuses.
    is_several = isinstance(given, Sequence) and not isinstance(given, (str, bytes))
    texts: list[str] = list(given) if is_several else [given]
    if not texts:
        raise ConfigError(f"no hub is named; write {_EXAMPLE}")
    first, *others = parsed = tuple(parse_url(text, carrier=carrier) for text in texts)
    for other in others:
        if other.address != first.address:
            raise ConfigError(
                f"cannot use '{other}' beside '{first}': another address; "
                "hubs that take each other's place have the same one"
            )
        if other.is_secure is not first.is_secure:
            raise ConfigError(
                f"cannot use '{other}' beside '{first}': "
                "a link never goes from TLS to plain; use TLS for all or for none"
            )
    return parsed


def _pinned(first_carrier: Literal["grpc", "websocket"], carrier: str) -> CarrierChoice:
    if first_carrier == "websocket" or carrier == "websocket":
        return "websocket"
    return "grpc" if carrier == "grpc" else "auto"


def _host(parts: SplitResult, text: str) -> str:
    if "@" in parts.netloc:
        _reject(text, "a user name or password in the URL", "take it out")
    if parts.query or parts.fragment or text.endswith(("?", "#")):
        _reject(text, "a query or fragment", "a relay URL ends with its address")
    if not parts.hostname:
        _reject(text, "no host", f"write it as {_EXAMPLE}")
    if _HOST.fullmatch(parts.hostname) is None:
        _reject(text, "a host that is neither a name nor an IP address", f"write {_EXAMPLE}")
    return parts.hostname


def _address(parts: SplitResult, text: str) -> str:
    address = parts.path.removeprefix("/").removesuffix("/")
    if not address:
        if parts.path not in ("", "/"):
            _reject(text, "an empty path segment", "separate segments by single slashes")
        return ""
    for segment in address.split("/"):
        if _SEGMENT.fullmatch(segment) is None or segment in (".", ".."):
            _reject(
                text, f"the address segment {segment!r}", "use letters, digits and . _ ~ $ - only"
            )
    if len(address) > DEFAULT_LIMITS.name_bytes_max:
        _reject(text[:80], "a long address", f"at most {DEFAULT_LIMITS.name_bytes_max} bytes")
    return address


def _reject(text: str, what: str, hint: str) -> NoReturn:
    shown = re.sub(r"//[^/]*@", "//***@", text)
    shown = re.sub(r"[?#].*", "?***", shown, flags=re.DOTALL)
    raise ConfigError(f"cannot use {shown!r}: {what}; {hint}")
