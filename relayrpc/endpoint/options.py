"""
gRPC's channel and server options: those that mean something on a link, read once.

Owns: which options count, and what a wrong value is told. Does not own: what they do. As grpcio, it
ignores options it does not know; those that tune HTTP/2 are among them.
Source: grpc/impl/channel_arg_names.h; docs/reference/grpc-compatibility.md.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from relayrpc import __version__
from relayrpc.endpoint.service_config import ServiceConfig, parse_service_config
from relayrpc.errors import ConfigError
from relayrpc.limits import MESSAGE_BYTES_UNLIMITED


if TYPE_CHECKING:
    from relayrpc.limits import Limits


__all__ = ["EndpointOptions", "read_options"]

_LOGGER: Final = logging.getLogger("relayrpc")
_AGENT: Final = f"relayrpc/{__version__}"
_TEXT: Final = re.compile(r"[\x20-\x7e]+")


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """What the options of one channel or server say."""

    limits: Limits
    """The endpoint's bounds, with what grpc.max_..._message_length says."""
    service_config: ServiceConfig | None = None
    """grpc.service_config; None: it has none."""
    may_retry: bool = True
    """grpc.enable_retries: failed calls may be made again."""
    user_agent: str = ""
    """What callers are told to be; empty: nothing is told."""
    authority: str = ""
    """Under which name plugins of call credentials see the service; empty: the hub's."""
    server_name: str | None = None
    """The name the hub's certificate must bear; None: the URL's host."""


def read_options(
    options: Sequence[tuple[str | bytes, Any]] | None, limits: Limits
) -> EndpointOptions:
    """
    Read what a program gives as `options`.

    Args:
        options: (name, value) pairs; of a name given twice the last counts.
        limits: The endpoint's.

    Raises:
        ConfigError: A value of an option that counts cannot be used.
    """
    if not options:
        return EndpointOptions(limits)
    given: dict[str, Any] = {}
    for key, value in options:
        name = key.decode() if isinstance(key, bytes) else key
        if name in _READERS:
            given[name] = _READERS[name](name, value)
        else:
            _LOGGER.debug("option %r means nothing on a link and is ignored", name)
    bounds = {_BOUNDS[name]: value for name, value in given.items() if name in _BOUNDS}
    agents = (given.get("grpc.primary_user_agent"), given.get("grpc.secondary_user_agent"))
    server_name = given.get("grpc.ssl_target_name_override")
    return EndpointOptions(
        limits=replace(limits, **bounds) if bounds else limits,
        service_config=given.get("grpc.service_config"),
        may_retry=given.get("grpc.enable_retries", True),
        user_agent=_user_agent(*agents) if any(agents) else "",
        authority=given.get("grpc.default_authority") or server_name or "",
        server_name=server_name,
    )


def _read_length(name: str, value: object) -> int:
    if not isinstance(value, int):
        raise ConfigError(f"option {name!r} takes a whole number of bytes, not {value!r}")
    return MESSAGE_BYTES_UNLIMITED if value < 0 else min(value, MESSAGE_BYTES_UNLIMITED)


def _read_flag(name: str, value: object) -> bool:
    if value not in (0, 1):
        raise ConfigError(f"option {name!r} takes 0 or 1, not {value!r}")
    return bool(value)


def _read_text(name: str, value: object) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    if not isinstance(text, str) or _TEXT.fullmatch(text) is None:
        raise ConfigError(f"option {name!r} takes printable ASCII text, not {value!r}")
    return text


def _read_service_config(name: str, value: object) -> ServiceConfig:
    if not isinstance(value, str | bytes):
        raise ConfigError(f"option {name!r} takes JSON text, not {value!r}")
    return parse_service_config(value)


def _user_agent(primary: str | None, secondary: str | None) -> str:
    """Put it together as grpcio does: the program's own name first and last."""
    return " ".join(part for part in (primary, _AGENT, secondary) if part)


# Option -> the bound it sets.
_BOUNDS: Final = {
    "grpc.max_receive_message_length": "message_bytes_max",
    "grpc.max_send_message_length": "message_sent_bytes_max",
}
_READERS: Final[dict[str, Callable[[str, object], Any]]] = {
    **dict.fromkeys(_BOUNDS, _read_length),
    "grpc.default_authority": _read_text,
    "grpc.enable_retries": _read_flag,
    "grpc.primary_user_agent": _read_text,
    "grpc.secondary_user_agent": _read_text,
    "grpc.service_config": _read_service_config,
    "grpc.ssl_target_name_override": _read_text,
}
