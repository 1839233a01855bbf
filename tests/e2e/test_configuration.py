"""
A hub told what to do by file, environment and flags. Goal: an operator is told the place of each
mistake, what is in effect, and what the system does not allow.

Method: real processes, each with a directory and an environment of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from relayrpc.hub.capacity import size_text, worst_case
from relayrpc.limits import DEFAULT_LIMITS, Limits
from tests.e2e.processes import running_hub


pytestmark = pytest.mark.e2e

PORTS = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")


def relayrpc(
    folder: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`, with no settings in the environment but these."""
    inherited = {k: v for k, v in os.environ.items() if not k.upper().startswith("RELAYRPC_")}
    return subprocess.run(
        [sys.executable, "-m", "relayrpc", *arguments],
        cwd=folder,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refused(folder: Path, *flags: str, **environment: str) -> list[str]:
    """Return what a hub says that does not start, a line each."""
    done = relayrpc(folder, "hub", *PORTS, *flags, **environment)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    lines = done.stderr.splitlines()
    assert all(line.startswith("relayrpc: ") for line in lines), done.stderr
    return [line.removeprefix("relayrpc: ") for line in lines]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "[limits]\n\nlink_max = 5\n",
            "relayrpc.toml:3: limits.link_max is no setting; did you mean limits.links_max?",
        ),
        (
            'metrics = "perhaps"\n',
            "relayrpc.toml:1: metrics is 'perhaps', and must be true or false",
        ),
        (
            "[limits]\nmessage_bytes_max = '300 MiB'\n",
            "relayrpc.toml:2: limits.message_bytes_max is 314_572_800, and must be at most "
            "assembly_bytes_max, which is 268_435_456",
        ),
        ("grpc: 1\n", "relayrpc.toml:1:5: no TOML: expected '=' after a key in a key/value pair"),
        ("#" * 70_000, "relayrpc.toml: more than 65536 bytes; is it the right file?"),
    ],
)
def test_mistake_in_a_file_names_file_line_and_key(
    text: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "relayrpc.toml").write_text(text, encoding="utf-8")
    assert refused(tmp_path) == [sentence]


def test_missing_file_is_named(tmp_path: Path) -> None:
    sentence = "missing.toml: cannot be read: No such file or directory"
    assert refused(tmp_path, "--config", "missing.toml") == [sentence]
    assert refused(tmp_path, RELAYRPC_CONFIG="missing.toml") == [sentence]


def test_all_mistakes_are_told_at_once_wherever_they_were_made(tmp_path: Path) -> None:
    text = "log_level = 'loud'\n[limits]\ncalls_open_max = 10_000\n"
    (tmp_path / "hub.toml").write_text(text, encoding="utf-8")
    told = refused(
        tmp_path, "--config", "hub.toml", "--keepalive", "0", "--limit", "nonsense=1",
        RELAYRPC_HTPP="127.0.0.1:0", RELAYRPC_LIMITS__LINKS_MAX="0",
    )  # fmt: skip
    assert told == [
        "hub.toml:1: log_level is 'loud', and must be debug or info or warning or error",
        "--limit nonsense: limits.nonsense is no setting",
        "RELAYRPC_HTPP: htpp is no setting; did you mean http?",
        "--keepalive: limits.keepalive_interval_s is 0.0, and must be at least 0.1",
        "RELAYRPC_LIMITS__LINKS_MAX: limits.links_max is 0, and must be above 0",
        "hub.toml:3: limits.link_budget_bytes is 33_554_432, and must be at least 4 KiB for each "
        "of calls_open_max, which is 40_960_000",
    ]


def test_certificate_that_cannot_be_used_is_traced_to_its_line(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    text = "\ntls_cert = 'no.pem'\ntls_key = 'no.key'\n"
    (tmp_path / "etc" / "hub.toml").write_text(text, encoding="utf-8")
    (sentence,) = refused(tmp_path, "--config", "etc/hub.toml", "--check-config")
    assert sentence == (
        "etc/hub.toml:2: cannot use the certificate etc/no.pem with key etc/no.key: "
        "No such file or directory"
    )


def test_check_shows_what_is_in_effect_and_from_where(tmp_path: Path) -> None:
    """Each of the four places gives one setting, and all that are above it give others."""
    file = "[limits]\nlinks_max = 3\nqueue_calls_max = 3\nwatchers_max = 3\n"
    (tmp_path / "relayrpc.toml").write_text(file, encoding="utf-8")
    done = relayrpc(
        tmp_path, "hub", "--check-config", "--limit", "links_max=1", "--log-format", "json",
        RELAYRPC_LIMITS__LINKS_MAX="2", RELAYRPC_LIMITS__QUEUE_CALLS_MAX="2",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(
        (line.partition("#")[0].strip(), line.partition("#")[2].strip())
        for line in done.stdout.splitlines()
    )
    assert lines["links_max = 1"] == "--limit links_max"
    assert lines["queue_calls_max = 2"] == "RELAYRPC_LIMITS__QUEUE_CALLS_MAX"
    assert lines["watchers_max = 3"] == "relayrpc.toml:4"
    assert lines["takeovers_max = 2"] == "default"
    assert lines['log_format = "json"'] == "--log-format"
    assert "What the limits add up to" in done.stdout
    (tmp_path / "again.toml").write_text(done.stdout, encoding="utf-8")
    again = relayrpc(tmp_path, "hub", "--check-config", "--config", "again.toml")
    assert again.returncode == 0, again.stderr
    assert tomllib.loads(again.stdout) == tomllib.loads(done.stdout)
    assert len(tomllib.loads(done.stdout)["limits"]) == len(Limits.__dataclass_fields__)


def limited(soft: int, hard: int) -> tuple[str, ...]:
    """Return a command that runs another one with so many file descriptors allowed."""
    return ("bash", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "bash")


def log_of_hub(
    folder: Path, *flags: str, prefix: tuple[str, ...]
) -> dict[str, dict[str, object]]:
    """Run a hub until it has listed its links; returns its log, by message."""
    path = folder / "log"
    with path.open("w", encoding="utf-8") as log, running_hub(
        "--log-format", "json", *flags, cwd=folder, stderr=log, prefix=prefix
    ) as hub:
        listed = relayrpc(folder, "ls", f"relay://127.0.0.1:{hub.grpc_port}", "--parts")
        assert (listed.returncode, listed.stderr) == (0, "")
        hub.process.terminate()
        assert hub.wait() == 0
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {record["message"]: record for record in records}


def test_hub_raises_its_limit_of_descriptors_and_says_so(tmp_path: Path) -> None:
    log = log_of_hub(tmp_path, "--limit", "links_max=100", prefix=limited(256, 2048))
    raised = log["descriptors raised"]
    assert (raised["descriptors"], raised["descriptors_before"]) == (1188, 256)
    assert "links limited" not in log
    sums = log["limits add up"]
    assert (sums["links_max"], sums["descriptors"]) == (100, 1188)
    worst = worst_case(replace(DEFAULT_LIMITS, links_max=100))
    assert sums["memory"] == size_text(worst.total_bytes)
    assert sums["link_memory"] == size_text(worst.link_bytes)


def test_hub_takes_fewer_links_where_there_are_too_few_descriptors_and_says_so(
    tmp_path: Path,
) -> None:
    log = log_of_hub(tmp_path, prefix=limited(300, 300))
    lowered = log["links limited"]
    assert (lowered["level"], lowered["descriptors"]) == ("WARNING", 300)
    assert (lowered["links_max"], lowered["handshakes_open_max"]) == (177, 59)
    assert log["limits add up"]["links_max"] == 177
    assert "descriptors raised" not in log


def test_hub_does_not_start_with_descriptors_for_no_link(tmp_path: Path) -> None:
    command = (*limited(67, 67), sys.executable, "-m", "relayrpc", "hub", *PORTS)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "relayrpc: 67 file descriptors are too few for a hub: allow it at least 68 (ulimit -n)\n"
    )


def test_start_says_on_standard_error_what_the_limits_add_up_to(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w", encoding="utf-8") as stderr, running_hub(stderr=stderr):
        pass
    (line,) = [each for each in log.read_text().splitlines() if "limits add up" in each]
    assert " INFO relayrpc.hub: limits add up memory=" in line


def test_only_the_hub_takes_the_time_to_load_pydantic() -> None:
    code = "import sys, relayrpc, relayrpc.aio, relayrpc.cli.main; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
