"""Examples, each loaded as a new module."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

EXAMPLES = Path(__file__).parents[1] / "examples"


def load_example(name: str, **environment: str) -> ModuleType:
    """Run an example, a file or a package of one file, with these environment variables."""
    path = EXAMPLES / name
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    spec = importlib.util.spec_from_file_location(f"{name}_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with patch.dict(os.environ, environment):
        spec.loader.exec_module(module)
    return module
