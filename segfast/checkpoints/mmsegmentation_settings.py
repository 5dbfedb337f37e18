"""What an MMSegmentation checkpoint says about itself in `meta['cfg']`: honoured where it matters here, else refused.

A section that names its `type` is whole: what it leaves out has MMSegmentation's default. Of any other only what it says
counts, and tensors say the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from segfast.checkpoints import literals
from segfast.checkpoints.sections import Section, Triple, mapping, size_of
from segfast.errors import BadModel
from segfast.protocol import Size
from segfast.values import is_number, is_whole

_THRESHOLD = 0.3  # MMSegmentation's, of a head with one channel that is given none
_EPS = 1e-5  # PyTorch's, of a LayerNorm that is given none


class Backbone(NamedTuple):
    """What is said of the encoder; None is silence.

    Attributes:
        counts: that its tensors must have: `patch_size`, `embed_dims`, `num_layers`.
        stated: the size of pictures is the file's own word, no default.
        heads: of every attention; `usual_heads` those it has where none are named.
    """

    counts: Mapping[str, int]
    size: Size | None
    stated: bool
    heads: int | None
    usual_heads: int | None
    eps: float | None
    position_mode: str | None


class Head(NamedTuple):
    """What is said of the decoder; None is silence.

    Attributes:
        threshold: of the sigmoid of a head with one channel.
        heads, depth, eps: of a mask decoder.
    """

    num_classes: int | None
    out_channels: int | None
    threshold: float | None
    heads: int | None = None
    depth: int | None = None
    eps: float | None = None


class Colours(NamedTuple):
    """Mean and standard deviation of RGB in 0 … 1, None for silence, and whether the network takes BGR."""

    mean: Triple | None
    std: Triple | None
    bgr: bool


class Settings(NamedTuple):
    """What is said.

    Attributes:
        sizes: (height, width) of pictures whose grid of patches the position embeddings may have, the weightiest first.
    """

    backbone: Backbone
    head: Head
    colours: Colours
    sizes: tuple[Size, ...]
    window: Size | None
    stride: Size | None


def read(meta: object, source: str, encoder_only: bool = False) -> Settings:
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

    def section(name: str) -> Section:
        if encoder_only and name in ("decode_head", "test_cfg"):
            return Section(name, {}, source)
        found = model.values[name] if name in model.values else values.get(name)
        return Section(name, mapping(found, name, source), source, based="_base_" in values)

    head, preprocessor = section("decode_head"), section("data_preprocessor")
    window, stride = _sliding(section("test_cfg"), inside="test_cfg" in model.values)
    backbone = _backbone(section("backbone"), head)
    sizes = backbone.size, window, size_of(preprocessor.values.get("size")), size_of(values.get("crop_size"))
    colours = _preprocessor(preprocessor) if preprocessor else _pipeline(values, source)
    return Settings(backbone, _head(head), colours, tuple(size for size in sizes if size), window, stride)


def _values(meta: object, source: str) -> Mapping[str, object]:
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


def _backbone(backbone: Section, head: Section) -> Backbone:
    """What a backbone says, which is to be a Segmenter's."""
    backbone.only("type", "VisionTransformer", kind=True)
    backbone.only("in_channels", 3)
    backbone.only("with_cls_token", True)
    backbone.only("output_cls_token", False)
    backbone.only("patch_pad", "corner")
    backbone.only("out_origin", False)
    backbone.only("interpolate_mode", "bicubic", "bilinear")
    _gelu(backbone)
    counts = {name: backbone.whole(name) for name in ("patch_size", "embed_dims", "num_layers")}
    _check_last(backbone, head, counts["num_layers"])
    return Backbone(
        {name: count for name, count in counts.items() if count is not None},
        size=backbone.size("img_size", 224),
        stated=backbone.values.get("img_size") is not None,
        heads=backbone.whole("num_heads"),
        usual_heads=12 if backbone.complete else None,
        eps=_eps(backbone),
        position_mode=backbone.get("interpolate_mode"),
    )


def _check_last(backbone: Section, head: Section, depth: int | None) -> None:
    """See that the head takes what the last layer gives."""
    last, at = backbone.get("out_indices"), head.get("in_index")
    depth = depth or (12 if backbone.complete else None)
    if isinstance(last, (list, tuple)):
        at = -1 if at is None else at
        if not is_whole(at):
            raise head.refusal("in_index", at)
        last = last[at] if -len(last) <= at < len(last) else None
    if last not in (None, -1, depth and depth - 1):
        raise backbone.refusal("out_indices", backbone.get("out_indices"))


def _head(head: Section) -> Head:
    """What a decode head says."""
    classes = head.whole("num_classes")
    head.only("type", "FCNHead", "SegmenterMaskTransformerHead", kind=True)
    head.only("align_corners", False)
    head.only("input_transform", None)
    channels = head.whole("out_channels")
    if classes is not None and channels not in (None, 1, classes):
        raise head.refusal("out_channels", channels)
    threshold = None
    if (rows := channels or classes) == 1:
        said = head.get("threshold")
        threshold = _THRESHOLD if said is None else said
        if not (is_number(threshold) and 0 < threshold < 1):
            raise head.refusal("threshold", said)
    if not str(head.values.get("type")).endswith("SegmenterMaskTransformerHead"):
        return Head(classes, rows, threshold)
    _gelu(head)
    return Head(classes, rows, threshold, head.whole("num_heads"), head.whole("num_layers"), _eps(head))


def _gelu(section: Section) -> None:
    section.part("act_cfg").only("type", "GELU", kind=True)


def _eps(section: Section) -> float | None:
    """Of the LayerNorms."""
    norm = section.part("norm_cfg")
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
        remedy = "slide windows: say model.test_cfg = dict(mode='slide', crop_size=(H, W), stride=(h, w))"
        raise test.refusal("mode", mode, remedy)
    window, stride = test.size("crop_size"), test.size("stride")
    if window is None or stride is None:
        raise test.refusal("crop_size" if window is None else "stride", None)
    return window, stride


def _preprocessor(section: Section) -> Colours:
    """The colours of 1.x's data preprocessor."""
    section.only("type", "SegDataPreProcessor", kind=True)
    if section.get("test_cfg"):
        raise section.refusal("test_cfg", section.get("test_cfg"))
    swapped = bool(section.get("bgr_to_rgb", False)) or bool(section.get("rgb_to_bgr", False))
    said = section.complete or "bgr_to_rgb" in section.values
    return _normalised(section, bgr=said and not swapped)


def _pipeline(values: Mapping[str, object], source: str) -> Colours:
    """The colours of 0.x, whose test pipeline has a step that normalises."""
    data = values.get("data")
    test = data.get("test") if isinstance(data, Mapping) else None
    steps = list(_steps(test)) or list(_steps(values.get("test_pipeline")))
    said = steps[0] if steps else mapping(values.get("img_norm_cfg"), "img_norm_cfg", source)
    section = Section("img_norm_cfg", {key: value for key, value in said.items() if key != "type"}, source)
    to_rgb = section.get("to_rgb")
    return _normalised(section, bgr=to_rgb is not None and not to_rgb)


def _normalised(section: Section, bgr: bool) -> Colours:
    mean, std = section.triple("mean"), section.triple("std")
    if (mean is None) != (std is None):
        raise section.refusal("std" if std is None else "mean", None)
    if mean is None and section.complete:
        mean, std = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)  # it takes 0 … 255 as they are
    if mean is None or std is None or not bgr:
        return Colours(mean, std, bgr)
    return Colours((mean[2], mean[1], mean[0]), (std[2], std[1], std[0]), True)


def _steps(value: object, depth: int = 8) -> Iterator[Mapping[str, object]]:
    """The normalising steps anywhere in a pipeline."""
    if isinstance(value, Mapping):
        if value.get("type") == "Normalize":
            yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)) and depth:
        for item in value:
            yield from _steps(item, depth - 1)
