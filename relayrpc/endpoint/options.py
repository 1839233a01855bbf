"""
gRPC's channel and server options as bounds of an endpoint.

Source: relayrpc/aio.py, relayrpc/_sync.py.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from relayrpc.errors import ConfigError


if TYPE_CHECKING:
    from relayrpc.limits import Limits


__all__ = ["apply_options"]

_LOGGER: Final = logging.getLogger("relayrpc")
_RECEIVE_MAX: Final = "grpc.max_receive_message_length"
# What a message's length can say at most.
_MESSAGE_BYTES_UNLIMITED: Final = 2**32 - 1
_UNSUPPORTED_OPTIONS: Final = frozenset({"grpc.service_config", "grpc.default_authority"})


def apply_options(limits: Limits, options: Sequence[tuple[str, Any]] | None) -> Limits:
    """
    Return bounds with what the options say; those that tune HTTP/2 mean nothing on a link.

    Raises:
        ConfigError: An option that a program would miss.
    """
    for name, value in options or ():
        if name in _UNSUPPORTED_OPTIONS:
            raise ConfigError(f"option {name!r} is not supported; a relay has no use for it yet")
        if name == _RECEIVE_MAX:
            bytes_max = _MESSAGE_BYTES_UNLIMITED if value < 0 else value
            limits = replace(limits, message_bytes_max=bytes_max)
        else:
            _LOGGER.debug("option %r tunes HTTP/2 and is ignored", name)
    return limits
