"""The one place that writes files: completely or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from segfast.errors import BadOption, CannotWrite

if TYPE_CHECKING:
    from PIL.Image import Image

_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission denied; choose another folder",
    errno.EPERM: "not permitted; choose another folder",
    errno.ENOENT: "there is no such folder; create it first",
    errno.ENOTDIR: "a part of the path is not a folder; choose another",
    errno.EISDIR: "it is a folder; name a file",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EEXIST: "a file of that name is in the way; choose another",
}

# These concern a single name, not the disk or the folder: other files may still be written there.
_OWN = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP}


@contextmanager
def publish(path: str | os.PathLike[str], *, older: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """A temporary file beside `path`, which replaces it when the block ends without an error.

    If anything interrupts the block (an error, Ctrl-C), the temporary file is removed and `path` is unchanged.

    Args:
        older: the name under which the file that was at `path` is kept.

    Raises:
        CannotWrite: for every OSError of the destination, with its remedy.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory", str(target))
        # Not by tempfile, whose files only the owner may read: this one becomes the target.
        # Its name is short however long the target's. Libraries tell the format by the suffix, so that is kept.
        suffix = target.suffix if len(target.suffix) <= len(".safetensors") else ""
        name = target.with_name(f".segfast-{secrets.token_hex(6)}{suffix}")
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        temporary = name
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some libraries replace it by a file that only the owner may read
        _sync(temporary)
        if older is not None and target.exists():
            os.replace(target, older)
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        if temporary is not None and str(error.filename) not in ("None", str(target), str(temporary)):
            raise  # raised inside the block, about another file
        raise cannot_write(target, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_suffix(path: str | os.PathLike[str], suffix: str) -> None:
    """Check that a name has the suffix of the format that is written to it.

    Raises:
        BadOption: it has another.
    """
    if Path(path).suffix.lower() != suffix:
        raise BadOption(f"{path} is written in another format than its name says; name it *{suffix}")


@contextmanager
def partial(path: Path) -> Iterator[BinaryIO]:
    """`path` opened to append, for a download that a later call may resume: on an error it is kept.

    Raises:
        CannotWrite: it cannot be opened.
    """
    try:
        file = open(path, "ab")  # noqa: SIM115 (errors inside the block are not errors of opening)
    except OSError as error:
        raise cannot_write(path, error) from error
    with file:
        yield file


def append_line(path: Path, line: str) -> None:
    """Append a line to a log, in one write: a crash leaves at most the last line incomplete.

    Raises:
        CannotWrite: the destination is full, read-only or missing.
    """
    try:
        with open(path, "ab", buffering=0) as file:
            file.write(f"{line}\n".encode())
    except OSError as error:
        raise cannot_write(path, error) from error


def write_png(picture: Image, path: str | os.PathLike[str] | BinaryIO) -> None:
    """Write a picture as PNG: atomically to a path, or to a file that is open for writing bytes.

    Raises:
        BadOption: the path does not end in `.png`, or the file takes text.
        CannotWrite: the destination is full, read-only, missing or closed.
    """
    if not isinstance(path, (str, os.PathLike)):
        _write_open(picture, path)
        return
    check_suffix(path, ".png")
    with publish(path) as temporary:
        picture.save(temporary, format="PNG")


def _write_open(picture: Image, file: BinaryIO) -> None:
    """Encode first, then write at once: if encoding fails, nothing is written."""
    encoded = io.BytesIO()
    picture.save(encoded, format="PNG")
    try:
        file.write(encoded.getbuffer())
    except (AttributeError, TypeError):
        raise BadOption(
            f"{type(file).__name__} takes no bytes; give a path, io.BytesIO() or a file opened with mode 'wb'"
        ) from None
    except OSError as error:  # also of a file that is open for reading, which is a ValueError too
        reason = _REMEDIES.get(error.errno or 0, f"{error}; open it with mode 'wb'")
        raise CannotWrite(f"cannot write to that file: {reason}") from error
    except ValueError as error:  # closed
        raise CannotWrite(f"cannot write to that file: {error}; open it again") from None


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write UTF-8 text, atomically.

    Raises:
        CannotWrite: the destination is full, read-only or missing.
    """
    with publish(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_folder(path: str | os.PathLike[str]) -> Path:
    """`path`, created with its parents if missing.

    Raises:
        CannotWrite: it cannot be created.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def sha256(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cannot_write(path: Path, error: OSError) -> CannotWrite:
    """The error, with its remedy, for an OSError of a destination."""
    remedy = _REMEDIES.get(error.errno or 0, str(error))
    return CannotWrite(f"cannot write {path}: {remedy}", own=error.errno in _OWN)


def _sync(path: Path) -> None:
    """Flush a file's content to disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
