"""Draw what a model sees: the paper's figures, as PNG, with the numbers behind each as JSON or npz.

    python -m segfast.explain best.safetensors photo.jpg -o figures
    python -m segfast.explain best.safetensors photo.jpg -o figures --figures attention --at 320,200 --layers 1 12
    python -m segfast.explain seg-b-mask-16.safetensors photos/ -o figures --compare seg-b-mask-32.safetensors
    python -m segfast.explain seg-b-mask-16-512-fp16.onnx photo.jpg -o figures --palette safe

Of each picture: attention (Figures 1 and 6), masks of the classes (equation 4), scores, doubt, and with --compare the
comparison (Figure 3). Of the model: embeddings of its classes (Figure 8), and distance (Figure 7), the mean over all
pictures. Without --figures all are drawn that the model has. An exported file has scores, doubt and comparison only.

Pictures that cannot be read, or do not reach to --at, are listed at the end, and the exit code is 1; the others are drawn.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from segfast import cli, files
from segfast.dependencies.imports import need
from segfast.errors import BadImage, BadOption, NotSupported
from segfast.explain.run import FIGURES, Asked, Explainer
from segfast.pictures.selection import find_pictures, output_names


def main() -> int:
    """Draw what the command line asks for; 0 if every figure was written, else 1."""
    options = _parse()
    need("train", "matplotlib", "scipy")
    selection = find_pictures(options.images, Path(options.out))
    if selection.left_out:
        print(selection.report())
    asked = Asked(
        figures=tuple(dict.fromkeys(options.figures)) if options.figures else None,
        at=tuple(options.at or ()),
        layers=options.layers,
        heads=options.heads,
        size=options.size,
        closeups=options.closeups,
        safe=options.palette == "safe",
        dpi=options.dpi,
        device=options.device,
    )
    explainer = Explainer(options.model, options.compare or (), asked)
    for line in explainer.left_out:
        print(line)
    folder, drawn, failures = files.make_folder(options.out), list[Path](), list[str]()
    for (path, _), name in zip(selection.pictures, output_names(selection.pictures), strict=True):
        try:
            for written in explainer.draw_picture(path, folder / name):
                print(written)
            drawn.append(path)
        except (BadImage, BadOption, NotSupported) as error:
            failures.append(f"{path}: {error}")
    for written in explainer.draw_model(drawn, folder):
        print(written)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _at(text: str) -> tuple[int, int]:
    x, _, y = text.partition(",")
    if not (x.isdecimal() and y.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no place in a picture; write X,Y in its pixels, such as 320,200")
    return int(x), int(y)


def _parse() -> argparse.Namespace:
    parser = cli.parser("segfast.explain", __doc__)
    parser.add_argument("model", metavar="MODEL", help="checkpoint, published name, or .onnx or .engine file")
    parser.add_argument(
        "images", metavar="IMAGE|FOLDER", nargs="+", help="pictures, folders of them, or patterns in quotes"
    )
    parser.add_argument("-o", "--out", metavar="DIR", required=True, help="folder to write to")
    parser.add_argument("--figures", nargs="+", choices=FIGURES, help="draw only these")
    parser.add_argument(
        "--at",
        type=_at,
        nargs="+",
        metavar="X,Y",
        help="attention of the patches at these pixels (default: one in a large region, one in a small)",
    )
    parser.add_argument("--layers", type=int, nargs="+", metavar="N", help="of attention, from 1 (default: four)")
    parser.add_argument("--heads", type=int, nargs="+", metavar="N", help="draw these, from 1 (default: their mean)")
    parser.add_argument(
        "--size",
        type=cli.positive,
        help="short side in pixels for attention, masks and distance (default: the model's window)",
    )
    parser.add_argument("--compare", nargs="+", metavar="OTHER", help="other models, for the comparison")
    parser.add_argument("--closeups", type=cli.positive, default=2, help="of the comparison (default: 2)")
    parser.add_argument(
        "--palette", choices=("own", "safe"), default="own", help="safe: colours that colour-blind readers tell apart"
    )
    parser.add_argument("--dpi", type=cli.positive, default=200, help="of the figures, 7 inches wide (default: 200)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: the GPU if there is one)")
    options = parser.parse_args()
    if options.figures and "comparison" in options.figures and not options.compare:
        raise BadOption("a comparison needs other models; name them with --compare OTHER…")
    return options


if __name__ == "__main__":
    cli.run(main)
