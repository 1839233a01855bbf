"""
Where a key stands in a file. Goal: each name in an error leads to its line, and a file that is
none is told in a sentence. Method: small files.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from relayrpc.cli.toml_file import read_toml
from relayrpc.errors import ConfigError


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "relayrpc.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


TEXT = """\
# grpc = "in a comment"
grpc = "127.0.0.1:1"
  http="127.0.0.1:2"

limits.links_max = 3
[ hub ]  # a table
"quoted key" = 1
inline = { a = 1, b = 2 }
[a."b".c]
d = [
  1,
]
"e/f~g".h = 1
[[many]]
x-y = 1
[[many]]
x-y = 2
"""


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("grpc", 2),
        ("http", 3),
        ("limits.links_max", 5),
        ("hub", 6),
        ("hub.quoted key", 7),
        ("hub.inline.b", 8),
        ("a.b.c.d", 10),
        ("a.b.c.e/f~g.h", 13),
        ("many", 14),
        ("many.0", 14),
        ("many.0.x-y", 15),
        ("many.1.x-y", 17),
        ("hub.elsewhere", 6),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_name_leads_to_its_line(name: str, line: int, newline: str, tmp_path: Path) -> None:
    path = write(tmp_path, TEXT.replace("\n", newline))
    assert read_toml(path).where(name) == f"{path}:{line}"


def test_name_that_stands_nowhere_leads_to_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, TEXT)
    assert read_toml(path).where("nowhere") == str(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('grpc = "a"\nhttp = \n', ":2:8: no TOML: invalid value"),
        ("[limits\n", ":1:8: no TOML: expected ']' at the end of a table declaration"),
        ('\ngrpc = "a', ":2: no TOML: unterminated string"),
        ("a = 1\na = 2\n", ":2:6: no TOML: cannot overwrite a value"),
        (b"grpc = '\xff'", ": no TOML: it is not UTF-8"),
        ("#" * 65_537, ": more than 65536 bytes; is it the right file?"),
    ],
)
def test_what_is_no_toml_is_told_in_a_sentence(
    text: str | bytes, sentence: str, tmp_path: Path
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    assert str(caught.value) == f"{path}{sentence}"


@pytest.mark.parametrize(
    ("name", "reason"), [("missing.toml", "No such file or directory"), (".", "Is a directory")]
)
def test_file_that_cannot_be_read_is_named(name: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    assert str(caught.value) == f"{path}: cannot be read: {reason}"


def test_largest_file_is_read_quickly_however_many_keys_it_has(tmp_path: Path) -> None:
    text = "\n".join(f"k{number:04}=1" for number in range(7_280))
    assert read_toml(write(tmp_path, text)).where("k7279").endswith(":7280")
