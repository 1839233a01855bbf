"""
Writes docs/reference/limits.md from relayrpc/limits.py: each bound, its default and its reason.

Owns: the page's form. The numbers and reasons stand in limits.py only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from codegen.documented import documented_fields


__all__ = ["PAGE", "bounds", "render"]

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = ROOT / "relayrpc" / "limits.py"
PAGE: Final = ROOT / "docs" / "reference" / "limits.md"

_HEAD: Final = """\
# Limits

The bounds of one process. Written by `make gen` from `relayrpc/limits.py`; do not edit this page.
Those of one [throttle](instances.md#throttles) and of one [set of
callers](callbacks.md#many-callers) are arguments of it.

`relayrpc hub` takes them from its [configuration](configuration.md), a hub in a program through
`HubConfig(limits=...)`, a host and a caller through the `limits=` of `relayrpc.aio.server` and
`relayrpc.aio.channel`, or of their blocking twins. What two peers must agree on travels in the
link's handshake. Sizes are bytes, times seconds, unless the name says otherwise. Those that are the
wire's own have to be the same on every peer: a hub takes no other value.

| limit | default | meaning |
|---|---|---|
"""


def bounds() -> list[tuple[str, str, str]]:
    """
    Read limits.py.

    Returns:
        Name, default as written there, and docstring on one line, of each field in its order.
    """
    return [
        (name, default.replace(" * MIB", " MiB").replace(" * KIB", " KiB"), text)
        for name, default, text in documented_fields(SOURCE, "Limits")
    ]


def render() -> str:
    """Return the whole page."""
    rows = (f"| `{name}` | {default} | {text} |\n" for name, default, text in bounds())
    return _HEAD + "".join(rows)
