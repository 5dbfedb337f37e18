"""The console script: `segfast export …` is `python -m segfast.export …`."""

from __future__ import annotations

import difflib
import runpy
import sys

from segfast import __version__, cli

COMMANDS = {
    "batch": "segment pictures by the million, on this machine or a Ray cluster",
    "benchmark": "latency, throughput and memory, stage by stage",
    "datasets": "what a folder of pictures and masks holds, its faults, and a sheet to look at",
    "doctor": "what this machine has, what is missing and how to get it",
    "evaluate": "mIoU of an engine or checkpoint on a dataset, by the paper's protocol",
    "explain": "draw what a model sees: attention, class embeddings, masks, doubt",
    "export": "write a model as one .onnx file, checked against PyTorch",
    "models": "the family: sizes, work, published accuracy and weights",
    "segment": "segment pictures or folders of them",
    "serve": "serve a model over HTTP, with a page to try it",
    "train": "fine-tune or train a model, on one machine or many",
    "tune": "the fastest file and settings for this CPU, at a loss that is allowed",
}


def main() -> None:
    """Run the command named first, as a module; without one, list them."""
    cli.prepare_streams()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-V", "--version"):
        print(f"segfast {__version__}")
        return
    if name in ("-h", "--help"):
        rows = "\n".join(f"  {command:10}{what}" for command, what in COMMANDS.items())
        print(f"usage: segfast COMMAND …\n\n{rows}\n\n`segfast COMMAND --help` describes each.")
        return
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"error: no command is named {name!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"segfast {name}", *sys.argv[2:]]
    runpy.run_module(f"segfast.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
