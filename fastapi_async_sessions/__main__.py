"""Runs the command line: ``python -m fastapi_async_sessions``."""

import sys

from .errors import ConfigurationError


def main() -> None:
    """Run the command line, or say what to install for it."""
    try:
        from .cli import run
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    run()


if __name__ == "__main__":
    main()
