"""What a new file takes the place of: random weights never that of trained ones unasked, and nothing without a word."""

from __future__ import annotations

from pathlib import Path

from segfast.artifacts.onnx import Artifact, read_artifact
from segfast.artifacts.sidecar import read_plan
from segfast.config import Config
from segfast.errors import BadModel, BadOption


def replaced(path: Path, config: Config, force: bool) -> str | None:
    """What lies at `path`, in words, None for nothing; asked before a model is written there.

    Args:
        path: of an `.onnx` or `.engine` file.
        config: of the model that is to be written.
        force: random weights may replace trained ones.

    Raises:
        BadOption: they would, and may not.
    """
    if not path.is_file():
        return None
    old = _artifact(path)
    if old is None:
        return "a file that is none of segfast's, or damaged"
    theirs = old.config
    weights = theirs.provenance.get("weights", "trained")
    if config.random_weights and not theirs.random_weights and not force:
        raise BadOption(
            f"{path} holds trained weights ({weights}), which random ones would replace; name the weights with --weights, "
            "choose another folder with --out, or let them go with --force"
        )
    return f"{theirs.name}, {theirs.num_classes} classes, {old.precision}, {old.output}, weights: {weights}"


def _artifact(path: Path) -> Artifact | None:
    """What a file says of its model, if it is one of ours and whole."""
    try:
        if path.suffix.lower() == ".onnx":
            return read_artifact(path)
        plan = read_plan(path)
    except BadModel:
        return None
    return None if plan is None else plan.artifact
