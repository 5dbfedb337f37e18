"""Whether a run goes on, and from where: its folder's `settings.json` and state."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segfast import __version__, files
from segfast.datasets import Dataset
from segfast.errors import BadOption
from segfast.train import state
from segfast.train.fields import Recipe
from segfast.train.fingerprint import fingerprint
from segfast.train.recipes import RECIPES
from segfast.train.state import Progress
from segfast.train.step import Stepper
from segfast.train.validation import BEST
from segfast.train.world import World

SETTINGS = "settings.json"
# Fields of a Recipe that may differ between a run and its continuation.
_FREE = {"source", "evaluate_every", "save_every", "iterations", "epochs", "automatic", "patience", "batch"}
_CHANGED = {
    "train_files": "the training pictures, masks or classes",
    "val_files": "the validation pictures, masks or classes",
}


class Found(NamedTuple):
    """A state in the folder of a run.

    Attributes:
        notes: what to tell of states that are not whole.
    """

    progress: Progress
    tensors: dict[str, Tensor]
    notes: list[str]


def settings_of(recipe: Recipe, train: Dataset, val: Dataset) -> dict[str, Any]:
    """What has to be the same for a run to go on."""
    data = {"classes": list(train.classes), "train": len(train), "val": len(val)}
    data |= {"train_files": fingerprint(train), "val_files": fingerprint(val)}
    return {"segfast": __version__, "recipe": dataclasses.asdict(recipe), "data": data}


def agree(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a run is in the folder already.

    Raises:
        BadOption: there is one with other settings or data; they are named.
    """
    path = folder / SETTINGS
    if not path.exists():
        _check_orphans(folder)
        return False
    theirs = _read(folder)
    if theirs is None:
        raise BadOption(f"{path} is damaged; {_remedy(folder)}")
    differences = _differences(theirs, json.loads(json.dumps(settings)))  # lists in place of tuples
    if differences:
        raise BadOption(f"{folder} holds a run with other settings: {'; '.join(differences)}; {_remedy(folder)}")
    return True


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write `settings.json`.

    Raises:
        CannotWrite: the folder is full, read-only or missing.
    """
    text = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
    files.write_text(text.encode("utf-8", "backslashreplace").decode(), folder / SETTINGS)


def find(folder: Path, world: World) -> Found | None:
    """The state that the run in a folder goes on from, if there is one.

    Raises:
        BadModel: there are states, but none is whole.
        BadOption: the processes find different ones; or there are some without settings.
    """
    _check_orphans(folder)  # before a state is read that may be no run's
    found = state.load(folder)
    iteration = found and found[0].iteration
    if world.share(iteration) != iteration:
        raise BadOption(f"the processes find different states in {folder}; --out must be a folder that all share")
    if found is None:
        return None
    progress, tensors, notes = found
    if progress.seen is None:
        recipe = (_read(folder) or {}).get("recipe", {})
        progress.seen = progress.iteration * int(recipe.get("batch", 0))
    return Found(progress, tensors, notes)


def restore(found: Found | None, folder: Path, stepper: Stepper, notes: list[str]) -> tuple[Progress, list[str]]:
    """Where the run stopped, or its beginning; and what to tell, of a beginning the `notes`.

    Raises:
        BadOption: fewer iterations are wanted than were made.
        BadModel: the state is of another model.
    """
    recipe, world = stepper.recipe, stepper.world
    torch.manual_seed(recipe.seed + world.rank)
    if found is None:
        return Progress(seen=0), notes
    progress, tensors, trouble = found
    if progress.iteration > recipe.iterations:
        raise BadOption(
            f"{folder} holds a run of {progress.iteration} iterations already, and {recipe.iterations} are wanted; "
            + _remedy(folder)
        )
    state.restore(tensors, stepper.model, stepper.optimizer)
    if progress.scale:
        stepper.scaler.load_state_dict(progress.scale)
    notes = [*trouble, f"going on from iteration {progress.iteration} of {recipe.iterations} in {folder}"]
    before = (_read(folder) or {}).get("recipe", {})
    for name in ("iterations", "batch"):
        if name in before and before[name] != getattr(recipe, name):
            notes.append(f"{name}: {before[name]} before, now {getattr(recipe, name)}")
    if progress.world == world.size:
        state.restore_random(tensors, world.rank, world.device)
    else:
        torch.manual_seed(recipe.seed + world.rank + world.size * progress.iteration)
        notes.append(f"it ran on {progress.world} processes, now on {world.size}: dropout draws anew")
    return progress, notes


def _check_orphans(folder: Path) -> None:
    """See that no run's files are there without its settings.

    Raises:
        BadOption: some are.
    """
    for name, what in ((state.LAST, "a state"), (BEST, f"a {BEST}")):
        if (folder / name).exists() and not (folder / SETTINGS).exists():
            raise BadOption(
                f"{folder} holds {what} without its {SETTINGS}, which a run would replace; {_remedy(folder)}"
            )


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """What differs, in words; what an older version did not write is what it did: the default."""
    found = []
    old, new = theirs["recipe"], ours["recipe"]
    for name in sorted({*old, *new} - _FREE):
        if name in old and old[name] != new.get(name):
            found.append(f"{name} is {new.get(name)!r}, there {old[name]!r}")
        elif name not in old and new[name] not in _defaults(name, new["dataset"]):
            found.append(f"{name} is {new[name]!r}, there it was not set")
    old, new = theirs["data"], ours["data"]
    changed = [name for name in sorted({*old} & {*new}) if old[name] != new[name]]
    counted = [f"{name} is {new[name]!r}, there {old[name]!r}" for name in changed if name not in _CHANGED]
    return found + (counted or [f"{_CHANGED[name]} have changed since" for name in changed if name in _CHANGED])


def _defaults(name: str, dataset: str) -> list[object]:
    """What a field is where nothing is said, anywhere or of a dataset; as JSON has it."""
    fields = {item.name: item.default for item in dataclasses.fields(Recipe)}
    known = [fields.get(name), *(getattr(row, name) for row in RECIPES.values() if row.dataset == dataset)]
    return list(json.loads(json.dumps([None if value is dataclasses.MISSING else value for value in known])))


def _read(folder: Path) -> dict[str, Any] | None:
    """`settings.json`, if it is whole."""
    try:
        values = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        return values if isinstance(values["recipe"], dict) and isinstance(values["data"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remedy(folder: Path) -> str:
    best = folder / BEST
    return "choose another --out" + (f", and --checkpoint {best} to go on from its weights" if best.exists() else "")
