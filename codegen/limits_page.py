"""
Writes docs/reference/limits.md from relayrpc/limits.py: each bound, its default and its reason.

Owns: the page's form. The numbers and reasons stand in limits.py only.
"""

from __future__ import annotations

import ast
import itertools
from pathlib import Path
from typing import Final


__all__ = ["PAGE", "bounds", "render"]

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = ROOT / "relayrpc" / "limits.py"
PAGE: Final = ROOT / "docs" / "reference" / "limits.md"

_HEAD: Final = """\
# Limits

Every bound the relay keeps. Written by `make gen` from `relayrpc/limits.py`; do not edit this page.

A hub takes `Limits` through `HubConfig(limits=...)`, a host and a caller through the `limits=` of
`relayrpc.aio.server` and `relayrpc.aio.channel`. What two peers must agree on travels in the link's
handshake. Sizes are bytes, times seconds, unless the name says otherwise.

| limit | default | meaning |
|---|---|---|
"""


def bounds() -> list[tuple[str, str, str]]:
    """
    Read limits.py.

    Returns:
        Name, default as written there, and docstring on one line, of each field in its order.
    """
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    body = next(
        node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Limits"
    )
    rows = []
    for field, reason in itertools.pairwise(body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        assert field.value is not None
        assert isinstance(reason, ast.Expr), f"{field.target.id} has no docstring"
        assert isinstance(reason.value, ast.Constant)
        text = " ".join(str(reason.value.value).split())
        rows.append((field.target.id, _default(field.value), text))
    return rows


def render() -> str:
    """Return the whole page."""
    rows = (f"| `{name}` | {default} | {text} |\n" for name, default, text in bounds())
    return _HEAD + "".join(rows)


def _default(value: ast.expr) -> str:
    return ast.unparse(value).replace(" * MIB", " MiB").replace(" * KIB", " KiB")
