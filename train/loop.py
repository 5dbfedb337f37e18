"""A training run from its first step, or from where it stopped, to its last."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext
from pathlib import Path

import torch

from segfast.datasets import Dataset, open_dataset
from segfast.datasets.content import tell
from segfast.dependencies.imports import need
from segfast.errors import BadOption
from segfast.machine.devices import check_device
from segfast.model import Segmenter
from segfast.train.build import build_model, fetched, save_activations, set_attention
from segfast.train.crops import fitted
from segfast.train.fields import Recipe
from segfast.train.frequency import class_weights
from segfast.train.length import length, settled
from segfast.train.owner import owned
from segfast.train.precision import resolve
from segfast.train.record import Recorder
from segfast.train.resume import agree, find, restore, settings_of, write_settings
from segfast.train.run import Run
from segfast.train.running import Running, stop_request
from segfast.train.state import Progress
from segfast.train.step import Stepper
from segfast.train.troubles import told
from segfast.train.validation import Validation
from segfast.train.workers import batches, queue
from segfast.train.world import World, join

Source = str | os.PathLike[str] | None
Sets = Callable[[], tuple[Dataset, Dataset]]


def train(recipe: Recipe, data: Source, out: str | os.PathLike[str], running: Running) -> Progress:
    """Train, or go on with the run in `out`; returns how far it came.

    `out` will hold `best.safetensors` (the best mIoU so far), `last.safetensors` (to go on from), the one before it,
    `settings.json`, `log.jsonl` and TensorBoard's event files.

    Args:
        data: the dataset's folder; None for shapes.

    Raises:
        BadOption: settings are impossible, contradict each other, or are not those of the run in `out`; or another
            process trains into it.
        BadData: the dataset cannot be used; the files at fault are listed.
        BadImage: a picture was damaged since it was checked.
        BadModel, UnknownModel, DownloadFailed: the weights to start from cannot be had.
        MissingRuntime: a library, compiler or device is not there, or other processes of the run do not come.
        TrainingFailed: the loss stopped being a number, memory ran out, or a process that helps has gone.
        CannotWrite: `out` is full, read-only or missing.
    """
    return train_on(lambda: _datasets(recipe, data), recipe, out, running)


def train_on(sets: Sets, recipe: Recipe, out: str | os.PathLike[str], running: Running) -> Progress:
    """`train` on what `sets` opens: the training set and the validation set."""
    need("train", "torch", "timm", "safetensors", "filelock", *(["tensorboard"] if running.tensorboard else []))
    recipe.check()
    world = join(check_device(running.device))
    with world.together(), told():
        running.check(recipe, world.size)
        if running.threads is not None:
            torch.set_num_threads(running.threads)
        train_set, val_set = sets()
        with owned(Path(out)) if world.first else nullcontext():
            return run(recipe, (train_set, val_set), Path(out), running, world)


def run(recipe: Recipe, sets: tuple[Dataset, Dataset], folder: Path, running: Running, world: World) -> Progress:
    """See `train`: one process's part of it."""
    train_set, val_set = sets
    found = find(folder, world)
    recipe = settled(fitted(recipe, train_set), len(train_set), found.progress if found else None)
    # The first process alone looks: others may be so late that they would see what it has written since.
    settings = settings_of(recipe, train_set, val_set) if world.first else {}
    resuming = world.share(agree(folder, settings) if world.first else None)
    model, notes = _model(recipe, train_set, running, world)
    if not resuming:
        check_data(sets, world)
    weights = class_weights(recipe, train_set, world)
    stepper = Stepper(
        model, recipe, world, accumulate=running.accumulate, compile=running.compile, class_weights=weights
    )
    progress, notes = restore(found, folder, stepper, [*notes, length(recipe, len(train_set))])
    if world.first:
        write_settings(folder, settings)
    record = Recorder(folder, world, recipe, running, first=progress.iteration)
    prefetch = queue(recipe, world, running.workers)
    for note in (*notes, *prefetch.notes):
        record.say(note)
    prepared = batches(train_set, recipe, world, progress=progress, prefetch=prefetch)
    # Until here Ctrl-C ends the run at once: there was nothing to save yet.
    with stop_request() as stop, closing(record):
        validation = Validation(val_set, recipe, folder, world, record)
        this = Run(recipe, folder, stepper, progress, record, validation, stop)
        if not this.is_over() or not this.is_evaluated():
            with prepared as stream:
                this.go(stream)
        else:
            record.say(
                f"{folder} is finished, at iteration {progress.iteration}; more --iterations go on with it, "
                "another --out begins anew"
            )
        progress.finished = this.is_over() and this.is_evaluated()
    return progress


def _datasets(recipe: Recipe, data: Source) -> tuple[Dataset, Dataset]:
    """Train and val."""
    train_set = open_dataset(recipe.dataset, data, "train", fraction=recipe.fraction, reading=recipe.reading)
    val_set = open_dataset(recipe.dataset, data, "val", reading=recipe.reading)
    if train_set.classes != val_set.classes:
        raise BadOption("the classes of train and val differ; use one list for both")
    return train_set, val_set


def _model(recipe: Recipe, dataset: Dataset, running: Running, world: World) -> tuple[Segmenter, list[str]]:
    if world.first and (waiting := fetched(recipe)):
        print(waiting, flush=True)
    model, notes = build_model(recipe, dataset)
    set_attention(model, running.attention, world.device)
    if running.save_activations:
        save_activations(model)
    if recipe.precision == "auto":
        notes.append(f"precision: {resolve(recipe.precision, world.device)} on this machine")
    return model, notes


def check_data(datasets: Iterable[Dataset], world: World) -> None:
    """Read every sample once, on the first process, before the first step, and tell what they hold."""
    if world.first:
        tell(dataset.check(progress=True) for dataset in datasets)
    world.share(None)
