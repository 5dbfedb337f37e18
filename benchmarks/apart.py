"""Columns timed in a process of their own: `torch.compile` on a GPU, beside which no other graphs may live.

    python -m benchmarks.apart seg-b-16 512 16 cuda FOLDER compile-fp32 compile-fp16

Its mode "reduce-overhead" frees workspaces of cuBLAS that the graphs of an Engine have taken into theirs. The last
line is what `measuring.measure` finds, as JSON; the rounds are not in turns with those of other columns.
"""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.labels import precision

REPOSITORY = Path(__file__).parent.parent
# What compiling a model twice and timing it may take.
SECONDS = 1800
COLUMNS = ("compile-fp32", "compile-fp16")


class Rounds:
    """As much of pytest-benchmark's fixture as `rounds.in_turns` uses."""

    def pedantic(self, function, rounds, warmup_rounds):
        """Call it so often."""
        for _ in range(warmup_rounds + rounds):
            function()


def photos(size, batch):
    """[batch, size, size, 3]: a photo and its mirror image by turns."""
    import numpy as np

    from segfast.artifacts.golden import photo

    return np.stack([photo((size, size)), photo((size, size))[:, ::-1]])[np.arange(batch) % 2]


def measured(name, size, batch, device, artifacts, columns=COLUMNS):
    """As this module's command prints it; where the command fails, every column's reason."""
    line = [sys.executable, "-m", __name__, name, str(size), str(batch), device, str(artifacts.root), *columns]
    try:
        ended = subprocess.run(
            line, cwd=REPOSITORY, capture_output=True, text=True, errors="replace", check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        reason = f"stopped after {SECONDS} s"
    else:
        if ended.returncode == 0:
            return json.loads(ended.stdout.splitlines()[-1])
        reason = f"it fails: {ended.stderr.strip().rpartition(chr(10))[2] or f'code {ended.returncode}'}"
    return {column: {"precision": precision(column), "skipped": reason} for column in columns}


def main(name, size, batch, device, folder, *wanted):
    import torch

    import segfast
    from benchmarks import columns
    from benchmarks.artifacts import Artifacts
    from benchmarks.measuring import measure

    torch.manual_seed(0)
    size, batch = int(size), int(batch)
    case = columns.Case.of(segfast.create_model(name, image_size=size), size, device, batch, Artifacts(Path(folder)))
    makers = columns.peers(case, compiled=True)
    print(json.dumps(measure(Rounds(), {column: makers[column] for column in wanted}, case, photos(size, batch))))


if __name__ == "__main__":
    main(*sys.argv[1:])
