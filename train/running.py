"""How a run is run, which changes nothing but rounding and speed; and how it is asked to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from segfast.errors import BadOption
from segfast.train.build import ATTENTIONS
from segfast.train.fields import Recipe


@dataclass(frozen=True)
class Running:
    """How a run is run; a later call may choose otherwise and go on.

    Attributes:
        device: `cpu`, `cuda` or `cuda:N`; None is the GPU if there is one.
        workers: processes that prepare batches; 0 prepares them between the steps.
        threads: of PyTorch on a CPU; None leaves them.
        accumulate: micro-batches that a step's images are divided into, for less memory.
        compile: run the model through torch.compile.
        save_activations: keep only the blocks' inputs for the gradient: far less memory, a third more work.
        attention: a name of `kernels.attend.BACKENDS`.
        tensorboard: write its event files.
        log_every: steps between reports.
    """

    device: str | None = None
    workers: int = 1
    threads: int | None = None
    accumulate: int = 1
    compile: bool = False
    save_activations: bool = False
    attention: str = "auto"
    tensorboard: bool = True
    log_every: int = 10

    def check(self, recipe: Recipe, world_size: int) -> Running:
        """Itself, if its values are possible.

        Raises:
            BadOption: one is not.
        """
        for name, least, most in (("workers", 0, 1024), ("accumulate", 1, recipe.batch), ("log_every", 1, 10**9)):
            if not least <= getattr(self, name) <= most:
                raise BadOption(
                    f"--{name.replace('_', '-')} must lie between {least} and {most}; got {getattr(self, name)}"
                )
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise BadOption(f"--threads must lie between 1 and 1024; got {self.threads}")
        if self.attention not in ATTENTIONS:
            raise BadOption(f"--attention must be one of {', '.join(ATTENTIONS)}; got {self.attention!r}")
        if recipe.batch % (world_size * self.accumulate):
            raise BadOption(
                f"--batch {recipe.batch} does not divide into {world_size} processes × {self.accumulate} micro-batches; "
                "choose a multiple"
            )
        return self


# Under `torchrun` one Ctrl-C comes twice, from the terminal and from the launcher; seconds until it is another one.
ECHO = 2.0
# Ctrl-C; what schedulers and containers send; a terminal that closes; what SLURM sends where it is asked to.
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGBREAK")


class StopNow(BaseException):
    """A signal came within `StopRequest.at_once`. No error, so that it passes whoever handles those."""


class StopRequest:
    """Whether a signal asked the run to save and end; a second Ctrl-C, ECHO later, ends it at once."""

    wanted = False
    _since = 0.0
    _at_once = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        now = time.monotonic()
        if self.wanted and number == signal.SIGINT and now - self._since > ECHO:
            raise KeyboardInterrupt
        if not self.wanted:
            self.wanted, self._since = True, now
            if self._at_once:
                raise StopNow

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Work that is given up where it is when a signal comes, as it would be by Ctrl-C: nothing of it may be kept.

        Raises:
            StopNow: one came, in the block or before it.
        """
        self._at_once = True
        try:
            if self.wanted:
                raise StopNow
            yield
        finally:
            self._at_once = False


def _numbers() -> list[signal.Signals]:
    """The signals that this system has, without a SIGHUP that nohup has ignored, but for torchrun, which passes it on."""
    found = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return found
    return [number for number in found if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Take signals as requests inside the block; only the main thread can, elsewhere they do what they did."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request) for number in _numbers()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
