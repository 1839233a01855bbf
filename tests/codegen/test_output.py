"""
What the plugin writes, for protos of every kind. Goal: text that any program can import, any linter
and type checker passes, and that changes on purpose only. Method: everything is generated from
`protos/` anew; what is committed there is held to it by `make drift`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.generated import PROTOS, Cases, generate_cases


GOLDEN = sorted(PROTOS.rglob("*_relay.py"))
# Beside the linter's defaults. Where lines end is the formatter's; and comments with both kinds of
# triple quotes and a backslash fit no raw docstring, and fields of faults are called what they are.
RULES = "A,ASYNC,B,D200,D204,D207,D208,D210,D300,D301,E,F,I,PERF,PIE,PYI,RUF,SIM,UP,W"
EXCEPTIONS = (
    "--ignore=E501",
    "--per-file-ignores=comments_relay.py:D301,faults_relay.py:A002",
)


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_file_with_services_has_a_module_and_no_other(cases: Cases) -> None:
    written = {path.relative_to(cases.folder) for path in cases.folder.rglob("*_relay.py")}
    assert written == {path.relative_to(PROTOS) for path in GOLDEN}
    assert not (PROTOS / "cases" / "messages_only_relay.py").exists()


@pytest.mark.parametrize("implementation", ["upb", "python"])
def test_output_is_the_same_whatever_runs_the_plugin(implementation: str, tmp_path: Path) -> None:
    """Each run has a hash seed of its own, as Python gives it."""
    generate_cases(tmp_path, "relayrpc", PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=implementation)
    for path in GOLDEN:
        written = tmp_path / path.relative_to(PROTOS)
        assert written.read_bytes() == path.read_bytes(), path.name


def test_output_is_what_a_formatter_leaves() -> None:
    run("ruff", "format", "--isolated", "--check", *GOLDEN, cwd=PROTOS)


def test_output_of_usual_names_is_the_same_for_longer_lines() -> None:
    usual = [path for path in GOLDEN if path.name != "long_names_relay.py"]
    run("ruff", "format", "--isolated", "--line-length=100", "--check", *usual, cwd=PROTOS)


def test_output_is_clean_for_a_linter() -> None:
    run("ruff", "check", "--isolated", f"--extend-select={RULES}", *EXCEPTIONS, *GOLDEN, cwd=PROTOS)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_public_names_are_what_the_module_defines(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defined = {
        node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)
    } | {
        node.target.id
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    assert sorted(names) == sorted(name for name in defined if name[0] != "_")


def test_every_module_can_be_imported(cases: Cases) -> None:
    modules = [
        ".".join(path.relative_to(PROTOS).with_suffix("").parts) for path in GOLDEN
    ]
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *modules],
        cwd=cases.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# --- names and comments ---


def test_methods_have_pythons_names_and_call_by_their_own(cases: Cases) -> None:
    service = cases.collisions_relay.ContractContract.descriptor
    names = [name for name in vars(cases.collisions_relay.ContractCaller) if name[0] != "_"]
    assert names == [
        "contract",
        "timeout",
        "metadata",
        "contract_",
        "typed_",
        "float__",
        "float_",
        "bool_",
        "deprecated_",
        "AsyncIterator_",
        "collisions_pb2_",
        "self",
        "request",
        "method__init__",
        "method__private",
        "method_calls",
        "method_unary_unary",
        "object",
        "str",
    ]
    assert len(names) == len(service.methods) + 1


def test_comments_are_the_documentation(cases: Cases) -> None:
    caller = cases.shapes_relay.ParcelsCaller
    assert caller.__doc__ is not None
    assert [line.strip() for line in caller.__doc__.strip().splitlines()] == [
        "Calls cases.shapes.Parcels.",
        "",
        "Keeps parcels.",
        "",
        "A parcel is a name and a weight.",
    ]
    assert "A comment behind a method counts, too." in caller.Weigh.__doc__
    assert " ".join(caller.Take.__doc__.split()) == (
        "Call cases.shapes.Parcels/Take. Take one parcel."
    )
    assert "Take one parcel." in cases.shapes_relay.ParcelsServicerSync.Take.__doc__


def test_comments_of_any_content_stay_what_they_are(cases: Cases) -> None:
    caller = cases.comments_relay.CommentsCaller
    said = {
        name: inner.__doc__.strip().splitlines()[-1].strip()
        for name, inner in vars(caller).items()
        if name[0] != "_" and name != "contract"
    }
    assert said["Quotes"] == 'Has """ in it.'
    assert said["Backslashes"] == r"Has a \ backslash, \n and a \" quote, and ends with" + " \\"
    assert said["Both"] == 'Has \\ and """.'
    assert said["All"] == "Has \\, \"\"\" and '''."
    assert said["Quoted"] == '"Quoted"'
    assert said["Empty"] == "Call cases.comments.Comments/Empty."
    assert said["Detached"] == "Call cases.comments.Comments/Detached."
    assert "日本語, a bell , what turns text round , and {braces} {0} %s" in said["Characters"]


# --- contracts ---


def test_deprecated_methods_and_services_say_so(cases: Cases) -> None:
    class Channel:
        def __getattr__(self, shape: str) -> object:
            return lambda *arguments, **options: lambda *arguments, **options: "called"

    module = cases.shapes_relay
    with pytest.warns(DeprecationWarning, match="cases.shapes.Parcels/Accept is deprecated"):
        assert module.ParcelsCaller(Channel()).Accept(None) == "called"
    with pytest.warns(DeprecationWarning, match="cases.shapes.Shelves is deprecated"):
        module.ShelvesCallerSync(Channel())
