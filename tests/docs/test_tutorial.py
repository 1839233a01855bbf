"""The tutorial does what it says. Method: follow its pages, in an empty folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.support.ports import held_port
from tests.support.tutorial import Reader


ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "tutorial").glob("*.md"))


@pytest.mark.e2e
def test_following_the_pages_gives_what_they_say(tmp_path: Path) -> None:
    with held_port() as grpc, held_port() as http:
        flags = f"relayrpc hub --grpc 127.0.0.1:{grpc} --http 127.0.0.1:{http}"
        replaced = {"relayrpc hub &": f"{flags} &", ":7350": f":{grpc}", ":7351": f":{http}"}
        with contextlib.closing(Reader(tmp_path, replaced)) as reader:
            for page in PAGES:
                reader.follow(page)


def test_the_tutorial_is_three_pages() -> None:
    assert [page.name[0] for page in PAGES] == ["1", "2", "3"]
