"""Which mask belongs to which picture, where their names differ in an ending or a beginning that all of them share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

# What stands behind (or before) the name that a picture shares with its mask.
_OF_PICTURES = ("_leftImg8bit", "_image", "_img", "_rgb", "_RGB", "_sat", "_photo", "-image", "-rgb", "_IMG")
_BEFORE_PICTURES = ("image_", "img_", "rgb_", "IMG_", "image-", "img-")
# Where a picture has several masks, the first of these is meant; what is in none of them is left to chance by nobody.
_PREFERRED = ("_gtFine_labelTrainIds", "_labelTrainIds", "_gtFine_labelIds", "_gtCoarse_labelIds", "_labelIds")
_AN_ENDING = re.compile(r"[_\-. ][^/\d]*[A-Za-z][^/]*|[A-Z]+[a-z]*")


class Match(NamedTuple):
    """Pictures and masks by the names that they share.

    Attributes:
        pictures, masks: paths by key.
        how: what the names differ in, in words; empty where they do not.
        beside: masks of endings that are not wanted, such as instances beside classes.
    """

    pictures: dict[str, str]
    masks: dict[str, str]
    how: str = ""
    beside: tuple[str, ...] = ()


def match(pictures: Mapping[str, str], masks: Mapping[str, str]) -> Match:
    """Pair by equal names; where fewer than half are equal, by the ending or beginning that most masks share."""
    equal = pictures.keys() & masks.keys()
    if not pictures or not masks or 2 * len(equal) >= min(len(pictures), len(masks)):
        return Match(dict(pictures), dict(masks))
    splits = {key: _splits(key) for key in masks}
    candidates = [_by_ending(pictures, masks, splits, cut) for cut in ("", *_OF_PICTURES, *_BEFORE_PICTURES)]
    best = max(candidates, key=lambda found: (len(found.pictures.keys() & found.masks.keys()), not found.beside))
    return best if len(best.pictures.keys() & best.masks.keys()) > len(equal) else Match(dict(pictures), dict(masks))


def _by_ending(
    pictures: Mapping[str, str], masks: Mapping[str, str], splits: Mapping[str, list[tuple[str, str, str]]], cut: str
) -> Match:
    """The match where pictures have `cut` behind or before their names, and masks whatever most of them share."""
    plain = {_cut(key, cut): path for key, path in pictures.items()}
    rests: dict[str, tuple[str, str]] = {}
    for key in masks:
        for shared, before, behind in splits[key]:
            if shared in plain:
                rests[key] = shared, f"{before}*{behind}"
                break
    counts = Counter(rest for _, rest in rests.values())
    if not counts:
        return Match(plain, dict(masks))
    wanted = _preferred(counts)
    found = {shared: masks[key] for key, (shared, rest) in rests.items() if rest == wanted}
    beside = tuple(masks[key] for key, (shared, rest) in rests.items() if rest != wanted and shared in found)
    lone = {key: path for key, path in masks.items() if path not in found.values() and path not in beside}
    how = f"pictures are named {_shown(cut)}, masks {wanted}"
    return Match(plain, {**lone, **found}, how, beside)


def _shown(cut: str) -> str:
    return "*" if not cut else f"*{cut}" if cut in _OF_PICTURES else f"{cut}*"


def _cut(key: str, cut: str) -> str:
    """A key without what pictures have before or behind their names."""
    if cut in _BEFORE_PICTURES:
        folder, _, name = key.rpartition("/")
        return f"{folder}/{name.removeprefix(cut)}" if folder else name.removeprefix(cut)
    return key.removesuffix(cut) if cut else key


def _splits(key: str) -> list[tuple[str, str, str]]:
    """(name, what is before it, what is behind) of a mask's key, the longest name first."""
    folder, _, name = key.rpartition("/")
    where = f"{folder}/" if folder else ""
    behind = [(where + name[:at], "", name[at:]) for at in range(len(name), 0, -1)]
    before = [(where + name[at:], name[:at], "") for at in range(1, len(name))]
    return [
        split
        for split in (*behind, *before)
        if not (split[1] or split[2])
        or (split[2] and _AN_ENDING.fullmatch(split[2]))
        or (split[1] and re.fullmatch(r"[^/\d]*[A-Za-z][^/]*[_\-. ]", split[1]))
    ]


def _preferred(counts: Counter[str]) -> str:
    for ending in _PREFERRED:
        for rest in counts:
            if rest.endswith(ending):
                return rest
    return max(counts, key=lambda rest: (counts[rest], rest == "*", -len(rest)))
