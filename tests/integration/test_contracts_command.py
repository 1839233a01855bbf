"""
`relayrpc contracts`. Goal: an operator sees which versions there are and what became of them; a
developer sees in what the next one breaks callers before a host tells, and gets code from a hub.

Method: a real hub and hosts in this process, and the command in a thread of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from relayrpc.cli.main import main
from relayrpc.contract.fingerprint import fingerprint_of
from relayrpc.errors import LinkRefusedError
from relayrpc.hub.addresses import AddressEntry, Compatibility
from relayrpc.hub.server import Hub
from tests.support.contract_hosts import serving_contract
from tests.support.contracts import make_file, make_set
from tests.support.relay import running_hub


pytestmark = pytest.mark.integration

V1 = make_file("shop/t.proto", fields={"x": 1})
V2 = make_file("shop/t.proto", fields={"x": 1, "y": 2})
BAD = make_file("shop/t.proto", fields={"z": 1})
TIMESTAMP = ".google.protobuf.Timestamp"
ANYTHING = AddressEntry(compatibility=Compatibility.NONE)


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        """The lines below the headings, by what parts columns."""
        return [re.split(r"\s{2,}", line) for line in self.out.splitlines()[1:]]


async def contracts(*arguments: str) -> Done:
    return await asyncio.to_thread(_run, "contracts", *arguments)


def _run(*arguments: str) -> Done:
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["relayrpc", *arguments]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 0
    finally:
        sys.argv = before
    return Done(code, out.getvalue(), err.getvalue())


def version(file: FileDescriptorProto) -> str:
    return fingerprint_of(make_set(file)).hex()[:12]


def at(hub: Hub, address: str = "") -> str:
    return f"ws://127.0.0.1:{hub.http_port}{address}"


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    """A hub to whose address "a" two versions came, and one in vain; the second is served."""
    async with running_hub(addresses={"any": ANYTHING}) as hub:
        for file in (V1, V2, BAD):
            with contextlib.suppress(LinkRefusedError):
                async with serving_contract(at(hub, "/a"), file, instance="host-1"):
                    pass
        async with serving_contract(at(hub, "/a"), V2, instance="host-2"):
            yield hub


# --- what there is ---


async def test_ls_shows_a_line_for_each_address_and_service(hub: Hub) -> None:
    async with serving_contract(at(hub, "/b/c"), V1):
        everywhere = await contracts("ls", at(hub))
        below = await contracts("ls", at(hub, "/b"))
    assert (everywhere.code, everywhere.err) == (0, "")
    lines = [row[:6] for row in everywhere.rows]
    assert lines == [
        ["a", "t.Service", version(V2), "1", "2", "1"],
        ["b/c", "t.Service", version(V1), "1", "1", "0"],
    ]
    assert [row[0] for row in below.rows] == ["b/c"]
    assert everywhere.out.splitlines()[0].split() == [
        "ADDRESS", "SERVICE", "VERSION", "HOSTS", "VERSIONS", "REFUSED", "LAST", "SEEN",
    ]  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", everywhere.rows[0][6])


async def test_history_shows_what_became_of_each_version(hub: Hub) -> None:
    done = await contracts("history", at(hub, "/a"), "t.Service")
    rows = done.rows
    assert [row[:4] for row in rows] == [
        [version(V1), "accepted", "wire_json", "0"],
        [version(V2), "accepted", "wire_json", "1"],
        [version(BAD), "refused", "wire_json", "0"],
    ]
    assert [row[6] for row in rows] == ["host-1", "host-2", "host-1"]
    assert "[FIELD_SAME_NAME]" in rows[2][8]


async def test_json_has_all_of_it(hub: Hub) -> None:
    listed = json.loads((await contracts("ls", at(hub), "--json")).out)
    history = json.loads((await contracts("history", at(hub), "t.Service", "--json")).out)
    assert listed["contracts"] == [history]
    assert [each["verdict"] for each in history["versions"]] == [
        "CONTRACT_VERDICT_ACCEPTED",
        "CONTRACT_VERDICT_ACCEPTED",
        "CONTRACT_VERDICT_REFUSED",
    ]


async def test_version_that_was_let_in_is_told_apart(hub: Hub) -> None:
    for file in (V1, BAD):
        async with serving_contract(at(hub, "/any"), file):
            pass
    done = await contracts("history", at(hub, "/any"), "t.Service")
    assert [row[1:3] for row in done.rows] == 2 * [["not-compared", "none"]]


async def test_show_prints_a_proto_file(hub: Hub) -> None:
    newest = await contracts("show", at(hub, "/a"), "t.Service")
    first = await contracts("show", at(hub, "/a"), "t.Service", "--version", version(V1)[:6])
    assert newest.out.startswith('// shop/t.proto\nsyntax = "proto3";\n\npackage t;\n')
    assert "  int32 y = 2;\n" in newest.out
    assert "int32 y" not in first.out


# --- what breaks callers ---


async def test_diff_of_versions_that_are_compatible_says_nothing(hub: Hub) -> None:
    done = await contracts("diff", at(hub, "/a"), "t.Service")
    assert done == Done(0, "", "")


async def test_diff_says_what_breaks_and_what_to_do_instead(hub: Hub) -> None:
    done = await contracts("diff", at(hub, "/a"), "t.Service", "--to", version(BAD))
    assert done.code == 3
    first, *lines = done.out.splitlines()
    assert first == f"callers of version {version(V2)} would break:"
    assert "  shop/t.proto: field 1 (t.M.x) is called 'z' now [FIELD_SAME_NAME]" in lines
    assert "    instead: keep the name, or add another field" in lines


async def test_diff_of_two_versions_that_are_named(hub: Hub) -> None:
    back = await contracts(
        "diff", at(hub, "/a"), "t.Service", "--from", version(V2), "--to", version(V1)
    )
    assert back.code == 3
    assert "field 2 (t.M.y) is gone" in back.out


async def test_diff_tells_before_a_host_does(hub: Hub, tmp_path: Path) -> None:
    proto = tmp_path / "t.proto"
    text = 'syntax = "proto3"; package t; message M { int32 x = 1; %s }'
    service = " service Service { rpc Do(M) returns (M); }"
    proto.write_text(text % "int32 y = 2; int32 new = 3;" + service, encoding="utf-8")
    fine = await contracts("diff", at(hub, "/a"), "t.Service", "--proto", str(proto))
    assert fine == Done(0, "", "")
    proto.write_text(text % "string y = 2;" + service, encoding="utf-8")
    breaks = await contracts("diff", at(hub, "/a"), "t.Service", "--proto", str(proto))
    assert breaks.code == 3
    assert "changed its type from int32 to string" in breaks.out


# --- code ---


async def test_pull_writes_files_and_code_that_runs(hub: Hub, tmp_path: Path) -> None:
    done = await contracts("pull", at(hub, "/a"), "t.Service", "--out", str(tmp_path))
    assert (done.code, done.err) == (0, "")
    assert [Path(line).relative_to(tmp_path).as_posix() for line in done.out.splitlines()] == [
        f"shop/t{ending}"
        for ending in (".proto", "_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_relay.py")
    ]
    check = "from shop.t_relay import ServiceContract as c; print(c.fingerprint.hex()[:12])"
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", check],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.strip() == version(V2), ran.stderr


async def test_pull_of_a_contract_that_imports_protobufs_own(hub: Hub, tmp_path: Path) -> None:
    file = make_file(imports=["google/protobuf/timestamp.proto"])
    field = file.message_type[0].field.add(name="at", number=1, type_name=TIMESTAMP)
    field.type, field.label = field.TYPE_MESSAGE, field.LABEL_OPTIONAL
    async with serving_contract(at(hub, "/b"), file):
        done = await contracts("pull", at(hub, "/b"), "t.Service", "--out", str(tmp_path))
    assert (done.code, done.err) == (0, "")
    assert "timestamp_pb2" in (tmp_path / "t_pb2.py").read_text(encoding="utf-8")


async def test_pull_of_the_protos_alone(hub: Hub, tmp_path: Path) -> None:
    done = await contracts(
        "pull", at(hub, "/a"), "t.Service", "--out", str(tmp_path), "--protos-only"
    )
    assert done.out == f"{tmp_path / 'shop' / 't.proto'}\n"
    shown = await contracts("show", at(hub, "/a"), "t.Service")
    written = (tmp_path / "shop" / "t.proto").read_text(encoding="utf-8")
    assert shown.out == f"// shop/t.proto\n{written}"


@pytest.mark.parametrize("name", ["../t.proto", "/tmp/t.proto", "a/../../t.proto", "C:t.proto"])
async def test_pull_writes_nothing_elsewhere(hub: Hub, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "here"
    async with serving_contract(at(hub, "/bad"), make_file(name)):
        done = await contracts(
            "pull", at(hub, "/bad"), "t.Service", "--out", str(folder), "--protos-only"
        )
    assert done.code == 1
    assert done.err == (
        f"relayrpc: the contract has a file {name!r}, which would not be below {folder}\n"
    )
    assert not folder.parent.exists()


# --- mistakes ---


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", "/none", "t.Service"), 1, "no contract of 't.Service' at 'none', but at a"),
        (("history", "/a", "t.Other"), 1, "the hub knows no contract of 't.Other' at 'a'"),
        (("show", "/a", "t.Service", "--version", "0000"), 1, "there is no one version 0000 of"),
        (("show", "/a", "t.Service", "--version", "xyz"), 2, "'xyz' is no version: write its"),
        (("diff", "/a", "t.Service", "--proto", "none.proto"), 2, "none.proto: no such file"),
        (("diff", "/a", "t.Service", "-I", "."), 2, "-I has no use without --proto"),
    ],
)
async def test_mistake_is_a_sentence(
    hub: Hub, arguments: tuple[str, ...], code: int, said: str
) -> None:
    command, path, *others = arguments
    done = await contracts(command, at(hub, path), *others)
    assert (done.code, done.out) == (code, "")
    (line,) = done.err.splitlines()
    assert said in line


async def test_service_at_several_addresses_wants_one_named(hub: Hub) -> None:
    async with serving_contract(at(hub, "/b"), V1):
        done = await contracts("history", at(hub), "t.Service")
    assert done.err == "relayrpc: 't.Service' is known at a, b: name one of them in the URL\n"
