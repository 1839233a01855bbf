"""Where imports begin. Goal: found out where nobody says it, and said where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayrpc.errors import ConfigError
from relayrpc_codegen.includes import Includes, find_root, installed_folders


def write(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(('syntax = "proto3";', *lines)))
    return path


@pytest.mark.parametrize(
    ("name", "lines", "root"),
    [
        ("a/b/c.proto", [], "a/b"),
        ("a/b/c.proto", ['import "other.proto";'], "a"),
        ("a/b/c.proto", ['import "a/other.proto";'], "."),
        ("a/b/c.proto", ['import public "a/other.proto";'], "."),
        ("a/b/c.proto", ["import 'a/other.proto';"], "."),
        ("a/b/c.proto", ['// import "a/other.proto";', '/* import "a/other.proto"; */'], "a/b"),
        ("a/b/c.proto", ['string s = "// "; import "a/other.proto";'], "."),
        ("a/b/c.proto", ["package b;"], "a"),
        ("a/b/c.proto", ["package a.b;"], "."),
        ("a/b/c.proto", ["package x.b;"], "a/b"),
        ("a/b/c.proto", ["package a.b.v1;"], "a/b"),
        ("a/b/c.proto", ["package a.b;", 'import "other.proto";'], "a"),
        ("a/b/c.proto", ['import "gone.proto";'], "a/b"),
        ("a/b/c.proto", ['import "relayrpc/v1/contract.proto";'], "a/b"),
        ("a/b/c.proto", ['import "google/protobuf/any.proto";'], "a/b"),
        ("a/b/c.proto", ['import "google/rpc/status.proto";'], "a/b"),
        ("c.proto", ["package a;"], "."),
    ],
)
def test_root_is_found_by_package_and_imports(
    name: str, lines: list[str], root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a/other.proto")
    write(tmp_path, name, *lines)
    monkeypatch.chdir(tmp_path)
    assert find_root(Path(name), installed_folders()) == Path(root)
    assert find_root(Path(name).absolute(), installed_folders()) == (tmp_path / root)


def test_files_are_called_as_others_import_them(tmp_path: Path) -> None:
    c = write(tmp_path, "a/b/c.proto")
    assert Includes([str(c)], []).names == ["c.proto"]
    assert Includes([str(c)], [str(tmp_path)]).names == ["a/b/c.proto"]
    assert Includes([str(c)], [f"{tmp_path}/a/../a"]).names == ["b/c.proto"]


def test_files_of_installed_packages_are_not_the_users(tmp_path: Path) -> None:
    a = write(tmp_path, "a.proto", 'import "b.proto";')
    write(tmp_path, "b.proto")
    includes = Includes([str(a)], [])
    assert includes.is_own("a.proto")
    assert includes.is_own("b.proto")
    for name in ("relayrpc/v1/hub.proto", "google/protobuf/any.proto", "google/rpc/code.proto"):
        assert not includes.is_own(name)


def test_mistakes_are_said(tmp_path: Path) -> None:
    a = write(tmp_path, "one/a.proto")
    write(tmp_path, "two/a.proto")
    with pytest.raises(ConfigError, match=r"gone.proto: no such file"):
        Includes(["gone.proto"], [])
    with pytest.raises(ConfigError, match=r"-I gone: no such folder"):
        Includes([str(a)], ["gone"])
    with pytest.raises(ConfigError, match=r"one/a.proto is below none of the folders"):
        Includes([str(a)], [str(tmp_path / "two")])
    with pytest.raises(ConfigError, match=r"one/a.proto is hidden by .*two/a.proto"):
        Includes([str(a)], [str(tmp_path / "two"), str(tmp_path / "one")])


def test_lines_say_where_a_file_is(tmp_path: Path) -> None:
    a = write(tmp_path, "a.proto")
    assert Includes([str(a)], []).with_paths("a.proto:3: no\nother: x\nplain") == (
        f"{a}:3: no\nother: x\nplain"
    )
