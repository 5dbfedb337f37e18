"""Where people keep the pictures and masks of a split: the names of folders, and how they are nested."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PICTURES = (
    "images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "pictures", "photos", "inputs", "input", "rgb", "x",
)  # fmt: skip
MASKS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "segmentationclasspng", "segmentationclass",
    "segmentationclassraw", "gtfine", "gt", "groundtruth", "ground_truth", "segmentation", "segmentations", "segmaps",
    "targets", "target", "annots", "annot", "semantic", "y",
)  # fmt: skip
ALIASES = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev")}
# Splits besides those that may hold pictures and masks of their own: another folder that does is a dataset, or none.
OTHERS = frozenset(("test", "testing", "eval", "evaluation", "holdout", "trainval"))
# How a kind and a split are put together; the first is ours.
_FORMS = ("{kind}/{split}", "{split}/{kind}", "{kind}_{split}", "{split}_{kind}", "{kind}-{split}", "{split}-{kind}",
          "{split}{kind}", "{kind}{split}")  # fmt: skip
# Names of masks that lie among the pictures.
MASK_ENDINGS = re.compile(
    r"(?:[_\-. ](?:mask|masks|label|labels|L|gt|GT|seg|segmentation|annotation|lab|labelIds|labelTrainIds))$", re.I
)
_LISTS = ("", "splits/", "lists/", "imagesets/segmentation/", "imagesets/", "imagesets/main/")


class Place(NamedTuple):
    """Folders of a split, relative to the root.

    Attributes:
        split: what the split is called there; empty where the folders are of all splits.
    """

    pictures: str
    masks: str
    split: str = ""


class Places:
    """The folders of a root, and what of them fits."""

    def __init__(self, root: Path):
        self.root = root
        self.folders = {found.lower(): found for found in _folders(root)}

    def of(self, split: str) -> Place | None:
        """The folders that hold a split, if any do."""
        return next(self._of(split), None)

    def flat(self) -> Place | None:
        """Folders of pictures and masks that know no splits."""
        for kind in PICTURES:
            for mask in MASKS:
                if kind in self.folders and mask in self.folders and not self.splits():
                    return Place(self.folders[kind], self.folders[mask])
        return None

    def splits(self) -> list[str]:
        """Splits that have folders, ours by our names."""
        parts = [part for path in self.folders for part in re.split(r"[/_\-]", path)]
        found = [split for split, words in ALIASES.items() if self.of(split)]
        known = {word for words in ALIASES.values() for word in words}
        others = [name for name in dict.fromkeys(parts) if name not in known | {*PICTURES, *MASKS}]
        return [*found, *(name for name in others if (place := self.of(name)) and _is_split(name, place))]

    def listing(self, split: str) -> Path | None:
        """The text file that lists a split's samples, if there is one."""
        for folder in _LISTS:
            here = self.root / self.folders.get(folder.rstrip("/"), folder)
            for name in names_of(split):
                if (here / f"{name}.txt").is_file():
                    return here / f"{name}.txt"
        return None

    def _of(self, split: str) -> Iterator[Place]:
        for name in names_of(split):
            low = name.lower()
            for form in _FORMS:
                pictures = [form.format(kind=kind, split=low) for kind in PICTURES]
                masks = [form.format(kind=kind, split=low) for kind in MASKS]
                yield from self._pairs(pictures, masks, name)
            own = [f"{low}{mark}{kind}" for kind in MASKS for mark in ("", "_", "-")]
            yield from self._pairs([low], [*own, *(f"{kind}/{low}" for kind in MASKS)], name)
            yield from (
                Place(self.folders[path], self.folders[path], name)
                for path in (low, *(f"{kind}/{low}" for kind in PICTURES))
                if path in self.folders and is_mixed(self.root / self.folders[path])
            )

    def _pairs(self, pictures: list[str], masks: list[str], split: str) -> Iterator[Place]:
        for picture in pictures:
            for mask in masks:
                if picture in self.folders and mask in self.folders:
                    yield Place(self.folders[picture], self.folders[mask], split)


def _is_split(name: str, place: Place) -> bool:
    """Whether folders are of a split of that name, where nobody asked for it: `north/images` is not a split, `images/north` is."""
    picture = place.pictures.lower()
    return name in OTHERS or not (picture.startswith(f"{name}/") or picture == name == place.masks.lower())


def names_of(split: str) -> tuple[str, ...]:
    """What a split may be called."""
    return ALIASES.get(split, (split,))


def is_mixed(folder: Path) -> bool:
    """Whether masks lie among the pictures, told by the ends of their names."""
    names = [os.path.splitext(name)[0] for name in sorted(os.listdir(folder))[:1000]]
    masks = {MASK_ENDINGS.sub("", name) for name in names if MASK_ENDINGS.search(name)}
    return bool(masks & set(names))


def _folders(root: Path) -> Iterator[str]:
    """Every folder at most two levels below the root, hidden ones left out; links are listed, not entered."""
    for level in (1, 2):
        for path in sorted(root.glob("/".join(["*"] * level) + "/")):
            parts = path.relative_to(root).parts
            if not any(part.startswith(".") for part in parts):
                yield "/".join(parts)
