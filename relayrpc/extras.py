"""
What a part says when a library is missing that an extra of the package brings.

Source: pyproject.toml, optional dependencies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from relayrpc.errors import ConfigError


__all__ = ["needs_extra"]


@contextlib.contextmanager
def needs_extra(extra: str, *, what: str) -> Iterator[None]:
    """
    Import libraries of an extra inside of it, as late as they are needed.

    Args:
        extra: Its name, "hub".
        what: Who needs it, as a user knows it: "`relayrpc hub`".

    Raises:
        ConfigError: One of them is not installed; the text says how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "relayrpc").partition(".")[0] == "relayrpc":
            raise
        raise ConfigError(
            f"{what} needs {error.name}, which comes with the extra [{extra}]: "
            f"pip install 'relayrpc[{extra}]'"
        ) from error
