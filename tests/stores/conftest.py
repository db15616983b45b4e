"""The tests of stores run on more than one server."""

import pytest

from tests.servers import releases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Once on each release of the server that a test uses."""
    releases.parametrize(metafunc)
