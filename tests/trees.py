"""Small datasets, each in its owner's own layout."""

import numpy as np
from PIL import Image

SIZE = (40, 56)  # of every picture, (H, W)


def picture(path, seed=0, size=SIZE):
    """A picture of noise, in the format its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)


def mask(path, values, palette=False):
    """A grey mask, or one with a palette, of an array [H, W]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    if palette:
        image.putpalette([7, 8, 9] * 256)
    image.save(path)


def values(high, seed=0, size=SIZE, extra=()):
    """Blocks of 8×8 pixels of the values below `high` and of `extra`, uint8 [H, W]."""
    choice = np.array([*range(high), *extra], np.uint8)
    blocks = np.random.default_rng(seed).integers(0, len(choice), (-(-size[0] // 8), -(-size[1] // 8)))
    return choice[np.kron(blocks, np.ones((8, 8), int))[: size[0], : size[1]]]


def ade20k(root):
    for split, count in (("training", 3), ("validation", 2)):
        for number in range(1, count + 1):
            name = f"ADE_{split[:3]}_{number:08}"
            picture(root / "ADEChallengeData2016" / "images" / split / f"{name}.jpg", number)
            mask(root / "ADEChallengeData2016" / "annotations" / split / f"{name}.png", values(151, number))
    return root


def pascal_context(root):
    home = root / "VOCdevkit" / "VOC2010"
    lists = {"train": ["2008_000001", "2008_000003"], "val": ["2008_000002"]}
    for split, names in lists.items():
        for seed, name in enumerate(names):
            picture(home / "JPEGImages" / f"{name}.jpg", seed)
            mask(home / "SegmentationClassContext" / f"{name}.png", values(60, seed), palette=True)
        (home / "ImageSets" / "SegmentationContext").mkdir(parents=True, exist_ok=True)
        (home / "ImageSets" / "SegmentationContext" / f"{split}.txt").write_text("\n".join(names) + "\n")
    picture(home / "JPEGImages" / "2009_000009.jpg")  # in VOC2010, but not in Pascal Context
    return root


def cityscapes(root, train_ids=True):
    for split, city in (("train", "aachen"), ("val", "frankfurt"), ("val", "lindau")):
        stem = f"{city}_000000_000019"
        picture(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
        truth = root / "gtFine" / split / city
        mask(truth / f"{stem}_gtFine_labelIds.png", values(34))
        mask(truth / f"{stem}_gtFine_color.png", values(34))
        mask(truth / f"{stem}_gtFine_instanceIds.png", values(34))
        if train_ids:
            mask(truth / f"{stem}_gtFine_labelTrainIds.png", values(19, extra=[255]))
    return root


def folder(root, classes="road\nsky\ntraffic light", high=3):
    for split, names in (("train", ["a.jpg", "deep/b.png", "c.webp"]), ("val", ["d.jpg", "e.png"])):
        for seed, name in enumerate(names):
            picture(root / "images" / split / name, seed)
            path = (root / "masks" / split / name).with_suffix(".png")
            mask(path, values(high, seed, extra=[255]), palette=seed % 2 == 1)
    (root / "classes.txt").write_text(classes + "\n")
    return root


BUILDERS = {"ade20k": ade20k, "pascal_context": pascal_context, "cityscapes": cityscapes, "folder": folder}
