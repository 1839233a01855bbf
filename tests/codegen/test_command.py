"""
`relayrpc codegen`. Goal: one command gives everything that a program needs, and each mistake one
sentence. Method: the command in a folder of a user's protos.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from relayrpc.cli.main import main
from tests.support.generated import PROTOS


ORDERS = """\
syntax = "proto3";

package orders;

import "common/money.proto";
import "google/rpc/status.proto";
import "relayrpc/v1/contract.proto";

service Orders {
  option (relayrpc.v1.contract) = { address: "contoso/orders" };
  rpc Place(common.Money) returns (google.rpc.Status);
}
"""
MONEY = 'syntax = "proto3";\npackage common;\nmessage Money { int64 units = 1; }\n'
PROGRAM = """\
import orders_pb2_grpc, orders_relay
from common import money_pb2
print(orders_relay.OrdersContract.options.address, money_pb2.Money(units=7).units)
"""


@pytest.fixture
def user(tmp_path: Path) -> Path:
    (tmp_path / "protos" / "common").mkdir(parents=True)
    (tmp_path / "protos" / "orders.proto").write_text(ORDERS)
    (tmp_path / "protos" / "common" / "money.proto").write_text(MONEY)
    return tmp_path


@dataclass
class Done:
    """How the command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def relayrpc(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """The command line, run in this process."""

    def run(*arguments: str, cwd: Path) -> Done:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["relayrpc", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert isinstance(code, int)
        return Done(code, *capsys.readouterr())

    return run


def test_everything_is_generated_with_what_is_imported_and_not_installed(
    user: Path, relayrpc: Callable[..., Done]
) -> None:
    done = relayrpc("codegen", "protos/orders.proto", "--out", "gen", cwd=user)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "gen/common/money_pb2.py",
        "gen/common/money_pb2.pyi",
        "gen/orders_pb2.py",
        "gen/orders_pb2.pyi",
        "gen/orders_pb2_grpc.py",
        "gen/orders_relay.py",
    ]
    assert sorted(
        str(path.relative_to(user)) for path in (user / "gen").rglob("*") if path.is_file()
    ) == done.stdout.splitlines()
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=user / "gen", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.stdout == "contoso/orders 7\n", ran.stderr


def test_what_is_generated_is_what_the_plugin_writes(
    tmp_path: Path, relayrpc: Callable[..., Done]
) -> None:
    out = str(tmp_path / "gen")
    done = relayrpc("codegen", "cases/shapes.proto", "-I", ".", "--out", out, cwd=PROTOS)
    assert done.returncode == 0, done.stderr
    golden = PROTOS / "cases" / "shapes_relay.py"
    assert (tmp_path / "gen" / "cases" / golden.name).read_bytes() == golden.read_bytes()


def test_code_that_no_python_can_read_is_left_out(
    tmp_path: Path, relayrpc: Callable[..., Done]
) -> None:
    """Written by protoc, for messages and methods whose names are keywords."""
    out = str(tmp_path / "gen")
    done = relayrpc("codegen", "cases/keywords.proto", "--out", out, cwd=PROTOS)
    assert done.returncode == 0
    assert [Path(line).name for line in done.stdout.splitlines()] == [
        "keywords_pb2.py",
        "keywords_relay.py",
    ]
    assert [line.split(": ")[1].split("/")[-1] for line in done.stderr.splitlines()] == [
        "keywords_pb2.pyi is left out",
        "keywords_pb2_grpc.py is left out",
    ]
    (out_module,) = (tmp_path / "gen").glob("*_relay.py")
    ran = subprocess.run([sys.executable, "-c", f"import {out_module.stem}"], cwd=out, check=False)
    assert ran.returncode == 0


def test_import_that_is_missing_is_said_with_file_line_and_hint(
    user: Path, relayrpc: Callable[..., Done]
) -> None:
    (user / "protos" / "common" / "money.proto").unlink()
    done = relayrpc("codegen", "protos/orders.proto", "--out", "gen", cwd=user)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        'relayrpc: protos/orders.proto:5: imports "common/money.proto", which is not below protos; '
        "name the folder that its imports begin from with -I\n"
    )
    assert not (user / "gen").exists()


def test_import_of_an_import_that_is_missing_is_said_too(
    user: Path, relayrpc: Callable[..., Done]
) -> None:
    money = user / "protos" / "common" / "money.proto"
    money.write_text(MONEY.replace("package", 'import "gone.proto";\npackage'))
    done = relayrpc("codegen", "protos/orders.proto", "--out", "gen", cwd=user)
    assert done.stderr.startswith('relayrpc: protos/common/money.proto:2: imports "gone.proto"')
    assert len(done.stderr.splitlines()) == 1


def test_mistakes_in_protos_are_said_where_they_are(
    user: Path, relayrpc: Callable[..., Done]
) -> None:
    orders = user / "protos" / "orders.proto"
    orders.write_text(ORDERS.replace("address: ", "session: NOT_ALLOWED callback: "))
    contradiction = relayrpc("codegen", "protos/orders.proto", "--out", "gen", cwd=user)
    assert contradiction.returncode == 2
    assert contradiction.stderr.startswith("relayrpc: protos/orders.proto:10: orders.Orders: ")
    orders.write_text(ORDERS.replace("Status);", "Status"))
    syntax = relayrpc("codegen", "protos/orders.proto", "--out", "gen", cwd=user)
    assert syntax.returncode == 2
    assert syntax.stderr.startswith('relayrpc: protos/orders.proto:12:1: Expected ")"')
    assert not (user / "gen").exists()


def test_many_mistakes_are_cut_short(
    user: Path, relayrpc: Callable[..., Done]
) -> None:
    methods = "\n".join(f"rpc M{number}(Gone) returns (Gone);" for number in range(20))
    (user / "a.proto").write_text(f'syntax = "proto3"; service S {{ {methods} }}')
    done = relayrpc("codegen", "a.proto", "--out", "gen", cwd=user)
    assert len(done.stderr.splitlines()) == 11
    assert done.stderr.splitlines()[-1] == "relayrpc: and 30 more"


def test_folder_that_cannot_be_written_is_said(
    user: Path, relayrpc: Callable[..., Done]
) -> None:
    (user / "gen").write_text("a file")
    done = relayrpc("codegen", "protos/orders.proto", "--out", "gen", cwd=user)
    assert done.returncode == 1
    assert done.stderr.startswith("relayrpc: ")
    assert "gen" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_command_says_which_extra_it_needs(user: Path) -> None:
    code = (
        "import sys; sys.modules['grpc_tools'] = None; from relayrpc.cli.main import main; "
        "sys.argv = ['relayrpc', 'codegen', 'protos/orders.proto', '--out', 'gen']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=user, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        "relayrpc: compiling .proto files needs grpc_tools, which comes with the extra [codegen]: "
        "pip install 'relayrpc[codegen]'\n"
    )
