"""A test that needs a program which is missing is skipped here, and fails in CI."""

import pytest

from . import packages


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip), ("true", pytest.fail)])
def test_a_missing_package_is_named(monkeypatch, tmp_path, ci, outcome):
    """The reason is the line that installs it."""
    monkeypatch.setattr(packages, "_PLACES", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome.Exception, match="apt-get install pgbouncer"):
        packages.require("pgbouncer")


def test_programs_of_an_environment_do_not_count(monkeypatch, tmp_path):
    """A wheel's ``redis-server`` is not Debian's, which speaks TLS."""
    (tmp_path / "redis-server").write_text("#!/bin/sh\n")
    (tmp_path / "redis-server").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert packages.find("redis-server") != tmp_path / "redis-server"
