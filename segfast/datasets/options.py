"""How a folder of one's own is read, where its files do not say it."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass

from segfast.errors import BadOption


@dataclass(frozen=True)
class Reading:
    """How a folder is read.

    Attributes:
        ignore_index: a value of masks that stands for no class, besides 255.
        reduce_zero_label: 0 stands for no class, and every other value is one too high (ADE20K's masks).
        map: a file that merges, renames, ignores or drops classes by name (`datasets.mapping`).
        val_fraction: the share of the pictures that becomes `val` where there is no such split.
        follow_links: links are followed wherever they lead.
    """

    ignore_index: int | None = None
    reduce_zero_label: bool = False
    map: str | None = None
    val_fraction: float | None = None
    follow_links: bool = False

    def check(self) -> Reading:
        """Itself, if its values are possible.

        Raises:
            BadOption: one is not.
        """
        if self.ignore_index is not None and not 0 <= self.ignore_index <= 65535:
            raise BadOption(f"--ignore-index must lie between 0 and 65535; got {self.ignore_index}")
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise BadOption(f"--val-fraction must lie between 0 and 1; got {self.val_fraction}")
        return self


def add_reading(parser: argparse.ArgumentParser) -> None:
    """The options of the command line that make a Reading."""
    group = parser.add_argument_group("how a folder of your own is read")
    group.add_argument("--ignore-index", type=int, metavar="N", help="a value of masks that is no class, besides 255")
    group.add_argument(
        "--reduce-zero-label", action="store_true", help="0 in masks is no class, and other values are one too high"
    )
    group.add_argument(
        "--map", metavar="FILE", help="merge, rename, ignore or drop classes: a line `car: vehicle` each"
    )
    group.add_argument(
        "--val-fraction", type=float, metavar="SHARE", help="of the pictures to evaluate on, where none are set apart"
    )
    group.add_argument("--follow-links", action="store_true", help="follow links wherever they lead")


def reading_of(options: argparse.Namespace) -> Reading:
    """What the command line says."""
    return Reading(**{item.name: getattr(options, item.name) for item in dataclasses.fields(Reading)})
