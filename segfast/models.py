"""List the family: size, work at 512×512, published accuracy and weights of every member.

    python -m segfast.models
    python -m segfast.models 'seg-b*' --json

Sizes and work are those for ADE20K, 150 classes at 512×512 (518×518 where the patch is 14). Accuracy is the
paper's single-scale mIoU on ADE20K; behind published weights stands their own. An encoder of today has what its
owner published of it, frozen under one Linear, with a mark for its source: of the encoder, not of a trained Segmenter.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass

from segfast import cli
from segfast.checkpoints import download
from segfast.config import Config, check_size, family_config
from segfast.errors import UnknownModel
from segfast.protocol import Size
from segfast.variants import MIOU, PROBES, VARIANTS, Probe, list_models, near

SIZE = 512
# Of the sources of PROBES, in the order in which the table comes to them.
MARKS = "*†"


@dataclass(frozen=True)
class Published:
    """Weights to be had by name; `miou` is single-scale on ADE20K, as published with them."""

    name: str
    miou: float
    cached: bool


@dataclass(frozen=True)
class Row:
    """One member of the family.

    Attributes:
        flops: of one image of SIZE × SIZE, two per multiply-add.
        miou: the paper's, single-scale on ADE20K, in percent.
        encoder: the timm name of the weights to start from.
        probe: what the encoder's owner published of it, if anything.
    """

    name: str
    parameters: int
    flops: int
    miou: float | None
    encoder: str | None
    weights: tuple[Published, ...]
    probe: Probe | None = None


def main() -> int:
    """Print the table, or one JSON line."""
    options = _parse()
    rows = family(options.pattern)
    if options.json:
        print(json.dumps({"classes": 150, "size": [SIZE, SIZE], "models": [asdict(row) for row in rows]}))
        return 0
    print(f"{'model':<24} {'M params':>8} {'GFLOPs':>8} {'mIoU':>6}  {'encoder (timm)':<42} weights (mIoU)")
    marks = dict(zip(dict.fromkeys(row.probe.source for row in rows if row.probe), MARKS, strict=False))
    for row in rows:
        probe = f"{row.probe.miou:.1f}{marks[row.probe.source]}" if row.probe else "-"
        miou = probe if row.miou is None else f"{row.miou:.2f}"
        weights = ", ".join(f"{w.name} ({w.miou:.2f}){', cached' if w.cached else ''}" for w in row.weights)
        size = f"{row.name:<24} {row.parameters / 1e6:>8.1f} {row.flops / 1e9:>8.1f} {miou:>6}"
        print(f"{size}  {row.encoder or '-':<42} {weights or '-'}")
    for source, mark in marks.items():
        print(f"{mark} of the encoder alone: {source}")
    return 0


def family(pattern: str = "*") -> list[Row]:
    """The rows of the members whose names match a shell pattern.

    Raises:
        UnknownModel: none does.
    """
    names = list_models(pattern)
    if not names:
        raise UnknownModel(f"no model matches {pattern!r}; {near(pattern)}")
    return [_row(name) for name in names]


def parameters(config: Config) -> int:
    """How many numbers the weights of a model are."""
    D, K, P = config.width, config.num_classes, config.patch
    h, w = config.grid
    block = 12 * D * D + 13 * D  # qkv 3D² + 3D, proj D² + D, MLP 8D² + 5D, two LayerNorms 4D
    # The prefix itself, and position embeddings.
    tokens = config.prefix_tokens + (0 if config.rope else config.position_prefix + h * w)
    encoder = (3 * P * P + 1) * D + tokens * D + config.depth * _encoder_block(config) + 2 * D
    if config.decoder == "linear":
        return encoder + (D + 1) * K
    projections = 3 * D * D + D  # proj_dec with its bias, proj_patch, proj_classes
    return encoder + projections + K * D + config.decoder_depth * block + 2 * D + 2 * K


def _encoder_block(config: Config) -> int:
    """The numbers of one block of the encoder."""
    D, hidden = config.width, config.hidden or 4 * config.width
    gates = 2 if config.mlp == "swiglu" else 1
    attention = 4 * D * D + D + (3 * D if config.qkv_bias else 0)
    mlp = gates * (D + 1) * hidden + hidden * D + D
    return attention + mlp + 4 * D + (2 * D if config.layer_scale else 0)  # two LayerNorms, two LayerScales


def flops(config: Config, size: int | Size = SIZE) -> int:
    """The work of `patch_logits` on one image of `size`, two per multiply-add of its matrix products.

    Normalisation, softmax, GELU, additions and the upsampling are not counted.

    Raises:
        BadOption: the size is out of range.
    """
    D, K, P = config.width, config.num_classes, config.patch
    H, W = check_size(size, P)
    patches = -(-H // P) * -(-W // P)
    embedding = patches * 3 * P * P * D
    hidden = (config.hidden or 4 * D) * (1.5 if config.mlp == "swiglu" else 1)  # of two products rather than three
    tokens = config.encoder_tokens((-(-H // P), -(-W // P)))
    encoder = sum(_block(N, D) + N * D * (int(2 * hidden) - 8 * D) for N in tokens)
    if config.decoder == "linear":
        return 2 * (embedding + encoder + patches * D * K)
    decoder = patches * D * D  # proj_dec
    decoder += config.decoder_depth * _block(patches + K, D)
    decoder += (patches + K) * D * D  # proj_patch, proj_classes
    decoder += patches * K * D  # the masks
    return 2 * (embedding + encoder + decoder)


def _block(N: int, D: int) -> int:
    """Multiply-adds of a block on N tokens: qkv 3, proj 1 and MLP 8 times N·D², q·kᵀ and weights·v N²·D each."""
    return 12 * N * D * D + 2 * N * N * D


def _row(name: str) -> Row:
    config = family_config(VARIANTS[name], image_size=SIZE)
    weights = tuple(
        Published(known, row.miou[0], download.cached(known) is not None)
        for known, row in download.PUBLISHED.items()
        if known.partition("@")[0] == name
    )
    row = VARIANTS[name]
    miou, probe = MIOU["ade20k"].get(name), PROBES.get(row.encoder or "")
    return Row(name, parameters(config), flops(config), miou, row.encoder, weights, probe)


def _parse() -> argparse.Namespace:
    parser = cli.parser("segfast.models", __doc__)
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="a shell pattern, such as 'seg-b*'")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of the table")
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
