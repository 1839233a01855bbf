"""Text as formatters leave it. Goal: it breaks where it must, and nowhere else."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayrpc_codegen.layout import COLUMNS, docstring, fitting, narrowed


def test_what_fits_stays_on_one_line() -> None:
    assert fitting("f(", ["a", "b"], ")", indent=4) == ["    f(a, b)"]


def test_what_is_too_long_has_a_part_a_line_and_a_last_comma() -> None:
    part = "a" * 50
    assert fitting("f(", [part, part], ")", indent=0) == ["f(", f"    {part},", f"    {part},", ")"]


def test_brackets_without_content_are_never_broken() -> None:
    head = "f" * 100 + "("
    assert fitting(head, [], ")", indent=0) == [f"{head})"]


def test_line_that_is_too_long_is_broken_in_its_brackets() -> None:
    name = "a" * 80
    assert narrowed(f"x: L[{name}] = None", ",", indent=4) == [
        "    x: L[",
        f"        {name}",
        "    ] = None,",
    ]
    assert narrowed(f"x: D[k, {name}]", ":", indent=0)[1:3] == ["    k,", f"    {name},"]


def test_line_that_is_too_long_is_broken_before_its_last_alternative() -> None:
    name = "a" * 80
    assert narrowed(f"x: {name} | None = None", ",", indent=4) == [
        f"    x: {name}",
        "    | None = None,",
    ]
    assert narrowed(f"x: L[{name} | str] | None = None", ",", indent=0) == [
        "x: L[",
        f"    {name} | str",
        "]",
        "| None = None,",
    ]


def test_line_without_brackets_stays_what_it_is() -> None:
    assert narrowed("a" * 100, ",", indent=0) == ["a" * 100 + ","]


def test_summary_stands_alone_where_there_is_no_comment() -> None:
    assert docstring("Does it.", indent=4) == ['    """Does it."""']


def test_long_summary_is_wrapped() -> None:
    summary = "word " * 30
    lines = docstring(summary.strip(), indent=0)
    assert lines[0] == lines[-1] == '"""'
    assert all(len(line) <= COLUMNS for line in lines)


TEXT = st.text(
    st.one_of(st.sampled_from("\"'\\ab \n\t\r\x0b\x1c\u2028\x07\u202e"), st.characters())
)


@given(comment=TEXT, indent=st.sampled_from((0, 4, 8)))
def test_docstring_of_any_comment_is_one_string_that_holds_its_words(
    comment: str, indent: int
) -> None:
    lines = docstring("Does it.", comment, indent=indent)
    assert not any(line != line.rstrip() for line in lines)
    text = "\n".join(line[indent:] for line in lines)
    read = ast.literal_eval(text)
    printable = "".join(
        each if each.isprintable() else " " if each.isspace() else "" for each in comment
    )
    assert "".join(read.split()) == "".join(f"Does it. {printable}".split())


@pytest.mark.parametrize("quotes", ['"""', "'''", "\"\"\"'''\\"])
def test_quotes_of_docstrings_do_not_end_them(quotes: str) -> None:
    assert quotes in ast.literal_eval("\n".join(docstring("Does it.", f"a {quotes} b", indent=0)))
