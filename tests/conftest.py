"""What holds for every test: none fails because a machine was slow, or shared."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest

from tests.support.ports import held_port


hypothesis.settings.register_profile("relayrpc", deadline=None)
hypothesis.settings.load_profile("relayrpc")


@pytest.fixture
def unused_tcp_port() -> Iterator[int]:
    """A port of 127.0.0.1 where nobody listens, and nobody will; pytest-asyncio's may be taken."""
    with held_port() as port:
        yield port
