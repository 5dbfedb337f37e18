"""Splits of pictures alone: test sets whose truth their owners keep, to predict and not to measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segfast import classes as labels
from segfast.classes import Names, Palette
from segfast.datasets.coco import coco_classes
from segfast.datasets.content import Content, Look, survey
from segfast.datasets.folder import find_class_list, read_classes
from segfast.datasets.options import Reading
from segfast.datasets.pairs import Pair, PairsDataset, measure
from segfast.datasets.places import PICTURES, names_of
from segfast.datasets.tree import Tree
from segfast.errors import BadData, BadImage
from segfast.pictures.formats import SUFFIXES

# Where the paper's datasets keep a split of pictures, below the folder that is named.
_PLACES = {
    "ade20k": ("{above}images/{name}", "{above}{name}", "{above}release_test/{name}"),
    "cityscapes": ("{above}leftImg8bit/{name}",),
}
_ABOVE = {"ade20k": ("", "ADEChallengeData2016/"), "cityscapes": ("", "cityscapes/")}
_NAMES = {"test": ("test", "testing")}


@dataclass(frozen=True)
class PicturesDataset(PairsDataset):
    """Pictures without masks."""

    def check(self, *, progress: bool = False) -> Content:
        """See that every picture can be read."""
        content = survey(self, self._look, progress=progress)
        offenders = [*self.stray, *content.faults]
        if offenders:
            raise BadData(f"{len(offenders)} pictures of {self.split} in {self.root} cannot be used:", offenders)
        return content

    def _look(self, index: int) -> Look:
        try:
            measure(self._path(index, "image"))
        except (BadData, BadImage) as error:
            return Look(fault=str(error))
        return Look()


def open_pictures(name: str, root: Path, split: str, reading: Reading) -> PicturesDataset | None:
    """A split of pictures that have no masks; None where it has no folder.

    Raises:
        BadData: the class list is not understood.
    """
    there = [folder for folder in _folders(name, split) if (root / folder).is_dir()]
    found = _classes(name, root, reading) if there else None
    if found is None:
        return None
    names, palette = found
    tree = Tree(root.resolve(), follow=reading.follow_links)
    pairs = tuple(Pair(key, path, None) for key, path in tree.find(there[0], SUFFIXES).items())
    return PicturesDataset(name, split, names, palette, tree.root, pairs, tuple(tree.stray)) if pairs else None


def _classes(name: str, root: Path, reading: Reading) -> tuple[Names, Palette] | None:
    """Names and colours: of a folder of one's own those in its list, or in the COCO JSON of another split."""
    if name != "folder":
        return labels.dataset(name)
    listed = find_class_list(root)
    if listed is not None:
        return read_classes(listed, reading)[:2]
    mapped = coco_classes(root, reading)
    return None if mapped is None else (mapped.names, mapped.palette)


def _folders(name: str, split: str) -> list[str]:
    """Where the pictures of a split may be, the likeliest first."""
    if name == "folder":
        forms = ("{kind}/{split}", "{split}/{kind}", "{kind}_{split}", "{split}_{kind}", "{split}")
        return [form.format(kind=kind, split=one) for form in forms for kind in PICTURES for one in names_of(split)]
    return [
        place.format(above=above, name=one)
        for above in _ABOVE.get(name, ())
        for place in _PLACES.get(name, ())
        for one in _NAMES.get(split, (split,))
    ]
