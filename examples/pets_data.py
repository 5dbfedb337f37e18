"""Build the folder that examples/pets.onnx was trained on: pets, and pictures without one.

    python examples/pets_data.py pets mixed --without petfree 100 --without aerial/images/train 40

A model that only ever saw pets sees them everywhere. So pictures are added to the training photos in which every pixel is
background: those of the folders given with --without, parts of the pets' photos beside the animal, and drawn shapes.
PETS is a folder as segfast.train reads it (images/, masks/, classes.txt; 0 is the background). Its val split stays as it is.

Nothing that the model is tried on may be trained on: what looks like a photo beside this script (coffee.jpg, cat.jpg,
rocket.jpg) is left out, whatever its size and format.
"""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from segfast.datasets.shapes import ShapesDataset

HERE = Path(__file__).parent
PICTURES = (".jpg", ".jpeg", ".png")
LARGEST, LEAST = 512, 112  # pixels: the longest side of what is added, and its shortest
ALIKE = 8  # of 64 bits: fingerprints of copies differ in no more


def main() -> None:
    """Write the folder that the command line names."""
    options = _parse()
    shutil.copytree(options.pets, options.out)
    held_out = [fingerprint(Image.open(path)) for path in sorted(HERE.glob("*.jpg"))]
    for folder, count in options.without:
        pictures = list(read(Path(folder), held_out))
        add(options.out, Path(folder).name, spread(pictures, int(count)))
    add(options.out, "beside", spread(list(beside_pets(options.pets)), options.beside))
    drawn = ShapesDataset.of("train")
    add(options.out, "shapes", [Image.fromarray(drawn.image(index)) for index in range(options.shapes)])


def read(folder: Path, held_out: Sequence[int]) -> Iterator[Image.Image]:
    """The pictures of a folder that are large enough and no copies of those held out, at most LARGEST pixels a side."""
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES):
        with Image.open(path) as file:
            picture = file.convert("RGB")
        if any((fingerprint(picture) ^ other).bit_count() <= ALIKE for other in held_out):
            print(f"left out: {path}, which the model is tried on")
        elif min(picture.size) >= LEAST:
            picture.thumbnail((LARGEST, LARGEST))
            yield picture


def fingerprint(picture: Image.Image) -> int:
    """64 bits that copies of a picture share: of 8×9 grey cells, whether each is lighter than its neighbour (dHash)."""
    cells = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.LANCZOS)).astype(int)
    return int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes(), "big")


def beside_pets(pets: Path) -> Iterator[Image.Image]:
    """Of each training photo the largest of the four parts beside, above and below the animal, if it is large enough."""
    for path in sorted((pets / "images/train").iterdir()):
        animal = (
            np.asarray(Image.open(pets / "masks/train" / f"{path.stem}.png")) != 0
        )  # [H, W], with its outline (255)
        rows, columns = np.flatnonzero(animal.any(1)), np.flatnonzero(animal.any(0))
        (H, W), (top, bottom), (left, right) = animal.shape, rows[[0, -1]], columns[[0, -1]]
        boxes = ((0, 0, left, H), (right + 1, 0, W, H), (0, 0, W, top), (0, bottom + 1, W, H))
        sides = [(min(x2 - x1, y2 - y1), (x2 - x1) * (y2 - y1), (x1, y1, x2, y2)) for x1, y1, x2, y2 in boxes]
        fits = [(area, box) for side, area, box in sides if side >= LEAST]
        if fits:
            x1, y1, x2, y2 = map(int, max(fits)[1])
            yield Image.open(path).convert("RGB").crop((x1, y1, x2, y2))


def spread(pictures: Sequence[Image.Image], count: int) -> list[Image.Image]:
    """`count` of the pictures: every so many, or all of them again and again."""
    if len(pictures) < count:
        return [pictures[index % len(pictures)] for index in range(count)]
    return [pictures[index * len(pictures) // count] for index in range(count)]


def add(out: Path, name: str, pictures: Sequence[Image.Image]) -> None:
    """Write pictures to train on, of which all is background."""
    for index, picture in enumerate(pictures):
        picture.save(out / f"images/train/{name}-{index:04}.jpg", quality=92)
        Image.new("L", picture.size, 0).save(out / f"masks/train/{name}-{index:04}.png")
    print(f"{len(pictures)} pictures without a pet: {name}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pets", metavar="PETS", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make")
    parser.add_argument(
        "--without", nargs=2, metavar=("FOLDER", "COUNT"), action="append", default=[], help="pictures without a pet"
    )
    parser.add_argument("--beside", type=int, default=120, help="parts of the pets' photos (default: 120)")
    parser.add_argument("--shapes", type=int, default=20, help="drawn shapes (default: 20)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
