"""What an MMSegmentation checkpoint says about itself in `meta['cfg']`: honoured where it matters here, else refused.

A section that names its `type` is whole: what it leaves out has MMSegmentation's default. Of any other only what it says
counts, and tensors say the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from segfast import literals
from segfast.errors import BadModel
from segfast.protocol import Size

Triple = tuple[float, float, float]
# Its threshold of a head with one channel where none is given.
_THRESHOLD = 0.3
_EPS = 1e-5  # PyTorch's, of a LayerNorm that is given none


@dataclass(frozen=True)
class Settings:
    """What is said; None is silence.

    Attributes:
        backbone: sizes that the tensors must have: `patch_size`, `embed_dims`, `num_layers`.
        sizes: of the pictures whose grid of patches the position embeddings may have, (height, width), the weightiest first.
        exact: the first of them is the backbone's own `img_size`.
        heads: of the encoder; `usual_heads` those it has where none are named.
        mean, std: of RGB in 0 … 1.
        bgr: the network takes BGR.
        num_classes: of the head.
        threshold: of the sigmoid of a head with one channel.
        window, stride: of the sliding window.
    """

    backbone: Mapping[str, int]
    sizes: tuple[Size, ...] = ()
    exact: bool = False
    heads: int | None = None
    usual_heads: int | None = None
    decoder_heads: int | None = None
    decoder_depth: int | None = None
    encoder_eps: float | None = None
    decoder_eps: float | None = None
    position_mode: str | None = None
    mean: Triple | None = None
    std: Triple | None = None
    bgr: bool = False
    num_classes: int | None = None
    out_channels: int | None = None
    threshold: float | None = None
    window: Size | None = None
    stride: Size | None = None


def read(meta: Any, source: str) -> Settings:
    """The settings in a checkpoint's `meta`: `cfg` of 1.x, `config` of 0.x, a text or a dictionary.

    Raises:
        BadModel: they cannot be read, or say something that cannot be done here; it is named.
    """
    values = _values(meta, source)
    model = _Section("model", _mapping(values.get("model"), "model", source), source)
    model.only("type", "EncoderDecoder", kind=True)
    model.only("neck", None)
    based = "_base_" in values

    def section(name: str) -> _Section:
        found = model.values[name] if name in model.values else values.get(name)
        return _Section(name, _mapping(found, name, source), source, based)

    backbone, head, test = section("backbone"), section("decode_head"), section("test_cfg")
    window, stride = _sliding(test, inside="test_cfg" in model.values)
    preprocessor = section("data_preprocessor")
    mean, std, bgr = _colours(preprocessor) if preprocessor else _pipeline(values, source)
    sizes = [backbone.size("img_size", 224), window, _hint(preprocessor.values.get("size")), _hint(values.get("crop_size"))]
    classes = head.whole("num_classes")
    return Settings(
        backbone={name: value for name in ("patch_size", "embed_dims", "num_layers") if (value := backbone.whole(name))},
        sizes=tuple(size for size in sizes if size is not None),
        exact="img_size" in backbone.values,
        heads=backbone.whole("num_heads"),
        usual_heads=12 if backbone.complete else None,
        encoder_eps=_eps(backbone),
        position_mode=_backbone_mode(backbone, head),
        mean=mean,
        std=std,
        bgr=bgr,
        num_classes=classes,
        window=window,
        stride=stride,
        **_head(head, classes),
    )


class _Section:
    """A part of the settings by name, and what it may say."""

    def __init__(self, name: str, values: Mapping[str, Any], source: str, based: bool = False):
        self.name, self.values, self.source = name, values, source
        self.complete = "type" in values and not based

    def __bool__(self) -> bool:
        return bool(self.values)

    def get(self, key: str, default: Any = None) -> Any:
        """A value; the default holds for sections that are whole."""
        value = self.values.get(key, default if self.complete else None)
        if isinstance(value, literals.Opaque):
            raise self.refusal(key, value)
        return value

    def only(self, key: str, *allowed: Any, kind: bool = False) -> None:
        """See that a value, if there is one, is among those that can be honoured."""
        value = self.get(key)
        if key in self.values and (str(value).rpartition(".")[2] if kind else value) not in allowed:
            raise self.refusal(key, value)

    def whole(self, key: str, default: int | None = None) -> int | None:
        """A whole number from 1."""
        value = self.get(key, default)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise self.refusal(key, value)
        return value

    def size(self, key: str, default: int | None = None) -> Size | None:
        """(height, width) of a size, or of a side."""
        value = self.get(key, default)
        size = _hint(value)
        if value is not None and size is None:
            raise self.refusal(key, value)
        return size

    def triple(self, key: str) -> Triple | None:
        """One number per channel, in 0 … 255, as a share of 255."""
        value = self.get(key)
        numbers = list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
        numbers = numbers * 3 if len(numbers) == 1 else numbers
        if value is not None and (len(numbers) != 3 or not all(_number(number) for number in numbers)):
            raise self.refusal(key, value)
        return None if value is None else (numbers[0] / 255, numbers[1] / 255, numbers[2] / 255)

    def refusal(self, key: str, value: Any) -> BadModel:
        """The error for a value that cannot be honoured."""
        what = f"{self.name}.{key}".strip(".")
        return BadModel(
            f"{self.source} says {what} = {repr(value)[:80]}, which segfast cannot do; run it in MMSegmentation, or, if what it says is "
            "wrong, change checkpoint['meta']['cfg'] and save it again"
        )


def _values(meta: Any, source: str) -> Mapping[str, Any]:
    """The settings of a checkpoint as plain values."""
    meta = meta if isinstance(meta, Mapping) else {}
    said = meta.get("cfg", meta.get("config"))
    try:
        if isinstance(said, str):
            return _mapping(json.loads(said), "", source) if said.lstrip().startswith("{") else literals.read(said)
        if said is None or isinstance(said, Mapping):
            return said or {}
        raise ValueError(f"it is an object, {type(said).__name__}")
    except (ValueError, RecursionError) as error:
        raise BadModel(
            f"{source} has settings that cannot be read ({error}); save them as text, checkpoint['meta']['cfg'] = "
            "config.pretty_text, or leave them out, if the model is as MMSegmentation's own Segmenter configs have it"
        ) from None


def _hint(value: Any) -> Size | None:
    """(height, width) of a size, or of a side; None for what is neither."""
    sides = list(value) if isinstance(value, (list, tuple)) else [value]
    sides = sides * 2 if len(sides) == 1 else sides
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        return None
    return sides[0], sides[1]


def _mapping(value: Any, name: str, source: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _Section("", {}, source).refusal(name, value)
    return value


def _backbone_mode(backbone: _Section, head: _Section) -> str | None:
    """How positions are resampled, after everything else of the backbone was found to be a Segmenter's."""
    backbone.only("type", "VisionTransformer", kind=True)
    for key, value in (("in_channels", 3), ("with_cls_token", True), ("output_cls_token", False), ("patch_pad", "corner")):
        backbone.only(key, value)
    backbone.only("out_origin", False)
    backbone.only("interpolate_mode", "bicubic", "bilinear")
    _gelu(backbone)
    last, at = backbone.get("out_indices"), head.get("in_index")
    depth = backbone.get("num_layers", 12)
    if isinstance(last, (list, tuple)):
        last = last[at if isinstance(at, int) else -1] if last and (at is None or -len(last) <= at < len(last)) else None
    if last not in (None, -1, depth and depth - 1):
        raise backbone.refusal("out_indices", backbone.get("out_indices"))
    mode: str | None = backbone.get("interpolate_mode")
    return mode


def _head(head: _Section, classes: int | None) -> dict[str, Any]:
    """What a decode head says, as fields of Settings."""
    head.only("type", "FCNHead", "SegmenterMaskTransformerHead", kind=True)
    head.only("align_corners", False)
    head.only("input_transform", None)
    channels = head.whole("out_channels")
    if classes is not None and channels not in (None, 1, classes):
        raise head.refusal("out_channels", channels)
    said: dict[str, Any] = {"out_channels": channels or classes}
    if said["out_channels"] == 1:
        threshold = head.get("threshold")
        said["threshold"] = _THRESHOLD if threshold is None else threshold
        if not (_number(said["threshold"]) and 0 < said["threshold"] < 1):
            raise head.refusal("threshold", threshold)
    if str(head.values.get("type")).endswith("SegmenterMaskTransformerHead"):
        _gelu(head)
        said |= {"decoder_heads": head.whole("num_heads"), "decoder_depth": head.whole("num_layers"), "decoder_eps": _eps(head)}
    return said


def _gelu(section: _Section) -> None:
    activation = _Section(f"{section.name}.act_cfg", _mapping(section.get("act_cfg"), "act_cfg", section.source), section.source)
    activation.only("type", "GELU", kind=True)


def _eps(section: _Section) -> float | None:
    """Of the LayerNorms."""
    norm = _Section(f"{section.name}.norm_cfg", _mapping(section.get("norm_cfg"), "norm_cfg", section.source), section.source)
    norm.only("type", "LN", kind=True)
    value = norm.get("eps")
    if value is not None and not (_number(value) and 0 <= value < 1):
        raise norm.refusal("eps", value)
    return float(value) if value is not None else _EPS if norm or section.complete else None


def _sliding(test: _Section, inside: bool) -> tuple[Size | None, Size | None]:
    """Window and stride; a `test_cfg` outside of the model may be another thing, a loop of the test."""
    mode = test.get("mode")
    if not test or (mode is None and not inside):
        return None, None
    if mode != "slide":
        raise test.refusal("mode", mode)
    window, stride = test.size("crop_size"), test.size("stride")
    for key, value in (("crop_size", window), ("stride", stride)):
        if value is None:
            raise test.refusal(key, value)
    return window, stride


def _colours(section: _Section) -> tuple[Triple | None, Triple | None, bool]:
    """Mean and standard deviation of RGB, and whether the network takes BGR, of 1.x's data preprocessor."""
    section.only("type", "SegDataPreProcessor", kind=True)
    if section.get("test_cfg"):
        raise section.refusal("test_cfg", section.get("test_cfg"))
    swapped = bool(section.get("bgr_to_rgb", False)) or bool(section.get("rgb_to_bgr", False))
    said = section.complete or "bgr_to_rgb" in section.values
    return _normalised(section, bgr=said and not swapped)


def _pipeline(values: Mapping[str, Any], source: str) -> tuple[Triple | None, Triple | None, bool]:
    """The same of 0.x, whose test pipeline has a step that normalises."""
    data = values.get("data")
    test = data.get("test") if isinstance(data, Mapping) else None
    steps = list(_steps(test)) or list(_steps(values.get("test_pipeline")))
    said = steps[0] if steps else _mapping(values.get("img_norm_cfg"), "img_norm_cfg", source)
    section = _Section("img_norm_cfg", {key: value for key, value in said.items() if key != "type"}, source)
    to_rgb = section.get("to_rgb")
    return _normalised(section, bgr=to_rgb is not None and not to_rgb)


def _normalised(section: _Section, bgr: bool) -> tuple[Triple | None, Triple | None, bool]:
    mean, std = section.triple("mean"), section.triple("std")
    if (mean is None) != (std is None):
        raise section.refusal("std" if std is None else "mean", None)
    if mean is None and section.complete:
        mean, std = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)        # it takes 0 … 255 as they are
    if mean is None or std is None or not bgr:
        return mean, std, bgr
    return (mean[2], mean[1], mean[0]), (std[2], std[1], std[0]), True


def _steps(value: Any, depth: int = 8) -> Iterator[Mapping[str, Any]]:
    """The normalising steps anywhere in a pipeline."""
    if isinstance(value, Mapping):
        if value.get("type") == "Normalize":
            yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)) and depth:
        for item in value:
            yield from _steps(item, depth - 1)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
