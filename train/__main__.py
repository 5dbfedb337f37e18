"""Fine-tune a Segmenter, or train one from scratch; the same command goes on with a run that was stopped.

    python -m segfast.train --recipe ade20k --model seg-b-mask-16 --data ADEChallengeData2016 --out run
    python -m segfast.train --recipe folder --model seg-s-mask-16 --data my/pictures --out run --precision bf16
    python -m segfast.train --recipe folder --model seg-s-dinov2-14 --data my/pictures --out run --freeze
    python -m segfast.train --recipe shapes --out run
    python -m segfast.train --recipe folder --data my/pictures --out run --epochs 100 --patience 5
    torchrun --nproc-per-node 2 -m segfast.train --recipe cityscapes --model seg-l-mask-16 --data cityscapes --out run

A folder of your own holds images/train, images/val, masks/train, masks/val (PNGs of class numbers, 255 for none) and
classes.txt. Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 save before they end the run. RUN/best.safetensors goes into
segfast.export.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

from segfast import cli
from segfast.dependencies.imports import need
from segfast.errors import BadOption
from segfast.train.fields import Recipe, flag
from segfast.train.recipes import EXPECTED, MULTISCALE, RECIPES, TODAY, recipe


def main() -> int:
    """Train as the command line says; 0 when the run is finished, 130 when stopped before."""
    options = _parse()
    fields = {item.name for item in dataclasses.fields(Recipe)}
    given = {name: value for name, value in vars(options).items() if name in fields}
    ranges = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    chosen = recipe(options.recipe, given.pop("model", None), **given | ranges)
    if options.data is None and chosen.dataset != "shapes":
        raise BadOption(f"where is the data? name the folder of {chosen.dataset} with --data")
    need("train", "torch")

    from segfast.train.launch import place
    from segfast.train.loop import train
    from segfast.train.running import Running
    from segfast.train.world import EndedElsewhere

    names = {item.name for item in dataclasses.fields(Running)}
    running = Running(**{name: value for name, value in vars(options).items() if name in names})
    first = place().rank == 0
    if first:
        print(_heading(chosen, options.recipe), flush=True)
    try:
        progress = train(chosen, options.data, options.out, running)
    except EndedElsewhere:
        return 2  # the process that failed says why
    if not progress.finished:
        return 130
    if not first:
        return 0
    if not progress.best_iteration:
        print("no evaluation found a labelled pixel: there is no best model")
        return 0
    print(f"best mIoU {100 * progress.best:.2f} at iteration {progress.best_iteration}: {options.out}/best.safetensors")
    print(f"next: python -m segfast.export --weights {options.out}/best.safetensors")
    return 0


def _heading(chosen: Recipe, name: str) -> str:
    what = f"recipe {name}: {chosen.source}"
    expected = EXPECTED.get(name, {}).get(chosen.model or "")
    if expected is not None and chosen == recipe(name, chosen.model):
        scale = "multi-scale" if name in MULTISCALE else "single-scale"
        what += f"; the paper has {expected} mIoU for {chosen.model}, {scale}"
    if chosen.source != RECIPES[name].source:  # the encoder has brought its own
        what += ": " + ", ".join(f"{item.replace('_', '-')} {_shown(getattr(chosen, item))}" for item in TODAY)
    return what


def _parse() -> argparse.Namespace:
    parser = cli.parser("segfast.train", __doc__)
    parser.add_argument("--recipe", choices=tuple(RECIPES), required=True, help="what to train on, and how")
    parser.add_argument("--data", metavar="DIR", help="folder of the dataset (shapes draws its own)")
    parser.add_argument("--out", metavar="RUN", required=True, help="folder of the run, made if missing")
    _add_running(parser.add_argument_group("how it runs (may change when a run goes on)"))
    group = parser.add_argument_group("the recipe (defaults: see segfast/train/recipes.py; --help shows ADE20K's)")
    for item in dataclasses.fields(Recipe):
        if not item.metadata.get("fixed") and item.name != "dataset":
            _add_field(group, item)
    return parser.parse_args()


def _add_running(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--device", help="cpu, cuda or cuda:N (default: the GPU if there is one)")
    group.add_argument("--workers", type=int, default=1, help="processes that prepare batches (default: 1)")
    group.add_argument("--threads", type=int, help="of PyTorch on a CPU")
    group.add_argument("--accumulate", type=int, default=1, help="micro-batches per step, for less memory (default: 1)")
    group.add_argument("--compile", action="store_true", help="run the model through torch.compile")
    group.add_argument("--save-activations", action="store_true", help="recompute blocks for less memory (Seg-L/8)")
    group.add_argument("--attention", default="auto", help="auto, sdpa, triton, cudnn or flash (default: auto)")
    group.add_argument("--no-tensorboard", dest="tensorboard", action="store_false", help="write no event files")
    group.add_argument("--log-every", type=int, default=10, help="steps between reports (default: 10)")


def _add_field(group: argparse._ArgumentGroup, item: dataclasses.Field[object]) -> None:
    """An option made of a field; left out, it is the recipe's."""
    default = item.default
    help = f"{item.metadata['help']} ({_shown(default)})".replace("%", "%%")
    common: dict[str, Any] = {"dest": item.name, "default": argparse.SUPPRESS, "help": help}
    name = f"--{flag(item)}"
    if isinstance(default, bool):
        group.add_argument(name, action=argparse.BooleanOptionalAction, **common)
    elif isinstance(default, tuple):
        group.add_argument(name, type=float, nargs=2, metavar=("LEAST", "MOST"), **common)
    else:
        group.add_argument(name, type=_reader(str(item.type)), metavar=flag(item).rsplit("-")[-1].upper(), **common)


def _reader(kind: str) -> Callable[[str], str | float | None]:
    """What reads an option of a field's type; `none` where it may be None."""
    read: Callable[[str], str | float] = float if kind.startswith("float") else int if kind.startswith("int") else str

    def parse(text: str) -> str | float | None:
        return None if kind.endswith("| None") and text.casefold() == "none" else read(text)

    parse.__name__ = "number" if read is not str else "text"
    return parse


def _shown(default: object) -> str:
    return "none" if default is None else " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


if __name__ == "__main__":
    cli.run(main)
