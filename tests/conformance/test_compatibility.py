"""
Two versions of a contract are compatible exactly where buf says so, but for the relay's own rules.

Method: the pairs of compatibility/table.py, with what buf said of them in verdicts.json; buf is
asked again whether it still does, and about pairs made at random.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

import grpc_tools
import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from relayrpc.contract.compatibility import Level, compare
from relayrpc.contract.compatibility_rules import RULES
from relayrpc.contract.descriptors import DescriptorSet, checked
from relayrpc.contract.fingerprint import normalise
from relayrpc.limits import DEFAULT_LIMITS
from tests.conformance.compatibility import record
from tests.conformance.compatibility.table import PAIRS, Pair
from tests.support.contract_versions import change, draw_contract, render
from tests.support.contracts import make_set


VERDICTS: dict[str, dict[str, list[str]]] = json.loads(record.PATH.read_text(encoding="utf-8"))
RULES_OF_THE_RELAY = {"FIELD_NO_NARROWING", "RPC_NO_DELETE", "SERVICE_NO_DELETE"}
Compiled = Mapping[str, tuple[DescriptorSet, DescriptorSet]]


@pytest.fixture(scope="module")
def contracts(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Name of each pair -> its old and its new contract."""
    old = compile_files([pair.old for pair in PAIRS], tmp_path_factory.mktemp("old"))
    new = compile_files([pair.new for pair in PAIRS], tmp_path_factory.mktemp("new"))
    return {pair.name: (contract(pair.old, old), contract(pair.new, new)) for pair in PAIRS}


def compile_files(sides: list[Mapping[str, str]], folder: Path) -> dict[str, bytes]:
    for texts in sides:
        record.write_files(texts, folder)
    made = folder / "set"
    includes = [f"-I{folder}", f"-I{Path(grpc_tools.__file__).with_name('_proto')}"]
    names = [name for texts in sides for name in texts]
    assert not protoc.main(["", *includes, f"--descriptor_set_out={made}", *names])
    files = descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes()).file
    return {file.name: file.SerializeToString() for file in files}


def contract(texts: Mapping[str, str], files: Mapping[str, bytes]) -> DescriptorSet:
    """Return one side of a pair; its root is the last file that has a service."""
    root = [name for name, text in texts.items() if "service " in text][-1]
    return checked(normalise({name: files[name] for name in texts}, root))


def broken(name: str, level: Level, contracts: Compiled) -> set[str]:
    found = compare(*contracts[name], f"{name}.S", level=level, limits=DEFAULT_LIMITS)
    return {difference.rule for difference in found}


def own_rules(pair: Pair, of_buf: set[str], level: Level) -> set[str]:
    """Return which of the relay's own rules a pair is to break."""
    # What buf's rule for types refuses already is not said twice.
    is_refused = f"FIELD_{level.name}_COMPATIBLE_TYPE" in of_buf
    return {pair.relay} - {"", "FIELD_NO_NARROWING" if is_refused else ""}


@pytest.mark.parametrize("level", Level)
def test_rules_are_broken_where_buf_says_so(level: Level, contracts: Compiled) -> None:
    wrong = {}
    for pair in PAIRS:
        of_buf = set(VERDICTS[pair.name][level.name])
        expected = of_buf | own_rules(pair, of_buf, level)
        found = broken(pair.name, level, contracts)
        if found != expected:
            wrong[pair.name] = {"expected": expected, "found": found}
    assert not wrong


def test_verdicts_are_those_of_buf() -> None:
    """What is recorded is what the installed buf says, of the pairs that the table makes now."""
    assert record.record() == VERDICTS


def test_rules_are_those_of_buf() -> None:
    by_level = {
        level: {name for name, rule in RULES.items() if level in rule.levels} for level in Level
    }
    of_buf = record.rules_of_buf()
    for level, names in by_level.items():
        assert names - RULES_OF_THE_RELAY == of_buf[level.name]
        assert names >= RULES_OF_THE_RELAY


def test_each_rule_is_broken_by_one_pair_and_nearly_by_another(contracts: Compiled) -> None:
    shown: set[str] = set()
    spared: set[str] = set()
    for pair in PAIRS:
        for level in Level:
            found = broken(pair.name, level, contracts)
            assert not found & pair.near
            shown |= found
        spared |= pair.near
    assert shown == spared == RULES.keys()
    assert len(PAIRS) == len(VERDICTS) >= 150


@pytest.mark.parametrize(
    "count", [300, pytest.param(6_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_random_versions_break_the_rules_that_buf_names(count: int) -> None:
    files = {}
    for seed in range(count):
        rng = random.Random(seed)
        plan = draw_contract(rng)
        files[f"p{seed}"] = render(plan, f"p{seed}"), render(change(rng, plan), f"p{seed}")
    said = record.ask_buf_about_files(*zip(*files.values(), strict=True))
    rules = record.rules_of_buf()
    made = {
        name: (checked(make_set(old)), checked(make_set(new))) for name, (old, new) in files.items()
    }
    wrong = {}
    for name in files:
        for level in Level:
            expected = said[f"{name}.proto"] & rules[level.name]
            found = broken(name, level, made) - RULES_OF_THE_RELAY
            if found != expected:
                wrong[name, level] = {"expected": expected, "found": found}
    assert not wrong
