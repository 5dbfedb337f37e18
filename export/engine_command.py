"""`--engine` and its companions on the command line of the export."""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import dataclass
from pathlib import Path

from segfast import cli
from segfast.artifacts.plan import HARDWARE, LEVELS, Options
from segfast.dependencies.tensorrt import COMPILERS
from segfast.errors import BadOption, MissingRuntime
from segfast.export.engine_file import EngineReport, build_engine
from segfast.export.targets import check_engine
from segfast.machine import devices


@dataclass(frozen=True)
class Choice:
    """What will be built beside the `.onnx` file.

    Attributes:
        compiler: `tensorrt`, `rtx`, or None.
        why: nothing will be, though it was not declined.
    """

    compiler: str | None
    why: str | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of an engine."""
    group = parser.add_argument_group("engines for NVIDIA GPUs")
    group.add_argument(
        "--engine",
        choices=(*COMPILERS, "none"),
        help="tensorrt: for the GPU here; rtx: for RTX GPUs, built on any machine (default: tensorrt, if it is here)",
    )
    group.add_argument("--target", metavar="SM,…", help="of rtx, such as sm89,sm120 (default: the GPU here)")
    group.add_argument("--onnx", metavar="FILE", help="build from this exported file; exports nothing")
    group.add_argument("--batch", type=_batch, default=Options.batch, help="smallest,best,largest (default: 1,1,8)")
    group.add_argument("--workspace", type=cli.positive, metavar="MIB", help="most memory of a layer (default: any)")
    group.add_argument("--level", type=int, choices=LEVELS, default=Options.level, help="of optimisation (default: 3)")
    group.add_argument(
        "--hardware", choices=HARDWARE, default=Options.hardware, help="GPUs it runs on (default: none other)"
    )
    group.add_argument("--version-compatible", action="store_true", help="later versions of TensorRT run it")


def choose(options: argparse.Namespace, precision: str) -> Choice:
    """What to build, decided before any work.

    Raises:
        BadOption: the options contradict each other.
        MissingRuntime: what `--engine` demands is not here.
    """
    _options(options)
    if options.engine in COMPILERS:
        check_engine(options.engine, options.target, precision)
        return Choice(options.engine)
    if options.target is not None:
        raise BadOption("--target goes with --engine rtx")
    if options.engine == "none":
        return Choice(None)
    if precision != "fp16":
        return Choice(None, "by default one is built of fp16 files only; --engine tensorrt builds it")
    if not devices.nvidia_gpus():
        return Choice(None, "there is no NVIDIA GPU here; --engine rtx --target sm89 builds one for RTX GPUs anywhere")
    try:
        check_engine("tensorrt", None, precision)
    except MissingRuntime as error:
        return Choice(None, str(error))
    return Choice("tensorrt")


def build(choice: Choice, onnx: Path, folder: Path, options: argparse.Namespace) -> EngineReport:
    """Build what was chosen."""
    assert choice.compiler is not None
    return build_engine(
        onnx,
        folder / engine_name(onnx, choice.compiler),
        compiler=choice.compiler,
        targets=options.target,
        batch=options.batch,
        workspace=options.workspace,
        level=options.level,
        hardware=options.hardware,
        version_compatible=options.version_compatible,
        force=options.force,
    )


def engine_name(onnx: str | os.PathLike[str], compiler: str) -> str:
    """`{model}-{size}-fp16.engine`, or `…-fp16-rtx.engine`, for an `.onnx` file's name, whose output it keeps."""
    return f"{Path(onnx).stem}{'-rtx' if compiler == 'rtx' else ''}.engine"


def _options(options: argparse.Namespace) -> Options:
    """The same checks as when building."""
    named = {name: getattr(options, name) for name in ("batch", "workspace", "level", "hardware", "version_compatible")}
    return Options(options.engine or "tensorrt", (), **named).check()


def _batch(text: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"(\d{1,6}),(\d{1,6}),(\d{1,6})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers; write smallest,best,largest, such as 1,1,8")
    return int(match[1]), int(match[2]), int(match[3])
