"""
Descriptor sets from anybody. Goal: each is refused with a ContractError, or accepted, and what is
accepted can be compared with anything; of one in a file, a user is told in words. Method: damaged
and made-up sets, many of them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from relayrpc.agent import contract as agent_contract
from relayrpc.cli.contract_files import proto_texts, read_contract
from relayrpc.cli.schema import load_method
from relayrpc.contract.compatibility import Level, compare
from relayrpc.contract.descriptors import DescriptorSet, checked
from relayrpc.errors import ConfigError, ContractError, RelayError
from relayrpc.limits import DEFAULT_LIMITS
from tests.support.contracts import set_pool
from tests.support.damaged_sets import damaged_set, whole_set


# The last is a set that lacks fields it must have, and otherwise can be read.
SEEDS = (*range(150), 631)


@pytest.mark.parametrize(
    "count", [400, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_sets_are_refused_or_accepted_and_never_anything_else(count: int) -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(count):
        rng = random.Random(seed)
        whole = whole_set(rng)
        outcomes[outcome(checked(whole), damaged_set(rng, whole))] += 1
    # Either happens often enough that both were tried.
    assert min(outcomes["refused"], outcomes["compatible"], outcomes["differs"]) > count / 50


def outcome(whole: DescriptorSet, data: bytes) -> str:
    try:
        found = checked(data)
    except ContractError:
        return "refused"
    pool = set_pool(found.data)
    for service in found.services:
        assert pool.FindServiceByName(service).full_name == service
        assert found.with_imports(found.file_of_symbol(service) or "")
    differences = 0
    for (old, new), level in zip(((whole, found), (found, whole)), Level, strict=True):
        for service in (*old.services, "x.Missing")[:2]:
            listed = compare(old, new, service, level=level, limits=DEFAULT_LIMITS)
            assert all(len(str(each)) < 2048 for each in listed)
            differences += len(listed)
    return "differs" if differences else "compatible"


def read_for_call(file: Path) -> None:
    load_method("p.S/Do", descriptor_set=str(file))


def read_for_diff(file: Path) -> None:
    read_contract("p.S", "", (), (), str(file))


def read_for_expose(file: Path) -> None:
    agent_contract.read_contract(str(file)).make_pool()


def read_for_pull(file: Path) -> None:
    proto_texts(file.read_bytes())


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (read_for_call, ConfigError),
        (read_for_diff, ConfigError),
        (read_for_expose, ConfigError),
        (read_for_pull, RelayError),
    ],
)
def test_set_that_a_command_reads_is_used_or_refused_in_words(
    read: Callable[[Path], None], error: type[RelayError], tmp_path: Path
) -> None:
    file = tmp_path / "set"
    outcomes: Counter[str] = Counter()
    for seed in SEEDS:
        rng = random.Random(seed)
        file.write_bytes(damaged_set(rng, whole_set(rng)))
        try:
            read(file)
        except error:
            outcomes["refused"] += 1
        else:
            outcomes["used"] += 1
    assert outcomes["refused"]
    assert outcomes["used"]
