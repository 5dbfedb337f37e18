"""Write a Segmenter model as one .onnx file, checked against PyTorch before it is published, and as GPU engines.

    python -m segfast.export --model seg-b-mask-16 --fp16
    python -m segfast.export --weights seg-b-mask-16@ade20k --fp16
    python -m segfast.export --weights RUN/checkpoint.pth --size 512x1024 --fp32 --out engines
    python -m segfast.export --onnx seg-b-mask-16-512-fp16.onnx --engine rtx --target sm89,sm120
    python -m segfast.export --onnx seg-b-mask-16-512-fp16.onnx --triton models

Without --weights the weights are random: good for timing, not for pictures. With an NVIDIA GPU and
TensorRT, --fp16 also builds an engine for it.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING

from segfast import cli, files
from segfast.artifacts.onnx import read_artifact
from segfast.config import Config, check_size, whole_patches
from segfast.dependencies.imports import need
from segfast.dependencies.tensorrt import COMPILERS
from segfast.errors import BadOption
from segfast.export import engine_command
from segfast.export.triton import export_triton
from segfast.protocol import Size
from segfast.token_merge import Merge
from segfast.variants import at_patch, variant

if TYPE_CHECKING:
    from segfast.model import Segmenter

NEEDED = ("torch", "onnx", "onnxscript", "onnxruntime")
# Random weights are the same on every machine, so that timings and files are comparable.
SEED = 0


def main() -> int:
    """Export as the command line says; 0 when every file was published."""
    options = _parse()
    if options.onnx is not None:
        _from_onnx(Path(options.onnx), options)
        return 0
    choice = engine_command.choose(options, options.precision)
    model = _model(options)
    size = check_size(model.config.protocol.window if options.size is None else options.size, model.config.patch)
    folder = files.make_folder(options.out)

    from segfast.export.onnx_file import export_onnx, file_name
    from segfast.export.replacing import replaced

    config = model.config
    print(f"{config.name}, {config.num_classes} classes, {size[0]}×{size[1]}, {options.precision}, {options.output}")
    if config.merge is not None:
        print(_fewer_tokens(config, size))
    if config.random_weights:
        print("random weights: for timing only, the labels mean nothing (--weights takes trained ones)")
    path = folder / file_name(config.name, size, options.precision, options.output, config.merge)
    if choice.compiler is not None:
        # Said before any work.
        replaced(folder / engine_command.engine_name(path, choice.compiler), config, options.force)
    given = {name: getattr(options, name) for name in ("precision", "output", "opset", "force")}
    print(export_onnx(model, path, size=size, **given))
    if options.triton is not None:
        print(export_triton(path, options.triton))
    if choice.compiler is not None:
        report = engine_command.build(choice, path, folder, options)
        print(report)
        path = report.plan.path if report.verification is not None else path
    elif choice.why is not None:
        print(f"no engine was built: {choice.why}")
    print(f"next: python -m segfast.segment {path} PHOTO -o out")
    return 0


def _from_onnx(path: Path, options: argparse.Namespace) -> None:
    """What is made of a file that is exported already."""
    if options.engine in COMPILERS:
        choice = engine_command.choose(options, read_artifact(path).precision)
        print(engine_command.build(choice, path, files.make_folder(options.out), options))
    if options.triton is not None:
        print(export_triton(path, options.triton))


def _parse() -> argparse.Namespace:
    parser = cli.parser("segfast.export", __doc__)
    parser.add_argument("--model", metavar="NAME", help="family member, such as seg-b-mask-16")
    parser.add_argument("--patch", type=int, metavar="N", help="8, 14, 16 or 32 pixels instead of the model's")
    parser.add_argument("--weights", metavar="FILE|NAME", help="checkpoint, or published name (seg-b-mask-16@ade20k)")
    parser.add_argument("--classes", metavar="N|FILE", help="class count, or a text file with one name a line")
    parser.add_argument("--size", type=_size, help="input in pixels, N or HxW (default: the model's window)")
    parser.add_argument(
        "--merge",
        type=_merge,
        metavar="FRACTION@BLOCK",
        help="merge the most alike tokens behind a block of the encoder, such as 0.25@1; none: not as the weights say",
    )
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--fp16", dest="precision", action="store_const", const="fp16", help="half (default)")
    precision.add_argument("--fp32", dest="precision", action="store_const", const="fp32", help="single precision")
    parser.add_argument("--output", choices=("logits", "labels"), default="logits", help="(default: logits)")
    parser.add_argument("--opset", type=int, default=18, help="of the ONNX file, 18 to 22 (default: 18)")
    parser.add_argument("--out", metavar="DIR", default=".", help="folder to write to (default: this one)")
    parser.add_argument("--force", action="store_true", help="let random weights replace a file of trained ones")
    parser.add_argument("--triton", metavar="REPOSITORY", help="write it into a model repository of Triton, too")
    engine_command.add_options(parser)
    parser.set_defaults(precision="fp16")
    options = parser.parse_args()
    named = [
        name for name in ("model", "patch", "weights", "classes", "size", "merge") if getattr(options, name) is not None
    ]
    if options.onnx is None and not {"model", "weights"} & set(named):
        parser.error("name a --model, --weights, or both")
    if options.patch is not None and (options.model is None or options.weights is not None):
        parser.error("--patch is for a --model by name; --weights have a patch of their own")
    if options.onnx is not None and named:
        parser.error(f"--onnx names a file that is exported already; leave --{named[0]} out")
    if options.onnx is not None and options.engine not in COMPILERS and options.triton is None:
        parser.error(
            f"--onnx is for building an engine or a repository; add --engine {' or '.join(COMPILERS)}, or --triton"
        )
    return options


def _model(options: argparse.Namespace) -> Segmenter:
    """The model asked for.

    Raises:
        BadOption: `--model` or `--classes` contradict the weights.
        UnknownModel, BadModel: as `load_model`.
    """
    if options.model is not None:
        row = variant(options.model) if options.patch is None else at_patch(variant(options.model), options.patch)
    need("export", *NEEDED)
    names = _class_names(options.classes)
    count = len(names) if isinstance(names, tuple) else names
    if options.weights is None:
        size = check_size(row.window if options.size is None else options.size, row.patch)
        model = _random(options.model, 150 if count is None else count, size, options.patch)
    else:
        from segfast.checkpoints.load import load_model

        model = load_model(options.weights)
        if options.model not in (None, model.config.name):
            raise BadOption(f"{options.weights} holds {model.config.name}, not {options.model}; leave --model out")
        if count not in (None, model.config.num_classes):
            raise BadOption(
                f"{options.weights} has {model.config.num_classes} classes, not {count}; leave --classes out"
            )
    if isinstance(names, tuple):
        model.config = replace(model.config, classes=names)
    if options.merge is not None:
        model.merge_tokens(*(astuple(options.merge) if isinstance(options.merge, Merge) else (None,)))
    return model


def _random(name: str, count: int, size: Size, patch: int | None) -> Segmenter:
    import torch

    from segfast.create import create_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = create_model(name, num_classes=count, image_size=size, patch=patch)
    return model


def _class_names(text: str | None) -> int | tuple[str, ...] | None:
    """A class count, or the names in a file."""
    if text is None or text.lstrip("-").isdecimal():
        return None if text is None else int(text)
    try:
        lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadOption(f"--classes takes a count or a text file with one name a line; {text}: {error}") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if len(set(names)) < len(names):
        raise BadOption(f"{text} names a class twice; give every class its own name")
    return names


def _merge(text: str) -> Merge | str:
    return "none" if text.casefold() == "none" else Merge.parse(text)


def _fewer_tokens(config: Config, size: Size) -> str:
    """What merging does to windows of a size, in words."""
    assert config.merge is not None
    h, w = (side // config.patch for side in whole_patches(size, config.patch))
    before, after = config.prefix_tokens + h * w, config.merge.tokens((h, w), config.prefix_tokens)
    return f"tokens merged, {config.merge}: {after} in place of {before} behind block {config.merge.block}"


def _size(text: str) -> int | Size:
    match = re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 512 or 512x1024 (height x width)")
    return (int(match[1]), int(match[2])) if match[2] else int(match[1])


if __name__ == "__main__":
    cli.run(main)
