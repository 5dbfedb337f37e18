"""The time that a section has, and its rows, one after the other: what needs no PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from segfast.errors import MissingRuntime

# What is measured, and the function that measures it.
Row = tuple[dict[str, Any], Callable[[], dict[str, Any]]]
# A row takes a few seconds, most of them compiling and checking; those of a rehearsal are tiny.
ROW_SECONDS, TINY_SECONDS = 12, 1
OURS = ("segfast", "benchmarks", "kernels", "export", "train")


class Missing(Exception):
    """What a row needs is not here, for this reason."""


@dataclass(frozen=True)
class Budget:
    """A device and the time left for it.

    Attributes:
        device: `cuda`, or `cpu` in a rehearsal.
        deadline: of `time.monotonic`.
        peak: FLOP/s of the matrix units, measured; infinite where they were not.
    """

    device: str
    deadline: float
    peak: float = float("inf")

    @property
    def rehearsal(self) -> bool:
        """Whether sizes are to be tiny, because nothing here is a GPU."""
        return self.device == "cpu"

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def alive(self) -> bool:
        """Whether the device still answers."""
        return True

    def free(self) -> None:
        """Give back the memory of what is no longer used. Never raises."""

    def attempt(self, row: Row) -> dict[str, Any]:
        """The row, measured; or why it was not."""
        about, measure = row
        least = TINY_SECONDS if self.rehearsal else ROW_SECONDS
        if self.left() < least:
            return about | {"skipped": f"less than {least} s were left"}
        try:
            return about | measure()
        except (Missing, MissingRuntime) as reason:
            return about | {"skipped": str(reason)}
        except Exception as error:  # the other rows are worth having
            return about | (lacking(error) or {"error": f"{type(error).__name__}: {error}"[:500]})
        finally:
            self.free()


def lacking(error: Exception) -> dict[str, str]:
    """{"skipped": reason} where somebody else's package is not installed; else nothing."""
    name = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    return {"skipped": f"{name} is not installed"} if name and name.partition(".")[0] not in OURS else {}


def target(what: str, wanted: float, got: float, at_most: bool = False) -> dict[str, Any]:
    """One line of a row's targets."""
    met = got <= wanted if at_most else got >= wanted
    return {"what": what, "wanted": wanted, "got": round(got, 4), "met": bool(met)}


def missed(row: dict[str, Any]) -> bool:
    """Whether a row has a target that it does not meet."""
    return any(not one["met"] for one in row.get("targets", []))
