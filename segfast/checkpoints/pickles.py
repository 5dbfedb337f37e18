"""PyTorch pickles, read without executing anything in them."""

from __future__ import annotations

import pickle
import re
import threading
import zipfile
from pathlib import Path
from typing import Any

from segfast.dependencies.imports import brief
from segfast.errors import BadModel

# MMSegmentation 1.x writes its training log into checkpoints, as objects of its own classes and of
# NumPy. They are read as inert placeholders; anything else that is no tensor or plain value is refused.
INERT_PACKAGES = ("mmengine", "mmcv", "mmseg", "numpy")

# torch keeps the classes that may be read in one table of the process.
_LOCK = threading.Lock()


class Inert:
    """Stands for an object of a foreign class: takes whatever the pickle gives and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Inert:  # noqa: D102
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def load_pickle(path: Path) -> dict[str, Any]:
    """The top dictionary of a `.pth` file, tensors on the CPU.

    Raises:
        BadModel: it is truncated, no PyTorch file, or holds anything but tensors, plain values and
            the logs of MMSegmentation; no code in it runs.
    """
    import torch
    from torch.serialization import safe_globals

    try:
        placeholders: list[Any] = [(type(name, (Inert,), {}), name) for name in _foreign_names(path)]
        with _LOCK, safe_globals(placeholders):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except BadModel:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it calls {found[1]} while loading" if found else "it is no plain PyTorch file"
        raise BadModel(f"{path} was refused: {reason}; {_STRIP}") from None
    except Exception as error:  # the reader meets truncated and foreign files with nearly any exception
        raise BadModel(
            f"{path} is no whole PyTorch checkpoint ({brief(error)[:160]}); copy or download it again"
        ) from None
    if not isinstance(content, dict):
        raise BadModel(f"{path} holds a {type(content).__name__}, not a dictionary of tensors; pass a checkpoint")
    return content


_STRIP = (
    "only tensors and plain values are read. If you trust it, strip it where it was made: "
    "torch.save({k: ckpt[k] for k in ('meta', 'model', 'state_dict') if k in ckpt}, 'stripped.pth')"
)


def _foreign_names(path: Path) -> list[str]:
    """Names of classes and functions in the pickle beyond tensors, all from packages that may be inert.

    Raises:
        BadModel: one is from elsewhere.
    """
    from torch.serialization import get_unsafe_globals_in_checkpoint

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise BadModel(f"{path} is a compressed archive, which PyTorch does not write; save it with torch.save")
    try:
        names = get_unsafe_globals_in_checkpoint(str(path))
    except (RuntimeError, ValueError, pickle.UnpicklingError, EOFError, OSError):
        return []  # no zip archive: an older format, or no checkpoint, which torch.load then says
    refused = [name for name in names if name.split(".")[0] not in INERT_PACKAGES]
    if refused:
        raise BadModel(f"{path} was refused: it calls {', '.join(refused[:3])} while loading; {_STRIP}")
    return names
