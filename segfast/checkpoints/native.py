"""Our `.safetensors` files: tensors under the names of the original code, the Config in the metadata.

Nothing here knows a Segmenter, so that its `save` may import this.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from segfast import config as configs
from segfast import files
from segfast.checkpoints import states
from segfast.checkpoints.states import State
from segfast.config import Config
from segfast.dependencies.imports import need
from segfast.errors import BadModel, CannotWrite

if TYPE_CHECKING:
    from torch import Tensor


def save(path: str | os.PathLike[str], config: Config, state: Mapping[str, Tensor]) -> None:
    """Write weights and configuration to one file, atomically.

    Raises:
        BadOption: the name does not end in `.safetensors`.
        CannotWrite: the destination is full, read-only or missing.
    """
    files.check_suffix(path, ".safetensors")
    need("export", "safetensors")
    tensors = {states.plain(name): tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_tensors(Path(path), tensors, {configs.METADATA_KEY: config.to_json()})


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], older: Path | None = None) -> None:
    """Write a `.safetensors` file, atomically.

    Args:
        tensors: on the CPU, contiguous.
        older: what was at `path` is kept under this name.

    Raises:
        CannotWrite: the destination is full, read-only or missing; every file is as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with files.publish(path, older=older) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:
            raise CannotWrite(f"cannot write {path}: {error}; free some space or choose another folder") from error


def read(path: Path) -> tuple[Config | None, State]:
    """The Config and the tensors of a `.safetensors` file; a file that is not ours has no Config.

    Raises:
        BadModel: it is damaged, of a newer format, or holds several models.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(configs.METADATA_KEY)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise BadModel(f"{path} is no whole .safetensors file ({error}); copy or download it again") from None
    if text is None:
        return None, state
    found = states.find(state, states.SEGMENTER, str(path))
    return configs.from_json(text, str(path))[0], found.state if found else state


def config_of(path: Path) -> Config | None:
    """The Config of a `.safetensors` file, whose tensors are left unread; None where it is not one of ours."""
    need("export", "safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(configs.METADATA_KEY)
        return configs.from_json(text, str(path))[0] if text else None
    except (SafetensorError, OSError, BadModel):
        return None
