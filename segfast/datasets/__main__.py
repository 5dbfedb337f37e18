"""Say what a folder of pictures and masks holds: classes, shares, sizes and every fault.

    python -m segfast.datasets my/pictures
    python -m segfast.datasets my/pictures --sheet sheet.png
    python -m segfast.datasets coco --val-fraction 0.1 --convert my/pictures

--sheet draws the masks over the first pictures: look at it before a model is trained. --convert writes images/, masks/ and
classes.txt as segfast.train reads them without an option. The exit code is 2 where there are faults.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from segfast import cli, files
from segfast.datasets import NAMES, Dataset, detect_dataset, open_dataset
from segfast.datasets.contact import draw
from segfast.datasets.content import Content, tell
from segfast.datasets.convert import convert
from segfast.datasets.options import add_reading, reading_of
from segfast.errors import BadData, BadOption


def main() -> int:
    """Check every split, tell of it, and write what the command line asks for; 2 where there are faults."""
    options = _parse()
    if options.sheet:
        files.check_suffix(options.sheet, ".png")
    splits, reasons = _open(options)
    if not splits:
        raise reasons[0]
    faults = list[BadData]()
    tell(_checked(splits, faults))
    for reason in reasons:
        print(f"ATTENTION: {reason}")
    if options.sheet:
        files.write_png(draw(splits, options.shown), options.sheet)
        print(f"masks over pictures: {options.sheet}")
    if faults:
        words, offenders = (
            "; ".join(error.message for error in faults),
            [one for error in faults for one in error.offenders],
        )
        raise BadData(words, offenders)
    if options.convert:
        convert(splits, Path(options.convert))
        print(
            f"written to {options.convert}; next: python -m segfast.train --recipe folder --data {options.convert} --out run"
        )
    return 0


def _checked(splits: Sequence[Dataset], faults: list[BadData]) -> Iterator[Content | None]:
    """What every split holds, one after another; those that cannot be used go to `faults`."""
    for dataset in splits:
        try:
            yield dataset.check(progress=True)
        except BadData as error:
            faults.append(error)


def _open(options: argparse.Namespace) -> tuple[list[Dataset], list[BadOption | BadData]]:
    """The splits that there are, and why others are not."""
    name, reading = options.dataset or detect_dataset(options.data), reading_of(options)
    splits, reasons = list[Dataset](), list[BadOption | BadData]()
    for split in options.splits:
        try:
            splits.append(open_dataset(name, options.data, split, reading=reading))
        except (BadOption, BadData) as error:
            reasons.append(error)
    return splits, reasons


def _parse() -> argparse.Namespace:
    parser = cli.parser("segfast.datasets", __doc__)
    parser.add_argument("data", metavar="DIR", help="folder of the dataset")
    parser.add_argument("--dataset", choices=NAMES[:-1], help="which one it is (default: told by its layout)")
    parser.add_argument("--splits", nargs="+", default=["train", "val"], metavar="SPLIT", help="(default: train val)")
    parser.add_argument("--sheet", metavar="PNG", help="draw the masks over the first pictures of every split")
    parser.add_argument("--shown", type=cli.positive, default=12, metavar="N", help="pictures a split (default: 12)")
    parser.add_argument("--convert", metavar="OUT", help="write the pictures and masks as segfast.train reads them")
    add_reading(parser)
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
