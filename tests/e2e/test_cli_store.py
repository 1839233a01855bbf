"""
`relayrpc store`. Goal: an operator's copy of a store that is in use. Method: the command as a
process, beside a store that this one has open.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from relayrpc.store.sqlite import SQLiteStore


pytestmark = pytest.mark.e2e


async def backup(*arguments: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "relayrpc", "store", "backup", *map(str, arguments)]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)


async def test_backup_of_an_open_store_is_one_file_that_a_hub_can_open(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path / "hub.db")
    await store.put("k", b"1")
    copy = tmp_path / "copies" / "copy.db"
    await asyncio.to_thread(copy.parent.mkdir)
    done = await backup(tmp_path / "hub.db", copy)
    assert (done.returncode, done.stderr) == (0, "")
    size_bytes = (await asyncio.to_thread(copy.stat)).st_size
    assert done.stdout == f"{copy}: revision 1, {size_bytes} bytes\n"
    assert await asyncio.to_thread(lambda: [*copy.parent.iterdir()]) == [copy]

    await store.put("k", b"2")
    done = await backup(tmp_path / "hub.db", copy)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"relayrpc: {copy} is there already; a backup takes no file's place\n"
    )
    await store.aclose()

    restored = await SQLiteStore.open(copy)
    entry = await restored.get("k")
    assert entry is not None
    assert entry.value == b"1"
    await restored.aclose()
