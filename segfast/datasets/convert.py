"""A dataset written as a folder that needs no option: images/, masks/ and classes.txt."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image

from segfast import files
from segfast.classes import Palette
from segfast.datasets.base import IGNORE, Dataset
from segfast.datasets.class_list import is_no_class, read_class_list
from segfast.errors import BadData, BadOption
from segfast.progress import bar


def convert(splits: Sequence[Dataset], out: Path) -> None:
    """Write every split; pictures as they are, and masks as palette PNG of class indices.

    Raises:
        BadOption: the folder is there and not empty; or a class has a name of what is ignored.
        BadData, BadImage: a sample cannot be read; nothing is left in `out`.
        CannotWrite: the disk is full or read-only.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadOption(f"{out} is there already; name a new folder")
    if lost := [name for name in splits[0].classes if is_no_class(name)]:
        raise BadOption(f"the class {lost[0]!r} would be read as pixels to ignore; rename it with --map")
    partial = out.with_name(f".{out.name}-{os.getpid()}.partial")
    try:
        for dataset in splits:
            _write(dataset, partial)
        _list_classes(splits[0], partial)
        if out.is_dir():
            out.rmdir()
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _list_classes(dataset: Dataset, out: Path) -> None:
    """`classes.txt`, or `classes.json` where a name would be read as something else there.

    Colours that several classes share are left out, as all are then: the masks' values say the class.
    """
    shared = len(set(dataset.palette)) < len(dataset.palette)
    rows = [
        name if shared else f"{name} #{bytes(colour).hex()}"
        for name, colour in zip(dataset.classes, dataset.palette, strict=True)
    ]
    path, wanted = out / "classes.txt", (tuple(dataset.classes), tuple(range(len(rows))))
    files.write_text("\n".join(rows) + "\n", path)
    with suppress(BadData):
        found = read_class_list(path)
        if (found.names, found.values, found.ignored) == (*wanted, ()) and (shared or found.colours == dataset.palette):
            return
    path.unlink()
    values = [
        {"name": name} if shared else {"name": name, "color": list(map(int, colour))}
        for name, colour in zip(dataset.classes, dataset.palette, strict=True)
    ]
    files.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", out / "classes.json")


def _unused(palette: Palette) -> Sequence[int]:
    """A colour of no class, for what is ignored: white would be read as a white class."""
    return next(grey for value in range(255, -1, -1) if (grey := (value,) * 3) not in palette)


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
        mask.putpalette([*colours, *[0] * (3 * IGNORE - len(colours)), *_unused(dataset.palette)])
        files.write_png(mask, out / "masks" / dataset.split / f"{key}.png")
