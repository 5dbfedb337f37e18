"""What is told of a search, and left of it."""

from __future__ import annotations

from pathlib import Path

from segfast.artifacts import tuned
from segfast.artifacts.onnx import read_artifact
from segfast.errors import MissingRuntime
from segfast.machine import devices
from segfast.tuning import frontier
from segfast.tuning.search import Row, Search


def show(search: Search, winner: Row | None, words: str) -> None:
    """The table, and what its columns are."""
    print("\n" + "\n".join(frontier.table(search.rows, winner)))
    print(f"lost: {words}; memory: the peak of a process that segments; * the fastest that may be taken")


def draw(search: Search, winner: Row | None, words: str, path: Path) -> None:
    """The picture, or why there is none."""
    try:
        frontier.draw(search.rows, winner, search.max_loss, words, path)
    except MissingRuntime as error:
        print(f"no picture: {error}")
    else:
        print(f"drew {path}")


def record(path: Path, winner: Row) -> None:
    """Write the record, and print the line that opens the file."""
    beside = tuned.write(read_artifact(path), tuned.Tuned(winner.setting.runtime, winner.setting.threads, winner.rate))
    print(f"wrote {path} and {beside.name}: {winner.setting}, {winner.rate:.2f} images/s")
    device = ', device="cpu"' if devices.nvidia_gpus() else ""
    print(f'engine = segfast.Engine("{path}"{device})')
