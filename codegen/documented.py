"""
Reads the documented fields of a dataclass from its source.

Owns: finding them. Does not own: the pages that are made from them (limits_page.py, ...).
"""

from __future__ import annotations

import ast
import itertools
from pathlib import Path


__all__ = ["documented_fields"]


def documented_fields(source: Path, class_name: str) -> list[tuple[str, str, str]]:
    """
    Read a class whose fields have defaults and docstrings below them.

    Returns:
        Name, default as written there, and docstring on one line, of each field in its order.
    """
    tree = ast.parse(source.read_text(encoding="utf-8"))
    classes = {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}
    body = classes[class_name]
    rows = []
    for field, reason in itertools.zip_longest(body, body[1:]):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        assert field.value is not None
        assert isinstance(reason, ast.Expr), f"{field.target.id} has no docstring"
        assert isinstance(reason.value, ast.Constant)
        text = " ".join(str(reason.value.value).split())
        rows.append((field.target.id, ast.unparse(field.value), text))
    return rows
