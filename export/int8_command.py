"""`--int8` and its companions on the command line of the export."""

from __future__ import annotations

import argparse

from segfast import cli
from segfast.datasets import detect_dataset, open_dataset
from segfast.datasets.options import add_reading, reading_of
from segfast.errors import BadOption
from segfast.export.calibration import Calibration

# What goes with --int8 alone.
_OWN = ("calibrate", "data", "max_loss", "windows")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of int8."""
    group = parser.add_argument_group("int8")
    group.add_argument(
        "--calibrate", metavar="DIR", help="pictures like those to come, 30 or more (default: those of --data's train)"
    )
    group.add_argument("--data", metavar="DIR", help="a dataset with masks, by whose val the loss is measured")
    group.add_argument("--max-loss", type=float, metavar="POINTS", help="that int8 may lose (default: 0.5)")
    group.add_argument("--windows", type=cli.positive, metavar="N", help="to calibrate with (default: 32)")
    add_reading(parser)


def calibration(options: argparse.Namespace) -> Calibration | None:
    """What the command line says of calibration; None where it is not int8 that is exported.

    Raises:
        BadOption: options of int8 are given without it, or none of the pictures.
        BadData: the dataset is not what it should be.
    """
    given = {name: getattr(options, name) for name in _OWN if getattr(options, name) is not None}
    if options.precision != "int8":
        if given:
            raise BadOption(f"--{next(iter(given)).replace('_', '-')} goes with --int8")
        return None
    root, pictures = given.pop("data", None), given.pop("calibrate", None)
    if root is None and pictures is None:
        raise BadOption("int8 is calibrated with pictures; name a folder of them: --calibrate DIR")
    data = None if root is None else open_dataset(detect_dataset(root), root, "val", reading=reading_of(options))
    return Calibration(root if pictures is None else pictures, data, **given).check()
