"""Segment a folder of pictures, and write how much of each one every class covers.

    python examples/segment_folder.py examples/pets.onnx photos areas.csv

`python -m segfast.segment MODEL FOLDER -o OUT` writes labels and overlays of a folder; this is the way to anything else.
"""

import csv
import sys
from pathlib import Path

import segfast

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"}


def main() -> None:
    """Segment what the command line names."""
    model, folder, table = sys.argv[1:]
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    engine = segfast.Engine(model)
    with open(table, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["picture", *engine.config.classes])
        # Reading, network and merging overlap; a damaged picture is an error in its own place, and the others go on.
        for path, answer in zip(paths, engine.segment_many(paths, errors="yield"), strict=True):
            if isinstance(answer, segfast.SegfastError):
                print(f"skipped {path}: {answer}", file=sys.stderr)
                continue
            rows.writerow([path, *(f"{answer.areas.get(name, 0):.4f}" for name in engine.config.classes)])


if __name__ == "__main__":
    main()
