"""
The wheel is enough. Goal: no forgotten file or dependency. Method: build it, install it in an empty
environment outside the repository, and make a call with a generated stub through a hub.
"""

from __future__ import annotations

import importlib.resources
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from relayrpc.v1 import contract_pb2
from tests.e2e.processes import running_hub


pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SLOW = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ORDERS = ROOT / "tests" / "conformance" / "options" / "accepted" / "orders.proto"
CALL = """\
import asyncio, sys
from samples.greeter import greeter_pb2, greeter_pb2_grpc
from samples.greeter.host import Greeter
import relayrpc.aio

async def main(url):
    server = relayrpc.aio.server(url)
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    await server.start()
    async with relayrpc.aio.channel(url) as channel:
        request = greeter_pb2.HelloRequest(name="Ada")
        print((await greeter_pb2_grpc.GreeterStub(channel).SayHello(request)).message)
    await server.stop(None)

asyncio.run(main(sys.argv[1]))
"""
TYPED_PROTO = """\
syntax = "proto3";
package e2e;
import "relayrpc/v1/contract.proto";
service Echo {
  option (relayrpc.v1.contract) = { default_timeout: { seconds: 30 } };
  rpc Say(Line) returns (Line);
  rpc Count(Line) returns (stream Line);
}
message Line { string text = 1; }
"""
TYPED_CALL = """\
import asyncio, sys
import relayrpc, relayrpc.aio
from echo_pb2 import Line
from echo_relay import *

class Echo:
    async def Say(self, request, context):
        return Line(text=f"async {request.text}")
    async def Count(self, request, context):
        for number in request.text:
            yield Line(text=number)

class EchoSync:
    def Say(self, request, context):
        return Line(text=f"blocking {request.text}")
    def Count(self, request, context):
        return (Line(text=number) for number in request.text)

async def main(url):
    server = relayrpc.aio.server(url)
    add_EchoServicer_to_server(Echo(), server)
    await server.start()
    async with relayrpc.aio.channel(url) as channel:
        echo = EchoCaller(channel)
        print((await echo.Say(Line(text="hi"))).text)
        print([each.text async for each in echo.Count(Line(text="123"))])
    await server.stop(None)

def main_sync(url):
    server = relayrpc.server(url)
    add_EchoServicerSync_to_server(EchoSync(), server)
    server.start()
    with relayrpc.channel(url) as channel:
        echo = EchoCallerSync(channel)
        print(echo.Say(Line(text="hi")).text)
        print([each.text for each in echo.Count(Line(text="456"))])
    server.stop(None).wait()

asyncio.run(main(sys.argv[1] + "/async"))
main_sync(sys.argv[1] + "/blocking")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(target), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = target.glob("relayrpc-*.whl")
    return built


def test_wheel_holds_the_package_and_its_protos_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "relayrpc/v1/link.proto" in names
    assert "relayrpc/v1/contract.proto" in names
    assert "relayrpc/v1/link_pb2.pyi" in names
    assert "relayrpc/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "relayrpc",
        "relayrpc_codegen",
    }


@pytest.fixture(scope="module")
def include(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that an installed package says its protos are in."""
    target = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(target)
    # From there the package is found before the one of the checkout.
    found = Path(run(sys.executable, "-m", "relayrpc", "protos", cwd=target).strip())
    assert found == target
    return found


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A user's folder with a proto that imports contract.proto."""
    protos = tmp_path / "protos"
    protos.mkdir()
    shutil.copy(ORDERS, protos / "orders.proto")
    return tmp_path


def run(*command: str, cwd: Path) -> str:
    environment = {**os.environ, "BUF_CACHE_DIR": str(cwd / "cache")}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def orders_address(descriptor_set: Path) -> str:
    """Read the address that the compiled contract declares."""
    files = FileDescriptorSet.FromString(descriptor_set.read_bytes()).file
    (orders,) = (file for file in files if file.name == "orders.proto")
    (service,) = (service for service in orders.service if service.name == "Orders")
    options: Any = service.options
    return str(options.Extensions[contract_pb2.contract].address)


def test_grpcio_tools_compile_what_imports_the_protos_of_the_wheel(
    include: Path, work: Path
) -> None:
    flags = ["-Iprotos", f"-I{include}", "--descriptor_set_out=set", "--python_out=."]
    run(sys.executable, "-m", "grpc_tools.protoc", *flags, "orders.proto", cwd=work)
    assert orders_address(work / "set") == "contoso/orders"
    # The package brings the generated code of the import.
    code = "import orders_pb2; print(orders_pb2.DESCRIPTOR.services_by_name['Orders'].GetOptions())"
    assert 'address: "contoso/orders"' in run(sys.executable, "-c", code, cwd=work)


@pytest.mark.skipif(shutil.which("protoc") is None, reason="no protoc on PATH")
def test_protoc_compiles_what_imports_the_protos_of_the_wheel(include: Path, work: Path) -> None:
    # grpcio-tools' copy of protobuf's own protos: a distribution may have them in another package.
    standard = importlib.resources.files("grpc_tools") / "_proto"
    includes = ["-Iprotos", f"-I{include}", f"-I{standard}"]
    run("protoc", *includes, "--descriptor_set_out=set", "orders.proto", cwd=work)
    assert orders_address(work / "set") == "contoso/orders"


def test_buf_compiles_what_imports_the_protos_of_the_wheel(include: Path, work: Path) -> None:
    vendored = work / "third_party" / "relayrpc" / "v1"
    vendored.mkdir(parents=True)
    shutil.copy(include / "relayrpc" / "v1" / "contract.proto", vendored)
    modules = "[{path: protos}, {path: third_party}]"
    (work / "buf.yaml").write_text(f"version: v2\nmodules: {modules}\n", encoding="utf-8")
    buf = Path(sys.executable).parent / "buf"
    run(str(buf), "build", "--as-file-descriptor-set", "-o", "set.binpb", cwd=work)
    assert orders_address(work / "set.binpb") == "contoso/orders"


def lowest_versions() -> list[str]:
    """Exact requirements at the lower bounds that pyproject.toml declares."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["hub"], *extras["codegen"]]
    return [re.sub(r">=([\d.]+)[^;]*", r"==\1 ", requirement) for requirement in declared]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param([], id="newest"),
        pytest.param(lowest_versions(), id="lowest", marks=SLOW),
    ],
)
def python(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The interpreter of an environment with the wheel and what it needs, in some versions."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    requirements = [f"{wheel}[hub,codegen]", *request.param]
    install = [str(python), "-m", "pip", "install", "--quiet", *requirements]
    subprocess.run(install, check=True, capture_output=True)
    return python


def test_call_goes_through_a_hub_with_the_wheel_alone(python: Path, tmp_path: Path) -> None:
    # The sample is the user's own code; the package itself must come from the wheel.
    work = tmp_path / "work"
    shutil.copytree(ROOT / "samples", work / "samples")
    with running_hub(python=python, cwd=work) as hub:
        url = f"relay://127.0.0.1:{hub.grpc_port}/contoso/greeter"
        command = [str(python), "-c", CALL, url]
        done = subprocess.run(
            command, cwd=work, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Hello, Ada"


def test_generated_code_calls_and_serves_with_the_wheel_alone(python: Path, tmp_path: Path) -> None:
    (tmp_path / "protos").mkdir()
    (tmp_path / "protos" / "echo.proto").write_text(TYPED_PROTO)
    for folder in ("gen", "plugin"):
        (tmp_path / folder).mkdir()
    command = str(python.with_name("relayrpc"))
    run(command, "codegen", "protos/echo.proto", "--out", "gen", cwd=tmp_path)
    include = run(command, "protos", cwd=tmp_path).strip()
    plugin = f"--plugin=protoc-gen-relayrpc={python.with_name('protoc-gen-relayrpc')}"
    protoc = (str(python), "-m", "grpc_tools.protoc", "-Iprotos", f"-I{include}", plugin)
    run(*protoc, "--relayrpc_out=plugin", "echo.proto", cwd=tmp_path)
    module = "echo_relay.py"
    assert (tmp_path / "plugin" / module).read_text() == (tmp_path / "gen" / module).read_text()
    with running_hub(python=python, cwd=tmp_path) as hub:
        url = f"relay://127.0.0.1:{hub.grpc_port}/contoso"
        printed = run(str(python), "-c", TYPED_CALL, url, cwd=tmp_path / "gen")
    assert printed.splitlines() == ["async hi", "['1', '2', '3']", "blocking hi", "['4', '5', '6']"]
