"""Find how a model runs fastest on this machine's CPU, at a loss that is allowed, and write it so.

    python -m segfast.tune best.safetensors --data MY/PICTURES
    python -m segfast.tune seg-b-mask-16@ade20k --data ADEChallengeData2016 --max-loss 0.3 --calibrate PHOTOS
    python -m segfast.tune best.safetensors --data MY/PICTURES --candidates fp16 fp16+0.75@6 int8
    python -m segfast.tune model.onnx

Candidates are precisions (fp32, fp16, int8) with and without merged tokens, each exported, judged by what it loses
to fp32 and timed in a process of its own, in OpenVINO and ONNX Runtime and on fewer threads. Loss is in points of
mIoU on the val pictures of --data; of pictures without masks, in percent of the labels. Those that cannot win are
passed over. Of a file that is exported already runtime and threads are tuned alone. Beside the winner lies a record
of the runtime and threads, which later Engines on this machine follow (docs/tuning.md).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from segfast import cli, files
from segfast.artifacts.onnx import read_artifact
from segfast.datasets import NAMES
from segfast.datasets.options import add_reading, reading_of
from segfast.dependencies import installation
from segfast.errors import BadOption, NotSupported
from segfast.evaluation.evaluate import check_classes
from segfast.kernels.quota import cpus
from segfast.machine import devices
from segfast.runtimes.openvino_cache import passing
from segfast.tuning.candidates import BASE, PRECISIONS, RUNTIMES, Candidate, Setting, candidates, settings
from segfast.tuning.pictures import open_pictures
from segfast.tuning.quality import Agreement, Itself, Points
from segfast.tuning.result import draw, record, show
from segfast.tuning.search import Row, Search
from segfast.tuning.speed import Speed, measure

if TYPE_CHECKING:
    from segfast.model import Segmenter

_LONGEST = 600  # seconds of timing: the process that times ends after half an hour
NEEDED = ("torch", "onnx", "onnxscript", "onnxruntime")


def main() -> int:
    """Tune what the command line names."""
    options = _checked(_parse())
    if devices.nvidia_gpus():
        print("tuning for the CPU; this machine's GPU is left out")
    if (load := _load()) > cpus() / 2:
        print(
            f"this machine is busy (load {load:.1f} on {cpus()} cores): what is fastest now need not be when it is idle"
        )
    (_tune_file if Path(options.model).suffix.lower() == ".onnx" else _tune_model)(options)
    return 0


def _tune_model(options: argparse.Namespace) -> None:
    """Candidates of a checkpoint; the winner becomes a file of its own."""
    from segfast.dependencies.imports import need

    need("export", *NEEDED)
    from segfast.checkpoints.load import load_model
    from segfast.engine import Engine

    pictures = open_pictures(options.data, options.dataset, options.split, reading_of(options), options.limit)
    model = load_model(options.model)
    if pictures.dataset is not None:
        check_classes(Engine(model, device="cpu"), pictures.dataset, not options.ignore_names)
    chosen = _chosen(options, model)
    out = files.make_folder(options.out)
    _refuse_replacing(chosen, model, out, options.force)
    _check_writable(out)
    print(f"{model.config.name}, judged by {pictures.words}")
    if model.config.random_weights:
        print("random weights: for timing only, what is lost means nothing")
    quality = Agreement(pictures.images) if pictures.dataset is None else Points(pictures.dataset)
    with tempfile.TemporaryDirectory(prefix=".segfast-tune-", dir=out) as name, passing(Path(name)):
        folder = Path(name)
        timing = partial(_timing, pictures.save(folder / "pictures.npz"), options.seconds)
        search = Search(model.config, _maker(model, folder, options), quality, timing, options.max_loss)
        search.run(chosen, settings(cpus(), RUNTIMES), rounds=options.rounds, named=bool(options.candidates))
        winner = search.winner()
        show(search, winner, quality.words)
        draw(search, winner, quality.words, out / f"{model.config.name}-frontier.png")
        if winner is None:
            raise NotSupported(
                f"none of the candidates could be measured at a loss of {options.max_loss:g} points; the table says why"
            )
        target = out / _file_name(model, winner.candidate)
        assert winner.path is not None
        with files.publish(target) as temporary:
            temporary.write_bytes(winner.path.read_bytes())
    record(target, winner)


def _tune_file(options: argparse.Namespace) -> None:
    """Runtime and threads of a file that is exported already."""
    artifact = read_artifact(Path(options.model))
    given = [name for name in ("candidates", "calibrate") if getattr(options, name)]
    if given:
        raise BadOption(
            f"{options.model} is exported already, and only its runtime and threads are tuned: leave --{given[0]} out, or "
            "give the checkpoint"
        )
    pictures = open_pictures(options.data, options.dataset, options.split, reading_of(options), options.limit)
    if artifact.output == "labels":
        H, W = artifact.size
        pictures = pictures.at_size(H, W)
    _check_writable(artifact.path.parent)
    print(f"{artifact.path}: runtime and threads alone, timed on {pictures.words}")
    candidate = Candidate(artifact.precision, artifact.config.merge)
    with tempfile.TemporaryDirectory(prefix="segfast-tune-") as name:
        timing = partial(_timing, pictures.save(Path(name) / "pictures.npz"), options.seconds)
        search = Search(artifact.config, lambda _: artifact.path, Itself(), timing, 0.0)
        search.compare(Row(candidate, Setting("openvino"), artifact.path, lost=0.0), settings(cpus(), RUNTIMES))
        search.again(options.rounds)
    winner = search.winner()
    show(search, winner, "nothing: the file is the same")
    if winner is None:
        raise NotSupported(f"{artifact.path} runs in none of the settings; the table says why")
    record(artifact.path, winner)


def _check_writable(folder: Path) -> None:
    """See that results can be written to a folder, before minutes are spent on them.

    Raises:
        CannotWrite: they cannot.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise files.cannot_write(folder, error) from error


def _load() -> float:
    """Processes that want a core, on the average of the last minute; 0 where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _maker(model: Segmenter, folder: Path, options: argparse.Namespace) -> Callable[[Candidate], Path]:
    """A function that writes a candidate's file."""

    def make(candidate: Candidate) -> Path:
        from segfast.export.calibration import Calibration
        from segfast.export.onnx_file import export_onnx

        merge = candidate.merge
        model.merge_tokens(None) if merge is None else model.merge_tokens(merge.fraction, merge.block)
        calibration = None
        if candidate.precision == "int8":
            pictures = options.calibrate or options.data
            if pictures is None:
                raise BadOption("int8 is calibrated with pictures; name a folder of them: --calibrate DIR")
            calibration = Calibration(pictures, max_loss=max(options.max_loss, 1.0))
        path = folder / _file_name(model, candidate)
        export_onnx(model, path, precision=candidate.precision, calibration=calibration)
        return path

    return make


def _chosen(options: argparse.Namespace, model: Segmenter) -> list[Candidate]:
    """The candidates, and a word on what is left out."""
    if options.candidates:
        named = [Candidate.parse(text) for text in options.candidates]
        for candidate in named:
            if candidate.merge is not None:
                candidate.merge.check(model.config)
        return list(dict.fromkeys([BASE, *named]))
    precisions = [name for name in PRECISIONS if name != "int8" or _int8(options)]
    return candidates(model.config, precisions)


def _int8(options: argparse.Namespace) -> bool:
    """Whether int8 can be tried; why not is said."""
    if importlib.util.find_spec("nncf") is None:
        print(f"int8 is left out: NNCF is not installed: {installation.install('int8')}")
        return False
    if options.calibrate is None and options.data is None:
        print("int8 is left out: it is calibrated with pictures like those to come: --calibrate DIR")
        return False
    return True


def _refuse_replacing(chosen: list[Candidate], model: Segmenter, out: Path, force: bool) -> None:
    """See that the winner, whichever it is, may be written, before any work.

    Raises:
        BadOption: random weights would replace trained ones.
    """
    from segfast.export.replacing import replaced

    for candidate in chosen:
        replaced(out / _file_name(model, candidate), model.config, force)


def _file_name(model: Segmenter, candidate: Candidate) -> str:
    from segfast.export.onnx_file import file_name

    return file_name(model.config.name, model.config.protocol.window, candidate.precision, merge=candidate.merge)


def _timing(pictures: Path, seconds: float, path: Path, setting: Setting) -> Speed | str:
    return measure(path, setting, pictures, seconds)


def _checked(options: argparse.Namespace) -> argparse.Namespace:
    """The options, if they are possible.

    Raises:
        BadOption: one is not.
    """
    if not 0 <= options.max_loss <= 100:
        raise BadOption(f"--max-loss is from 0 to 100 points; got {options.max_loss:g}")
    if options.device != "cpu":
        raise BadOption(f"segfast.tune tunes for CPUs; leave --device {options.device} out")
    if options.calibrate is not None:
        from segfast.export.calibration import Calibration

        Calibration(options.calibrate).check()
    if not 0 < options.seconds <= _LONGEST:
        raise BadOption(f"--seconds must be more than 0, and at most {_LONGEST}; got {options.seconds:g}")
    return options


def _parse() -> argparse.Namespace:
    parser = cli.parser("segfast.tune", __doc__)
    parser.add_argument("model", metavar="MODEL", help="checkpoint, published name, or .onnx file")
    parser.add_argument("--data", metavar="DIR", help="pictures like those to come, with masks if there are any")
    parser.add_argument("--dataset", choices=NAMES, help="which one it is (default: told by its layout)")
    parser.add_argument("--split", default="val", help="of a dataset (default: val)")
    parser.add_argument("--limit", type=cli.positive, metavar="N", help="so many pictures only, evenly from all")
    parser.add_argument("--ignore-names", action="store_true", help="take classes to be the same whatever their names")
    parser.add_argument(
        "--max-loss", type=float, default=0.5, metavar="POINTS", help="that the winner may lose (default: 0.5)"
    )
    parser.add_argument("--calibrate", metavar="DIR", help="pictures to calibrate int8 with (default: --data's train)")
    parser.add_argument(
        "--candidates",
        nargs="+",
        metavar="NAME",
        help="try these and no others: PRECISION or PRECISION+FRACTION@BLOCK, such as fp16+0.75@6",
    )
    parser.add_argument("--out", metavar="DIR", default=".", help="folder to write to (default: this one)")
    parser.add_argument("--rounds", type=cli.positive, default=2, help="of timing, by turns (default: 2)")
    parser.add_argument("--seconds", type=float, default=6, help="of timing, a candidate and round (default: 6)")
    parser.add_argument("--force", action="store_true", help="let random weights replace a file of trained ones")
    parser.add_argument("--device", default="cpu", help="cpu, the only one that is tuned for")
    add_reading(parser)
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
