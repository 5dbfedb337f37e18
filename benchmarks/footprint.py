"""Bytes that a column, its weights among them, and one call hold at the call's peak, in a process of its own.

    python -m benchmarks.footprint seg-ti-16 512 segfast-openvino-bf16 cpu FOLDER

prints them, or nothing where they cannot be told. In a process that did other things before, what those freed would
hide some.
"""

import subprocess
import sys
import warnings
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def footprint(model, size, column, device, artifacts):
    """As this module's command prints it; None where it cannot be told, with a warning where the command failed."""
    line = [sys.executable, "-m", __name__, model, str(size), column, device, str(artifacts.root)]
    ended = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if ended.returncode:
        warnings.warn(
            f"the memory of {column} is not known: {ended.stderr.strip().rpartition(chr(10))[2]}", stacklevel=2
        )
        return None
    printed = ended.stdout.split()
    return int(printed[-1]) if printed else None


def main(name, size, column, device, folder):
    import torch

    import segfast
    from benchmarks import columns
    from benchmarks.artifacts import Artifacts
    from benchmarks.memory import peak, resident
    from segfast.artifacts.golden import photo

    torch.manual_seed(0)
    side = int(size)
    case = columns.Case.of(segfast.create_model(name, image_size=side), side, device, 1, Artifacts(Path(folder)))
    image, before = photo((side, side))[None], resident(device)
    call = (columns.peers(case, compiled=False) | columns.ours(case))[column]()
    call(image)  # what the first call alone takes is left out
    held = peak(lambda: call(image), device, before)
    if column.startswith("eager") and held is not None:
        held += sum(weight.nbytes for weight in case.fixed.parameters())  # which were there before
    if held is not None:
        print(held)


if __name__ == "__main__":
    main(*sys.argv[1:])
