"""
The commands that talk to a hub. Goal: what a user sees, and what a script can rely on.

Method: a hub and the commands as real processes; hosts in this one.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

import relayrpc.aio
from relayrpc import __version__
from relayrpc.cli.main import main
from samples.greeter import greeter_pb2, greeter_pb2_grpc
from samples.greeter.host import Greeter
from tests.e2e.processes import RunningHub, running_hub
from tests.support import declared_contract


pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
PROTO = ("--proto", str(ROOT / "samples/greeter/greeter.proto"))
GREETER = "samples.greeter.v1.Greeter"
HELLO = (f"{GREETER}/SayHello", *PROTO)
NOBODY = "relay://127.0.0.1:1"


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@asynccontextmanager
async def started(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `relayrpc`; it is killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "relayrpc",
        *arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def relayrpc_(*arguments: str, stdin: str = "") -> Done:
    async with started(*arguments) as process:
        out, err = await process.communicate(stdin.encode())
        assert process.returncode is not None
        done = Done(process.returncode, out.decode(), err.decode())
    assert "Traceback" not in done.err
    return done


@pytest.fixture(scope="module")
def hub() -> Iterator[RunningHub]:
    with running_hub() as hub:
        yield hub


def url(hub: RunningHub, path: str = "") -> str:
    return f"relay://127.0.0.1:{hub.grpc_port}{path}"


class StrictGreeter(Greeter):
    """Greets; what it is told by metadata, and where it refuses, it says."""

    async def SayHello(
        self, request: greeter_pb2.HelloRequest, context: grpc.aio.ServicerContext
    ) -> greeter_pb2.HelloReply:
        if request.name == "nobody":
            violation = error_details_pb2.BadRequest.FieldViolation(field="name", description="?")
            details = [any_pb2.Any(), any_pb2.Any(type_url="type.example/Unknown", value=b"xyz")]
            details[0].Pack(error_details_pb2.BadRequest(field_violations=[violation]))
            status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, details=details)
            context.set_trailing_metadata(
                [("grpc-status-details-bin", status.SerializeToString())]
            )
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "nobody\x1b[31m is no name")
        if request.name == "never":
            await asyncio.Event().wait()
        told = {entry.key: entry.value for entry in context.invocation_metadata()}
        extra = "".join(f", {key} is {told[key]!r}" for key in ("x-a", "x-b-bin") if key in told)
        return greeter_pb2.HelloReply(message=f"Hello, {request.name}{extra}")


@asynccontextmanager
async def greeting(hub: RunningHub, path: str, **options: Any) -> AsyncIterator[None]:
    server = relayrpc.aio.server(url(hub, path), **options)
    greeter_pb2_grpc.add_GreeterServicer_to_server(StrictGreeter(), server)
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


# --- ls ---


async def test_ls_shows_hosts_with_plain_columns(hub: RunningHub) -> None:
    labels = {"tier": "1", "region": "eu"}
    async with greeting(hub, "/contoso/ls", instance="host-1", slots=4, labels=labels):
        done = await relayrpc_("ls", url(hub, "/contoso"))
    assert (done.code, done.err) == (0, "")
    heading, row = [line.split() for line in done.out.splitlines()]
    shown = dict(zip(heading, row, strict=False))
    assert shown["ADDRESS"] == "contoso/ls"
    assert shown["INSTANCE"] == "host-1"
    assert shown["STATE"] == "serving"
    assert shown["CALLS"] == "0/4"
    assert shown["LABELS"] == "region=eu,tier=1"
    assert shown["WIRE"] == "1"
    assert row[-1] == GREETER
    assert f"relayrpc/{__version__}" in row


async def test_ls_shows_contracts_and_links(hub: RunningHub) -> None:
    async with greeting(hub, "/contoso/ls", instance="host-1"):
        contracts = await relayrpc_("ls", url(hub, "/contoso"), "--contracts")
        links = await relayrpc_("ls", url(hub), "--links")
        parts = await relayrpc_("ls", url(hub), "--parts")
    assert re.search(rf"^contoso/ls +{GREETER} +Chat +stream -> stream$", contracts.out, re.M)
    assert re.search(r"^[0-9a-f]{32} +host-1 +ipv4:127.0.0.1:\d+ +open ", links.out, re.M)
    assert re.search(r"^\$hub ", parts.out, re.M)
    assert "$hub" not in contracts.out + links.out


async def test_ls_finds_hosts_by_contract_and_label(hub: RunningHub) -> None:
    async with (
        greeting(hub, "/contoso/x", instance="eu", labels={"region": "eu", "tier": "1"}),
        greeting(hub, "/contoso/y", instance="us", labels={"region": "us", "tier": "1"}),
    ):
        found = await relayrpc_(
            "ls", url(hub), "--contract", GREETER, "--label", "region=eu", "--label", "tier=1",
            "--json",
        )  # fmt: skip
        (host,) = found.lines[0]["hosts"]
        digits = base64.b64decode(host["services"][0]["fingerprint"]).hex()
        version = await relayrpc_(
            "ls", url(hub, "/contoso/y"), "--contract", f"{GREETER}@{digits[:8]}"
        )
        other = await relayrpc_("ls", url(hub), "--contract", f"{GREETER}@ffffffff")
    assert host["instance"] == "eu"
    assert [line.split()[:2] for line in version.out.splitlines()[1:]] == [["contoso/y", "us"]]
    assert len(other.out.splitlines()) == 1


async def test_ls_prints_json(hub: RunningHub) -> None:
    async with greeting(hub, "/contoso/ls", instance="host-1"):
        done = await relayrpc_("ls", url(hub, "/contoso/ls"), "--json")
    (listing,) = done.lines
    (host,) = listing["hosts"]
    assert host["state"] == "HOST_STATE_SERVING"
    assert host["services"][0]["methods"][0] == {"name": "SayHello", "shape": "SHAPE_UNARY_UNARY"}
    assert [link["linkId"] for link in listing["links"]] == [host["linkId"]]
    assert listing["hub"]["version"] == __version__


async def test_ls_of_nobody_prints_headings_only(hub: RunningHub) -> None:
    done = await relayrpc_("ls", url(hub, "/nobody/there"))
    assert done.code == 0
    assert done.out.startswith("ADDRESS")
    assert len(done.out.splitlines()) == 1


async def test_ls_watch_prints_who_comes_and_goes_until_ctrl_c(hub: RunningHub) -> None:
    eu, us = {"region": "eu"}, {"region": "us"}
    async with started("ls", url(hub, "/contoso"), "--watch", "--label", "region=eu") as process:
        assert process.stdout is not None
        while await process.stdout.readline() != b"# and since then:\n":
            pass
        async with (
            greeting(hub, "/elsewhere", labels=eu),
            greeting(hub, "/contoso/w", labels=us),
            greeting(hub, "/contoso/w", instance="host-2", labels=eu),
        ):
            came = (await process.stdout.readline()).split()
        went = (await process.stdout.readline()).split()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        assert process.stderr is not None
        assert await process.stderr.read() == b""
    assert came[1:] == [b"came", b"contoso/w", b"host-2", GREETER.encode()]
    assert went[1:4] == [b"went", b"contoso/w", b"host-2"]
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", came[0])


async def test_ls_watch_prints_json_lines(hub: RunningHub) -> None:
    async with started("ls", url(hub), "--watch", "--json") as process:
        assert process.stdout is not None
        first = json.loads(await process.stdout.readline())
        assert first["snapshot"]["isFirst"]
        async with greeting(hub, "/contoso/w"):
            came = json.loads(await process.stdout.readline())
    (event,) = came["events"]
    assert event["kind"] == "KIND_CAME"
    assert int(event["number"]) == int(came["number"])


async def test_ls_watch_goes_on_when_the_hub_is_back() -> None:
    """At the port where it was; another run of the hub, and so another snapshot."""
    with running_hub() as first:
        async with started("ls", url(first), "--watch") as process:
            out, err = process.stdout, process.stderr
            assert out is not None
            assert err is not None
            while await out.readline() != b"# and since then:\n":
                pass
            first.process.kill()
            first.wait()
            assert b"waiting for the hub" in await err.readline()
            with running_hub("--grpc", f"127.0.0.1:{first.grpc_port}") as second:
                assert await out.readline() == b"# who is there now:\n"
                assert await out.readline() == b"# and since then:\n"
                async with greeting(second, "/contoso/w", instance="host-3"):
                    assert b"came  contoso/w  host-3" in await out.readline()


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (("ls", NOBODY), 1, "is a hub running there?"),
        (("ls", "http://127.0.0.1"), 2, "relay://"),
        (("ls", NOBODY, "--watch", "--links"), 2, "--watch"),
        (("ls", NOBODY, "--label", "region"), 2, "write name=value"),
        (("ls", NOBODY, "--contract", "samples.Greeter@xyz"), 2, "hexadecimal digits"),
        (("ls", NOBODY, "--tls-ca", "ca.pem"), 2, "relays://"),
        (("ls", "relays://127.0.0.1:1", "--tls-ca", "no-such.pem"), 1, "no-such.pem"),
        (("drain", NOBODY, "host-1"), 1, "is a hub running there?"),
        (("drain", NOBODY), 2, "INSTANCE"),
        (("drain", NOBODY, ""), 2, "relayrpc ls"),
        (("drain", "relay://127.0.0.1:1/contoso", "host-1"), 2, "--address contoso"),
        (("call", NOBODY, "Greeter"), 2, "package.Service/Method"),
        (("call", NOBODY, "a.B/C"), 14, "connection refused"),
        (("call", NOBODY, "a.B/C", "--proto", "no-such.proto"), 2, "no such file"),
        (("call", NOBODY, "a.B/C", *PROTO), 2, GREETER),
        (("call", NOBODY, f"{GREETER}/Hi", *PROTO), 2, "SayHello"),
        (("call", NOBODY, "a.B/C", "--descriptor-set", "none"), 2, "none"),
        (("call", NOBODY, "a.B/C", "--descriptor-set", "README.md"), 2, "protoc"),
        (("contracts", "diff", NOBODY, "a.B", "--descriptor-set", "README.md"), 2, "README.md"),
        (("call", NOBODY, "a.B/C", "-I", "."), 2, "--proto"),
        (("call", NOBODY, *HELLO, "{"), 2, "HelloRequest"),
        (("call", NOBODY, *HELLO, '{"x":1}'), 2, '"x"'),
        (("call", NOBODY, *HELLO, "-H", "x"), 2, "key=value"),
        (("call", NOBODY, *HELLO, "-H", "a b=c"), 2, "a b"),
        (("call", NOBODY, *HELLO, "-H", "x-bin=?"), 2, "64"),
        (("call", NOBODY, *HELLO, "-H", "relay-x=y"), 2, "-H"),
        (("call", NOBODY, *HELLO, "--deadline", "-1"), 2, ""),
    ],
)
def test_command_answers_a_mistake_with_a_sentence(
    arguments: tuple[str, ...],
    code: int,
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process: there are many, and each starts quickly here."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["relayrpc", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == code, told.err
    assert hint in told.err
    assert told.out == ""


# --- drain ---


async def test_drain_and_undo(hub: RunningHub) -> None:
    async with greeting(hub, "/contoso/d", instance="host-4"):
        drained = await relayrpc_("drain", url(hub), "host-4", "--address", "contoso/d")
        listed = await relayrpc_("ls", url(hub, "/contoso/d"))
        undone = await relayrpc_("drain", url(hub), "host-4", "--undo")
        again = await relayrpc_("ls", url(hub, "/contoso/d"))
    assert (drained.code, undone.code) == (0, 0)
    assert drained.out == "host-4 at contoso/d: drained, 0 calls in flight\n"
    assert undone.out == "host-4 at contoso/d: gets calls, 0 calls in flight\n"
    assert " drained " in listed.out
    assert " serving " in again.out


async def test_drain_says_that_nobody_is_meant(hub: RunningHub) -> None:
    done = await relayrpc_("drain", url(hub), "nobody")
    assert done.code == 1
    assert done.err == "relayrpc: no host with instance 'nobody' listens (NOT_FOUND)\n"


# --- call ---


@pytest.mark.parametrize(
    ("method", "arguments", "stdin", "responses"),
    [
        ("SayHello", ('{"name": "Ada"}',), "", [{"message": "Hello, Ada"}]),
        ("SayHello", (), "", [{"message": "Hello, "}]),
        ("SayHello", ("-",), '{\n"name": "Grace"\n}\n', [{"message": "Hello, Grace"}]),
        (
            "ListGreetings",
            ('{"name": "Ada", "count": 2}',),
            "",
            [{"message": "Hello, Ada", "number": 1}, {"message": "Hello, Ada", "number": 2}],
        ),
        (
            "CollectNames",
            ("-",),
            '{"name": "Ada"}\n\n{"name": "Zoë"}',
            [{"message": "Hello, Ada and Zoë"}],
        ),
        ("CollectNames", (), "", [{"message": "Hello, "}]),
        ("CollectNames", ('{"name": "Ada"}',), "", [{"message": "Hello, Ada"}]),
        (
            "Chat",
            (),
            '{"text": "a"}\n{"text": "b"}\n',
            [{"text": "you said: a"}, {"text": "you said: b"}],
        ),
    ],
)
async def test_call_takes_and_prints_json(
    hub: RunningHub, method: str, arguments: tuple[str, ...], stdin: str, responses: list[Any]
) -> None:
    async with greeting(hub, "/contoso/c"):
        done = await relayrpc_(
            "call", url(hub, "/contoso/c"), f"{GREETER}/{method}", *arguments, *PROTO, stdin=stdin
        )
    assert (done.code, done.err) == (0, "")
    assert done.lines == responses


async def test_call_talks_line_by_line(hub: RunningHub) -> None:
    async with (
        greeting(hub, "/contoso/c"),
        started("call", url(hub, "/contoso/c"), f"{GREETER}/Chat", *PROTO) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        for text in ("first", "second"):
            process.stdin.write(json.dumps({"text": text}).encode() + b"\n")
            assert json.loads(await process.stdout.readline()) == {"text": f"you said: {text}"}
        process.stdin.close()
        assert await process.wait() == 0


async def test_call_names_the_line_that_is_wrong(hub: RunningHub) -> None:
    """The host is not told that the stream was complete."""
    async with greeting(hub, "/contoso/c"):
        done = await relayrpc_(
            "call",
            url(hub, "/contoso/c"),
            f"{GREETER}/CollectNames",
            *PROTO,
            stdin='{"name": "Ada"}\n{"nome": "Ada"}\n',
        )
    assert done.code == 2
    assert done.err.startswith("relayrpc: line 2 of standard input is no samples.greeter.v1.Hello")
    assert done.out == ""


async def test_call_ends_while_its_input_is_open(hub: RunningHub) -> None:
    """Nobody waits for a person at a keyboard when the call is over."""
    async with started("call", url(hub, "/nobody"), f"{GREETER}/Chat", *PROTO) as process:
        assert process.stderr is not None
        assert await process.stderr.readline() == b"status: UNAVAILABLE (14)\n"
        assert await process.wait() == 14


async def test_call_sends_metadata(hub: RunningHub) -> None:
    async with greeting(hub, "/contoso/c"):
        done = await relayrpc_(
            "call", url(hub, "/contoso/c"), f"{GREETER}/SayHello", *PROTO,
            "-H", "X-A=1=2", "--header", "x-b-bin=AAE=",
        )  # fmt: skip
    assert done.lines == [{"message": "Hello, , x-a is '1=2', x-b-bin is b'\\x00\\x01'"}]


async def test_call_reads_a_descriptor_set(hub: RunningHub, tmp_path: Path) -> None:
    made = tmp_path / "greeter.binpb"
    command = [
        sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'samples'}",
        f"--descriptor_set_out={made}", "--include_imports", "greeter/greeter.proto",
    ]  # fmt: skip
    await asyncio.to_thread(subprocess.run, command, check=True, cwd=ROOT)
    async with greeting(hub, "/contoso/c"):
        done = await relayrpc_(
            "call", url(hub, "/contoso/c"), f"/{GREETER}/SayHello", '{"name": "Ada"}',
            "--descriptor-set", str(made),
        )  # fmt: skip
    assert done.lines == [{"message": "Hello, Ada"}]


async def test_call_finds_imports_in_the_folders_it_is_given(
    hub: RunningHub, tmp_path: Path
) -> None:
    own = tmp_path / "own.proto"
    own.write_text(
        'syntax = "proto3"; package own; import "greeter/greeter.proto";'
        "service Greeter { rpc SayHello(samples.greeter.v1.HelloRequest)"
        " returns (samples.greeter.v1.HelloReply); }"
    )
    done = await relayrpc_(
        "call", url(hub, "/nobody"), "own.Greeter/SayHello", "--proto", str(own),
        "-I", str(tmp_path), "-I", str(ROOT / "samples"),
    )  # fmt: skip
    assert done.code == 14, done.err
    missing = await relayrpc_(
        "call", url(hub), "own.Greeter/SayHello", "--proto", str(own)
    )
    assert missing.code == 2
    assert "greeter/greeter.proto" in missing.err


@pytest.mark.parametrize("scheme", ["relay", "ws"])
async def test_call_has_the_contract_from_the_hub(hub: RunningHub, scheme: str) -> None:
    port = hub.grpc_port if scheme == "relay" else hub.http_port
    async with greeting(hub, "/contoso/c"):
        one = await relayrpc_(
            "call", f"{scheme}://127.0.0.1:{port}/contoso/c", f"{GREETER}/SayHello", "-",
            stdin='{"name": "Ada"}',
        )  # fmt: skip
        # At the address that metadata names.
        many = await relayrpc_(
            "call", f"{scheme}://127.0.0.1:{port}", f"{GREETER}/Chat",
            "-H", "relay-address=contoso/c/below", stdin='{"text": "a"}\n{"text": "b"}\n',
        )  # fmt: skip
    assert (one.code, one.err) == (0, "")
    assert one.lines == [{"message": "Hello, Ada"}]
    assert (many.code, many.err) == (0, "")
    assert many.lines == [{"text": "you said: a"}, {"text": "you said: b"}]


ANY = '{"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1.500s"}'


async def test_call_and_ls_know_the_default_address_of_a_contract(hub: RunningHub) -> None:
    server = relayrpc.aio.server(url(hub))
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
    server.add_registered_method_handlers(declared_contract.SERVICE, {"Do": handler})
    await server.start()
    method = declared_contract.METHOD.removeprefix("/")
    without = await relayrpc_("call", url(hub), method, ANY)
    there = await relayrpc_("call", url(hub, f"/{declared_contract.ADDRESS}"), method, ANY)
    listed = await relayrpc_("ls", url(hub, f"/{declared_contract.ADDRESS}"))
    contracts = await relayrpc_("ls", url(hub), "--contracts")
    await server.stop(None)
    for done in (without, there):
        assert (done.code, done.err) == (0, "")
        assert done.lines == [json.loads(ANY)]
    assert listed.out.splitlines()[1].startswith(f"{declared_contract.ADDRESS}  ")
    assert f"{declared_contract.ADDRESS}  {declared_contract.SERVICE}  Do  " in contracts.out


async def test_call_compiles_a_proto_with_contract_options(
    hub: RunningHub, tmp_path: Path
) -> None:
    own = tmp_path / "own.proto"
    own.write_text(
        'syntax = "proto3"; package own; import "relayrpc/v1/contract.proto";'
        'message M {} service S { option (relayrpc.v1.contract) = { address: "own/s" };'
        " rpc Do(M) returns (M); }"
    )
    server = relayrpc.aio.server(url(hub, "/own/s"))
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
    server.add_registered_method_handlers("own.S", {"Do": handler})
    await server.start()
    done = await relayrpc_("call", url(hub, "/own/s"), "own.S/Do", "--proto", str(own))
    await server.stop(None)
    assert (done.code, done.out, done.err) == (0, "{}\n", "")


async def test_call_says_what_it_does_not_find_in_the_hubs_contract(hub: RunningHub) -> None:
    async with greeting(hub, "/contoso/c"):
        method = await relayrpc_("call", url(hub, "/contoso/c"), f"{GREETER}/Hi")
        field = await relayrpc_(
            "call", url(hub, "/contoso/c"), f"{GREETER}/SayHello", '{"nome": "Ada"}'
        )
        service = await relayrpc_("call", url(hub, "/contoso/c"), "a.B/C")
    assert method.code == 2
    assert "has no method 'Hi': there is SayHello" in method.err
    assert field.code == 2
    assert "the request is no samples.greeter.v1.HelloRequest" in field.err
    assert service.code == 12
    assert service.err.splitlines() == [
        "status: UNIMPLEMENTED (12)",
        "details: no host at 'contoso/c' serves 'a.B'",
        "origin: hub",
        "may_have_executed: false",
    ]


async def test_call_asks_for_a_file_where_the_host_announced_no_contract(
    hub: RunningHub,
) -> None:
    server = relayrpc.aio.server(url(hub, "/contoso/bytes"))
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
    server.add_registered_method_handlers("own.Bytes", {"Echo": handler})
    await server.start()
    done = await relayrpc_("call", url(hub, "/contoso/bytes"), "own.Bytes/Echo")
    await server.stop(None)
    assert done.code == 2
    assert done.err == (
        "relayrpc: the hosts of 'own.Bytes' at 'contoso/bytes' announced no contract; "
        "pass it with --proto FILE or --descriptor-set FILE\n"
    )


async def test_call_needs_no_file_for_the_hubs_own_contract(hub: RunningHub) -> None:
    done = await relayrpc_("call", url(hub, "/$hub"), "relayrpc.v1.Hub/List", '{"address": "x"}')
    (part,) = done.lines
    assert part["hub"]["version"] == __version__


async def test_call_tells_how_it_ended(hub: RunningHub) -> None:
    async with greeting(hub, "/contoso/c"):
        done = await relayrpc_(
            "call", url(hub, "/contoso/c"), f"{GREETER}/SayHello", '{"name": "nobody"}', *PROTO
        )
    assert done.code == 3
    assert done.out == ""
    status, details, origin, may_have_executed, known, unknown = done.err.splitlines()
    assert status == "status: INVALID_ARGUMENT (3)"
    assert details == "details: nobody\N{REPLACEMENT CHARACTER}[31m is no name"
    assert origin == "origin: host"
    assert may_have_executed == "may_have_executed: true"
    assert json.loads(known.removeprefix("detail: ")) == {
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [{"field": "name", "description": "?"}],
    }
    assert unknown == "detail: type.example/Unknown, 3 bytes of a type that is not known here"


async def test_call_says_that_nothing_was_executed(hub: RunningHub) -> None:
    done = await relayrpc_("call", url(hub, "/nobody"), f"{GREETER}/SayHello", *PROTO)
    assert done.code == 14
    assert done.err.splitlines() == [
        "status: UNAVAILABLE (14)",
        "details: no host listens at 'nobody'",
        "origin: hub",
        "may_have_executed: false",
    ]


async def test_call_has_a_deadline(hub: RunningHub) -> None:
    async with greeting(hub, "/contoso/c"):
        done = await relayrpc_(
            "call", url(hub, "/contoso/c"), f"{GREETER}/SayHello", '{"name": "never"}', *PROTO,
            "--deadline", "0.2",
        )  # fmt: skip
    assert done.code == 4
    assert done.err.startswith("status: DEADLINE_EXCEEDED (4)\n")


async def test_call_of_another_contract_says_that_the_response_cannot_be_shown(
    hub: RunningHub, tmp_path: Path
) -> None:
    own = tmp_path / "own.proto"
    own.write_text(
        'syntax = "proto3"; package samples.greeter.v1; import "google/protobuf/any.proto";'
        "message Nothing {} message Wrong { google.protobuf.Any message = 1; }"
        "service Greeter { rpc SayHello(Nothing) returns (Wrong); }"
    )
    async with greeting(hub, "/contoso/c"):
        done = await relayrpc_(
            "call", url(hub, "/contoso/c"), f"{GREETER}/SayHello", "--proto", str(own)
        )
    assert done.code == 1
    assert "cannot be shown as samples.greeter.v1.Wrong" in done.err


async def test_call_cancels_its_host_on_ctrl_c(hub: RunningHub) -> None:
    called, cancelled = asyncio.Event(), asyncio.Event()

    class Waiting(Greeter):
        async def SayHello(
            self, request: greeter_pb2.HelloRequest, context: grpc.aio.ServicerContext
        ) -> greeter_pb2.HelloReply:
            called.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            raise AssertionError("an event nobody sets was set")

    server = relayrpc.aio.server(url(hub, "/contoso/c"))
    greeter_pb2_grpc.add_GreeterServicer_to_server(Waiting(), server)
    await server.start()
    async with started(
        "call", url(hub, "/contoso/c"), f"{GREETER}/SayHello", *PROTO
    ) as process:
        await called.wait()
        process.send_signal(signal.SIGINT)
        await cancelled.wait()
        assert await process.wait() == 130
    await server.stop(None)


async def test_call_names_the_missing_extra() -> None:
    """A finder that hides grpc_tools stands for an installation without it."""
    hide = (
        "import sys; sys.modules['grpc_tools'] = None; "
        f"sys.argv = ['relayrpc', 'call', 'relay://127.0.0.1:1', 'a.B/C', '--proto', {PROTO[1]!r}];"
        "from relayrpc.cli.main import main; main()"
    )
    command = [sys.executable, "-c", hide]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "relayrpc[codegen]" in done.stderr
    assert "Traceback" not in done.stderr
