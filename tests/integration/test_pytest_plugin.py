"""
Goal: a project that names the plugin has the hubs as fixtures, however it uses pytest-asyncio.

Method: pytester makes such a project and runs pytest on it in a process of its own.
"""

from __future__ import annotations

import pytest


pytest_plugins = ["pytester"]

pytestmark = pytest.mark.integration

CONFTEST = """
pytest_plugins = ["relayrpc.testing.pytest_plugin"]
"""
# Messages are bytes, so that a project in a temporary folder needs no generated code.
TESTS = """
import grpc
import pytest
from relayrpc.limits import Limits
from relayrpc.testing import LoopbackHub, MemoryHub

pytestmark = pytest.mark.asyncio
seen = []

async def echo(request, context):
    return request

async def call_through(hub):
    seen.append(hub)
    server = hub.server("contoso/echo")
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_registered_method_handlers("test.Echo", {"Echo": handler})
    await server.start()
    return await hub.channel("contoso/echo").unary_unary("/test.Echo/Echo")(b"hello")

async def test_in_memory(relay_memory_hub):
    assert relay_memory_hub not in seen
    assert isinstance(relay_memory_hub, MemoryHub)
    assert await call_through(relay_memory_hub) == b"hello"

async def test_on_loopback(relay_hub):
    assert relay_hub not in seen
    assert isinstance(relay_hub, LoopbackHub)
    assert await call_through(relay_hub) == b"hello"

async def test_each_test_has_its_own(relay_hub, relay_memory_hub):
    for hub in (relay_hub, relay_memory_hub):
        assert hub not in seen
        assert await call_through(hub) == b"hello"

class TestOtherLimits:
    @pytest.fixture
    def relay_limits(self):
        return Limits(resume_window_s=5.0)

    async def test_limits_are_those_of_the_fixture(self, relay_hub, relay_memory_hub):
        for hub in (relay_hub, relay_memory_hub):
            assert hub.limits.resume_window_s == 5.0
"""


@pytest.mark.parametrize(("mode", "loop_scope"), [("strict", "function"), ("auto", "module")])
def test_fixtures_work_in_a_project(
    pytester: pytest.Pytester, mode: str, loop_scope: str
) -> None:
    pytester.makeini(
        f"""
        [pytest]
        asyncio_mode = {mode}
        asyncio_default_fixture_loop_scope = {loop_scope}
        asyncio_default_test_loop_scope = {loop_scope}
        filterwarnings = error
        """
    )
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=4)


def test_fixtures_are_listed_with_what_they_are(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    result = pytester.runpytest_subprocess("--fixtures")
    result.stdout.fnmatch_lines_random(["relay_hub -- *", "relay_memory_hub -- *"])


def test_nothing_is_imported_where_nobody_names_the_plugin(pytester: pytest.Pytester) -> None:
    """An installed relayrpc costs other projects nothing."""
    pytester.makepyfile("import sys\ndef test_it(): assert 'relayrpc' not in sys.modules")
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_missing_pytest_asyncio_is_named(pytester: pytest.Pytester) -> None:
    """Hiding it stands for an environment without it."""
    pytester.makeconftest("import sys\nsys.modules['pytest_asyncio'] = None\n" + CONFTEST)
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*needs pytest-asyncio: pip install pytest-asyncio"])
    assert "Traceback" not in result.stderr.str()
