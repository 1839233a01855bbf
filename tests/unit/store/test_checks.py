"""What stores say of their arguments: in one sentence, with the numbers. Method: a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from relayrpc.errors import RelayError
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.store.base import Retention
from relayrpc.store.checks import (
    Bounds,
    bounds_of,
    check_expected,
    check_lease,
    check_name,
    check_prefix,
    check_reached,
    check_remembered,
    check_retention,
    check_room,
    check_value,
)


LIMITS = replace(DEFAULT_LIMITS, store_value_bytes_max=10)


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (
            lambda: check_name("a b", LIMITS),
            "'a b' is no key: segments of letters, digits and ._~$- joined by /",
        ),
        (lambda: check_name("k" * 2000, LIMITS), "a key of 2000 bytes, more than 1280"),
        (lambda: check_prefix("a", LIMITS), "'a' is no prefix: it must end with /"),
        (lambda: check_value(bytes(11), LIMITS), "a value of 11 bytes, more than 10"),
        (lambda: check_lease(0.5, LIMITS), "a lease of 0.5 s, and must be from 1 to 3600 s"),
        (
            lambda: check_retention(Retention(records_max=0), LIMITS),
            "records_max is 0, and must be from 1 to 65536",
        ),
        (lambda: check_expected("k", 0, 7), "'k' is at revision 7, not 0"),
        (
            lambda: check_reached("the store", 9, 7),
            "the store has come to 7, not to 9: it is another one, or an older copy",
        ),
        (
            lambda: check_remembered(9, 7),
            "what was deleted between revisions 7 and 9 is forgotten",
        ),
        (lambda: check_room("keys", 4, 3), "the store is full: no more than 3 keys"),
    ],
)
def test_refusal_is_one_sentence_with_numbers(check: Callable[[], None], text: str) -> None:
    with pytest.raises(RelayError) as caught:
        check()
    assert str(caught.value) == text


def test_what_is_at_its_bound_is_taken() -> None:
    check_name("k" * 1280, LIMITS)
    check_name("$hub/a.b_c~d-e/9", LIMITS)
    check_prefix("", LIMITS)
    check_prefix("a/", LIMITS)
    check_value(bytes(10), LIMITS)
    check_lease(1, LIMITS)
    check_expected("k", None, 7)
    check_expected("k", 7, 7)
    check_reached("the store", 7, 7)
    check_remembered(7, 7)
    check_room("keys", 3, 3)


def test_log_is_bounded_by_its_retention_and_never_by_less_than_the_limits() -> None:
    limits = replace(LIMITS, store_log_records_max=5, store_log_bytes_max=6, store_log_age_s_max=7)
    assert bounds_of(Retention(), limits) == Bounds(5, 6, 7)
    assert bounds_of(Retention(records_max=1, bytes_max=2, age_s_max=3), limits) == Bounds(1, 2, 3)
    # They were lowered since it was said.
    assert bounds_of(Retention(records_max=99, bytes_max=99), limits) == Bounds(5, 6, 7)
