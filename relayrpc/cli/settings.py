"""
What can be set for `relayrpc hub`, and of what kind each setting is: a model made from HubConfig
and Limits.

Owns: kinds of values, and how one is called in a sentence. Does not own: where values are found
(config.py), what they mean (hub/config.py, limits.py).
Source: docs/reference/configuration.md "Settings".
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, ByteSize, ConfigDict, create_model
from pydantic_settings import BaseSettings, SettingsConfigDict

from relayrpc.hub.config import HubConfig
from relayrpc.limits import Limits
from relayrpc.observe.logs import LogForm, LogLevel


__all__ = ["LOG_SETTINGS", "OWN_SETTINGS", "PREFIX", "SETTINGS", "HubSettings", "sentence"]

PREFIX: Final = "RELAYRPC_"
"""What the names of environment variables begin with."""
# Of a value; a number with more is none.
_CHARACTERS_MAX: Final = 60


def _number(value: object) -> object:
    """Keep true and false from counting as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError
    return value


def _whole(value: object) -> object:
    """Keep parts of a byte from being cut off, and from ByteSize what it trips over."""
    if not isinstance(value, (int, str)) or len(str(value)) > _CHARACTERS_MAX:
        raise ValueError
    return _number(value)


# Type, and what its values are called.
_SIZE: Final = (Annotated[ByteSize, BeforeValidator(_whole)], 'a size, as in 65536 or "64 KiB"')
_COUNT: Final = (Annotated[int, BeforeValidator(_whole)], "a whole number")
_TIME: Final = (Annotated[float, BeforeValidator(_number)], "a number of seconds")

_LIMITS: Final[dict[str, tuple[Any, str]]] = {
    limit.name: (
        _SIZE if "_bytes" in limit.name else _TIME if isinstance(limit.default, float) else _COUNT
    )
    for limit in fields(Limits)
}
_TYPES: Final = typing.get_type_hints(HubConfig)
_OWN: Final = {
    field.name: field for field in fields(HubConfig) if field.name not in ("addresses", "limits")
}
OWN_SETTINGS: Final = tuple(_OWN)
"""Settings of a hub that are one value each."""
LOG_SETTINGS: Final[dict[str, tuple[Any, str]]] = {
    "log_format": (LogForm, "text"),
    "log_level": (LogLevel, "info"),
}
"""Settings of the process, and no part of a hub: name -> type and default."""

_LimitSettings: Final[Any] = create_model(  # type: ignore[call-overload]  # fields by name
    "_LimitSettings",
    __config__=ConfigDict(extra="forbid"),
    **{limit.name: (_LIMITS[limit.name][0], limit.default) for limit in fields(Limits)},
)


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        enable_decoding=False,
        extra="forbid",
    )


HubSettings: Final[Any] = create_model(  # type: ignore[call-overload]  # fields by name
    "HubSettings",
    __base__=_Settings,
    **{name: (_TYPES[name], field.default) for name, field in _OWN.items()},
    **LOG_SETTINGS,
    limits=(_LimitSettings, _LimitSettings()),
)
"""The model: OWN_SETTINGS and LOG_SETTINGS, and in its field `limits` the fields of Limits."""
SETTINGS: Final = (
    *(name for name in HubSettings.model_fields if name != "limits"),
    *(f"limits.{name}" for name in _LIMITS),
)
"""The name of every setting but those of addresses, in the order of the page."""


def sentence(name: str, error: Mapping[str, Any]) -> str:
    """
    Say what is wrong with a setting, to be read behind its name.

    Args:
        name: "limits.links_max"; it may be none.
        error: As pydantic describes it.
    """
    if error["type"] == "extra_forbidden":
        return f"is no setting{_meant(name)}"
    shown = repr(error["input"])
    if len(shown) > _CHARACTERS_MAX:
        shown = f"{shown[:_CHARACTERS_MAX]}..."
    return f"is {shown}, and must be {_expected(name)}"


def _expected(name: str) -> str:
    section, _, key = name.rpartition(".")
    if section:
        return _LIMITS[key][1]
    if name == "limits":
        return f"a section: [limits] in the file, {PREFIX}LIMITS__LINKS_MAX in the environment"
    if name in LOG_SETTINGS:
        return " or ".join(typing.get_args(LOG_SETTINGS[name][0]))
    return "true or false" if _TYPES[name] is bool else "text, in quotes"


def _meant(name: str) -> str:
    """Guess which setting was meant, wherever it stands."""
    by_key = {right.rpartition(".")[2]: right for right in SETTINGS}
    key = name.rpartition(".")[2].replace("-", "_").lower()
    near = difflib.get_close_matches(key, by_key, n=1)
    return f"; did you mean {by_key[near[0]]}?" if near else ""
