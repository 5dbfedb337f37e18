"""Evaluations during a run; the weights with the best mIoU so far are kept as `best.safetensors`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segfast import __version__
from segfast.datasets import Dataset
from segfast.engine import Engine
from segfast.evaluation.evaluate import evaluate
from segfast.evaluation.metrics import Scores, scores
from segfast.model import Segmenter
from segfast.protocol import Size
from segfast.train.record import Recorder, side_by_side
from segfast.train.state import Progress
from segfast.train.world import World

BEST = "best.safetensors"
# How many predictions TensorBoard shows.
SHOWN = 4


@dataclass(frozen=True)
class Validation:
    """The validation set of a run, its pictures shared among the processes.

    Attributes:
        fit: (long, short) that images are resized to fit.
        folder: of the run.
    """

    dataset: Dataset
    fit: Size | None
    folder: Path
    world: World
    record: Recorder

    def run(self, model: Segmenter, progress: Progress) -> None:
        """Evaluate a model in training, tell of it, and keep the model if it is the best so far."""
        start = time.perf_counter()
        engine = Engine(model, device=str(self.world.device))
        found = self._scores(engine)
        self.record.pictures(progress.iteration, "prediction", self._predictions(engine))
        model.train()
        miou = found.miou or 0.0
        values = {
            "miou": miou,
            "pixel_accuracy": found.pixel_accuracy,
            "seconds": round(time.perf_counter() - start, 3),
            "per_class": dict(zip(self.dataset.classes, found.per_class, strict=True)),
        }
        self.record.evaluation(progress.iteration, values)
        better = miou > progress.best
        self.record.say(f"iteration {progress.iteration}: mIoU {100 * miou:.2f}{' (best)' if better else ''}")
        if better:
            progress.best, progress.best_iteration = miou, progress.iteration
            if self.world.first:
                self._publish(model, progress)

    def _scores(self, engine: Engine) -> Scores:
        dataset, world, K = self.dataset, self.world, len(self.dataset.classes)
        mine = dataset.take(range(world.rank, len(dataset), world.size))
        matrix = torch.zeros(K, K, dtype=torch.int64)
        if len(mine):
            matrix += torch.from_numpy(evaluate(engine, mine, fit=self.fit).confusion)
        return scores(world.sum(matrix.to(world.device)).cpu().numpy())

    def _predictions(self, engine: Engine) -> Iterator[NDArray[np.uint8]]:
        """The first pictures with truth and prediction."""
        for index in range(min(SHOWN, len(self.dataset))):
            image, truth = self.dataset.image(index), self.dataset.labels(index)
            labels = engine.segment(image, fit=self.fit).labels
            yield side_by_side(image, truth, labels, self.dataset.palette)

    def _publish(self, model: Segmenter, progress: Progress) -> None:
        """Write `best.safetensors`, which says where it comes from."""
        config, recipe = model.config, self.dataset.name
        words = {
            "weights": f"trained by segfast {__version__}, recipe {recipe}, iteration {progress.iteration}",
            "miou": f"{progress.best:.6f}",
        }
        model.config = replace(config, provenance={**config.provenance, **words})
        model.save(self.folder / BEST)
        model.config = config
