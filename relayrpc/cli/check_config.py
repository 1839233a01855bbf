"""
What `relayrpc hub --check-config` prints: the configuration in effect, as a relayrpc.toml that says
where each value comes from and what the limits add up to.

Owns: its form. Does not own: the values (config.py), the sums (hub/capacity.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING

from relayrpc.cli.config import LoadedSettings
from relayrpc.cli.settings import SETTINGS
from relayrpc.cli.toml_file import ADDRESSES_TABLE
from relayrpc.hub.capacity import size_text, worst_case
from relayrpc.limits import KIB, MIB


if TYPE_CHECKING:
    from relayrpc.cli.descriptors import Descriptors
    from relayrpc.limits import Limits


__all__ = ["effective_config"]


def effective_config(
    settings: LoadedSettings, fitted: Limits, descriptors: Descriptors | None
) -> str:
    """
    Write everything down.

    Args:
        settings: Without problems.
        fitted: Its limits, lowered to what the file descriptors allow.
        descriptors: Those; None: nothing bounds them.

    Returns:
        TOML; it says the same when it is read again.
    """
    lines = [*_settings(settings), "", *(f"# {line}" for line in _sums(fitted))]
    if descriptors is not None:
        lines.append(f"# {descriptors.now} file descriptors, {descriptors.before} without raising")
    limits = settings.config.limits
    lines += [
        f"# too few for {name} = {getattr(limits, name)}: {getattr(fitted, name)} are taken"
        for name in ("links_max", "handshakes_open_max")
        if getattr(limits, name) != getattr(fitted, name)
    ]
    return "\n".join(lines)


def _settings(settings: LoadedSettings) -> Iterator[str]:
    is_in_limits = False
    for name in SETTINGS:
        section, _, key = name.rpartition(".")
        if section and not is_in_limits:
            is_in_limits = True
            yield from ("", "[limits]")
        value = settings.value(name)
        if value is None:
            yield f"# {key} is not set"
        else:
            yield _line(settings, name, key, value)
    for address, entry in settings.config.addresses.items():
        table = f"{ADDRESSES_TABLE}.{address}"
        yield from ("", f"[{ADDRESSES_TABLE}.{_toml('', address)}]")
        for field in fields(entry):
            value = getattr(entry, field.name)
            if value is not None:
                yield _line(settings, f"{table}.{field.name}", field.name, value)


def _line(settings: LoadedSettings, name: str, key: str, value: object) -> str:
    text = f"{key} = {_toml(key, value)}"
    return f"{text:<44}# {settings.origins.get(name, 'default')}"


def _toml(key: str, value: object) -> str:
    if type(value) is int:
        for unit, size_bytes in (("MiB", MIB), ("KiB", KIB)):
            if "_bytes" in key and value and value % size_bytes == 0:
                return f'"{value // size_bytes} {unit}"'
        return f"{value:_}"
    # Text is written in TOML as in JSON, and so are true and false.
    return json.dumps(value, ensure_ascii=not str(value).isprintable())


def _sums(limits: Limits) -> Iterator[str]:
    worst = worst_case(limits)
    links_bytes = worst.links_max * worst.link_bytes
    yield "What the limits add up to, were all of them reached at once:"
    yield "  a link"
    for part in worst.of_link:
        yield f"    {part.what:<44}{size_text(part.size_bytes):>12}"
    yield f"    {'in all':<44}{size_text(worst.link_bytes):>12}"
    yield "  the hub"
    yield f"    {f'{worst.links_max:_} such links':<44}{size_text(links_bytes):>12}"
    for part in worst.of_hub:
        yield f"    {part.what:<44}{size_text(part.size_bytes):>12}"
    yield f"    {'in all':<44}{size_text(worst.total_bytes):>12}"
    yield f"  the same links, idle{size_text(worst.idle_bytes):>38}"
