"""Public names change on purpose only. Goal: a diff to read. Method: compare with a snapshot."""

from __future__ import annotations

from pathlib import Path

from tests.tidy import public_api


SNAPSHOT = Path(__file__).with_name("public_api.txt")


def test_public_api_is_the_snapshot() -> None:
    """On purpose: `python -m tests.tidy.public_api > tests/tidy/public_api.txt`."""
    assert public_api.describe() == SNAPSHOT.read_text(encoding="utf-8")
