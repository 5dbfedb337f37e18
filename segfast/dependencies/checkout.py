"""A checkout keeps `kernels`, `export`, `train` and `examples` beside `segfast/`, an installation inside it."""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder

# What setup.py packs into `segfast` from beside it.
PACKAGES = ("kernels", "export", "train", "examples")
# An entry of `segfast.__path__` that no other finder takes for a folder: the checkout itself holds much else.
ENTRY = "<beside>"


class Beside:
    """Finds PACKAGES, and nothing else that lies in the folder of an ENTRY: a hook of `sys.path_hooks`.

    A hook, unlike a finder of `sys.meta_path`, is asked by `pkgutil` too.

    Raises:
        ImportError: the path is no such entry, and another hook's.
    """

    def __init__(self, path: str) -> None:
        self._folder, entry = os.path.split(path)
        if entry != ENTRY:
            raise ImportError(f"{path} is no {ENTRY}")

    def find_spec(self, fullname: str, target: object = None) -> ModuleSpec | None:
        """The spec of one of PACKAGES; it is where Python's own finder sees it."""
        name = fullname.rpartition(".")[2]
        return PathFinder.find_spec(fullname, [self._folder]) if name in PACKAGES else None

    def iter_modules(self, prefix: str = "") -> list[tuple[str, bool]]:
        """Names for `pkgutil`, and that they are packages; of a folder without code it knows nothing."""
        homes = {name: os.path.join(self._folder, name, "__init__.py") for name in PACKAGES}
        return [(prefix + name, True) for name, home in homes.items() if os.path.isfile(home)]


def entries() -> list[str]:
    """What `segfast.__path__` has beside its own folder: ENTRY in a checkout, nothing in an installation."""
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if not os.path.isfile(os.path.join(checkout, "setup.py")):
        return []
    if all(getattr(hook, "__module__", None) != __name__ for hook in sys.path_hooks):
        sys.path_hooks.append(Beside)
    return [os.path.join(checkout, ENTRY)]
