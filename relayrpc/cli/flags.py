"""
Flags that set something which may also stand in a file or in the environment.

Owns: what such a flag is to config.py, those that several commands have, and how --limit is read
and completed. Imports nothing that takes long: every command loads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, TypeAlias

import typer

from relayrpc.limits import Limits
from relayrpc.observe.logs import LogForm, LogLevel


__all__ = [
    "Flag",
    "IncludeFolders",
    "LimitTexts",
    "LogFormChoice",
    "LogLevelChoice",
    "complete_limit",
    "given_flags",
    "limit_flags",
]


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag that was given."""

    name: str
    """As it is written: "--keepalive", "--limit links_max"."""
    value: object


def limit_flags(texts: Iterable[str]) -> dict[str, Flag]:
    """Read what --limit was given: "links_max=500" sets "limits.links_max"; the last one wins."""
    pairs = [text.partition("=") for text in texts]
    return {f"limits.{name}": Flag(f"--limit {name}", value) for name, _, value in pairs}


def complete_limit(incomplete: str) -> list[str]:
    """Return what may follow --limit."""
    return [f"{field.name}=" for field in fields(Limits) if field.name.startswith(incomplete)]


IncludeFolders: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("-I", "--include", metavar="DIR", help="Where --proto's imports are; repeatable."),
]
LimitTexts: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=VALUE",
        help="Any bound, as links_max=500. Repeatable.",
        autocompletion=complete_limit,
    ),
]
LogFormChoice: TypeAlias = Annotated[
    LogForm | None,
    typer.Option(
        "--log-format", help="How the log is written on standard error.", show_default="text"
    ),
]
LogLevelChoice: TypeAlias = Annotated[
    LogLevel | None,
    typer.Option("--log-level", help="The least that is logged.", show_default="info"),
]


def given_flags(
    flags: Mapping[str, Flag],
    *,
    limit: LimitTexts,
    log_format: LogFormChoice,
    log_level: LogLevelChoice,
) -> dict[str, Flag]:
    """Return the flags that were given, of a command's own and of those that several have."""
    given = {
        **flags,
        "log_format": Flag("--log-format", log_format),
        "log_level": Flag("--log-level", log_level),
        **limit_flags(limit or ()),
    }
    return {name: flag for name, flag in given.items() if flag.value is not None}
