"""segfast: Segmenter models in production. Export and run a plain ViT for semantic segmentation."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoints.load import load_model as load_model
    from .create import create_model as create_model
    from .engine import Engine as Engine
    from .errors import BadData as BadData
    from .errors import BadImage as BadImage
    from .errors import BadModel as BadModel
    from .errors import BadOption as BadOption
    from .errors import CannotWrite as CannotWrite
    from .errors import DownloadFailed as DownloadFailed
    from .errors import EngineMismatch as EngineMismatch
    from .errors import ExportFailed as ExportFailed
    from .errors import MissingRuntime as MissingRuntime
    from .errors import NotSupported as NotSupported
    from .errors import SegfastError as SegfastError
    from .errors import TrainingFailed as TrainingFailed
    from .errors import UnknownModel as UnknownModel
    from .model import Segmenter as Segmenter
    from .segmentation import Segmentation as Segmentation
    from .variants import list_models as list_models

__version__ = "0.1.0"

# Where each public name lives. They are imported on first use, so that `import segfast` costs
# nothing and an Engine on an `.onnx` file never needs PyTorch.
_HOMES = {
    "Engine": "engine",
    "Segmentation": "segmentation",
    "Segmenter": "model",
    "create_model": "create",
    "list_models": "variants",
    "load_model": "checkpoints.load",
    "BadData": "errors",
    "BadImage": "errors",
    "BadModel": "errors",
    "BadOption": "errors",
    "CannotWrite": "errors",
    "DownloadFailed": "errors",
    "EngineMismatch": "errors",
    "ExportFailed": "errors",
    "MissingRuntime": "errors",
    "NotSupported": "errors",
    "SegfastError": "errors",
    "TrainingFailed": "errors",
    "UnknownModel": "errors",
}
__all__ = ["__version__", *_HOMES]

# A bare checkout keeps `kernels`, `export` and their like beside this folder, an installation inside it.
_checkout = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if os.path.isfile(os.path.join(_checkout, "setup.py")):
    __path__.append(_checkout)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
