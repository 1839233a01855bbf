"""
Hubs that remember contracts in a file. Goal: whatever ends a hub, the next one on its file protects
the same callers, and a file that cannot be used is one sentence. Method: real hub processes; hosts
in this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from relayrpc.errors import LinkRefusedError
from relayrpc.store.sqlite import SQLiteStore
from relayrpc.v1 import hub_pb2 as pb
from tests.e2e.processes import RunningHub, running_hub
from tests.e2e.test_configuration import PORTS, relayrpc
from tests.support.contract_hosts import serving_contract
from tests.support.contracts import make_file, make_set
from tests.support.tcp_proxy import TCPProxy
from tests.support.until import until


pytestmark = pytest.mark.e2e

V1 = make_file(fields={"x": 1})
V2 = make_file(fields={"x": 1, "y": 2})
BAD = make_file(fields={"z": 1})
HISTORY_KEY = "contracts/history/a/t.Service"


@contextlib.asynccontextmanager
async def hub_on(file: Path, *flags: str) -> AsyncIterator[RunningHub]:
    starting = contextlib.ExitStack()
    with starting:
        yield await asyncio.to_thread(
            starting.enter_context, running_hub("--store", str(file), *flags)
        )


def at(hub: RunningHub) -> str:
    return f"ws://127.0.0.1:{hub.http_port}/a"


async def serve(hub: RunningHub, *versions: FileDescriptorProto) -> None:
    """Have a host of each version come and go."""
    for version in versions:
        async with serving_contract(at(hub), version):
            pass


async def stored(file: Path) -> pb.ContractHistory:
    store = await SQLiteStore.open(file)
    entry = await store.get(HISTORY_KEY)
    assert len(await store.keys("contracts/sets/")) == 3
    await store.aclose()
    assert entry is not None
    return pb.ContractHistory.FromString(entry.value)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_history_survives_the_end_of_the_hub(how: signal.Signals, tmp_path: Path) -> None:
    file = tmp_path / "hub.db"
    async with hub_on(file) as hub:
        await serve(hub, V1, V2)
        with pytest.raises(LinkRefusedError):
            await serve(hub, BAD)
        hub.process.send_signal(how)
        await asyncio.to_thread(hub.wait)
    async with hub_on(file) as hub:
        with pytest.raises(LinkRefusedError, match="FIELD_SAME_NAME"):
            await serve(hub, BAD)
        # The older one is known, whatever it lacks.
        await serve(hub, V1)
        hub.process.terminate()
        assert await asyncio.to_thread(hub.wait) == 0
    versions = (await stored(file)).versions
    accepted, refused = pb.CONTRACT_VERDICT_ACCEPTED, pb.CONTRACT_VERDICT_REFUSED
    assert [version.verdict for version in versions] == [accepted, accepted, refused]
    assert [version.descriptor_set_bytes for version in versions] == [
        len(make_set(version)) for version in (V1, V2, BAD)
    ]


async def test_what_a_host_was_told_is_stored_whenever_the_hub_is_killed(tmp_path: Path) -> None:
    """Killed as soon as a host knows that it serves, again and again."""
    file = tmp_path / "hub.db"
    fields: dict[str, int] = {}
    for number in range(1, 4):
        fields[f"f{number}"] = number
        async with hub_on(file) as hub, serving_contract(at(hub), make_file(fields=fields)):
            hub.process.kill()
            await asyncio.to_thread(hub.wait)
    async with hub_on(file) as hub:
        with pytest.raises(LinkRefusedError, match=r"field 3 \(t.M.f3\) is gone"):
            await serve(hub, make_file(fields={"f1": 1, "f2": 2}, methods=("Do", "Go")))


async def test_host_that_comes_back_to_a_hub_that_refuses_it_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It had been accepted, by a hub that knew nothing of the callers of this one."""
    file = tmp_path / "hub.db"
    async with hub_on(tmp_path / "other.db") as other, TCPProxy(other.http_port) as proxy:
        async with serving_contract(f"ws://127.0.0.1:{proxy.port}/a", BAD) as server:
            async with hub_on(file) as hub:
                await serve(hub, V1)
            async with hub_on(file) as hub:
                proxy.target_port = hub.http_port
                other.process.kill()
                proxy.cut()
                await until(lambda: refusals(caplog))
                # It goes on without, and tries nothing that is refused again.
                await server.live.connected()
                await serve(hub, V2)
        assert len(refusals(caplog)) == 1


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    texts = [record.getMessage() for record in caplog.records]
    return [text for text in texts if text.startswith("the hub refused to register 'a': the con")]


# --- files that cannot be used ---


def refused(file: Path, folder: Path) -> str:
    done = relayrpc(folder, "hub", *PORTS, "--store", str(file))
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("relayrpc: ")]
    assert "Traceback" not in done.stderr
    (line,) = told
    return line.removeprefix("relayrpc: ")


def test_file_of_another_hub_is_refused_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "hub.db"
    with running_hub("--store", str(file)):
        assert refused(file, tmp_path) == f"{file} is open in another hub"


def test_file_that_is_no_store_is_refused_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "hub.db"
    file.write_bytes(b"no database at all, but long enough to be one" * 100)
    assert "is no SQLite database" in refused(file, tmp_path)


def test_hub_says_at_its_start_what_it_remembers_in(tmp_path: Path) -> None:
    (tmp_path / "relayrpc.toml").write_text('store = "hub.db"\n', encoding="utf-8")
    for said in ("hub.db", "memory"):
        with (tmp_path / "log").open("w+", encoding="utf-8") as log:
            with running_hub(cwd=tmp_path, stderr=log):
                pass
            log.seek(0)
            assert f"store chosen store={said}\n" in log.read()
        (tmp_path / "relayrpc.toml").unlink(missing_ok=True)
    assert (tmp_path / "hub.db").is_file()
