"""Whether a run goes on, and from where: its folder's `settings.json` and state."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch

from segfast import __version__
from segfast.datasets import Dataset
from segfast.errors import BadOption
from segfast.train import state
from segfast.train.fields import Recipe
from segfast.train.state import Progress
from segfast.train.step import Stepper
from segfast.train.validation import BEST

SETTINGS = "settings.json"
# Fields of a Recipe that may differ between a run and its continuation.
_FREE = {"source", "evaluate_every", "save_every"}


def settings_of(recipe: Recipe, train: Dataset, val: Dataset) -> dict[str, object]:
    """What has to be the same for a run to go on."""
    data = {"classes": list(train.classes), "train": len(train), "val": len(val)}
    return {"segfast": __version__, "recipe": dataclasses.asdict(recipe), "data": data}


def agree(folder: Path, settings: dict[str, object]) -> bool:
    """Whether a run is in the folder already.

    Raises:
        BadOption: there is one with other settings; they are named.
    """
    path = folder / SETTINGS
    if not path.exists():
        for name, what in ((state.LAST, "a state"), (BEST, f"a {BEST}")):
            if (folder / name).exists():
                raise BadOption(
                    f"{folder} holds {what} without its {SETTINGS}, which a run would replace; choose another --out"
                )
        return False
    ours = json.loads(json.dumps(settings))  # lists in place of tuples
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
        pairs = [({**_defaults(), **theirs["recipe"]}, ours["recipe"]), (dict(theirs["data"]), ours["data"])]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadOption(f"{path} is damaged; choose another --out") from None
    differences = [
        f"{name} is {new.get(name)!r}, there {old.get(name)!r}"
        for old, new in pairs
        for name in sorted({*old, *new} - _FREE)
        if old.get(name) != new.get(name)
    ]
    if differences:
        raise BadOption(f"{folder} holds a run with other settings: {'; '.join(differences)}; choose another --out")
    return True


def _defaults() -> dict[str, object]:
    """What a run did that knew nothing of a field, as JSON has it."""
    known = (item for item in dataclasses.fields(Recipe) if item.default is not dataclasses.MISSING)
    return dict(json.loads(json.dumps({item.name: item.default for item in known})))


def resume(folder: Path, stepper: Stepper, notes: list[str]) -> tuple[Progress, list[str]]:
    """Where the run stopped, or its beginning; and what to tell, of a beginning the `notes`."""
    recipe, world = stepper.recipe, stepper.world
    torch.manual_seed(recipe.seed + world.rank)
    found = state.load(folder)
    iteration = found and found[0].iteration
    if world.share(iteration) != iteration:
        raise BadOption(f"the processes find different states in {folder}; --out must be a folder that all share")
    if found is None:
        return Progress(), notes
    progress, tensors, trouble = found
    state.restore(tensors, stepper.model, stepper.optimizer)
    if progress.scale:
        stepper.scaler.load_state_dict(progress.scale)
    notes = [*trouble, f"going on from iteration {progress.iteration} of {recipe.iterations} in {folder}"]
    if progress.world == world.size:
        state.restore_random(tensors, world.rank, world.device)
    else:
        torch.manual_seed(recipe.seed + world.rank + world.size * progress.iteration)
        notes.append(f"it ran on {progress.world} processes, now on {world.size}: dropout draws anew")
    return progress, notes
