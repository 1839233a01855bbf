"""
Settings from flags, environment, file and defaults. Goal: the first place that has one wins, each
mistake is told with where it was made, and all of them at once.

Method: files and variables of a test's own, in this process; real processes are
tests/e2e/test_configuration.py's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from relayrpc.cli.check_config import effective_config
from relayrpc.cli.config import LoadedSettings, load_settings
from relayrpc.cli.flags import Flag, complete_limit, limit_flags
from relayrpc.cli.settings import SETTINGS
from relayrpc.hub.addresses import AddressEntry, Compatibility
from relayrpc.hub.config import HubConfig
from relayrpc.limits import DEFAULT_LIMITS, KIB, MIB, Limits


@pytest.fixture(autouse=True)
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with no file, and an environment with no settings."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith("RELAYRPC_"):
            monkeypatch.delenv(name)


def load(
    file: str | None = None, flags: Mapping[str, Flag] | None = None, *, name: str = "relayrpc.toml"
) -> LoadedSettings:
    """Load with `file` as the text of a file."""
    path = None
    if file is not None:
        path = Path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(file, encoding="utf-8")
    return load_settings(flags or {}, file=path)


def problems(file: str | None = None, flags: Mapping[str, Flag] | None = None) -> list[str]:
    return load(file, flags).problems


# --- what is taken ---


def test_nothing_set_gives_the_defaults() -> None:
    loaded = load()
    assert loaded.config == HubConfig()
    assert (loaded.log_format, loaded.log_level) == ("text", "info")
    assert not loaded.problems
    assert not loaded.origins


def test_every_field_of_a_hub_and_of_its_limits_is_a_setting() -> None:
    own = {field.name for field in fields(HubConfig)} - {"addresses", "limits"}
    limits = {f"limits.{field.name}" for field in fields(Limits)}
    assert set(SETTINGS) == own | limits | {"log_format", "log_level"}


EACH = [
    ("grpc", "127.0.0.1:1", '"127.0.0.1:1"', "127.0.0.1:1"),
    ("http", "localhost:2", '"localhost:2"', "localhost:2"),
    ("insecure_listen", True, "true", "true"),
    ("http_public", "wss://x", '"wss://x"', "wss://x"),
    ("metrics", False, "false", "0"),
    ("store", "/var/hub.db", '"/var/hub.db"', "/var/hub.db"),
    ("log_calls", True, "true", "yes"),
    ("log_format", "json", '"json"', "json"),
    ("log_level", "debug", '"debug"', "debug"),
    *(
        (f"limits.{field.name}", value, f"{value}", f"{value}")
        for field in fields(Limits)
        if (value := getattr(DEFAULT_LIMITS, field.name)) is not None
    ),
]


@pytest.mark.parametrize(("name", "value", "in_toml", "in_environment"), EACH)
def test_every_setting_is_taken_from_every_place(
    name: str,
    value: object,
    in_toml: str,
    in_environment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = name.removeprefix("limits.")
    text = f"[limits]\n{key} = {in_toml}" if key != name else f"\n{key} = {in_toml}"
    from_file = load(text)
    assert (from_file.value(name), from_file.problems) == (value, [])
    assert from_file.origins == {name: "relayrpc.toml:2"}
    Path("relayrpc.toml").unlink()

    from_flag = load(flags={name: Flag("--flag", value)})
    assert (from_flag.value(name), from_flag.problems) == (value, [])
    assert from_flag.origins == {name: "--flag"}

    variable = f"RELAYRPC_{name.replace('.', '__').upper()}"
    monkeypatch.setenv(variable, in_environment)
    from_environment = load()
    assert (from_environment.value(name), from_environment.problems) == (value, [])
    assert from_environment.origins == {name: variable}


def test_flag_wins_over_environment_over_file_over_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = "[limits]\nlinks_max = 3\nqueue_calls_max = 3\nwatchers_max = 3"
    monkeypatch.setenv("RELAYRPC_LIMITS__LINKS_MAX", "2")
    monkeypatch.setenv("RELAYRPC_LIMITS__QUEUE_CALLS_MAX", "2")
    loaded = load(file, limit_flags(["links_max=1"]))
    limits = loaded.config.limits
    assert (limits.links_max, limits.queue_calls_max, limits.watchers_max) == (1, 2, 3)
    assert limits.calls_open_max == DEFAULT_LIMITS.calls_open_max
    assert loaded.origins == {
        "limits.links_max": "--limit links_max",
        "limits.queue_calls_max": "RELAYRPC_LIMITS__QUEUE_CALLS_MAX",
        "limits.watchers_max": "relayrpc.toml:4",
    }


def test_mistake_that_is_overridden_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYRPC_GRPC", "127.0.0.1:1")
    assert not problems("grpc = 5")


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1_048_576", MIB),
        ('"1048576"', MIB),
        ('"1 MiB"', MIB),
        ('"1024KiB"', MIB),
        ('"1.5 MiB"', MIB + 512 * KIB),
    ],
)
def test_size_may_have_a_unit(text: str, size_bytes: int) -> None:
    loaded = load(f"[limits]\nqueue_bytes_max = {text}")
    assert (loaded.config.limits.queue_bytes_max, loaded.problems) == (size_bytes, [])


def test_paths_in_a_file_are_relative_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYRPC_TLS_KEY", "here.key")
    loaded = load('tls_cert = "tls/a.pem"\ntls_key = "tls/a.key"', name="etc/hub.toml")
    assert loaded.config.tls_cert == str(Path("etc/tls/a.pem"))
    assert loaded.config.tls_key == "here.key"
    assert load('tls_cert = "/etc/a.pem"').config.tls_cert == "/etc/a.pem"
    assert load('store = "hub.db"', name="etc/hub.toml").config.store == str(Path("etc/hub.db"))


def test_file_of_the_working_directory_is_read_when_no_other_is_named() -> None:
    Path("relayrpc.toml").write_text("metrics = false", encoding="utf-8")
    Path("other.toml").write_text("log_calls = true", encoding="utf-8")
    assert load_settings({}, file=None).origins == {"metrics": "relayrpc.toml:1"}
    assert load_settings({}, file=Path("other.toml")).origins == {"log_calls": "other.toml:1"}


@pytest.mark.parametrize(
    "variable",
    [
        "RELAYRPC_SERVICE_HOST",
        "RELAYRPC_SERVICE_PORT_GRPC",
        "RELAYRPC_PORT",
        "RELAYRPC_PORT_7350_TCP_ADDR",
        "RELAYRPC_HUB_SERVICE_HOST",
        "RELAYRPC_HUB_PORT_7351_TCP",
        "RELAYRPC_CONFIG",
    ],
)
def test_variables_of_kubernetes_and_of_the_command_are_passed_over(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "x")
    assert not problems()


def test_empty_variable_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYRPC_TLS_CERT", "")
    monkeypatch.setenv("RELAYRPC_NONSENSE", "")
    loaded = load()
    assert (loaded.config.tls_cert, loaded.problems, loaded.origins) == (None, [], {})


def test_addresses_are_taken_from_a_file() -> None:
    loaded = load(
        '[addresses."contoso/orders"]\ncompatibility = "wire"\nvalidate = true\n'
        '[addresses.""]\n"compatibility" = "none"\n[addresses."a.b"]\n'
    )
    assert loaded.problems == []
    assert loaded.config.addresses == {
        "contoso/orders": AddressEntry(compatibility=Compatibility.WIRE, validate=True),
        "": AddressEntry(compatibility=Compatibility.NONE),
        "a.b": AddressEntry(),
    }
    assert loaded.origins["addresses.contoso/orders.validate"] == "relayrpc.toml:3"
    assert loaded.origins["addresses..compatibility"] == "relayrpc.toml:5"


# --- what is not ---


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("htpp = 1", ":1: htpp is no setting; did you mean http?"),
        ("links_max = 1", ":1: links_max is no setting; did you mean limits.links_max?"),
        (
            "[limits]\nlink-max = 1",
            ":2: limits.link-max is no setting; did you mean limits.links_max?",
        ),
        (
            "[limits]\nLOG_LEVEL = 1",
            ":2: limits.LOG_LEVEL is no setting; did you mean log_level?",
        ),
        ("\n[hub]\ngrpc = 1", ":2: hub is no setting"),
        ("grpc = 7350", ":1: grpc is 7350, and must be text, in quotes"),
        ("tls_cert = 1", ":1: tls_cert is 1, and must be text, in quotes"),
        ("metrics = 2", ":1: metrics is 2, and must be true or false"),
        ('log_format = "xml"', ":1: log_format is 'xml', and must be text or json"),
        (
            "limits = 5",
            ":1: limits is 5, and must be a section: [limits] in the file, "
            "RELAYRPC_LIMITS__LINKS_MAX in the environment",
        ),
        (
            "[limits]\nlinks_max = true",
            ":2: limits.links_max is True, and must be a whole number",
        ),
        (
            "[limits]\nlinks_max = 1.5",
            ":2: limits.links_max is 1.5, and must be a whole number",
        ),
        (
            "[limits]\nlinks_max = [1]",
            ":2: limits.links_max is [1], and must be a whole number",
        ),
        (
            '[limits]\nqueue_bytes_max = "64 parsecs"',
            ":2: limits.queue_bytes_max is '64 parsecs', and must be a size, as in 65536 "
            'or "64 KiB"',
        ),
        (
            "[limits]\nqueue_bytes_max = 0.5",
            ":2: limits.queue_bytes_max is 0.5, and must be a size, as in 65536 "
            'or "64 KiB"',
        ),
        (
            "[limits]\nack_after_s = false",
            ":2: limits.ack_after_s is False, and must be a number of seconds",
        ),
        (
            "[limits]\nack_after_s = nan",
            ":2: limits.ack_after_s is nan, and must be a finite number",
        ),
        ("[limits]\nlinks_max = 0", ":2: limits.links_max is 0, and must be above 0"),
        (
            "[limits]\nlinks_max = { a = 1 }",
            ":2: limits.links_max is {'a': 1}, and must be a whole number",
        ),
        (
            f"grpc = [{'1,' * 100}]",
            ":1: grpc is [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,..., and "
            "must be text, in quotes",
        ),
        (
            'addresses = "contoso"',
            ':1: addresses is no table: write [addresses."contoso/orders"], once for each address',
        ),
        (
            "[addresses]\nvalidate = true",
            ':2: addresses.validate is no table: write [addresses."contoso/orders"], once for each '
            "address",
        ),
        (
            '[addresses]\n"a/b".validates = true',
            ":2: addresses.a/b.validates is no setting; did you mean validate?",
        ),
        (
            '[addresses."a/b"]\nvalidate = 1',
            ":2: addresses.a/b.validate is 1, and must be true or false",
        ),
        (
            '[addresses."a/b"]\n\ncompatibility = "json"',
            ":3: addresses.a/b.compatibility is 'json', and must be wire_json or wire or none",
        ),
        (
            '\n[addresses."/a"]',
            ":2: addresses./a cannot be used: address '/a' is no path: segments of letters, digits "
            "and ._~- joined by /, at most 512 bytes",
        ),
        (
            'addresses = { "$hub" = { validate = true } }',
            ":1: addresses.$hub cannot be used: address '$hub' is reserved for the hub",
        ),
        ('tls_key = "k"', ":1: tls_key needs tls_cert (--tls-cert) beside it"),
    ],
)
def test_mistake_in_a_file_is_told_with_file_line_and_key(text: str, sentence: str) -> None:
    assert problems(text) == [f"relayrpc.toml{sentence}"]


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("RELAYRPC_HTPP", "x", "htpp is no setting; did you mean http?"),
        ("relayrpc_links_max", "1", "links_max is no setting; did you mean limits.links_max?"),
        (
            "RELAYRPC_LIMITS__LINK_MAX",
            "1",
            "limits.link_max is no setting; did you mean limits.links_max?",
        ),
        ("RELAYRPC_GRPC__HOST", "1", "grpc.host is no setting"),
        (
            "RELAYRPC_LIMITS__LINKS_MAX__X",
            "1",
            "limits.links_max is {'x': '1'}, and must be a whole number",
        ),
        (
            "RELAYRPC_LIMITS",
            '{"links_max": 5}',
            "limits is '{\"links_max\": 5}', and must be a section: [limits] in the file, "
            "RELAYRPC_LIMITS__LINKS_MAX in the environment",
        ),
        (
            "RELAYRPC_LIMITS__LINKS_MAX",
            "many",
            "limits.links_max is 'many', and must be a whole number",
        ),
        ("RELAYRPC_METRICS", "perhaps", "metrics is 'perhaps', and must be true or false"),
        (
            "RELAYRPC_LOG_LEVEL",
            "loud",
            "log_level is 'loud', and must be debug or info or warning or error",
        ),
    ],
)
def test_mistake_in_the_environment_is_told_with_its_variable(
    variable: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert problems() == [f"{variable}: {sentence}"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("links_max=-1", "links_max: limits.links_max is -1, and must be above 0"),
        ("links_max", "links_max: limits.links_max is '', and must be a whole number"),
        ("foo=1", "foo: limits.foo is no setting"),
        ("=", ": limits. is no setting"),
    ],
)
def test_mistake_in_a_limit_flag_is_told_with_it(given: str, sentence: str) -> None:
    assert problems(flags=limit_flags([given])) == [f"--limit {sentence}"]


def test_of_two_that_contradict_each_other_the_one_that_was_set_is_named() -> None:
    """The budget is the default; the calls are what somebody has to look at."""
    (problem,) = problems("[limits]\ncalls_open_max = 10_000")
    assert problem.startswith("relayrpc.toml:2: limits.link_budget_bytes is 33_554_432, and must ")


def test_all_mistakes_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYRPC_NONSENSE", "1")
    monkeypatch.setenv("RELAYRPC_LIMITS__QUEUE_CALLS_MAX", "few")
    file = 'http = "nowhere"\nlog_level = 1\n[limits]\nlinks_max = 0\ncalls_open_max = 10_000'
    told = problems(file, {"tls_key": Flag("--tls-key", "k")})
    assert [sentence.split(" ")[:2] for sentence in told] == [
        ["relayrpc.toml:2:", "log_level"],
        ["RELAYRPC_LIMITS__QUEUE_CALLS_MAX:", "limits.queue_calls_max"],
        ["RELAYRPC_NONSENSE:", "nonsense"],
        ["relayrpc.toml:1:", "http"],
        ["--tls-key:", "tls_key"],
        ["relayrpc.toml:4:", "limits.links_max"],
        ["relayrpc.toml:5:", "limits.link_budget_bytes"],
    ]


# --- what is shown ---


def test_effective_configuration_says_the_same_when_it_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RELAYRPC_LIMITS__QUEUE_BYTES_MAX", "3")
    monkeypatch.setenv("RELAYRPC_LIMITS__JOURNAL_BYTES_MAX", "0")
    file = 'log_format = "json"\nhttp_public = "wss://q\\"ö"\n[limits]\nmessage_bytes_max = "3 KiB"'
    file += '\n[addresses."a/b.c"]\ncompatibility = "wire"\n[addresses.""]\nvalidate = true'
    loaded = load(file, {"metrics": Flag("--x", False), "tls_key": Flag("--tls-key", "k")})
    text = effective_config(loaded, loaded.config.limits, None)
    monkeypatch.delenv("RELAYRPC_LIMITS__QUEUE_BYTES_MAX")
    monkeypatch.delenv("RELAYRPC_LIMITS__JOURNAL_BYTES_MAX")
    again = load(text, name="again.toml")
    assert again.config == loaded.config
    assert (again.log_format, again.log_level) == (loaded.log_format, loaded.log_level)
    for line in (
        'grpc = "127.0.0.1:7350"                     # default',
        "metrics = false                             # --x",
        'log_format = "json"                         # relayrpc.toml:1',
        'message_bytes_max = "3 KiB"                 # relayrpc.toml:4',
        "queue_bytes_max = 3                         # RELAYRPC_LIMITS__QUEUE_BYTES_MAX",
        "# tls_cert is not set",
        '[addresses."a/b.c"]',
        'compatibility = "wire"                      # relayrpc.toml:6',
    ):
        assert line in text.splitlines()


def test_limit_flag_is_completed_by_the_names_of_limits() -> None:
    assert complete_limit("queue_") == ["queue_calls_max=", "queue_bytes_max="]
    assert len(complete_limit("")) == len(fields(Limits))
    assert complete_limit("zz") == []
