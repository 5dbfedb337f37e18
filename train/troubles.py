"""What goes wrong outside of our code while a run trains, as errors with a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from segfast.errors import MissingRuntime, SegfastError, TrainingFailed
from segfast.machine.exhaustion import ANYWHERE

REMEDY = (
    "train with more micro-batches (--accumulate 2, 4, …), with --save-activations, with a smaller --batch or --crop, or "
    "a smaller model; the same command goes on from the last saved state"
)
_NO_COMPILER = (
    "No working C++ compiler",
    "InvalidCxxCompiler",
    "Failed to find C compiler",
    "CppCompileError",
    "Cannot find a working triton",
)
_DEVICE = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "cuda runtime error", "NVRTC")


@contextmanager
def told() -> Iterator[None]:
    """Errors of PyTorch and of the system that a user can do something about, as ours.

    Raises:
        TrainingFailed: memory ran out, or a GPU or the compilation failed.
        MissingRuntime: there is no compiler.
    """
    try:
        yield
    except SegfastError:
        raise
    except Exception as error:
        known = explained(error)
        if known is None:
            raise
        raise known from error


def explained(error: Exception) -> SegfastError | None:
    """The error with its remedy, where it is none of a program."""
    chain = [*_chain(error)]
    words = " ".join(f"{type(one).__name__}: {one}" for one in chain)
    if any(isinstance(one, MemoryError) for one in chain) or any(word in words for word in ANYWHERE):
        return TrainingFailed(f"memory ran out ({_first(error)}); {REMEDY}")
    compiling = any(type(one).__module__.startswith(("torch._dynamo", "torch._inductor")) for one in chain)
    if any(word in words for word in _NO_COMPILER):
        return MissingRuntime(
            "there is no C++ compiler, which --compile needs; install one (g++), or leave --compile out"
        )
    if compiling:
        return TrainingFailed(f"torch.compile failed ({_first(error)}); leave --compile out")
    if any(word in words for word in _DEVICE):
        return TrainingFailed(f"the GPU failed ({_first(error)}); the same command goes on from the last saved state")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
