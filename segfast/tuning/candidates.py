"""What is tried: how a file is made, and how it is run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from segfast.config import Config
from segfast.errors import BadOption
from segfast.token_merge import Merge

PRECISIONS = ("fp32", "fp16", "int8")
RUNTIMES = ("openvino", "onnxruntime")


@dataclass(frozen=True)
class Candidate:
    """A file: what its points depend on.

    Attributes:
        merge: of tokens; None merges none.
    """

    precision: str
    merge: Merge | None = None

    def __str__(self) -> str:
        return self.precision if self.merge is None else f"{self.precision}+{self.merge}"

    @staticmethod
    def parse(text: str) -> Candidate:
        """What `fp16+0.75@6` says.

        Raises:
            BadOption: it is not written so.
        """
        match = re.fullmatch(rf"({'|'.join(PRECISIONS)})(?:\+(\S+))?", text.strip())
        if match is None:
            raise BadOption(f"a candidate is PRECISION or PRECISION+FRACTION@BLOCK, such as fp16+0.75@6; got {text!r}")
        return Candidate(match[1], Merge.parse(match[2]) if match[2] else None)

    def gentler(self, other: Candidate) -> bool:
        """Whether it can lose no more than another: not a lower precision, nor more tokens merged, nor earlier."""
        if PRECISIONS.index(self.precision) > PRECISIONS.index(other.precision):
            return False
        if self.merge is None or other.merge is None:
            return self.merge is None
        return self.merge.fraction <= other.merge.fraction and self.merge.block >= other.merge.block


@dataclass(frozen=True)
class Setting:
    """How a file is run; it changes no label but for rounding.

    Attributes:
        runtime: of an Engine.
        threads: of an Engine; None for its default, all cores.
    """

    runtime: str
    threads: int | None = None

    def __str__(self) -> str:
        return f"{self.runtime}, {'all cores' if self.threads is None else f'threads={self.threads}'}"


BASE = Candidate("fp32")
DEFAULT = Setting("openvino")


def work(candidate: Candidate, config: Config) -> float:
    """The share of the encoder's tokens, over all blocks, that is left: the less, the faster."""
    if candidate.merge is None:
        return 1.0
    h, w = config.grid
    whole, left = config.prefix_tokens + h * w, candidate.merge.tokens((h, w), config.prefix_tokens)
    merged = config.depth - candidate.merge.block
    return (whole * candidate.merge.block + left * merged) / (whole * config.depth)


def candidates(config: Config, precisions: Sequence[str]) -> list[Candidate]:
    """What is tried unless it is named: of each precision no merge, then the boldest first.

    Later and more loses less than earlier and less, so the blocks are a quarter and a half of the depth.
    """
    quarter, half = max(1, config.depth // 4), max(1, config.depth // 2)
    merges = [Merge(0.75, quarter), Merge(0.75, half), Merge(0.5, quarter), Merge(0.5, half), Merge(0.25, 1)]
    fit = [merge for merge in dict.fromkeys(merges) if merge.fault(config) is None]
    found = [Candidate(precision) for precision in precisions]
    merged = [Candidate(precision, merge) for precision in precisions if precision != "fp32" for merge in fit]
    return [*found, *sorted(merged, key=lambda one: (PRECISIONS.index(one.precision), work(one, config)))]


def settings(cores: int, runtimes: Sequence[str]) -> list[Setting]:
    """Runtimes and threads that are tried: all cores, half of them and one."""
    fewer = sorted({cores // 2, 1} - {0, cores}, reverse=True)
    return [Setting(runtime, threads) for runtime in runtimes for threads in (None, *fewer)]
