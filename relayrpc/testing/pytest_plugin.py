"""
The hubs of relayrpc.testing as pytest fixtures, for pytest-asyncio. Not registered by itself, since
pytest would import it in every project of an environment; a project's top conftest.py says

    pytest_plugins = ["relayrpc.testing.pytest_plugin"]

Source: docs/reference/testing.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.testing.hubs import LoopbackHub, MemoryHub, memory_hub, run_hub


try:
    import pytest_asyncio
except ModuleNotFoundError as error:
    raise pytest.UsageError(
        "relayrpc.testing.pytest_plugin needs pytest-asyncio: pip install pytest-asyncio"
    ) from error


__all__ = ["relay_hub", "relay_limits", "relay_memory_hub"]


@pytest.fixture
def relay_limits() -> Limits:
    """Return the limits of the hubs below; override it where a test needs others."""
    return DEFAULT_LIMITS


@pytest_asyncio.fixture
async def relay_memory_hub(relay_limits: Limits) -> AsyncIterator[MemoryHub]:
    """Run a hub in memory, one for each test."""
    async with memory_hub(limits=relay_limits) as hub:
        yield hub


@pytest_asyncio.fixture
async def relay_hub(relay_limits: Limits) -> AsyncIterator[LoopbackHub]:
    """Run a real hub on free ports of 127.0.0.1, one for each test."""
    async with run_hub(limits=relay_limits) as hub:
        yield hub
