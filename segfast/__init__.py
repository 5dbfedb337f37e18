"""segfast: Segmenter models in production. Export and run a plain ViT for semantic segmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .dependencies import checkout

if TYPE_CHECKING:
    from .checkpoints.load import load_model
    from .create import create_model
    from .engine import Engine
    from .errors import (
        BadData,
        BadImage,
        BadModel,
        BadOption,
        CannotWrite,
        DownloadFailed,
        EngineMismatch,
        ExportFailed,
        MissingRuntime,
        NotSupported,
        SegfastError,
        TrainingFailed,
        UnknownModel,
    )
    from .model import Segmenter
    from .segmentation import Segmentation
    from .variants import list_models

__all__ = [
    "BadData",
    "BadImage",
    "BadModel",
    "BadOption",
    "CannotWrite",
    "DownloadFailed",
    "Engine",
    "EngineMismatch",
    "ExportFailed",
    "MissingRuntime",
    "NotSupported",
    "SegfastError",
    "Segmentation",
    "Segmenter",
    "TrainingFailed",
    "UnknownModel",
    "__version__",
    "create_model",
    "list_models",
    "load_model",
]
__version__ = "0.1.0"
__path__.extend(checkout.entries())

# Where the public names live that are no errors. They are imported on first use, so that `import segfast` costs
# nothing and an Engine on an `.onnx` file never needs PyTorch.
_HOMES = {
    "Engine": "engine",
    "Segmentation": "segmentation",
    "Segmenter": "model",
    "create_model": "create",
    "list_models": "variants",
    "load_model": "checkpoints.load",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value  # from now on Python finds it without asking here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
