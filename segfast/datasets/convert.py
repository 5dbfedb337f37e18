"""A dataset written as a folder that needs no option: images/, masks/ and classes.txt."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from segfast import files
from segfast.datasets.base import IGNORE, Dataset
from segfast.errors import BadOption
from segfast.progress import bar


def convert(splits: Sequence[Dataset], out: Path) -> None:
    """Write every split; pictures as they are, and masks as palette PNG of class indices.

    Raises:
        BadOption: the folder is there and not empty.
        BadData, BadImage: a sample cannot be read; nothing is left in `out`.
        CannotWrite: the disk is full or read-only.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadOption(f"{out} is there already; name a new folder")
    partial = out.with_name(f".{out.name}-{os.getpid()}.partial")
    try:
        for dataset in splits:
            _write(dataset, partial)
        first = splits[0]
        rows = [f"{name} #{bytes(colour).hex()}" for name, colour in zip(first.classes, first.palette, strict=True)]
        files.write_text("\n".join(rows) + "\n", partial / "classes.txt")
        if out.is_dir():
            out.rmdir()
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(dataset: Dataset, out: Path) -> None:
    colours = [channel for colour in dataset.palette for channel in colour]
    for index in bar(range(len(dataset)), f"write {dataset.split}", unit="pair"):
        key = dataset.key(index)
        for kind in ("images", "masks"):
            files.make_folder((out / kind / dataset.split / key).parent)
        source, target = dataset.source(index), out / "images" / dataset.split / key
        if source is not None:
            with files.publish(target.with_name(target.name + source.suffix)) as path:
                shutil.copyfile(source, path)
        else:
            files.write_png(Image.fromarray(dataset.image(index)), target.with_name(target.name + ".png"))
        mask = Image.fromarray(dataset.labels(index))
        mask.putpalette([*colours, *[0] * (3 * IGNORE - len(colours)), 255, 255, 255])
        files.write_png(mask, out / "masks" / dataset.split / f"{key}.png")
