"""Libraries that one can do without: absent or broken, they are said so, and nothing else of theirs reaches the caller."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from types import ModuleType

from segfast.dependencies import installation
from segfast.errors import MissingRuntime


def need(extra: str, *modules: str) -> None:
    """See that modules are installed.

    Args:
        extra: of segfast, which brings them.

    Raises:
        MissingRuntime: one is not, or PyTorch is broken.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if not missing and "torch" in modules:
        load("torch", "PyTorch", "torch")  # installed is not working
    if missing:
        raise MissingRuntime(f"this needs {', '.join(missing)}; {installation.install(extra)}")


def load(module: str, title: str, package: str, fault: str = "is broken") -> ModuleType:
    """Import a library, whose import may raise whatever it likes.

    Args:
        title: its name for people.
        package: what to give `pip install`.
        fault: what to say of it where its import fails.

    Raises:
        MissingRuntime: it is not installed, or broken.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            raise MissingRuntime(f"{title} is not installed; pip install {package}") from None
        raise MissingRuntime(broken(title, package, error, fault)) from error
    except Exception as error:  # of broken binaries, wrong versions, missing system libraries
        raise MissingRuntime(broken(title, package, error, fault)) from error


def broken(title: str, package: str, error: Exception, fault: str = "is broken") -> str:
    """The message about a library that is there and does not work."""
    return f"{title} {fault} ({brief(error)}); pip install --force-reinstall {package}"


def brief(error: BaseException) -> str:
    """The first line of what an exception says, else its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
