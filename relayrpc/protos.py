"""
Where the relay's own .proto files are, for compilers of those that import them.

Source: pyproject.toml, what is put into the wheel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final


__all__ = ["include_folder"]

_PROBE: Final = Path("relayrpc", "v1", "contract.proto")


def include_folder() -> Path:
    """
    Return the folder that imports begin from: `-I` of protoc.

    Raises:
        FileNotFoundError: The installation lacks them.
    """
    beside = Path(__file__).resolve().parent.parent
    # An installed package has them beside the generated code, a checkout in a folder of their own.
    for folder in (beside, beside / "protos"):
        if (folder / _PROBE).is_file():
            return folder
    raise FileNotFoundError(f"{_PROBE} is not where relayrpc is installed, {beside}")
