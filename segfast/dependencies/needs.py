"""Optional dependencies: said to be missing before any work starts, with the command that installs them."""

from __future__ import annotations

from importlib.util import find_spec

from segfast.dependencies import installation
from segfast.dependencies.imports import load
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
