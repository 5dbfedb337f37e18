"""What int8 is calibrated and judged with: windows of pictures as the network will see them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segfast.datasets import Dataset, detect_dataset, open_dataset
from segfast.errors import BadData, BadImage, BadOption
from segfast.image import read_image
from segfast.pictures.arrays import Pixels
from segfast.pictures.selection import find_pictures
from segfast.progress import bar
from segfast.runtimes import to_bytes
from segfast.values import is_whole

if TYPE_CHECKING:
    from segfast.engine import Engine

# Fewer windows than this are said to be few.
ENOUGH = 16
# One of so many pictures is held out: nothing is fitted to its windows.
HELD = 4
# A window whose bytes deviate less from their mean shows nothing (black frames, covers, blank paper).
FLAT = 2.0
# A picture that must be enlarged more than this to cover a window is a thumbnail, smoother than what is to come.
ENLARGED = 2.0


@dataclass(frozen=True)
class Calibration:
    """Pictures for `export_onnx(precision="int8")`.

    Attributes:
        pictures: a folder of what the model will see, walked for every format that is read here; of a labelled dataset
            its training pictures. Labels are not needed.
        data: a split with masks, by which the loss is measured as points of mIoU; without one, as disagreement with fp32.
        max_loss: points that int8 may lose to fp32.
        windows: so many are taken, evenly from all pictures; those of a quarter of the pictures are held out.
    """

    pictures: str | os.PathLike[str]
    data: Dataset | None = None
    max_loss: float = 0.5
    windows: int = 32

    def check(self) -> Calibration:
        """Itself, if its values are possible.

        Raises:
            BadOption: one is not, or there is no such folder.
        """
        if not 0 <= self.max_loss <= 100:
            raise BadOption(f"--max-loss is from 0 to 100 points; got {self.max_loss!r}")
        if not is_whole(self.windows) or not 2 <= self.windows <= 4096:
            raise BadOption(f"calibration takes 2 to 4096 windows; got {self.windows!r}")
        if not Path(self.pictures).is_dir():
            raise BadOption(f"--calibrate takes a folder of pictures, and {self.pictures} is none; check the path")
        return self


def check_calibration(precision: str, calibration: Calibration | None) -> Calibration:
    """The calibration of an int8 file, before any work.

    Raises:
        BadOption: it is missing, impossible, or of another precision.
        MissingRuntime: NNCF is not installed, or broken.
    """
    from segfast.export.int8_ranges import nncf

    if precision != "int8":
        raise BadOption(f"calibration is for int8, not for {precision}; leave it out, or export int8")
    if calibration is None:
        raise BadOption("int8 is calibrated with pictures; name a folder of them: --calibrate DIR")
    nncf()
    return calibration.check()


@dataclass(frozen=True)
class Seen:
    """Windows that the network will see.

    Attributes:
        fitted: what int8 is fitted to, [n, H, W, 3].
        held: what it is judged by, [m, H, W, 3].
        notes: what was left out, for people.
    """

    fitted: NDArray[np.uint8]
    held: NDArray[np.uint8]
    notes: tuple[str, ...]


def see(calibration: Calibration, engine: Engine, out: Path) -> Seen:
    """Windows of the pictures, cut as `engine` cuts them, under a progress bar.

    Args:
        engine: of the model, at the size that is exported.
        out: the folder that is written to, where nothing is read.

    Raises:
        BadOption: there are no pictures, or none that calibrates.
    """
    pictures = _pictures(Path(calibration.pictures), out)
    each = -(-calibration.windows // len(pictures))
    chosen = evenly(len(pictures), calibration.windows)
    windows: list[NDArray[np.uint8]] = []
    sources: list[int] = []
    faults: list[str] = []
    for index in bar(chosen, "read pictures", unit="picture"):
        try:
            found = _windows(pictures[index], engine)
        except (BadImage, BadData) as error:
            faults.append(str(error))
            continue
        taken = evenly(len(found), each)
        windows += [found[place] for place in taken]
        sources += [index] * len(taken)
    kept = evenly(len(windows), calibration.windows)
    windows, sources = [windows[place] for place in kept], [sources[place] for place in kept]
    if len(windows) < 2:
        reasons = "; ".join(dict.fromkeys(faults)) or "it has too few"
        raise BadOption(f"no pictures in {calibration.pictures} calibrate int8 ({reasons}); name a folder of photos")
    held, stack = _held(sources), np.stack(windows)
    return Seen(stack[~held], stack[held], _notes(len(windows), len(set(sources)), faults))


def _held(sources: Sequence[int]) -> NDArray[np.bool_]:
    """Which windows are held out: all of every fourth picture, for windows of one overlap; of a single one a quarter.

    Args:
        sources: the picture that each of at least 2 windows is from.
    """
    several = len(set(sources)) > 1
    parts = np.unique(sources, return_inverse=True)[1] if several else np.arange(len(sources))
    count = int(parts.max()) + 1
    held: NDArray[np.bool_] = parts % HELD == HELD - 1 if count >= HELD else parts == 0
    return held


def _pictures(folder: Path, out: Path) -> Sequence[Pixels | Path]:
    """The pictures of a folder, of a dataset those of its training split, never its masks."""
    try:
        name = detect_dataset(folder)
    except BadData:
        return [path for path, _ in find_pictures([str(folder)], out).pictures]
    return _Images(open_dataset(name, folder, "train"))


class _Images(Sequence[Pixels]):
    """A dataset's pictures, each read when it is asked for."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Pixels:  # type: ignore[override]  # no slices
        return self._dataset.image(index)

    def __iter__(self) -> Iterator[Pixels]:
        return map(self._dataset.image, range(len(self)))


def _windows(picture: Pixels | Path, engine: Engine) -> list[NDArray[np.uint8]]:
    """The windows of a picture that show something.

    Raises:
        BadImage: it cannot be read, is too small, or shows nothing.
    """
    pixels = read_image(picture)
    request = engine.prepare(pixels)
    (view,) = request
    if engine.protocol.fit is None and view.image.shape[0] > ENLARGED * pixels.shape[0]:
        raise BadImage(f"a picture of {pixels.shape[1]}×{pixels.shape[0]} pixels is too small for these windows")
    windows = [to_bytes(window) for window in view.windows()]
    seen = [window for window in windows if window.std() >= FLAT]
    if not seen:
        raise BadImage("a picture is of one colour")
    return seen


def evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` of `count` indices, evenly."""
    return sorted({int(place) for place in np.linspace(0, count - 1, min(count, wanted)).round()})


def _notes(count: int, pictures: int, faults: Sequence[str]) -> tuple[str, ...]:
    few = [f"calibrated with {count} windows only; {ENOUGH} or more are surer"] if count < ENOUGH else []
    single = (
        ["all windows are of one picture: what is held out overlaps what is calibrated with"] if pictures == 1 else []
    )
    what = "a picture was left out" if len(faults) == 1 else f"{len(faults)} pictures were left out, the first"
    left = [f"{what}: {faults[0]}"] if faults else []
    return (*few, *single, *left)
