"""What the command does: figures of pictures and of the model, and the numbers beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from segfast.classes import Palette
from segfast.config import check_size
from segfast.engine import Engine
from segfast.errors import NotSupported
from segfast.explain import (
    attention,
    comparison,
    distance,
    draw_attention,
    draw_classes,
    draw_comparison,
    draw_scores,
    embeddings,
    masks,
    numbers,
    palette,
    scores,
    style,
)
from segfast.image import read_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from segfast.image import Pixels
    from segfast.model import Segmenter
    from segfast.segmentation import Segmentation

FIGURES = ("attention", "masks", "scores", "doubt", "comparison", "distance", "embeddings")
_INSIDE = ("attention", "masks", "distance", "embeddings")  # what an exported file does not show
_EXPORTED = (".onnx", ".engine")


@dataclass(frozen=True)
class Asked:
    """What to draw.

    Attributes:
        figures: some of FIGURES; None for all that the model has.
        at: pixels (x, y) of the patches whose attention is drawn; empty for the default.
        layers, heads, size: of `attention_maps`.
        closeups: of `compare`.
        safe: draw classes in colours that colour-blind readers tell apart.
        dpi: pixels of the figures to the inch.
        device: of `Engine`.
    """

    figures: tuple[str, ...] | None = None
    at: tuple[tuple[int, int], ...] = ()
    layers: Sequence[int] | None = None
    heads: Sequence[int] | None = None
    size: int | None = None
    closeups: int = 2
    safe: bool = False
    dpi: int = style.DPI
    device: str | None = None


class Explainer:
    """A model, and those it is compared with, ready to be drawn.

    Attributes:
        left_out: what is not drawn and why, where nothing was asked for by name.

    Raises:
        NotSupported: a figure was asked for that the model does not have.
        BadOption: there is no such layer or head, or the size is impossible.
        BadModel, BadOption, MissingRuntime: as `Engine`; the models compared have different classes.
    """

    def __init__(self, source: str, others: Sequence[str], asked: Asked):
        self._asked = asked
        self._model: Segmenter | None = None
        if not source.lower().endswith(_EXPORTED):
            from segfast.checkpoints.load import load_model

            self._model = load_model(source)
        self._engine = Engine(self._model or source, device=asked.device)
        self._others = [Engine(other, device=asked.device) for other in others]
        if others:
            comparison.check_comparable([engine.config for engine in self._engines])
        reasons = self._reasons(source)
        if asked.figures is not None and (wrong := [reasons[name] for name in asked.figures if name in reasons]):
            raise NotSupported(wrong[0])
        wanted = FIGURES if asked.figures is None else asked.figures
        self.figures = [name for name in wanted if name not in reasons and (others or name != "comparison")]
        self.left_out = [f"left out {name}: {why}" for name, why in reasons.items() if name in wanted]
        self._check()

    def _check(self) -> None:
        """See before anything is drawn that there are such layers and heads, and the size is possible."""
        if self._model is None:
            return
        from segfast.explain.seam import check_numbers

        config, asked = self._model.config, self._asked
        check_numbers("layers", asked.layers, config.depth, (1,))
        check_numbers("heads", asked.heads, config.heads, (1,))
        if asked.size is not None:
            check_size(asked.size, config.patch)

    def draw_picture(self, path: Path, stem: Path) -> Iterator[Path]:
        """Write the figures of one picture, named after `stem`; the paths of those written.

        Raises:
            BadImage: the picture cannot be read.
            BadOption: an option does not fit the picture.
            NotSupported: as `Engine.segment` and `look`.
            CannotWrite: the folder is full or read-only.
        """
        from segfast import files

        steps = {
            "attention": self._attention,
            "masks": self._masks,
            "scores": self._score_maps,
            "doubt": self._doubt,
            "comparison": self._comparison,
        }
        pixels = read_image(path)
        files.make_folder(stem.parent)
        self._maps: scores.ScoreMaps | None = None
        for name in self.figures:
            if name in steps:
                yield from steps[name](pixels, stem)

    def draw_model(self, paths: Sequence[Path], folder: Path) -> Iterator[Path]:
        """Write the figures of the model; the paths of those written. Distances are the mean over pictures, if there are any."""
        name = self._engine.config.name
        if "distance" in self.figures and paths:
            found = distance.attention_distances(self._inside, list(paths), size=self._asked.size)
            numbers.write_distances(found, name, folder / "distance.json")
            yield self._write(lambda: draw_attention.draw_distances(found, name), folder / "distance.png")
        if "embeddings" in self.figures and self._model is not None:
            learned = embeddings.class_embeddings(self._model)
            numbers.write_embeddings(learned, name, folder / "embeddings.json")
            colours = self._colours(range(len(learned.classes)))
            yield self._write(lambda: draw_classes.draw_embeddings(learned, colours, name), folder / "embeddings.png")

    def _attention(self, pixels: Pixels, stem: Path) -> Iterator[Path]:
        """Of the encoder, and of a mask decoder."""
        asked, model = self._asked, self._inside
        for part in ("encoder", "decoder") if model.config.decoder == "mask" else ("encoder",):
            layers = asked.layers if part == "encoder" else None
            queries = self._queries(pixels, part) if asked.at else None
            found = attention.attention_maps(
                model, pixels, queries, part=part, layers=layers, heads=asked.heads, size=asked.size
            )
            target = stem.with_name(f"{stem.name}-attention-{part}.png")
            numbers.write_attention(found, target.with_suffix(".npz"))
            yield self._write(
                lambda found=found: draw_attention.draw_attention(found, each_head=asked.heads is not None),  # type: ignore[misc]
                target,
            )

    def _queries(self, pixels: Pixels, part: str) -> list[attention.Query]:
        """The patches at the pixels that were named; in the encoder the class token, too."""
        from segfast.explain.seam import has_class_token
        from segfast.explain.view import look

        config = self._inside.config
        view = look(pixels, config, self._asked.size)
        patches: list[attention.Query] = [view.patch_at(x, y) for x, y in self._asked.at]
        return [*patches, *([attention.CLASS_TOKEN] if part == "encoder" and has_class_token(config) else [])]

    def _masks(self, pixels: Pixels, stem: Path) -> Iterator[Path]:
        found = masks.class_masks(self._inside, pixels, size=self._asked.size)
        target = stem.with_name(f"{stem.name}-masks.png")
        numbers.write_masks(found, target.with_suffix(".npz"))
        yield self._write(lambda: draw_scores.draw_masks(found), target)

    def _score_maps(self, pixels: Pixels, stem: Path) -> Iterator[Path]:
        found, target = self._scores(pixels), stem.with_name(f"{stem.name}-scores.png")
        numbers.write_scores(found, target.with_suffix(".npz"))
        yield self._write(lambda: draw_scores.draw_scores(found), target)

    def _doubt(self, pixels: Pixels, stem: Path) -> Iterator[Path]:
        found, target = self._scores(pixels), stem.with_name(f"{stem.name}-doubt.png")
        numbers.write_doubt(found, target.with_suffix(".npz"))
        yield self._write(lambda: draw_scores.draw_doubt(found, self._colours_of([found.answer])), target)

    def _comparison(self, pixels: Pixels, stem: Path) -> Iterator[Path]:
        found = comparison.compare(self._engines, pixels, closeups=self._asked.closeups)
        target = stem.with_name(f"{stem.name}-comparison.png")
        numbers.write_comparison(found, target.with_suffix(".npz"))
        yield self._write(lambda: draw_comparison.draw_comparison(found, self._colours_of(found.answers)), target)

    def _scores(self, pixels: Pixels) -> scores.ScoreMaps:
        """Of the picture at hand, computed once."""
        self._maps = self._maps or scores.score_maps(self._engine, pixels)
        return self._maps

    @cached_property
    def _inside(self) -> Segmenter:
        """The model where it runs."""
        import torch

        assert self._model is not None
        wanted = self._asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return self._model.to(wanted)

    @property
    def _engines(self) -> list[Engine]:
        return [self._engine, *self._others]

    def _colours_of(self, answers: Sequence[Segmentation]) -> Palette:
        import numpy as np

        labels = np.concatenate([answer.labels.ravel() for answer in answers])
        return self._colours(style.by_area(labels, self._engine.config.num_classes))

    def _colours(self, order: Sequence[int]) -> Palette:
        """The palette to draw with; a safe one begins with the classes in `order`."""
        own = self._engine.config.palette
        return palette.apply(own, list(order)) if self._asked.safe else own

    def _reasons(self, source: str) -> dict[str, str]:
        """Why figures cannot be drawn of this model, by name."""
        reasons = {}
        if self._model is None:
            why = f"{source} is an exported file, which shows none of its inside; name the checkpoint it was made from"
            reasons = dict.fromkeys(_INSIDE, why)
        elif self._engine.config.decoder != "mask":
            why = f"{self._engine.config.name} has a linear decoder, which has no class embeddings; take a mask model"
            reasons = dict.fromkeys(("masks", "embeddings"), why)
        if self._model is not None and (merge := self._engine.config.merge) is not None:
            from segfast.explain.seam import why_not_whole

            reasons["distance"] = why_not_whole(merge)
            if self._asked.layers is None or max(self._asked.layers, default=0) > merge.block:
                reasons["attention"] = why_not_whole(merge)
        if self._engine.output == "labels":
            why = f"{source} gives labels only; export it with --output logits to get scores"
            reasons |= dict.fromkeys(("scores", "doubt"), why)
        return reasons

    def _write(self, draw: Callable[[], Figure], target: Path) -> Path:
        """Draw a figure and write it; its path."""
        with style.drawing():
            style.save(draw(), target, self._asked.dpi)
        return target
