"""Checkpoints of the original code: `checkpoint.pth` beside `variant.yml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segfast import classes
from segfast.checkpoints.states import State
from segfast.config import Config
from segfast.errors import BadModel
from segfast.protocol import Protocol
from segfast.variants import HALF, IMAGENET_MEAN, IMAGENET_STD, family_name

_NORMALIZATIONS = {"vit": (HALF, HALF), "deit": (IMAGENET_MEAN, IMAGENET_STD)}
_DECODERS = {"linear": "linear", "mask_transformer": "mask"}


def read(path: Path, state: State) -> tuple[Config, State]:
    """Configuration and tensors of a checkpoint, by the `variant.yml` beside it.

    Raises:
        BadModel: `variant.yml` is missing, or lacks what is needed.
    """
    settings = _read_settings(path.with_name("variant.yml"))
    try:
        config = _config(settings, "encoder.dist_token" in state)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise BadModel(f"{path.with_name('variant.yml')} lacks or garbles {error}; restore the original file") from None
    return config.check(), state


def _config(settings: Mapping[str, Any], distilled: bool) -> Config:
    net, inference = settings["net_kwargs"], settings["inference_kwargs"]
    decoder = net["decoder"]
    mean, std = _NORMALIZATIONS[net["normalization"]]
    window, stride, K = inference["window_size"], inference["window_stride"], net["n_cls"]
    if not isinstance(K, int) or not 1 <= K <= 65536:
        raise ValueError(f"n_cls {K!r}")
    dataset = _word((settings.get("dataset_kwargs") or {}).get("dataset"))
    names, palette = classes.of_dataset(dataset, K)
    sizes = {"width": net["d_model"], "depth": net["n_layers"], "heads": net["n_heads"], "patch": net["patch_size"]}
    kind = _DECODERS[decoder["name"]]
    if kind == "mask" and sizes["heads"] != sizes["width"] // 64:  # the original's mask decoder always has these
        raise ValueError(f"n_heads {sizes['heads']}, where the mask decoder has {sizes['width'] // 64}")
    return Config(
        name=family_name(**sizes, decoder=kind, distilled=distilled),
        **sizes,
        decoder=kind,
        num_classes=K,
        image_size=(net["image_size"][0], net["image_size"][1]),
        protocol=Protocol(mean, std, (window, window), (stride, stride)),
        classes=names,
        palette=palette,
        decoder_depth=decoder.get("n_layers", 1),
        distilled=distilled,
        encoder_dropout=net.get("dropout", 0.0),
        decoder_dropout=decoder.get("dropout", 0.0),
        drop_path=net.get("drop_path_rate", 0.0),
        provenance={"format": "original", "dataset": dataset, "backbone": _word(net.get("backbone"))},
    )


def _word(value: object) -> str:
    """A short text of the settings; anything else (an alias may stand for gigabytes) is left out."""
    return value[:64] if isinstance(value, str) else ""


def _read_settings(path: Path) -> dict[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Plain YAML, and the tuples that the original code writes."""

    def sequence(loader: Loader, node: yaml.SequenceNode) -> list[object]:
        return loader.construct_sequence(node)

    Loader.add_constructor("tag:yaml.org,2002:python/tuple", sequence)
    try:
        if path.stat().st_size > 1 << 20:
            raise BadModel(f"{path} is over a megabyte, no variant.yml; restore the original file")
        settings = yaml.load(path.read_bytes(), Loader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise BadModel(f"{path} is missing; keep the variant.yml of the training run beside its checkpoint") from None
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise BadModel(f"{path} cannot be read ({error}); restore the original file") from None
    if not isinstance(settings, dict):
        raise BadModel(f"{path} holds no settings; restore the original file")
    return settings
