"""A real browser: the Chromium of the system, driven by Playwright."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

_FLAGS = ["--disable-gpu", "--disable-quic", "--disable-sync"]


@contextmanager
def launch(**options: Any) -> Iterator[Any]:
    """Run a headless Chromium with an empty profile."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("Chromium is missing (apt-get install chromium)")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is missing (pip install playwright)"
    )
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=_FLAGS, **options)
        yield browser
        browser.close()


@contextmanager
def launch_another(chromium: Any, *flags: str) -> Iterator[Any]:
    """Run a second one with these flags; gives a profile of it."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    browser = chromium.browser_type.launch(executable_path=path, args=[*_FLAGS, *flags])
    profile = browser.new_context()
    profile.set_default_timeout(60_000)
    yield profile
    browser.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium with an empty profile."""
    with launch() as browser:
        yield browser


@pytest.fixture
def open_profile(chromium: Any) -> Iterator[Callable[[], Any]]:
    """A function that opens a profile, whose tabs share its cookies."""
    with ExitStack() as stack:

        def open_one() -> Any:
            profile = chromium.new_context()
            profile.set_default_timeout(60_000)
            stack.callback(profile.close)
            return profile

        yield open_one


@pytest.fixture
def profile(open_profile: Callable[[], Any]) -> Any:
    return open_profile()
