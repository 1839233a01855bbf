"""
How `relayrpc hub` is told what to do: flags, then the environment, then relayrpc.toml, then
defaults.

Owns: reading them, and where each value and each mistake was found. Does not own: what can be set
(settings.py), flags (hub.py). Imported by `relayrpc hub` alone, because pydantic takes its time.
Source: docs/reference/configuration.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
)

from relayrpc.cli.addresses import read_addresses
from relayrpc.cli.settings import LOG_SETTINGS, OWN_SETTINGS, PREFIX, HubSettings, sentence
from relayrpc.cli.toml_file import ADDRESSES_TABLE, BACKENDS_TABLE, TOMLFile, read_toml
from relayrpc.hub.config import HubConfig, config_problems
from relayrpc.limits import Limits
from relayrpc.observe.logs import LogForm, LogLevel, one_line


if TYPE_CHECKING:
    from relayrpc.cli.flags import Flag
    from relayrpc.hub.addresses import AddressEntry


__all__ = ["DEFAULT_FILE", "LoadedSettings", "load_settings"]

DEFAULT_FILE: Final = "relayrpc.toml"
"""Read from the working directory where no other is named."""
# Names the file, and is no setting itself.
_FILE_VARIABLE: Final = "RELAYRPC_CONFIG"
# What Kubernetes sets in every container for a service that is named relayrpc or relayrpc-hub.
_OF_KUBERNETES: Final = re.compile(
    r"RELAYRPC_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)
# From the file, these are relative to it.
_PATHS: Final = ("store", "tls_cert", "tls_key")


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """What was found, and what is wrong with it."""

    config: HubConfig
    """Without what is of the wrong kind."""
    log_format: LogForm
    log_level: LogLevel
    origins: Mapping[str, str]
    """
    Setting ("grpc", "limits.links_max", "addresses.contoso/orders.validate") -> where it was set:
    "relayrpc.toml:12", the name of an environment variable or of a flag. Not in it: the default.
    """
    problems: list[str]
    """A sentence each, which begins with where; empty: all is well."""

    def value(self, name: str) -> object:
        """Return a setting by its name."""
        section, _, key = name.rpartition(".")
        holder = self.config.limits if section else self if key in LOG_SETTINGS else self.config
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
    toml = _read_file(file)
    addresses, address_faults = read_addresses(toml.values.pop(ADDRESSES_TABLE, {}))
    from_environment, variables = _read_environment()
    from_flags = _nested({name: flag.value for name, flag in flags.items()})
    origins = {
        **{name: toml.where(name) for name in _names_in(toml.values)},
        **{name: toml.where(name) for name in _address_names(addresses)},
        **variables,
        **{name: flag.name for name, flag in flags.items()},
    }
    settings, faults = _validated([from_flags, from_environment, toml.values])
    config = HubConfig(
        **{name: getattr(settings, name) for name in OWN_SETTINGS},
        addresses=addresses,
        limits=Limits(**settings.limits.model_dump()),
    )
    problems = [f"{toml.where(name)}: {text}" for name, text in address_faults]
    problems += [f"{origins[name]}: {name} {text}" for name, text in faults]
    for problem in config_problems(config):
        # Where it was set, or what does not go with its default.
        named = (problem.name, *problem.beside)
        place = next((origins[name] for name in named if name in origins), toml.where(problem.name))
        problems.append(f"{place}: {problem.name} {problem.text}")
    return LoadedSettings(
        config=config,
        log_format=settings.log_format,
        log_level=settings.log_level,
        origins=origins,
        problems=[one_line(problem) for problem in problems],
    )


# --- the sources ---


def _read_file(file: Path | None) -> TOMLFile:
    if file is None:
        file = Path(DEFAULT_FILE)
        if not file.is_file():
            return TOMLFile(file, {}, {})
    toml = read_toml(file)
    # The same file may say what `relayrpc expose` does.
    toml.values.pop(BACKENDS_TABLE, None)
    for name in _PATHS:
        if isinstance(toml.values.get(name), str):
            toml.values[name] = str(file.parent / toml.values[name])
    return toml


def _read_environment() -> tuple[dict[str, Any], dict[str, str]]:
    """Return what the environment sets, and by which variable each setting is named there."""
    values = EnvSettingsSource(HubSettings)()
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
        key = upper.removeprefix(PREFIX).lower()
        section, *inner = key.split("__")
        name = ".".join((section, *inner[:1]))
        variables[name] = variable
        if section != "limits" and key not in HubSettings.model_fields:
            # pydantic-settings passes over it, and the model will not.
            values[name] = text
    return values, variables


def _names_in(values: Mapping[str, Any]) -> list[str]:
    names = []
    for key, value in values.items():
        inside = value if key == "limits" and isinstance(value, dict) else ()
        names += [f"{key}.{inner}" for inner in inside] or [key]
    return names


def _address_names(addresses: Mapping[str, AddressEntry]) -> Iterator[str]:
    for address, entry in addresses.items():
        for field in fields(entry):
            if getattr(entry, field.name) is not None:
                yield f"{ADDRESSES_TABLE}.{address}.{field.name}"


def _nested(values: Mapping[str, object]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in values.items():
        key, has_section, inner = name.partition(".")
        if has_section:
            nested.setdefault(key, {})[inner] = value
        else:
            nested[key] = value
    return nested


# --- putting them together ---


def _validated(sources: list[dict[str, Any]]) -> tuple[Any, list[tuple[str, str]]]:
    """
    Merge what was found, the first source first.

    Returns:
        The settings, with defaults for what is wrong; name and sentence of each that is wrong.
    """
    try:
        return _merged(sources), []
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
    problems = []
    for fault in faults:
        key, *inner = (str(part) for part in fault["loc"][:2])
        problems.append((name := ".".join((key, *inner)), sentence(name, dict(fault))))
        for source in sources:
            if inner and isinstance(source.get(key), dict):
                source[key].pop(*inner, None)
            elif not inner:
                source.pop(key, None)
    # Once more, for what else there is to say.
    return _merged(sources), problems


def _merged(sources: Iterable[dict[str, Any]]) -> Any:
    class Merged(HubSettings):  # type: ignore[misc]  # made at run time
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_args: Any, **_kwargs: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(InitSettingsSource(settings_cls, each) for each in sources)

    return Merged()
