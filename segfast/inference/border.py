"""Where an Engine meets its caller: errors of the layers within become ours there."""

from __future__ import annotations

import errno
from contextlib import ContextDecorator

from segfast.errors import BadImage, BadModel, NotSupported, SegfastError
from segfast.machine import exhaustion

# What NumPy, Pillow, the runtimes and our own kernels raise for what they cannot do. Others are plain faults of the
# program, and stay what they are.
INNER = (ValueError, TypeError, OverflowError, RuntimeError)

_REMEDIES = {
    BadImage: "pass a path, a PIL image or a uint8 array [H, W, 3]",
    BadModel: "export, copy or download it again, or open it with another runtime or device",
    NotSupported: "try another runtime or device; if that fails too, report it with this traceback",
}


class border(ContextDecorator):
    """A block, or function, in which errors of inner layers become errors of ours, each the cause of its own.

    Args:
        what: was done, for the message: "reading the picture".
        kind: of error; where memory is scarce it is NotSupported in any case.
    """

    def __init__(self, what: str, kind: type[SegfastError] = NotSupported):
        self._what, self._kind = what, kind

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, SegfastError):
            return
        if _is_scarce(error):
            remedy = "close what else uses it, make the picture smaller, or cut it and pass the parts"
            raise NotSupported(f"{self._what} takes more memory than there is ({_reason(error)}); {remedy}") from error
        # ONNX Runtime's exceptions have no base but Exception.
        if isinstance(error, INNER) or type(error).__module__.startswith("onnxruntime"):
            raise self._kind(f"{self._what} failed ({_reason(error)}); {_REMEDIES[self._kind]}") from error


def _is_scarce(error: Exception) -> bool:
    """Whether memory ran out, of the host or of a device."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or any(words in str(error) for words in exhaustion.ANYWHERE)


def _reason(error: Exception) -> str:
    """Kind and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
