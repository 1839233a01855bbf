"""Names in Python. Goal: as protobuf's own generator has them, and never one that cannot be."""

from __future__ import annotations

import keyword

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayrpc.errors import ContractError
from relayrpc_codegen.names import (
    aliases,
    can_be_imported,
    fault_names,
    messages_module,
    module_path,
    rename,
    require_names,
)


@pytest.mark.parametrize(
    ("proto", "module", "path"),
    [
        ("orders.proto", "orders_pb2", "orders_relay.py"),
        ("a/b-c/d-e.proto", "a.b_c.d_e_pb2", "a/b_c/d_e_relay.py"),
        ("a.b/c.proto", "a.b.c_pb2", "a/b/c_relay.py"),
        ("no_suffix", "no_suffix_pb2", "no_suffix_relay.py"),
    ],
)
def test_modules_are_those_of_protobufs_generator(proto: str, module: str, path: str) -> None:
    assert messages_module(proto) == module
    assert module_path(proto) == path


@pytest.mark.parametrize("module", ["a.class.b_pb2", "1st.a_pb2", "a b_pb2", "a..b_pb2"])
def test_module_that_no_statement_can_name(module: str) -> None:
    assert not can_be_imported(module)


def test_modules_are_called_by_their_last_part_where_that_is_one_modules() -> None:
    assert aliases(["a.money_pb2", "b.money_pb2", "c.shop_pb2", "1st_pb2"]) == {
        "1st_pb2": "_1st_pb2",
        "a.money_pb2": "_a_money_pb2",
        "b.money_pb2": "_b_money_pb2",
        "c.shop_pb2": "shop_pb2",
    }


def test_modules_whose_parts_are_the_same_are_told_apart() -> None:
    found = aliases(["a.b_c.m_pb2", "a_b.c.m_pb2"])
    assert sorted(found.values()) == ["_a_b_c_m_pb2", "_a_b_c_m_pb2_"]


def test_name_that_python_takes_stays_what_it_is() -> None:
    assert rename(["Place", "import_", "match"], {"typed"}) == {
        "Place": "Place",
        "import_": "import_",
        "match": "match",
    }


def test_names_that_python_does_not_take_get_an_underscore_more_than_any_other() -> None:
    assert rename(["import", "import_", "typed", "None"], {"typed"}) == {
        "import_": "import_",
        "import": "import__",
        "typed": "typed_",
        "None": "None_",
    }


def test_private_names_become_public() -> None:
    assert rename(["__init__", "_calls", "_1", "_"], ()) == {
        "__init__": "method__init__",
        "_calls": "method_calls",
        "_1": "method_1",
        "_": "method_",
    }


def test_faults_are_named_by_their_messages() -> None:
    messages = {"a.Gone": "Gone", "a.Order.Shut": "Order.Shut", "a.LateFault": "LateFault"}
    assert fault_names({**messages, "a.lower": "lower"}) == {
        "a.Gone": "GoneFault",
        "a.Order.Shut": "OrderShutFault",
        "a.LateFault": "LateFault",
        "a.lower": "LowerFault",
    }


def test_faults_whose_messages_have_one_name_are_told_apart() -> None:
    messages = {"a.b.Gone": "Gone", "a.c.Gone": "Gone", "a.c.GoneFault": "GoneFault"}
    assert list(fault_names(messages).values()) == ["ABGoneFault", "ACGoneFault", "ACGone_Fault"]


@pytest.mark.parametrize(
    "proto",
    ["../a.proto", "/a.proto", "a//b.proto", "a/./b.proto", 'a".proto', "a\\b.proto", "a\nb.proto"],
)
def test_file_that_would_be_written_elsewhere_is_refused(proto: str) -> None:
    with pytest.raises(ContractError, match="nothing can be generated from a file called"):
        require_names(proto, [])


@pytest.mark.parametrize("name", ["a b", 'a"', "a.\n.b", "", "a..b", "1a", "é"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ContractError, match="is no name"):
        require_names("a.proto", [name])


IDENTIFIERS = st.one_of(
    st.sampled_from([*keyword.kwlist, "import_", "typed", "method_a", "_a", "__a"]),
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True),
)


@given(names=st.lists(IDENTIFIERS, unique=True))
def test_no_two_methods_have_one_name(names: list[str]) -> None:
    reserved = {"typed", "float"}
    found = rename(names, reserved)
    assert set(found) == set(names)
    assert len(set(found.values())) == len(names)
    for name in found.values():
        assert name.isidentifier()
        assert not keyword.iskeyword(name)
        assert name[0] != "_"
        assert name not in reserved
