"""The errors segfast raises for a user's input; every message carries its remedy.

SegfastError
├── BadImage           a picture, array or tensor that cannot be segmented
├── BadModel           a checkpoint or artifact that cannot be read, or does not fit
│   ├── EngineMismatch an engine file that is not what its sidecar says, or was built for another machine
│   └── UnknownModel   a name that is not in the family or among the published weights
├── BadOption          an argument outside its range, or options that contradict each other
├── DownloadFailed     published weights that could not be fetched whole
├── ExportFailed       an export that did not pass its gate; nothing was written
├── MissingRuntime     a library or device that is not there
├── NotSupported       a request that this artifact cannot serve
└── CannotWrite        a full, read-only or missing destination; nothing is left half written
"""

__all__ = [
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
    "UnknownModel",
]


class SegfastError(Exception):
    """Base of every error that segfast raises for a user's input."""


class BadImage(SegfastError):
    """A picture, array or tensor that cannot be segmented."""


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
    """A request that this artifact cannot serve."""


class CannotWrite(SegfastError):
    """A full, read-only or missing destination; nothing is left half written."""
