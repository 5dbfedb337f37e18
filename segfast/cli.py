"""What the commands share: how they end."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable

from segfast.errors import SegfastError


def run(command: Callable[[], int]) -> None:
    """Run a command and exit: 0, its own code, 2 for a user's error (said in one line), 130 for Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: nothing stays half written
    try:
        code = command()
    except SegfastError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """An argument parser for `python -m {module}`, described by the first paragraph of its docstring."""
    text = (description or "").partition("\n\n")
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=text[0],
        epilog=text[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def positive(text: str) -> int:
    """A whole number from 1, as an argument's type."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a whole number from 1")
    return value
