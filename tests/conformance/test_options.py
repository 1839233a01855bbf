"""
Contract options as they stand in protos. Goal: what a user writes is what is read, and what
contradicts is refused with its place and a reason. Method: compile the protos in `options/`; a
comment above a line says what is refused there.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from relayrpc.contract.contradictions import OptionsCheck
from relayrpc.contract.descriptors import load_pool
from relayrpc.contract.options import (
    ContractOptions,
    OperationOptions,
    SessionMode,
    read_options,
)
from relayrpc_codegen.compiling import compile_protos
from relayrpc_codegen.includes import Includes


FOLDER = Path(__file__).resolve().parent / "options"
PROTOS = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.proto"))
_MARK = "// refused: "


def expected(name: str) -> list[tuple[int, str]]:
    """Read a proto's comments: line and sentence of all that is refused."""
    found: list[tuple[int, str]] = []
    sentences: list[str] = []
    for number, line in enumerate((FOLDER / name).read_text(encoding="utf-8").splitlines(), 1):
        if line.strip().startswith(_MARK):
            sentences.append(line.strip().removeprefix(_MARK))
        else:
            found += [(number, sentence) for sentence in sentences]
            sentences = []
    return found


def compiled(name: str) -> list[FileDescriptorProto]:
    return list(FileDescriptorSet.FromString(compiled_set(name)).file)


@functools.cache
def compiled_set(name: str) -> bytes:
    return compile_protos(Includes([str(FOLDER / name)], [str(FOLDER)])).SerializeToString()


def check(name: str, *, with_places: bool = True) -> OptionsCheck:
    files = compiled(name)
    pool = load_pool({file.name: file.SerializeToString() for file in files})
    if not with_places:
        files[-1].ClearField("source_code_info")
    checking = OptionsCheck(pool.FindFileByName(name), files[-1])
    for _ in checking.steps():
        pass
    return checking


@pytest.mark.parametrize("name", PROTOS)
def test_contradictions_are_refused_with_line_and_reason(name: str) -> None:
    checking = check(name)
    found = [(each.line, f"{each.element}: {each.reason}") for each in checking.found]
    assert sorted(found) == sorted(expected(name))
    assert all(str(each).startswith(f"{name}:{each.line}: ") for each in checking.found)


@pytest.mark.parametrize("name", PROTOS)
def test_without_places_the_same_is_refused(name: str) -> None:
    checking = check(name, with_places=False)
    found = [str(each) for each in checking.found]
    assert sorted(found) == sorted(f"{name}: {reason}" for _, reason in expected(name))


def test_every_contradicting_proto_is_refused() -> None:
    refused = {name for name in PROTOS if expected(name)}
    assert refused == {name for name in PROTOS if name.startswith("refused/")} - {
        "refused/not_here.proto"
    }


def test_options_mean_what_a_user_writes() -> None:
    contracts = check("accepted/orders.proto").contracts
    assert contracts["samples.Orders"] == ContractOptions(
        service="samples.Orders",
        address="contoso/orders",
        session=SessionMode.REQUIRED,
        callback="samples.OrderEvents",
        operations={
            "Open": OperationOptions(),
            "Place": OperationOptions(faults=("samples.OutOfStock",)),
            "Note": OperationOptions(one_way=True),
            "Close": OperationOptions(terminating=True),
        },
    )


def test_methods_have_their_contracts_options_and_their_own() -> None:
    stock = check("accepted/orders.proto").contracts["samples.Stock"]
    assert stock.address == "samples.Stock"
    assert stock.operations["Begin"] == OperationOptions(
        default_timeout_s=10.0, maximum_timeout_s=60.0, scopes=("stock.read",)
    )
    assert stock.operations["Take"] == OperationOptions(
        initiating=False,
        faults=("samples.OutOfStock", "google.protobuf.Empty"),
        default_timeout_s=0.5,
        maximum_timeout_s=1.0,
        scopes=("stock.read", "stock.write", "stock.take"),
        sticky_key="customer.id",
    )


def test_service_without_options_has_the_defaults() -> None:
    plain = check("accepted/bounds.proto").contracts["samples.Plain"]
    assert plain == ContractOptions(
        service="samples.Plain", address="samples.Plain", operations={"Do": OperationOptions()}
    )


def test_service_with_a_contradiction_has_no_options() -> None:
    assert check("refused/session.proto").contracts == {}
    assert "samples.Crossed" not in check("refused/timeouts.proto").contracts


def test_options_are_read_from_any_pool_as_they_are_when_checked() -> None:
    files = compiled("accepted/orders.proto")
    pool = load_pool({file.name: file.SerializeToString() for file in files})
    read = {
        name: read_options(pool.FindServiceByName(name))
        for name in ("samples.OrderEvents", "samples.Orders", "samples.Stock")
    }
    assert read == check("accepted/orders.proto").contracts
