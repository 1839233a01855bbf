"""The tutorial does what it says. Method: follow its pages, in an empty folder."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from tests.support.tutorial import Reader


ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "tutorial").glob("*.md"))


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as open_sockets:
        taken = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in taken]


@pytest.mark.e2e
def test_following_the_pages_gives_what_they_say(tmp_path: Path) -> None:
    grpc, http = free_ports(2)
    flags = f"relayrpc hub --grpc 127.0.0.1:{grpc} --http 127.0.0.1:{http}"
    replaced = {"relayrpc hub &": f"{flags} &", ":7350": f":{grpc}", ":7351": f":{http}"}
    with contextlib.closing(Reader(tmp_path, replaced)) as reader:
        for page in PAGES:
            reader.follow(page)


def test_the_tutorial_is_three_pages() -> None:
    assert [page.name[0] for page in PAGES] == ["1", "2", "3"]
