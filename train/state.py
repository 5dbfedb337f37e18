"""`last.safetensors`: everything a run needs to go on as if it had never stopped.

Plain tensors and JSON, nothing pickled: weights, the optimizer's state, the random states of every process, and a
checksum of them all.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segfast.checkpoints import native
from segfast.errors import BadModel

LAST, OLDER = "last.safetensors", "last-older.safetensors"
METADATA_KEY = "segfast.train"
FORMAT = 1


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        iteration: steps taken.
        best: the highest mIoU so far, and the iteration that had it.
        evaluated: the iteration of the last evaluation that was finished.
        stale: how many evaluations in a row were no better.
        finished: nothing is left to do, as far as the last call was asked.
        seen: pictures so far; None in states that do not say it: the batch was always the same.
        scale: of fp16's loss, with its growth.
        world: how many processes trained.
    """

    iteration: int = 0
    best: float = -1.0
    best_iteration: int = 0
    scale: dict[str, Any] = field(default_factory=dict)
    world: int = 1
    evaluated: int = 0
    stale: int = 0
    seen: int | None = None
    finished: bool = False

    def is_stale(self, patience: int) -> bool:
        """Whether so many evaluations in a row were no better; a patience of 0 has no end."""
        return 0 < patience <= self.stale


def save(
    folder: Path,
    progress: Progress,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    randoms: list[dict[str, Tensor]],
) -> None:
    """Write `last.safetensors`; the one before it becomes `last-older.safetensors`.

    Args:
        randoms: of every rank, what `random_states` gave it.

    Raises:
        CannotWrite: the destination is full, read-only or missing; both files are as they were.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in values.items() if tensor is not None}
    for rank, states in enumerate(randoms):
        tensors |= {f"random.{rank}.{name}": tensor for name, tensor in states.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"format": FORMAT, "checksum": _checksum(tensors), **asdict(progress)})
    native.write_tensors(folder / LAST, tensors, {METADATA_KEY: text}, older=folder / OLDER)


def load(folder: Path) -> tuple[Progress, dict[str, Tensor], list[str]] | None:
    """The newest state of a run that is whole, and what to tell about the others; None before the first.

    Raises:
        BadModel: there are states, but none is whole.
    """
    notes: list[str] = []
    for name in (LAST, OLDER):
        if not (folder / name).exists():
            continue
        try:
            progress, tensors = _read(folder / name)
            return progress, tensors, notes
        except BadModel as error:
            notes.append(str(error))
    if notes:
        raise BadModel(f"{'; '.join(notes)}; no state of this run is whole: start another --out, or delete them")
    return None


def restore(tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give a model and an optimizer what `save` wrote.

    Raises:
        BadModel: it is of another model.
    """
    weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise BadModel(f"the state is of another model ({error}); choose another --out") from None
    values: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            values.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"]})


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of PyTorch's generators in this process."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random(tensors: Mapping[str, Tensor], rank: int, device: torch.device) -> None:
    """Set the generators of this process as the rank had them."""
    torch.set_rng_state(tensors[f"random.{rank}.cpu"])
    if device.type == "cuda" and f"random.{rank}.cuda" in tensors:
        torch.cuda.set_rng_state(tensors[f"random.{rank}.cuda"], device)


def _read(path: Path) -> tuple[Progress, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})[METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if values.pop("format") != FORMAT:
            raise ValueError("it is of another version of segfast")
        if values.pop("checksum") != _checksum(tensors):
            raise ValueError("its checksum is wrong")
        # A state that lacks fields is of a version that saved behind an evaluation only.
        return Progress(**{"evaluated": values["iteration"], **values}), tensors
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise BadModel(f"{path} is no whole state of a run ({error})") from None


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    value = 0
    for name in sorted(tensors):
        data = tensors[name].reshape(-1).view(torch.uint8).numpy().data
        value = zlib.crc32(data, zlib.crc32(name.encode(), value))
    return value
