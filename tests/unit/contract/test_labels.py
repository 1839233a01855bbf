"""
Labels of hosts. Goal: what the wire allows is taken to its bounds and refused beyond them.

Method: a case on both sides of each bound.
"""

from __future__ import annotations

from typing import Any

import pytest

from relayrpc.contract.labels import label_fault, parse_labels, require_labels
from relayrpc.errors import ConfigError


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"region": "eu"},
        {"a": ""},
        {"x" * 128: "y" * 128},
        {f"n{number}": "" for number in range(32)},
        {"example.org/team_1": "a:b@c/d+e~f-g.h_i"},
    ],
)
def test_labels_are_taken(labels: dict[str, str]) -> None:
    assert label_fault(labels) == ""
    assert require_labels(labels) == labels


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({f"n{number}": "" for number in range(33)}, "33 labels, over 32"),
        ({"": "eu"}, "'' is no name of a label"),
        ({"x" * 129: ""}, "at most 128 bytes"),
        ({"a b": ""}, "'a b' is no name"),
        ({"a=b": ""}, "is no name"),
        ({"a": "x" * 129}, "is no value of a label"),
        ({"a": "b,c"}, "'b,c' is no value"),
        ({"a": "\n"}, "is no value"),
        ({"a\n": ""}, "is no name"),
        ({"\N{LATIN SMALL LETTER E WITH ACUTE}": ""}, "is no name"),
    ],
)
def test_labels_are_refused_with_the_reason(labels: dict[str, str], says: str) -> None:
    assert says in label_fault(labels)
    assert len(label_fault(labels)) < 250
    with pytest.raises(ConfigError, match="label"):
        require_labels(labels)


@pytest.mark.parametrize("labels", [{"a": 1}, {1: "a"}, {"a": None}])
def test_labels_that_are_no_texts_are_refused(labels: Any) -> None:
    with pytest.raises(ConfigError, match="labels are texts"):
        require_labels(labels)


def test_labels_are_read_from_a_command_line() -> None:
    assert parse_labels(["region=eu", "tier=", "a=b/c"]) == {
        "region": "eu", "tier": "", "a": "b/c"
    }  # fmt: skip
    assert parse_labels([]) == {}


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["region"], "'region' is no label: write name=value"),
        (["=eu"], "is no name of a label"),
        (["a=1", "a=2"], "'a' is given twice"),
        (["a=b=c"], "'b=c' is no value"),
    ],
)
def test_what_is_no_label_on_a_command_line_is_named(texts: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_labels(texts)
