"""Everything that is generated from `protos/`, once for all tests of this folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.support.generated import Cases, generate_cases


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cases]:
    """What is generated, with its folder on the path that imports are found on."""
    folder = tmp_path_factory.mktemp("generated")
    generate_cases(folder, "python", "pyi", "grpc_python", "relayrpc")
    sys.path.append(str(folder))
    yield Cases(folder)
    sys.path.remove(str(folder))
