"""
A store whose process is killed. Goal: nothing acknowledged is lost, and no revision comes twice.

Method: a process with eight writers says what was acknowledged and is killed at a random moment,
from while it opens the file on. A copy of what is left is opened, and must hold what the writers
had done, and at most one thing more of each; the next process goes on with the file as it was left.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from relayrpc.store.sqlite import SQLiteStore
from tests.support.store_nursery import KEY_WRITERS, LOG_WRITERS, keys_after, record


pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked"),
]

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Known:
    """What must be true of a store."""

    counts: list[int] = field(default_factory=lambda: [0] * (KEY_WRITERS + LOG_WRITERS))
    """Operations of each writer that are known to be stored."""
    revision: int = 0
    """That the store has reached."""
    acknowledged: int = 0


class Nursery:
    """Runs one process after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.store_nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def run(self, path: Path, known: Known, rng: random.Random) -> None:
        """Have a process write, kill it, and note what it said was stored."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps([str(path), known.counts]) + "\n")
        word, pid = self._line()
        assert word == "pid"
        counts, revisions = [*known.counts], set()
        is_killed = False
        # A third is killed while it opens the file.
        acknowledged_until_killed = max(0, rng.randrange(-20, 40))
        while True:
            if not is_killed and acknowledged_until_killed == 0:
                # Opening takes longer than the next transaction.
                self._wait(rng.uniform(0, 0.05 if counts == known.counts else 0.005))
                os.kill(int(pid), signal.SIGKILL)
                is_killed = True
            said = self._line()
            if said == ["over"]:
                break
            writer, number, revision = map(int, said)
            assert number == counts[writer], "acknowledged in another order"
            counts[writer] += 1
            if writer < KEY_WRITERS:
                # 0 is of a key that was not there.
                assert revision == 0 or revision > known.revision
                assert revision == 0 or revision not in revisions
                revisions.add(revision)
            else:
                assert revision == number + 1
            acknowledged_until_killed -= 1
            known.acknowledged += 1
        assert is_killed, "it ended by itself"
        known.counts = counts
        known.revision = max({known.revision} | revisions)

    def _line(self) -> list[str]:
        assert self._process.stdout
        return self._process.stdout.readline().split()

    def _wait(self, longest_s: float) -> None:
        """Until it says more, or for so long: somewhere within a transaction."""
        select.select([self._process.stdout], [], [], longest_s)

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


async def check(path: Path, known: Known) -> None:
    """Open a store, hold it to what is known, and note what else it holds."""
    store = await SQLiteStore.open(path)
    snapshot = await store.entries()
    assert snapshot.revision >= known.revision
    for writer in range(KEY_WRITERS):
        found = {entry.key: entry.value for entry in await below(store, writer)}
        count = known.counts[writer]
        if found != keys_after(writer, count):
            assert found == keys_after(writer, count + 1), f"writer {writer} after {count}"
            known.counts[writer] = count + 1
    for writer in range(KEY_WRITERS, KEY_WRITERS + LOG_WRITERS):
        async with store.follow(f"{writer}") as records:
            found_data = [(await anext(records)).data for _ in range(known.counts[writer])]
        assert found_data == [record(writer, number) for number in range(known.counts[writer])]
        more = await store.read(f"{writer}", after=known.counts[writer])
        assert [item.data for item in more] in ([], [record(writer, known.counts[writer])])
        known.counts[writer] += len(more)
    known.revision = snapshot.revision
    await store.aclose()


async def below(store: SQLiteStore, writer: int) -> list:
    return (await store.entries(f"{writer}/")).entries


def copy(path: Path, folder: Path) -> Path:
    """Copy what a killed process has left, without what only living ones share."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in (path.name, f"{path.name}-wal"):
        if path.with_name(name).exists():
            shutil.copy(path.with_name(name), folder / name)
    return folder / path.name


@pytest.mark.parametrize(
    "kills", [25, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_killed_store_has_lost_nothing_it_acknowledged(
    kills: int, nursery: Nursery, tmp_path: Path
) -> None:
    rng = random.Random(f"kills {kills}")
    path, known = tmp_path / "store.db", Known()
    for _ in range(kills):
        nursery.run(path, known, rng)
        asyncio.run(check(copy(path, tmp_path / "copy"), known))
    asyncio.run(check(path, known))
    assert known.acknowledged > kills
