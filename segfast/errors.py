"""The errors segfast raises for a user's input; every message carries its remedy.

SegfastError
├── BadData            a dataset that cannot be used, with the files at fault
├── BadImage           a picture, array or tensor that cannot be read as an image
├── BadModel           a checkpoint or artifact that cannot be read, or does not fit
│   ├── EngineMismatch an engine file that is not what its sidecar says, or was built for another machine
│   └── UnknownModel   a name that is not in the family or among the published weights
├── BadOption          an argument outside its range, or options that contradict each other
├── DownloadFailed     published weights that could not be fetched whole
├── ExportFailed       an export that did not pass its gate; nothing was written
├── MissingRuntime     a library or device that is not there
├── NotSupported       a request that this model cannot serve here, of a sound picture: its output, limits, or memory
├── TrainingFailed     a run that cannot go on: its loss, memory, or a process that helps; its last good state is kept
└── CannotWrite        a full, read-only or missing destination; nothing is left half written
"""

from collections.abc import Sequence

__all__ = [
    "BadData",
    "BadImage",
    "BadModel",
    "BadOption",
    "CannotWrite",
    "DownloadFailed",
    "EngineMismatch",
    "ExportFailed",
    "MissingRuntime",
    "NotSupported",
    "SegfastError",
    "TrainingFailed",
    "UnknownModel",
]


class SegfastError(Exception):
    """Base of every error that segfast raises for a user's input."""


class BadData(SegfastError):
    """A dataset that cannot be used.

    Attributes:
        offenders: what is at fault, one line each; the message shows the first of them and counts all.
    """

    SHOWN = 20

    def __init__(self, message: str, offenders: Sequence[str] = ()):
        super().__init__(message, tuple(offenders))
        self.message, self.offenders = message, tuple(offenders)

    def __str__(self) -> str:
        more = len(self.offenders) - self.SHOWN
        lines = [self.message, *self.offenders[: self.SHOWN], *([f"… and {more} more"] if more > 0 else [])]
        return "\n  ".join(lines)


class BadImage(SegfastError):
    """A picture, array or tensor that cannot be read as an image."""


class BadModel(SegfastError):
    """A checkpoint or artifact that cannot be read, or does not fit."""


class EngineMismatch(BadModel):
    """An engine file that is not what its sidecar says, or was built for another machine; the message rebuilds it."""


class UnknownModel(BadModel):
    """A name that is not in the family or among the published weights."""


class BadOption(SegfastError, ValueError):
    """An argument outside its range, or options that contradict each other."""


class DownloadFailed(SegfastError):
    """Published weights that could not be fetched whole."""


class ExportFailed(SegfastError):
    """An export that did not pass its gate; nothing was written."""


class MissingRuntime(SegfastError):
    """A library or device that is not there."""


class NotSupported(SegfastError):
    """A request that this model cannot serve on this machine, though the picture is sound.

    Its network gives another output, the request passes a limit of `segfast.inference.limits`, memory does not hold it, or a
    library fails at it (which is then the error's cause).
    """


class TrainingFailed(SegfastError):
    """A run that cannot go on: its loss is no number, memory ran out, or a process has gone; its last good state is kept."""


class CannotWrite(SegfastError):
    """A full, read-only or missing destination; nothing is left half written.

    Attributes:
        own: the name is at fault, too long or taken by a folder: others can be written beside it.
    """

    def __init__(self, message: str, *, own: bool = False):
        super().__init__(message)
        self.own = own
