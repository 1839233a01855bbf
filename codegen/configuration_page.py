"""
Writes the tables of docs/reference/configuration.md: settings, and what the limits add up to.

Owns: the form of those parts. The rest of the page is written by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import typer.main

from codegen.documented import documented_fields
from codegen.marked import put_between_marks
from relayrpc.cli.main import app
from relayrpc.cli.settings import LOG_SETTINGS, OWN_SETTINGS
from relayrpc.hub.capacity import MemoryPart, size_text, worst_case
from relayrpc.limits import DEFAULT_LIMITS


__all__ = ["PAGE", "SOURCE", "render"]

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "reference" / "configuration.md"
SOURCE: Final = "relayrpc/hub/config.py or relayrpc/hub/capacity.py"

_SETTINGS: Final = "relayrpc/hub/config.py"
_SUMS: Final = "relayrpc/hub/capacity.py"


def render(page: str) -> str:
    """Return the page with its tables brought up to date; `page` is its text as it is."""
    page = put_between_marks(page, source=_SETTINGS, made=_settings())
    return put_between_marks(page, source=_SUMS, made=_sums())


def _settings() -> str:
    flags = _flags()
    rows = documented_fields(ROOT / _SETTINGS, "HubConfig")
    lines = [
        f"| `{name}` | {_default(default)} | {_flag(name, flags)} | {meaning} |\n"
        for name, default, meaning in rows
        if name in OWN_SETTINGS
    ]
    lines += [
        f'| `{name}` | `"{default}"` | {_flag(name, flags)} | {flags[name]} |\n'
        for name, (_, default) in LOG_SETTINGS.items()
    ]
    return f"| setting | default | flag | meaning |\n|---|---|---|---|\n{''.join(lines)}"


def _flags() -> dict[str, str]:
    """Name of each parameter of `relayrpc hub` -> its help."""
    group = typer.main.get_command(app)
    command = group.commands["hub"]  # type: ignore[attr-defined]  # a group of commands
    return {param.name: param.help for param in command.params if hasattr(param, "help")}


def _flag(name: str, flags: dict[str, str]) -> str:
    return f"`--{name.replace('_', '-')}`" if name in flags else "–"


def _default(text: str) -> str:
    match text:
        case "None":
            return "none"
        case "True" | "False":
            return f"`{text.lower()}`"
        case _:
            return f"`{text}`".replace("'", '"')


def _sums() -> str:
    worst = worst_case(DEFAULT_LIMITS)
    lines = ["| of each link | at most | by |\n|---|---|---|\n"]
    lines += map(_row, worst.of_link)
    lines.append(f"| **one link** | **{size_text(worst.link_bytes)}** | |\n")
    lines.append("\n| of the hub | at most | by |\n|---|---|---|\n")
    links = MemoryPart(
        f"{worst.links_max:,} such links", worst.links_max * worst.link_bytes, ("links_max",)
    )
    lines += map(_row, (links, *worst.of_hub))
    lines.append(f"| **the hub** | **{size_text(worst.total_bytes)}** | |\n")
    return "".join(lines)


def _row(part: MemoryPart) -> str:
    names = ", ".join(f"`{name}`" for name in part.limits)
    return f"| {part.what} | {size_text(part.size_bytes)} | {names or 'measured'} |\n"
