"""
Lists the public names and their parameters, for the snapshot in public_api.txt.

    python -m tests.tidy.public_api > tests/tidy/public_api.txt
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from typing import Final


__all__ = ["MODULES", "describe"]

MODULES: Final = (
    "relayrpc",
    "relayrpc.aio",
    "relayrpc.errors",
    "relayrpc.limits",
    "relayrpc.testing",
    "relayrpc.typed",
)


def describe() -> str:
    """Return one line per public name, in the modules' order, names sorted."""
    return "".join(f"{line}\n" for module in MODULES for line in _describe_module(module))


def _describe_module(module: str) -> Iterator[str]:
    loaded = importlib.import_module(module)
    for name in sorted(loaded.__all__):
        value = getattr(loaded, name)
        if inspect.isclass(value):
            bases = ", ".join(base.__name__ for base in value.__bases__)
            yield f"{module}.{name}: class({bases})"
        elif inspect.isfunction(value):
            parameters = ", ".join(_parameters(value))
            yield f"{module}.{name}({parameters})"
        else:
            yield f"{module}.{name}: {type(value).__name__}"


def _parameters(function: object) -> Iterator[str]:
    is_keyword_only = False
    for parameter in inspect.signature(function).parameters.values():  # type: ignore[arg-type]
        if parameter.kind is parameter.KEYWORD_ONLY and not is_keyword_only:
            is_keyword_only = True
            yield "*"
        has_default = parameter.default is not parameter.empty
        yield f"{parameter.name}=..." if has_default else parameter.name


if __name__ == "__main__":
    sys.stdout.write(describe())
