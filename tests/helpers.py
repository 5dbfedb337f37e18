"""Small models, and where the original code's outputs are."""

import os
import subprocess
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parent


def reference(name: str) -> Path:
    """A folder of the original code's outputs: from $SEGFAST_TEST_DATA, else the copies in tests/data."""
    for root in (os.environ.get("SEGFAST_TEST_DATA"), HERE / "data"):
        if root and (folder := Path(root) / "reference" / name).is_dir():
            return folder
    pytest.skip(f"reference/{name} is only below $SEGFAST_TEST_DATA, which is not set")


def openvino_core():
    """A Core whose plugin is loaded by a thread that ends: this one would be left a signal stack that goes with it."""
    import openvino

    from segfast.runtimes.openvino import load_plugin

    core = openvino.Core()
    load_plugin(core)
    return core


def tiny_config(**changes):
    """The Config of a model small enough for tests: 2 blocks of width 64, 64-pixel windows, 7 classes."""
    from segfast.classes import generated_palette
    from segfast.config import Config
    from segfast.protocol import Protocol

    K = changes.get("num_classes", 7)
    values = {
        "name": "seg-custom-mask-16",
        "patch": 16,
        "width": 64,
        "depth": 2,
        "heads": 1,
        "decoder": "mask",
        "num_classes": K,
        "image_size": (64, 64),
        "protocol": Protocol((0.5,) * 3, (0.5,) * 3, (64, 64), (48, 48)),
        "classes": tuple(f"thing {index}" for index in range(K)),
        "palette": generated_palette(K),
    }
    return Config(**(values | changes)).check()


def tiny_model(seed=0, scale=4.0, **changes):
    """A tiny Segmenter whose weights are large enough for its answers to differ between pixels."""
    import torch

    from segfast.model import Segmenter

    torch.manual_seed(seed)
    model = Segmenter(tiny_config(**changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "pos_embed" not in name:
                parameter.mul_(scale)
    return model


def interrupted(command, phase, number, **options):
    """Exit code and last words of a command that is sent a signal once its bar shows a phase.

    Its standard error is a terminal, where bars are drawn at once: in a log they say something now and then.
    """
    import termios

    ours, theirs = os.openpty()
    termios.tcsetwinsize(ours, (24, 120))
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=theirs, **options)
    os.close(theirs)
    shown, sent, deadline = "", False, time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            shown += os.read(ours, 4096).decode(errors="replace")
        except OSError:  # the process has ended, and the terminal with it
            break
        if phase in shown and not sent:
            process.send_signal(number)
            sent = True
    os.close(ours)
    return process.wait(timeout=60), shown[-400:]
