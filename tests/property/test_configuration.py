"""
Nothing that stands in a file or in the environment is answered by a traceback. Goal: sentences for
whatever is found. Method: settings and what looks like them, with any value that TOML or an
environment can hold.
"""

from __future__ import annotations

import json
import os
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relayrpc.cli.check_config import effective_config
from relayrpc.cli.config import load_settings
from relayrpc.cli.flags import limit_flags
from relayrpc.cli.settings import SETTINGS
from relayrpc.errors import ConfigError


names = st.sampled_from(SETTINGS) | st.text(string.ascii_letters + "_-.", min_size=1, max_size=20)
texts = st.text(max_size=20)
values = st.one_of(
    st.integers().map(str),
    st.integers(1, 5000).map(lambda digits: "9" * digits),
    st.floats().map(repr),
    st.booleans().map(lambda value: str(value).lower()),
    texts.map(json.dumps),
    st.sampled_from(["{}", "[]", "{a = 1}", "[1, 'a']", "1979-05-27", "07:32:00", "'''\na\n'''"]),
)
files = st.lists(st.tuples(names, values), max_size=6).map(
    lambda pairs: "".join(f"{name} = {value}\n" for name, value in pairs)
)


@given(
    file=files | texts,
    environment=st.dictionaries(
        names.map(lambda name: f"RELAYRPC_{name.replace('.', '__').upper()}"),
        values | st.binary(max_size=20).map(lambda data: os.fsdecode(data.replace(b"\0", b""))),
        max_size=4,
    ),
    limits=st.lists(texts, max_size=2),
)
@example(file="a = " + "[" * 60_000, environment={}, limits=[])
@example(file="limits.links_max = " + "9" * 5000, environment={}, limits=[])
@example(file="limits.links_max = " + "9" * 400, environment={}, limits=[])
@example(file="addresses = [1]", environment={"RELAYRPC_ADDRESSES__A": "1"}, limits=[])
@example(file="[addresses]\na = {validate = [], x = 1}\n'\\n' = 2", environment={}, limits=[])
@example(file="", environment={"RELAYRPC_LIMITS__QUEUE_BYTES_MAX": "9" * 5000}, limits=[])
@example(file="", environment={"RELAYRPC_HTTP_PUBLIC": "wss://\udcff"}, limits=[])
@example(file="[limits]\n'a.b' = 1", environment={"RELAYRPC_LIMITS.X": "1"}, limits=[".", "a.b"])
@example(file="\ufeffgrpc = 1", environment={}, limits=["\udcff=\udcff"])
def test_whatever_is_found_is_taken_or_told(
    tmp_path_factory: pytest.TempPathFactory,
    file: str,
    environment: dict[str, str],
    limits: list[str],
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(file.encode("utf-8", "surrogatepass"))
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        try:
            loaded = load_settings(limit_flags(limits), file=path)
        except ConfigError as error:
            said = [str(error)]
        else:
            said = loaded.problems
            if not said:
                effective_config(loaded, loaded.config.limits, None).encode()
    for sentence in said:
        assert ": " in sentence
        assert sentence.isprintable()
