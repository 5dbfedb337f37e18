"""What an MMSegmentation checkpoint says about itself in `meta['cfg']`: honoured where it matters here, else refused.

A section that names its `type` is whole: what it leaves out has MMSegmentation's default. Of any other only what it says
counts, and tensors say the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from segfast.checkpoints import literals
from segfast.checkpoints.sections import Section, Triple, is_number, mapping, size_of
from segfast.errors import BadModel
from segfast.protocol import Size

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


def read(meta: Any, source: str, encoder_only: bool = False) -> Settings:
    """The settings in a checkpoint's `meta`: `cfg` of 1.x, `config` of 0.x, a text or a dictionary.

    Args:
        encoder_only: leave out what is said of the head and of the windows.

    Raises:
        BadModel: they cannot be read, or say something that cannot be done here; it is named.
    """
    values = _values(meta, source)
    model = Section("model", mapping(values.get("model"), "model", source), source)
    model.only("type", "EncoderDecoder", kind=True)
    model.only("neck", None)
    based = "_base_" in values

    def section(name: str) -> Section:
        if encoder_only and name in ("decode_head", "test_cfg"):
            return Section(name, {}, source)
        found = model.values[name] if name in model.values else values.get(name)
        return Section(name, mapping(found, name, source), source, based)

    backbone, head, test = section("backbone"), section("decode_head"), section("test_cfg")
    window, stride = _sliding(test, inside="test_cfg" in model.values)
    preprocessor = section("data_preprocessor")
    mean, std, bgr = _colours(preprocessor) if preprocessor else _pipeline(values, source)
    sizes = [
        backbone.size("img_size", 224),
        window,
        size_of(preprocessor.values.get("size")),
        size_of(values.get("crop_size")),
    ]
    classes = head.whole("num_classes")
    return Settings(
        backbone={
            name: value for name in ("patch_size", "embed_dims", "num_layers") if (value := backbone.whole(name))
        },
        sizes=tuple(size for size in sizes if size is not None),
        exact=backbone.values.get("img_size") is not None,
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


def _values(meta: Any, source: str) -> Mapping[str, Any]:
    """The settings of a checkpoint as plain values."""
    meta = meta if isinstance(meta, Mapping) else {}
    said = meta.get("cfg", meta.get("config"))
    try:
        if isinstance(said, str):
            return mapping(json.loads(said), "", source) if said.lstrip().startswith("{") else literals.read(said)
        if said is None or isinstance(said, Mapping):
            return said or {}
        raise ValueError(f"it is an object, {type(said).__name__}")
    except (ValueError, RecursionError) as error:
        raise BadModel(
            f"{source} has settings that cannot be read ({error}); save them as text, checkpoint['meta']['cfg'] = "
            "config.pretty_text, or leave them out, if the model is as MMSegmentation's own Segmenter configs have it"
        ) from None


def _backbone_mode(backbone: Section, head: Section) -> str | None:
    """How positions are resampled, after everything else of the backbone was found to be a Segmenter's."""
    backbone.only("type", "VisionTransformer", kind=True)
    for key, value in (
        ("in_channels", 3),
        ("with_cls_token", True),
        ("output_cls_token", False),
        ("patch_pad", "corner"),
    ):
        backbone.only(key, value)
    backbone.only("out_origin", False)
    backbone.only("interpolate_mode", "bicubic", "bilinear")
    _gelu(backbone)
    last, at = backbone.get("out_indices"), head.get("in_index")
    depth = backbone.get("num_layers", 12)
    if isinstance(last, (list, tuple)):
        last = (
            last[at if isinstance(at, int) else -1] if last and (at is None or -len(last) <= at < len(last)) else None
        )
    if last not in (None, -1, depth and depth - 1):
        raise backbone.refusal("out_indices", backbone.get("out_indices"))
    mode: str | None = backbone.get("interpolate_mode")
    return mode


def _head(head: Section, classes: int | None) -> dict[str, Any]:
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
        if not (is_number(said["threshold"]) and 0 < said["threshold"] < 1):
            raise head.refusal("threshold", threshold)
    if str(head.values.get("type")).endswith("SegmenterMaskTransformerHead"):
        _gelu(head)
        said |= {
            "decoder_heads": head.whole("num_heads"),
            "decoder_depth": head.whole("num_layers"),
            "decoder_eps": _eps(head),
        }
    return said


def _gelu(section: Section) -> None:
    activation = Section(
        f"{section.name}.act_cfg", mapping(section.get("act_cfg"), "act_cfg", section.source), section.source
    )
    activation.only("type", "GELU", kind=True)


def _eps(section: Section) -> float | None:
    """Of the LayerNorms."""
    norm = Section(
        f"{section.name}.norm_cfg", mapping(section.get("norm_cfg"), "norm_cfg", section.source), section.source
    )
    norm.only("type", "LN", kind=True)
    value = norm.get("eps")
    if value is not None and not (is_number(value) and 0 <= value < 1):
        raise norm.refusal("eps", value)
    return float(value) if value is not None else _EPS if norm or section.complete else None


def _sliding(test: Section, inside: bool) -> tuple[Size | None, Size | None]:
    """Window and stride; a `test_cfg` outside of the model may be another thing, a loop of the test."""
    mode = test.get("mode")
    if not test or (mode is None and not inside):
        return None, None
    if mode != "slide":
        raise test.refusal(
            "mode", mode, "slide windows: say model.test_cfg = dict(mode='slide', crop_size=(H, W), stride=(h, w))"
        )
    window, stride = test.size("crop_size"), test.size("stride")
    for key, value in (("crop_size", window), ("stride", stride)):
        if value is None:
            raise test.refusal(key, value)
    return window, stride


def _colours(section: Section) -> tuple[Triple | None, Triple | None, bool]:
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
    said = steps[0] if steps else mapping(values.get("img_norm_cfg"), "img_norm_cfg", source)
    section = Section("img_norm_cfg", {key: value for key, value in said.items() if key != "type"}, source)
    to_rgb = section.get("to_rgb")
    return _normalised(section, bgr=to_rgb is not None and not to_rgb)


def _normalised(section: Section, bgr: bool) -> tuple[Triple | None, Triple | None, bool]:
    mean, std = section.triple("mean"), section.triple("std")
    if (mean is None) != (std is None):
        raise section.refusal("std" if std is None else "mean", None)
    if mean is None and section.complete:
        mean, std = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)  # it takes 0 … 255 as they are
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
