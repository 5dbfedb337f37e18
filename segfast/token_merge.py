"""How many tokens an encoder merges, and where: what `merge` in a Config says (docs/token-merging.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segfast.errors import BadOption
from segfast.values import is_number, is_whole

if TYPE_CHECKING:
    from segfast.config import Config
    from segfast.protocol import Size

# Matrix products take blocks of so many rows: what is left over costs as much as a block.
ROWS = 16
# The largest share of the cells by which the number that is merged may differ from the fraction to fill blocks.
SLACK = 1 / 32


@dataclass(frozen=True)
class Merge:
    """Cells of 2 × 2 patches become one token each behind a block of the encoder.

    Attributes:
        fraction: of the cells, over 0 and below 1: those whose tokens are the most alike.
        block: behind which they are merged, counted from 1; never the last, behind which nothing is saved.
    """

    fraction: float
    block: int

    @staticmethod
    def parse(text: str) -> Merge:
        """What `0.25@1` says: a quarter of the cells, behind block 1.

        Raises:
            BadOption: it is not written so, or no encoder could do it.
        """
        match = re.fullmatch(r"(\d{0,6}\.?\d{1,6})@(\d{1,6})", text.strip())
        if match is None:
            raise BadOption(f"a merge is FRACTION@BLOCK, such as 0.25@1; got {text!r}")
        merge = Merge(float(match[1]), int(match[2]))
        if (fault := merge._own_fault()) is not None:
            raise BadOption(fault)
        return merge

    def __str__(self) -> str:
        return f"{self.fraction}@{self.block}"

    @property
    def tag(self) -> str:
        """What names of files say: `merge25at1`."""
        return f"merge{100 * self.fraction:g}at{self.block}".replace(".", "p")

    def fault(self, config: Config) -> str | None:
        """Why an encoder of this depth and grid cannot merge so, in words; None if it can."""
        if (fault := self._own_fault()) is not None:
            return fault
        if self.block >= config.depth:
            return (
                f"tokens are merged behind a block from 1 to {config.depth - 1} of {config.name}, not its last; "
                f"got {self.block}"
            )
        if cells(config.grid) < 2:
            h, w = config.grid
            return f"a grid of {h}×{w} patches has no two cells of 2×2 patches to choose from; take larger windows"
        return None

    def check(self, config: Config) -> Merge:
        """Itself, if an encoder can merge so.

        Raises:
            BadOption: it cannot; the message says why.
        """
        if (fault := self.fault(config)) is not None:
            raise BadOption(fault)
        return self

    def count(self, grid: Size, prefix: int = 0) -> int:
        """How many cells of a grid are merged: a number for every picture, so that shapes are fixed.

        The nearest to the fraction that leaves whole blocks of rows, where one is near; 0 where there are no two cells.

        Args:
            grid: patches (h, w).
            prefix: tokens before them.
        """
        C = cells(grid)
        if C < 2:
            return 0
        wanted = min(max(round(self.fraction * C), 1), C - 1)
        whole = [m for m in range(1, C) if self._left(grid, prefix, m) % ROWS == 0 and abs(m - wanted) <= SLACK * C]
        return min(whole, key=lambda m: abs(m - wanted), default=wanted)

    def tokens(self, grid: Size, prefix: int = 0) -> int:
        """How many tokens are left of a grid and the tokens before it."""
        return self._left(grid, prefix, self.count(grid, prefix))

    @staticmethod
    def _left(grid: Size, prefix: int, merged: int) -> int:
        return prefix + grid[0] * grid[1] - 3 * merged

    def _own_fault(self) -> str | None:
        """What is wrong whatever the encoder."""
        if not is_number(self.fraction) or not 0 < self.fraction < 1:
            return f"the fraction of merged cells must lie over 0 and below 1; got {self.fraction!r}"
        if not is_whole(self.block) or self.block < 1:
            return f"the block behind which tokens are merged counts from 1; got {self.block!r}"
        return None


def cells(grid: Size) -> int:
    """Whole cells of 2 × 2 patches in a grid; the last row or column of an odd grid is in none."""
    return (grid[0] // 2) * (grid[1] // 2)
