"""
Descriptor sets from anybody. Goal: each is refused with a ContractError, or accepted, and what is
accepted can be compared with anything. Method: damaged and made-up sets, many of them.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from relayrpc.contract.compatibility import Level, compare
from relayrpc.contract.descriptors import DescriptorSet
from relayrpc.errors import ContractError
from relayrpc.limits import DEFAULT_LIMITS
from tests.support.contracts import checked, set_pool
from tests.support.damaged_sets import damaged_set, whole_set


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
    found = DescriptorSet(data)
    try:
        for _ in found.check(DEFAULT_LIMITS):
            pass
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
