"""
Which servers `relayrpc expose` is told to expose, by its flags or by a file.

Owns: reading [[expose]] tables, and a sentence for each mistake that says where it was made. Does
not own: what the settings mean (agent/backend.py).
Source: docs/reference/configuration.md.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Final

from relayrpc.agent.backend import FILE_FIELDS, Backend
from relayrpc.cli.toml_file import BACKENDS_TABLE, TOMLFile, read_toml
from relayrpc.errors import ConfigError


__all__ = ["read_backends"]

_TEXT: Final = ((str,), "text, in quotes")
# Annotation -> the types in TOML, and how a person calls them.
_KINDS: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    "str": _TEXT,
    "str | None": _TEXT,
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "tuple[str, ...]": ((list,), "a list of texts"),
    "str | tuple[str, ...]": ((str, list), "text, in quotes, or a list of texts"),
    "Mapping[str, str]": ((dict,), "a table of texts"),
}
_FIELDS: Final = {field.name: field for field in fields(Backend)}
_REQUIRED: Final = [
    name
    for name, field in _FIELDS.items()
    if field.default is MISSING and field.default_factory is MISSING
]


def read_backends(path: Path) -> list[Backend]:
    """
    Read the [[expose]] tables of a file; paths in them are relative to it.

    Raises:
        ConfigError: It has none, or something in it cannot be used; one line for each.
    """
    toml = read_toml(path)
    tables = toml.values.get(BACKENDS_TABLE)
    if not tables:
        raise ConfigError(f"{path}: there is no [[{BACKENDS_TABLE}]] in it")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        where = toml.where(BACKENDS_TABLE)
        raise ConfigError(f"{where}: write [[{BACKENDS_TABLE}]], once for each server")
    problems = [
        f"{toml.where(name)}: {problem}"
        for index, table in enumerate(tables)
        for name, problem in _problems(f"{BACKENDS_TABLE}.{index}", table)
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return [_make(toml, index, table) for index, table in enumerate(tables)]


def _problems(place: str, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong in a table, each behind the dotted name of where."""
    for name in _REQUIRED:
        if name not in table:
            yield place, f"{BACKENDS_TABLE}.{name} is missing"
    for name, value in table.items():
        if name not in _FIELDS:
            near = difflib.get_close_matches(name, _FIELDS, n=1)
            hint = f"; did you mean {BACKENDS_TABLE}.{near[0]}?" if near else ""
            yield f"{place}.{name}", f"{BACKENDS_TABLE}.{name} is no setting{hint}"
            continue
        kinds, words = _KINDS[str(_FIELDS[name].type)]
        inner = value.values() if isinstance(value, dict) else value
        if type(value) not in kinds or (
            isinstance(value, dict | list) and not all(isinstance(each, str) for each in inner)
        ):
            yield f"{place}.{name}", f"{BACKENDS_TABLE}.{name} is {value!r}, and must be {words}"


def _make(toml: TOMLFile, index: int, table: Mapping[str, Any]) -> Backend:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in table.items()
    }
    for name in FILE_FIELDS:
        if name in values:
            values[name] = str(toml.path.parent / values[name])
    backend = Backend(**values)
    try:
        backend.check()
    except ConfigError as error:
        raise ConfigError(f"{toml.where(f'{BACKENDS_TABLE}.{index}')}: {error}") from error
    return backend
