"""
How `relayrpc hub` is told what to do: flags, then the environment, then relayrpc.toml, then
defaults.

Owns: reading them, and a sentence for each mistake that says where it was made. Does not own: what
settings mean (hub/config.py, limits.py), flags (hub.py). Imported by `relayrpc hub` alone, because
pydantic takes its time.
Source: docs/reference/configuration.md.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BeforeValidator, ByteSize, ConfigDict, ValidationError, create_model
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from relayrpc.cli.toml_file import TOMLFile, read_toml
from relayrpc.hub.config import HubConfig, config_problems
from relayrpc.limits import Limits
from relayrpc.observe.logs import LogForm, LogLevel, one_line


if TYPE_CHECKING:
    from relayrpc.cli.flags import Flag


__all__ = ["DEFAULT_FILE", "PREFIX", "SETTINGS", "LoadedSettings", "load_settings"]

DEFAULT_FILE: Final = "relayrpc.toml"
"""Read from the working directory when it is there and no other is named."""
PREFIX: Final = "RELAYRPC_"
"""What the names of environment variables begin with."""
# Names the file, and is no setting itself.
_FILE_VARIABLE: Final = "RELAYRPC_CONFIG"
# What Kubernetes sets in every container for a service that is named relayrpc or relayrpc-hub.
_OF_KUBERNETES: Final = re.compile(
    r"RELAYRPC_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)
# From the file, these are relative to it.
_PATHS: Final = ("tls_cert", "tls_key")
_SHOWN_CHARACTERS_MAX: Final = 60


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """What was found, and what is wrong with it."""

    config: HubConfig
    """Without what is wrong."""
    log_format: LogForm
    log_level: LogLevel
    origins: Mapping[str, str]
    """
    Setting ("grpc", "limits.links_max") -> where it was set: "relayrpc.toml:12", the name of an
    environment variable or of a flag. Not in it: the default.
    """
    problems: list[str]
    """A sentence each, which begins with where; empty: all is well."""

    def value(self, name: str) -> object:
        """Return a setting by its name."""
        section, _, key = name.rpartition(".")
        holder = self.config.limits if section else self if key in _OWN else self.config
        return getattr(holder, key)


def load_settings(flags: Mapping[str, Flag], *, file: Path | None) -> LoadedSettings:
    """
    Gather the settings of a hub; nothing is started, and only the file is read.

    Args:
        flags: Setting -> the flag that was given for it.
        file: The file that was named; None: relayrpc.toml, where there is one.

    Raises:
        ConfigError: The file cannot be read, or is no TOML; nothing else is known then.
    """
    if file is None and Path(DEFAULT_FILE).is_file():
        file = Path(DEFAULT_FILE)
    toml = TOMLFile(Path(), {}, {}) if file is None else read_toml(file)
    from_environment, variables = _read_environment()
    origins = {
        **{name: toml.where(name) for name in _names_in(toml.values)},
        **variables,
        **{name: flag.name for name, flag in flags.items()},
    }
    from_flags = _nested({name: flag.value for name, flag in flags.items()})
    settings, faults = _validated([from_flags, from_environment, toml.values])
    problems = [f"{origins[name]}: {name} {_sentence(name, error)}" for name, error in faults]
    for name in _PATHS:
        if name in origins and origins[name] == toml.where(name) and getattr(settings, name):
            setattr(settings, name, str(toml.path.parent / getattr(settings, name)))
    config = HubConfig(
        **{field.name: getattr(settings, field.name) for field in fields(HubConfig)}
        | {"limits": Limits(**settings.limits.model_dump())}
    )
    for problem in config_problems(config):
        # What was set is to blame, rather than the default that it does not go with.
        set_names = [name for name in (problem.name, *problem.beside) if name in origins]
        place = origins[set_names[0]] if set_names else "defaults"
        problems.append(f"{place}: {problem.name} {problem.text}")
    problems = [one_line(problem) for problem in problems]
    return LoadedSettings(config, settings.log_format, settings.log_level, origins, problems)


# --- the model, made from HubConfig and Limits ---


def _number(value: object) -> object:
    """Keep true and false from counting as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError
    return value


def _whole(value: object) -> object:
    """Keep parts of a byte from being cut off."""
    if isinstance(value, float):
        raise ValueError
    return _number(value)


_KINDS: Final[dict[str, tuple[Any, str]]] = {
    "size": (
        Annotated[ByteSize, BeforeValidator(_whole)],
        'a number of bytes, as in 65536 or "64 KiB"',
    ),
    "count": (Annotated[int, BeforeValidator(_whole)], "a whole number"),
    "seconds": (Annotated[float, BeforeValidator(_number)], "a number of seconds"),
}


def _kind(limit: dataclasses.Field[Any]) -> str:
    if "_bytes" in limit.name:
        return "size"
    return "seconds" if isinstance(limit.default, float) else "count"


_LimitSettings: Final[Any] = create_model(  # type: ignore[call-overload]  # fields by name
    "_LimitSettings",
    __config__=ConfigDict(extra="forbid"),
    **{limit.name: (_KINDS[_kind(limit)][0], limit.default) for limit in fields(Limits)},
)
_OWN: Final[dict[str, tuple[Any, str]]] = {
    "log_format": (LogForm, "text"),
    "log_level": (LogLevel, "info"),
}
_TYPES: Final = typing.get_type_hints(HubConfig)


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        enable_decoding=False,
        extra="forbid",
    )


_HubSettings: Final[Any] = create_model(  # type: ignore[call-overload]  # fields by name
    "_HubSettings",
    __base__=_Settings,
    **{
        field.name: (_TYPES[field.name], field.default)
        for field in fields(HubConfig)
        if field.name != "limits"
    },
    **_OWN,
    limits=(_LimitSettings, _LimitSettings()),
)
SETTINGS: Final = (
    *(name for name in _HubSettings.model_fields if name != "limits"),
    *(f"limits.{limit.name}" for limit in fields(Limits)),
)
"""The name of every setting, in the order of the page."""


def _validated(sources: list[dict[str, Any]]) -> tuple[Any, list[tuple[str, dict[str, Any]]]]:
    """
    Merge what was found, the first source first.

    Returns:
        The settings, with defaults for what is wrong; the name and pydantic's error of each that is
        wrong.
    """
    try:
        return _merged(sources), []
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
    for fault in faults:
        section, *rest = (str(part) for part in fault["loc"])
        for source in sources:
            if not rest:
                source.pop(section, None)
            elif isinstance(source.get(section), dict):
                source[section].pop(rest[0], None)
    # Once more, for what else there is to say.
    return _merged(sources), [
        (".".join(str(part) for part in fault["loc"][:2]), dict(fault)) for fault in faults
    ]


def _merged(sources: Iterable[dict[str, Any]]) -> Any:
    class Merged(_HubSettings):  # type: ignore[misc]  # made above
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_args: Any, **_kwargs: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(InitSettingsSource(settings_cls, each) for each in sources)

    return Merged()


# --- the sources ---


def _read_environment() -> tuple[dict[str, Any], dict[str, str]]:
    """Return what the environment sets, and by which variable each setting is named there."""
    values = EnvSettingsSource(_HubSettings)()
    variables: dict[str, str] = {}
    for variable, text in os.environ.items():
        upper = variable.upper()
        if (
            not text
            or not upper.startswith(PREFIX)
            or upper == _FILE_VARIABLE
            or _OF_KUBERNETES.fullmatch(upper)
        ):
            continue
        name = ".".join(upper.removeprefix(PREFIX).lower().split("__")[:2])
        variables[name] = variable
        if name not in SETTINGS and name.partition(".")[0] != "limits":
            # pydantic-settings passes over it, and the model will not.
            values[name] = text
    return values, variables


def _names_in(values: Mapping[str, Any]) -> list[str]:
    names = []
    for key, value in values.items():
        inside = value if key == "limits" and isinstance(value, dict) else ()
        names += [f"{key}.{inner}" for inner in inside] or [key]
    return names


def _nested(values: Mapping[str, object]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[key] = value
    return nested


# --- sentences ---


def _sentence(name: str, error: Mapping[str, Any]) -> str:
    """Say what is wrong with a setting, to be read behind its name."""
    if error["type"] == "extra_forbidden":
        return f"is no setting{_meant(name)}"
    shown = repr(error["input"])
    if len(shown) > _SHOWN_CHARACTERS_MAX:
        shown = f"{shown[:_SHOWN_CHARACTERS_MAX]}..."
    return f"is {shown}, and must be {_expected(name)}"


def _expected(name: str) -> str:
    if name == "limits":
        return "a section: [limits] in the file, RELAYRPC_LIMITS__LINKS_MAX in the environment"
    section, _, key = name.rpartition(".")
    if section:
        return next(_KINDS[_kind(limit)][1] for limit in fields(Limits) if limit.name == key)
    if key in _OWN:
        return " or ".join(typing.get_args(_OWN[key][0]))
    return "true or false" if _TYPES[key] is bool else "text, in quotes"


def _meant(name: str) -> str:
    """Guess which setting was meant, wherever it stands."""
    by_key = {right.rpartition(".")[2]: right for right in SETTINGS}
    key = name.rpartition(".")[2].replace("-", "_").lower()
    near = difflib.get_close_matches(key, by_key, n=1)
    return f"; did you mean {by_key[near[0]]}?" if near else ""
