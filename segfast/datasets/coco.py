"""A split whose truth is COCO's JSON: polygons and run lengths, drawn as masks when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from segfast.classes import Names, Palette, generated_palette
from segfast.datasets.base import IGNORE, Dataset
from segfast.datasets.coco_annotations import BACKGROUND, Annotated, annotated, categories, read_file
from segfast.datasets.coco_pictures import Pictures
from segfast.datasets.coco_regions import inside
from segfast.datasets.coco_splits import choose, find_coco
from segfast.datasets.content import Content, Look, survey
from segfast.datasets.decoding import UNKNOWN
from segfast.datasets.mapping import Mapping, read_mapping
from segfast.datasets.options import Reading
from segfast.datasets.pairs import measure, subset
from segfast.datasets.tree import Tree
from segfast.dependencies.imports import need
from segfast.errors import BadData, BadImage
from segfast.image import read_image


@dataclass(frozen=True)
class CocoDataset(Dataset):
    """A split whose truth is COCO's JSON.

    Pixels of no region are `background`, class 0; the categories follow in the order of their ids. Crowds are ignored.
    Smaller regions lie over larger ones, and of equal ones the later in the file.

    Attributes:
        table: label of every category, by its place in the order; IGNORE for none.
    """

    root: Path
    samples: tuple[Annotated, ...]
    table: tuple[int, ...]
    stray: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def key(self, index: int) -> str:
        """The picture's file name without its ending."""
        return self.samples[index].key

    def image(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels, uint8 [H, W, 3]."""
        return read_image(self._path(index))

    def labels(self, index: int) -> NDArray[np.uint8]:
        """Labels, uint8 [H, W]."""
        need("coco", "pycocotools")
        sample, table = self.samples[index], np.array([*self.table, *[IGNORE] * (256 - len(self.table))], np.uint16)
        labels = np.zeros(sample.size, np.uint8)
        for region in sample.regions:
            labels[inside(region.shape, sample.size, sample.key)] = region.label
        found = table[labels]
        if (found == UNKNOWN).any():
            raise BadData(f"{sample.key} has pixels of a class that was dropped")
        return found.astype(np.uint8)

    def source(self, index: int) -> Path | None:
        """The picture's file."""
        return self._path(index)

    def take(self, indices: Iterable[int]) -> Self:
        """These samples only."""
        return replace(self, samples=tuple(self.samples[index] for index in indices), stray=())

    def check(self, *, progress: bool = False) -> Content:
        """See that every picture is there, of the size that is said, and that its regions can be drawn."""
        return survey(self, self._look, progress=progress).whole(self.root, self.stray).checked()

    def _path(self, index: int) -> Path:
        sample = self.samples[index]
        if sample.image is None:
            raise BadData(f"the picture {sample.key} of {self.split} is nowhere in {self.root}; add it")
        return self.root / sample.image

    def _look(self, index: int) -> Look:
        sample = self.samples[index]
        try:
            size, orientation, dim = measure(self._path(index))
            if size != sample.size:
                return Look(
                    fault=f"{sample.image} has {size[0]}×{size[1]} pixels, but the JSON says {sample.size[0]}×{sample.size[1]}"
                    + ("; it is turned by EXIF, and was annotated unturned" if size == sample.size[::-1] else "")
                )
            counts = np.bincount(self.labels(index).ravel(), minlength=256)
            return Look(counts=counts, size=size, turned=orientation > 1, dim=dim)
        except (BadData, BadImage) as error:
            return Look(fault=str(error))


def open_coco(root: Path, split: str, fraction: float, reading: Reading) -> CocoDataset:
    """A split of COCO's JSON.

    Raises:
        BadData: the file cannot be read, or a picture or category is missing.
        BadOption: there is no such split.
        MissingRuntime: pycocotools is not installed.
    """
    need("coco", "pycocotools")
    tree = Tree(root.resolve(), follow=reading.follow_links)
    path, share = choose(find_coco(root), split, root, reading)
    data = read_file(path)
    known = categories(data, path)
    pictures = Pictures(path.relative_to(root), tree)
    samples = annotated(data, known.labels, path, pictures)
    if not samples:
        raise BadData(f"{path} has no pictures; add some")
    if share is not None:
        drawn = {one.key for one in subset(samples, share)}
        samples = tuple(one for one in samples if (one.key in drawn) == (split == "val"))
    mapped = _classes(known.names, reading)
    told = [f"{split}: {path.relative_to(root)}, categories by their ids", *_lines(mapped), *pictures.told()]
    told += [f"left out: {', '.join(known.ignored)}, of which nothing is annotated"] if known.ignored else []
    return CocoDataset(
        "folder", split, mapped.names, mapped.palette, tree.root, subset(samples, fraction), mapped.targets,
        tuple(tree.stray), tuple(told),
    )  # fmt: skip


def coco_classes(root: Path, reading: Reading) -> Mapping | None:
    """The classes that the first JSON of COCO's kind below a folder has; None where there is none.

    Raises:
        BadData: as `open_coco`.
    """
    path = next(iter(find_coco(root)), None)
    return None if path is None else _classes(categories(read_file(path), path).names, reading)


def _classes(names: Names, reading: Reading) -> Mapping:
    """Classes and their colours, as --map has them; black for a background that comes first."""
    black: Palette = ((0, 0, 0),) if names[0] == BACKGROUND else ()
    palette = (*black, *generated_palette(len(names) - len(black)))
    if reading.map is not None:
        return read_mapping(Path(reading.map), names, palette)
    return Mapping(tuple(range(len(names))), names, palette)


def _lines(mapped: Mapping) -> list[str]:
    rows = zip(mapped.names, mapped.palette, strict=True)
    return [f"{index:>4}  {name}  #{bytes(colour).hex()}" for index, (name, colour) in enumerate(rows)]
