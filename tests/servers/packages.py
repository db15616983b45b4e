"""Programs that no wheel ships: they come from a package of Debian, which ``.ci/run`` installs.

A test that needs one is marked ``@pytest.mark.debian("pgbouncer")``. Where the package is missing
it is skipped, and in CI it fails.
"""

import os
import shutil
from pathlib import Path

import pytest

# not the environment's own directory: wheels put programs of the same names there
_PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("debian"):
        for package in mark.args:
            require(package)


def find(package: str) -> Path | None:
    """Where the program is that has the name of its package."""
    found = shutil.which(package, path=_PLACES)
    return Path(found) if found else None


def require(package: str) -> Path:
    """The same; where it is missing the test ends here."""
    if found := find(package):
        return found
    missing = f"Debian's {package} is not installed: apt-get install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)
