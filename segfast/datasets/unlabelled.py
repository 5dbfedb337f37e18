"""Splits of pictures alone: test sets whose truth their owners keep, to predict and not to measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segfast import classes as labels
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
    listed = find_class_list(root) if name == "folder" else None
    if not there or (name == "folder" and listed is None):
        return None
    names, palette = labels.dataset(name) if listed is None else read_classes(listed, reading)[:2]
    tree = Tree(root.resolve(), follow=reading.follow_links)
    pairs = tuple(Pair(key, path, None) for key, path in tree.find(there[0], SUFFIXES).items())
    return PicturesDataset(name, split, names, palette, tree.root, pairs, tuple(tree.stray)) if pairs else None


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
