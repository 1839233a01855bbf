"""
Shell completion. Goal: commands, flags and values are offered as they are typed.

Method: the installed command asked as each shell's script asks it, and bash with that script.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from relayrpc.cli.main import app
from relayrpc.limits import Limits


pytestmark = pytest.mark.e2e

COMMAND = str(Path(sys.executable).with_name("relayrpc"))


def run(*command: str, **environment: str) -> str:
    return subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


def offered(*words: str) -> list[str]:
    """What bash is told may stand in the place of the last word."""
    told = run(
        COMMAND,
        _RELAYRPC_COMPLETE="complete_bash",
        COMP_WORDS=" ".join(("relayrpc", *words)),
        COMP_CWORD=str(len(words)),
    )
    return told.splitlines()


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        (("",), list(typer.main.get_command(app).commands)),
        (("v",), ["version"]),
        (("hub", "--check"), ["--check-config"]),
        (("hub", "--log-format", ""), ["text", "json"]),
        (("hub", "--log-level", "w"), ["warning"]),
        (("hub", "--limit", "queue_"), ["queue_calls_max=", "queue_bytes_max="]),
        (("hub", "--limit", ""), [f"{name}=" for name in Limits.__dataclass_fields__]),
    ],
)
def test_what_is_typed_is_completed(words: tuple[str, ...], offers: list[str]) -> None:
    assert offered(*words) == offers


def test_zsh_and_fish_are_answered_too() -> None:
    typed = "relayrpc hub --log-level w"
    zsh = run(COMMAND, _RELAYRPC_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=typed)
    fish = run(
        COMMAND,
        _RELAYRPC_COMPLETE="complete_fish",
        _TYPER_COMPLETE_ARGS=typed,
        _TYPER_COMPLETE_FISH_ACTION="get-args",
        _TYPER_COMPLETE_WORD_TO_COMPLETE="w",
    )
    assert "warning" in zsh
    assert fish.split() == ["warning"]


def test_bash_completes_with_the_script_that_is_shown() -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    script = (
        f"eval \"$('{COMMAND}' --show-completion bash)\"; "
        "complete -p relayrpc; "
        "COMP_WORDS=(relayrpc hub --log-format ''); COMP_CWORD=3; "
        f"_relayrpc_completion '{COMMAND}'; echo \"${{COMPREPLY[@]}}\""
    )
    known, replies = run(bash, "-c", script).splitlines()
    assert "_relayrpc_completion" in known
    assert replies == "text json"
