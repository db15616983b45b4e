"""Finds the session providers of an application, for tools that run outside of it."""

import sys
import tomllib
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any

from fastapi import FastAPI

from ..errors import ConfigurationError
from .provider import SessionProvider
from .wiring import applications

Provider = SessionProvider[Any]

_DEFAULT_FILES = ("main.py", "app.py", "api.py", "app/main.py", "app/app.py", "app/api.py")


def find_provider(target: str | None = None, name: str | None = None) -> Provider:
    """Find a provider by its import path, or by that of an application that uses it.

    Args:
        target: ``module:name`` of an application or a provider, or the path of a file with one.
            Without it, the search is that of the FastAPI CLI: ``entrypoint`` in ``[tool.fastapi]``
            of ``pyproject.toml``, or else ``main.py``, ``app.py`` or ``api.py``, here or in
            ``app/``.
        name: The name of the provider, if there are several.

    Raises:
        ConfigurationError: nothing or more than one was found, or the module cannot be imported.
    """
    target = target or _entrypoint() or _default_file()
    found = {id(each): each for each in _providers(_objects(target))}
    named = [each for each in found.values() if name in (None, each.repository.settings.name)]
    names = ", ".join(sorted(each.repository.settings.name for each in found.values()))
    if len(named) == 1:
        return named[0]
    if not found:
        raise ConfigurationError(
            f"{target} has no SessionProvider, and no application whose routes use one: write "
            "--app package.module:get_session"
        )
    if not named:
        raise ConfigurationError(f"{target} has no provider named {name!r}; it has: {names}")
    raise ConfigurationError(
        f"{target} has several providers ({names}): add --name, or write "
        "--app package.module:get_session"
    )


def _entrypoint() -> str | None:
    path = Path("pyproject.toml")
    if not path.is_file():
        return None
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
        entrypoint: object = settings.get("tool", {}).get("fastapi", {}).get("entrypoint")
    except (tomllib.TOMLDecodeError, AttributeError) as error:
        raise ConfigurationError(f"pyproject.toml: {error}") from None
    return entrypoint if isinstance(entrypoint, str) else None


def _default_file() -> str:
    for path in _DEFAULT_FILES:
        if Path(path).is_file():
            return path
    raise ConfigurationError(
        f"found none of {', '.join(_DEFAULT_FILES)} here, and no entrypoint in [tool.fastapi] "
        "of pyproject.toml: write --app package.module:app"
    )


def _objects(target: str) -> Iterable[Any]:
    """Return the object that a target names, or all objects of the file."""
    module_name, colon, path = target.partition(":")
    if not colon:
        return vars(_import_file(Path(target))).values()
    found: Any = _import(module_name, Path.cwd())
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            raise ConfigurationError(f"{module_name} has no {path}")
        found = getattr(found, attribute)
    return [found]


def _providers(objects: Iterable[Any]) -> Iterable[Provider]:
    """Yield the providers among the objects, and those that the routes of applications use."""
    for each in objects:
        if isinstance(each, SessionProvider):
            yield each
        elif isinstance(each, FastAPI):
            for application in applications(each):
                yield from _providers(used.call for used in application.dependencies())


def _import_file(path: Path) -> ModuleType:
    """Import a file as a module of the packages that contain it."""
    path = path.resolve()
    if not path.is_file():
        raise ConfigurationError(f"{path} is not a file: write --app package.module:app")
    parts = [] if path.stem == "__init__" else [path.stem]
    directory = path.parent
    while (directory / "__init__.py").is_file():
        parts.insert(0, directory.name)
        directory = directory.parent
    return _import(".".join(parts), directory)


def _import(name: str, directory: Path) -> ModuleType:
    sys.path.insert(0, str(directory))
    try:
        return import_module(name)
    except Exception as error:
        reason = _described(error, directory)
    # outside of the except block: the frames of that error may hold the application's secrets
    raise ConfigurationError(f"{name} cannot be imported: {reason}")


def _described(error: Exception, directory: Path) -> str:
    """Describe an error and where the application raised it, without text that may quote a secret.

    The text is included only if it is a name: of a module, or of a missing environment variable.
    """
    named = isinstance(error, ConfigurationError | ImportError | KeyError)
    what = f"{type(error).__name__}: {error}" if named else type(error).__name__
    frames = extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(directory)]
    if not ours:
        return what
    return f"{what} ({ours[-1].filename}, line {ours[-1].lineno})"
