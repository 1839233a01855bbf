"""
Libraries that extras of the package bring: what a part says when one is missing, or does without.

Source: pyproject.toml, optional dependencies.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from relayrpc.errors import ConfigError


__all__ = ["loop_factory", "needs_extra"]


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


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes event loops: uvloop, where it is installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
