"""Sheets of an evaluation: its worst and best pictures, or those about which two systems disagree most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segfast.datasets.base import IGNORE, Dataset
from segfast.errors import BadOption
from segfast.evaluation.disagreement import Pair
from segfast.evaluation.metrics import Labels
from segfast.evaluation.report import Report, Sample, percent
from segfast.pictures.fonts import drawable, legend_name
from segfast.pictures.legend import legend_lines

Pixels = NDArray[np.uint8]

PANELS = ("image", "truth", "prediction", "error")
COMPARED = ("image", "truth", "first", "second", "they differ")
WIDTH, TALLEST = 360, 540  # a panel's sides at most, in pixels
GAP = 10
TEXT, SMALL = 17, 15  # heights of letters, in pixels
INK, PALE, PAPER = (30, 30, 30), (110, 110, 110), (255, 255, 255)
IGNORED, WRONG = (0, 0, 0), (235, 30, 45)


def draw(report: Report, dataset: Dataset) -> Image.Image:
    """The pictures whose predictions the report keeps, worst first, a row each, above a legend.

    In the truth and the prediction every class has its colour of the dataset's palette, and what the truth
    ignores is black. In the error the wrong pixels are red, the right ones grey.

    Raises:
        BadOption: the report keeps no prediction.
    """
    if not report.kept:
        raise BadOption("there is no picture to show; evaluate with keep=3, on pictures whose truth is not all ignored")
    samples = {sample.index: sample for sample in report.samples}
    rows, present = [], set[int]()
    for place, (index, labels) in enumerate(report.kept.items()):
        truth = dataset.labels(index)
        present |= set(np.unique(truth).tolist()) | set(np.unique(labels).tolist())
        panels = panels_of(dataset.image(index), truth, labels, dataset.palette)
        rows.append(_row(_title(samples[index], place, len(report.kept)), panels))
    head = _head(report, [report.engine], PANELS, rows[0].width)
    return _stacked([head, *rows, _legend(dataset, sorted(present), "wrong", rows[0].width)])


def draw_compared(first: Report, second: Report, pairs: Sequence[Pair], dataset: Dataset) -> Image.Image:
    """The pictures about which two systems disagree most, a row each, above a legend.

    A row is the image, the truth, what the first and the second say, and in red where they differ. What the truth ignores
    is black.

    Args:
        pairs: of `Disagreements`, the worst first.

    Raises:
        BadOption: there is no pair.
    """
    if not pairs:
        raise BadOption("there is no picture to show; evaluate at least one")
    rows, present = [], set[int]()
    for pair in pairs:
        truth = dataset.labels(pair.picture)
        present |= {label for part in (truth, pair.first, pair.second) for label in np.unique(part).tolist()}
        panels = compared_panels(dataset.image(pair.picture), truth, pair, dataset.palette)
        rows.append(_row(_compared_title(first.samples[pair.picture], second.samples[pair.picture], pair), panels))
    total = [
        f"{place}: mIoU {100 * (of.miou or 0):.2f}   {of.engine}"
        for place, of in (("first", first), ("second", second))
    ]
    head = _head(first, total, COMPARED, rows[0].width, scores=False)
    return _stacked([head, *rows, _legend(dataset, sorted(present), "they differ", rows[0].width)])


def compared_panels(
    image: Pixels, truth: Labels, pair: Pair, palette: tuple[tuple[int, int, int], ...]
) -> list[Pixels]:
    """Image, truth, first, second and where they differ, uint8 [H, W, 3] each."""
    shown, of_truth, of_first, _ = panels_of(image, truth, pair.first, palette)
    _, _, of_second, differing = panels_of(image, np.where(truth == IGNORE, IGNORE, pair.first), pair.second, palette)
    return [shown, of_truth, of_first, of_second, differing]


def _compared_title(first: Sample, second: Sample, pair: Pair) -> str:
    scores = f"mIoU {100 * (first.miou or 0):.1f} and {100 * (second.miou or 0):.1f}"
    return f"{100 * pair.share:.1f} % differ:  {first.key}   {scores}"


def _stacked(parts: Sequence[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)), PAPER)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def panels_of(
    image: Pixels, truth: Labels, predicted: Labels, palette: tuple[tuple[int, int, int], ...]
) -> list[Pixels]:
    """Image, truth, prediction and error of a picture, uint8 [H, W, 3] each."""
    ignored = truth == IGNORE
    colours = np.full((256, 3), IGNORED, np.uint8)
    colours[: len(palette)] = palette
    grey = (image.mean(2, keepdims=True) * 0.6 + 90).repeat(3, 2).astype(np.uint8)
    error = np.where((truth != predicted)[..., None], np.array(WRONG, np.uint8), grey)
    error[ignored] = IGNORED
    return [image, colours[truth], colours[predicted], error]


def _title(sample: Sample, place: int, count: int) -> str:
    worst = (count + 1) // 2
    rank = f"worst {place + 1}" if place < worst else f"best {count - place}"
    return f"{rank}:  {sample.key}   mIoU {percent(sample.miou, 1)}   pixel accuracy {percent(sample.accuracy, 1)}"


def _row(title: str, panels: list[Pixels]) -> Image.Image:
    H, W = panels[0].shape[:2]
    scale = min(WIDTH / W, TALLEST / H)
    width, height, top = max(1, round(scale * W)), max(1, round(scale * H)), TEXT + GAP
    row = Image.new("RGB", (len(panels) * (WIDTH + GAP) + GAP, top + height + 2 * GAP), PAPER)
    _write(row, (GAP, 0), title, TEXT, INK)
    for place, panel in enumerate(panels):
        # Averaging is for the photograph; classes have no mean.
        way = Image.Resampling.NEAREST if place else Image.Resampling.BICUBIC
        row.paste(Image.fromarray(panel).resize((width, height), way), (GAP + place * (WIDTH + GAP), top))
    return row


def _head(
    report: Report, engines: Sequence[str], panels: Sequence[str], width: int, *, scores: bool = True
) -> Image.Image:
    """What was evaluated, on which engines, the scores, and the panels' names."""
    lines = len(engines) + 2
    head = Image.new("RGB", (width, lines * (TEXT + GAP) + GAP), PAPER)
    views = "12 views" if report.multiscale else "single scale"
    total = f":   mIoU {percent(report.miou)}   pixel accuracy {percent(report.pixel_accuracy)}"
    what = f"{report.dataset} {report.split}, {len(report.samples)} pictures, {views}{total if scores else ''}"
    _write(head, (GAP, GAP), what, TEXT, INK)
    for place, engine in enumerate(engines, 1):
        _write(head, (GAP, place * (TEXT + GAP) + GAP), engine, SMALL, PALE)
    for place, name in enumerate(panels):
        _write(head, (GAP + place * (WIDTH + GAP), (lines - 1) * (TEXT + GAP) + GAP), name, SMALL, PALE)
    return head


def _legend(dataset: Dataset, present: list[int], red: str, width: int) -> Image.Image:
    """A swatch and the name of every class that is to be seen, and what red means, in lines."""
    entries = [
        (*legend_name(dataset.classes[label], label, SMALL), dataset.palette[label])
        for label in present
        if label != IGNORE
    ]
    entries += [(*drawable("ignored", SMALL), IGNORED)] if IGNORE in present else []
    entries.append((*drawable(red, SMALL), WRONG))
    return legend_lines(entries, width, SMALL, GAP)


def _write(canvas: Image.Image, place: tuple[int, int], text: str, size: int, colour: tuple[int, int, int]) -> None:
    """One line of text, cut where it would leave the canvas. Pillow's own font has no multiplication sign."""
    (text, font), room = drawable(text.replace("×", "x"), size), canvas.width - place[0] - GAP
    if font.getlength(text) > room:
        while text and font.getlength(text + "...") > room:
            text = text[:-1]
        text += "..."
    ImageDraw.Draw(canvas).text(place, text, fill=colour, font=font)
