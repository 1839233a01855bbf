"""
`relayrpc expose` as its user meets it. Goal: one line when it serves, clear answers to mistakes,
and changes and ends that cut no call.

Method: hub and agent as real processes; backends are grpc.aio servers in this process, and the
sample on @grpc/grpc-js in one of its own.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection

import relayrpc.aio
from samples.greeter import greeter_pb2, greeter_pb2_grpc
from samples.greeter.host import Greeter
from tests.e2e.node import needs_grpc_js
from tests.e2e.processes import RunningHub, running_hub, running_process


pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
SERVICE = "samples.greeter.v1.Greeter"
EXPOSED = re.compile(r"relayrpc expose: (grpc://\S+) at (\S+), (\d+) services?\n")
JS_MODULES = ROOT / "tests/e2e/grpc_js/node_modules"


@pytest.fixture(scope="module")
def hub() -> Iterator[RunningHub]:
    with running_hub() as hub:
        yield hub


@asynccontextmanager
async def exposing(
    *flags: str, cwd: Path | None = None
) -> AsyncIterator[subprocess.Popen[str]]:
    """Run an agent; waits in a thread, because backends run in this process."""
    command = (sys.executable, "-m", "relayrpc", "expose", *flags)
    running = running_process(command, EXPOSED, cwd=cwd)
    process, _ = await in_thread(running.__enter__)
    try:
        yield process
    finally:
        await in_thread(running.__exit__, None, None, None)


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(function, *arguments)


@pytest.fixture
async def backend() -> AsyncIterator[str]:
    """The sample greeter on grpc.aio; gives host:port."""
    server = grpc.aio.server()
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def _check_all_shapes(stub: greeter_pb2_grpc.GreeterStub) -> None:
    reply = await stub.SayHello(greeter_pb2.HelloRequest(name="Ada"))
    assert reply.message == "Hello, Ada"
    request = greeter_pb2.ListGreetingsRequest(name="Ada", count=3)
    assert [each.number async for each in stub.ListGreetings(request)] == [1, 2, 3]
    names = [greeter_pb2.HelloRequest(name=name) for name in ("Ada", "Grace")]
    assert (await stub.CollectNames(iter(names))).message == "Hello, Ada and Grace"
    chat = stub.Chat()
    await chat.write(greeter_pb2.ChatLine(text="hi"))
    assert (await chat.read()).text == "you said: hi"
    await chat.done_writing()
    assert await chat.read() is grpc.aio.EOF


async def _echoed(channel: grpc.aio.Channel) -> list[list[str | bytes]]:
    """Return what comes back of metadata that the server sends back, by key."""
    call = greeter_pb2_grpc.GreeterStub(channel).SayHello(
        greeter_pb2.HelloRequest(name="Ada"),
        metadata=(("key", "1"), ("key", "2"), ("raw-bin", b"\x00\xff")),
    )
    await call
    trailing = await call.trailing_metadata()
    return [trailing.get_all("key"), trailing.get_all("raw-bin")]


@needs_grpc_js
async def test_server_on_grpc_js_is_exposed_as_it_is(hub: RunningHub) -> None:
    listening = re.compile(r"listening on (127\.0\.0\.1:\d+)\n")
    url = f"relay://127.0.0.1:{hub.grpc_port}/contoso/js"
    command = ("node", ROOT / "samples/expose_js/server.js", "0")
    env = {**os.environ, "NODE_PATH": str(JS_MODULES)}
    with running_process(command, listening, env=env) as (server, match):
        async with (
            exposing(f"grpc://{match[1]}", "--at", url, "--service", SERVICE) as agent,
            relayrpc.aio.channel(url) as channel,
            grpc.aio.insecure_channel(match[1]) as direct,
        ):
            stub = greeter_pb2_grpc.GreeterStub(channel)
            await _check_all_shapes(stub)
            assert await _echoed(channel) == await _echoed(direct)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.SayHello(greeter_pb2.HelloRequest())
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details() == "a name is missing"
            agent.terminate()
            assert await in_thread(agent.wait, 30) == 0
        server.terminate()
        assert await in_thread(server.wait, 30) == 0


async def test_sigterm_lets_running_calls_finish(hub: RunningHub, backend: str) -> None:
    url = f"relay://127.0.0.1:{hub.grpc_port}/contoso/drained"
    async with (
        exposing(f"grpc://{backend}", "--at", url, "--service", SERVICE) as agent,
        relayrpc.aio.channel(url) as channel,
    ):
        stub = greeter_pb2_grpc.GreeterStub(channel)
        chat = stub.Chat()
        await chat.write(greeter_pb2.ChatLine(text="before"))
        assert await chat.read()
        agent.terminate()
        while await _is_served(stub):
            pass
        await chat.write(greeter_pb2.ChatLine(text="after"))
        assert (await chat.read()).text == "you said: after"
        assert agent.poll() is None
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
        assert await in_thread(agent.wait, 30) == 0


async def test_second_signal_stops_at_once(hub: RunningHub, backend: str) -> None:
    url = f"relay://127.0.0.1:{hub.grpc_port}/contoso/twice"
    async with (
        exposing(f"grpc://{backend}", "--at", url, "--service", SERVICE) as agent,
        relayrpc.aio.channel(url) as channel,
    ):
        stub = greeter_pb2_grpc.GreeterStub(channel)
        chat = stub.Chat()
        await chat.write(greeter_pb2.ChatLine(text="before"))
        assert await chat.read()
        agent.terminate()
        while await _is_served(stub):
            pass
        agent.terminate()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await chat.read()
        assert caught.value.details() == "the host stopped"
        assert await in_thread(agent.wait, 30) == 0


async def _is_served(stub: greeter_pb2_grpc.GreeterStub) -> bool:
    try:
        await stub.SayHello(greeter_pb2.HelloRequest(name="Ada"))
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_flags_say_which_hubs_slots_priority_and_labels(
    hub: RunningHub, backend: str, unused_tcp_port: int
) -> None:
    gone = f"relay://127.0.0.1:{unused_tcp_port}/contoso/flags"
    url = f"relay://127.0.0.1:{hub.grpc_port}/contoso/flags"
    flags = ("--at", gone, "--at", url, "--service", SERVICE, "--slots", "3", "--priority", "2",
             "--label", "region=eu", "--label", "tier=")  # fmt: skip
    async with exposing(f"grpc://{backend}", *flags) as agent:
        listing = [sys.executable, "-m", "relayrpc", "ls", url, "--json"]
        run = functools.partial(subprocess.run, capture_output=True, text=True, check=True)
        (host,) = json.loads((await in_thread(run, listing)).stdout)["hosts"]
        assert (host["address"], host["slots"], host["priority"]) == ("contoso/flags", 3, 2)
        assert host["labels"] == {"region": "eu", "tier": ""}
        agent.terminate()
        assert await in_thread(agent.wait, 30) == 0


async def test_file_is_read_again_on_sighup(
    hub: RunningHub, backend: str, tmp_path: Path
) -> None:
    def table(name: str) -> str:
        return (
            f'[[expose]]\ntarget = "grpc://{backend}"\nservices = ["{SERVICE}"]\n'
            f'at = "relay://127.0.0.1:{hub.grpc_port}/contoso/{name}"\n'
        )

    file = tmp_path / "relayrpc.toml"
    file.write_text(table("stays") + table("goes"))
    url = f"relay://127.0.0.1:{hub.grpc_port}"
    async with exposing(cwd=tmp_path) as agent:
        assert agent.stdout is not None
        await in_thread(agent.stdout.readline)
        async with relayrpc.aio.channel(f"{url}/contoso/goes") as channel:
            chat = greeter_pb2_grpc.GreeterStub(channel).Chat()
            await chat.write(greeter_pb2.ChatLine(text="before"))
            assert await chat.read()
            file.write_text(table("stays") + table("comes"))
            agent.send_signal(signal.SIGHUP)
            line = await in_thread(agent.stdout.readline)
            assert line == f"relayrpc expose: grpc://{backend} at contoso/comes, 1 service\n"
            await chat.write(greeter_pb2.ChatLine(text="after"))
            assert (await chat.read()).text == "you said: after"
            await chat.done_writing()
            assert await chat.read() is grpc.aio.EOF
            line = await in_thread(agent.stdout.readline)
            assert line.endswith(f"is no longer at {url}/contoso/goes\n")
        async with relayrpc.aio.channel(f"{url}/contoso/comes") as channel:
            await _check_all_shapes(greeter_pb2_grpc.GreeterStub(channel))
        agent.terminate()
        assert await in_thread(agent.wait, 30) == 0


async def test_howto_page_has_commands_and_a_file_that_expose_a_server(
    hub: RunningHub, tmp_path: Path
) -> None:
    page = (ROOT / "docs/howto/expose-an-existing-server.md").read_text(encoding="utf-8")
    commands = re.findall(r"^(relayrpc expose .*|protoc .*)$", page, re.MULTILINE)
    (file,) = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (printed,) = re.findall(r"^relayrpc expose: .*", page, re.MULTILINE)
    assert EXPOSED.fullmatch(f"{printed}\n")
    (tmp_path / "greeter.proto").write_bytes((ROOT / "samples/greeter/greeter.proto").read_bytes())
    server = grpc.aio.server()
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    reflection.enable_server_reflection([SERVICE, reflection.SERVICE_NAME], server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    def here(text: str) -> str:
        text = re.sub(r"127\.0\.0\.1:5005\d", f"127.0.0.1:{port}", text)
        return text.replace("relay://hub:7350", f"relay://127.0.0.1:{hub.grpc_port}")

    (tmp_path / "relayrpc.toml").write_text(here(file))
    for command in [*commands, "relayrpc expose"]:
        program, *flags = shlex.split(here(command))
        if program == "protoc":
            compiler = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *flags]
            await in_thread(functools.partial(subprocess.run, compiler, cwd=tmp_path, check=True))
            continue
        async with exposing(*flags[1:], cwd=tmp_path) as agent:
            url = f"relay://127.0.0.1:{hub.grpc_port}/contoso/greeter"
            call = [sys.executable, "-m", "relayrpc", "call", url, f"{SERVICE}/SayHello", "{}"]
            run = functools.partial(subprocess.run, capture_output=True, text=True, check=False)
            # The hub knows the contract that the agent has found.
            assert '"message"' in (await in_thread(run, call)).stdout
            agent.terminate()
            assert await in_thread(agent.wait, 30) == 0
    await server.stop(None)


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (("http://127.0.0.1:1", "--at", "relay://h/a"), 2, "the server's URL starts with grpc://"),
        (("grpc://127.0.0.1", "--at", "relay://h/a"), 2, "it names no host and port"),
        (("grpc://127.0.0.1:1/a", "--at", "relay://h/a"), 2, "the address goes with the hub"),
        (("grpc://127.0.0.1:1",), 2, "--at is missing"),
        (("--at", "relay://h/a"), 2, "--at without a server"),
        ((), 2, "relayrpc.toml: cannot be read: No such file or directory"),
        (("grpc://127.0.0.1:1", "--at", "tcp://h/a"), 2, "no relay URL"),
        (
            ("grpc://127.0.0.1:1", "--at", "relay://h/a", "--tls-ca", "none.pem"),
            2,
            "cannot use the CA file none.pem: No such file or directory",
        ),
        (
            ("grpc://127.0.0.1:1", "--at", "relay://h/a", "--descriptors", "none.desc"),
            2,
            "none.desc cannot be read: No such file or directory",
        ),
        (
            ("grpc://127.0.0.1:1", "--at", "relay://h/a", "--descriptors", __file__),
            2,
            "test_expose.py are no descriptor set; make it with protoc",
        ),
        (
            ("grpc://127.0.0.1:1", "--at", "relay://h/a", "--no-wait"),
            1,
            "grpc://127.0.0.1:1 cannot be exposed: connection refused",
        ),
    ],
)
def test_mistakes_are_one_sentence(
    flags: tuple[str, ...], code: int, told: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "relayrpc", "expose", *flags]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == code
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("relayrpc: ")


def test_what_is_wrong_in_a_file_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        '[[expose]]\ntarget = "grpc://h:1"\n\n\n'
        '[[expose]]\ntarget = 5\nslot = 1\nservices = [1]\nat = [2]\n'
        'labels = { region = 1 }\n'
    )
    command = [sys.executable, "-m", "relayrpc", "expose", "--config", "a.toml"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "relayrpc: a.toml:1: expose.at is missing",
        "relayrpc: a.toml:6: expose.target is 5, and must be text, in quotes",
        "relayrpc: a.toml:7: expose.slot is no setting; did you mean expose.slots?",
        "relayrpc: a.toml:8: expose.services is [1], and must be a list of texts",
        "relayrpc: a.toml:9: expose.at is [2], and must be text, in quotes, or a list of texts",
        "relayrpc: a.toml:10: expose.labels is {'region': 1}, and must be a table of texts",
    ]
