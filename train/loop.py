"""A training run from its first step, or from where it stopped, to its last."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import torch

from segfast import files
from segfast.datasets import Dataset, open_dataset
from segfast.datasets.content import tell
from segfast.dependencies.imports import need
from segfast.errors import BadOption, TrainingFailed
from segfast.machine.devices import check_device
from segfast.model import Segmenter
from segfast.train import state
from segfast.train.build import build_model, save_activations, set_attention
from segfast.train.data import batches
from segfast.train.fields import Recipe
from segfast.train.record import Recorder
from segfast.train.resume import SETTINGS, agree, resume, settings_of
from segfast.train.running import Running, stop_request
from segfast.train.state import Progress
from segfast.train.step import Stepper
from segfast.train.validation import BEST, Validation
from segfast.train.world import World, join

# After so many losses in a row that are no numbers, more will follow.
PATIENCE = 5

Source = str | os.PathLike[str] | None


def train(recipe: Recipe, data: Source, out: str | os.PathLike[str], running: Running) -> Progress:
    """Train, or go on with the run in `out`; returns how far it came.

    `out` will hold `best.safetensors` (the best mIoU so far), `last.safetensors` (to go on from), the one before it,
    `settings.json`, `log.jsonl` and TensorBoard's event files.

    Args:
        data: the dataset's folder; None for shapes.

    Raises:
        BadOption: settings are impossible, contradict each other, or are not those of the run in `out`.
        BadData: the dataset cannot be used; the files at fault are listed.
        BadImage: a picture was damaged since it was checked.
        BadModel, UnknownModel, DownloadFailed: the weights to start from cannot be had.
        MissingRuntime: a library or device is not there.
        TrainingFailed: the loss stopped being a number.
        CannotWrite: `out` is full, read-only or missing.
    """
    need("train", "torch", "timm", "safetensors", *(["tensorboard"] if running.tensorboard else []))
    recipe.check()
    world = join(check_device(running.device))
    try:
        running.check(recipe, world.size)
        if running.threads is not None:
            torch.set_num_threads(running.threads)
        return run(recipe, data, Path(out), running, world)
    finally:
        world.close()


def run(recipe: Recipe, data: Source, folder: Path, running: Running, world: World) -> Progress:
    """See `train`: one process's part of it."""
    train_set, val_set = _datasets(recipe, data)
    settings = settings_of(recipe, train_set, val_set)
    # The first process alone looks: others may be so late that they would see what it has written since.
    resuming = world.share(agree(folder, settings) if world.first else None)
    model, notes = _model(recipe, train_set, running, world)
    if not resuming:
        check_data((train_set, val_set), world)
    files.make_folder(folder)
    if world.first and not resuming:
        files.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", folder / SETTINGS)
    stepper = Stepper(model, recipe, world, accumulate=running.accumulate, compile=running.compile)
    progress, notes = resume(folder, stepper, notes)
    record = Recorder(folder, world, recipe, running, first=progress.iteration)
    for note in notes:
        record.say(note)
    validation, bad = Validation(val_set, recipe.fit, folder, world, record), 0
    prepared = batches(train_set, recipe, world, first=progress.iteration, workers=running.workers)
    # Until here Ctrl-C ends the run at once: there was nothing to save yet.
    with stop_request() as stop, closing(record), prepared as stream:
        for batch, waited in stream:
            outcome = stepper.step(batch, progress.iteration, stop.wanted)
            progress.iteration += 1
            bad = 0 if outcome.taken else bad + 1  # a state behind a bad step is not saved
            if bad == PATIENCE:
                raise TrainingFailed(_failure(folder, recipe, progress, world))
            record.step(progress.iteration, outcome, waited)
            last = progress.iteration == recipe.iterations
            if outcome.stop and not last:
                _stop(folder, progress, stepper, record, save=not bad)
                break
            evaluating = last or _due(progress, recipe.evaluate_every)
            if evaluating:
                validation.run(model, progress)
            if not bad and (evaluating or _due(progress, recipe.save_every)):
                _save(folder, progress, stepper)
    return progress


def _datasets(recipe: Recipe, data: Source) -> tuple[Dataset, Dataset]:
    """Train and val."""
    train_set = open_dataset(recipe.dataset, data, "train", fraction=recipe.fraction, reading=recipe.reading)
    val_set = open_dataset(recipe.dataset, data, "val", reading=recipe.reading)
    if train_set.classes != val_set.classes:
        raise BadOption("the classes of train and val differ; use one list for both")
    return train_set, val_set


def _model(recipe: Recipe, dataset: Dataset, running: Running, world: World) -> tuple[Segmenter, list[str]]:
    model, notes = build_model(recipe, dataset)
    set_attention(model, running.attention, world.device)
    if running.save_activations:
        save_activations(model)
    return model, notes


def check_data(datasets: Iterable[Dataset], world: World) -> None:
    """Read every sample once, on the first process, before the first step, and tell what they hold."""
    if world.first:
        tell(dataset.check(progress=True) for dataset in datasets)
    world.share(None)


def _due(progress: Progress, every: int) -> bool:
    return every > 0 and progress.iteration % every == 0


def _save(folder: Path, progress: Progress, stepper: Stepper) -> None:
    world = stepper.world
    progress.scale, progress.world = stepper.scaler.state_dict(), world.size
    randoms = world.gather(state.random_states(world.device))
    if world.first:
        state.save(folder, progress, stepper.model, stepper.optimizer, randoms)


def _stop(folder: Path, progress: Progress, stepper: Stepper, record: Recorder, *, save: bool) -> None:
    """As Ctrl-C asked."""
    if save:
        _save(folder, progress, stepper)
    saved = f"saved after iteration {progress.iteration}" if save else "left the last good state as it was"
    record.say(f"stopped and {saved}; the same command goes on")


def _failure(folder: Path, recipe: Recipe, progress: Progress, world: World) -> str:
    saved = state.load(folder) if world.first else None
    kept = f"the state of iteration {saved[0].iteration} is kept in {folder}" if saved else "nothing was saved yet"
    remedy = "train with a lower --lr" + (", or --precision bf16 or fp32," if recipe.precision == "fp16" else "")
    remedy += " and another --out"
    if (folder / BEST).exists():
        remedy += f", from the start or from --checkpoint {folder / BEST}"
    return f"the loss was no number {PATIENCE} times in a row, up to iteration {progress.iteration}; {kept}: {remedy}"
