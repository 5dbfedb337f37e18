"""Compiled models kept between starts, so that the next one takes half as long.

OpenVINO keeps them in a folder and checks nothing of what it reads there: damaged weights would give other labels
without a word. So it never sees the cache itself, only a folder of its own into which whole files are linked; what it
adds there is moved to the cache under a name with its digest, at once. Whatever fails, models are compiled anew.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segfast import files
from segfast.errors import CannotWrite
from segfast.machine.cache import cache_directory

# key.name.digest.blob: which network, as OpenVINO names it, and the digest of name and content.
_NAME = re.compile(r"(?P<key>[0-9a-f]{16})\.(?P<name>\w+)\.(?P<digest>[0-9a-f]+-[0-9a-f]{8})\.blob")
_OWN = ".start-"
_STALE = 24 * 3600  # seconds; a start that still runs is younger
# Folders of files that soon go.
_passing: set[Path] = set()


@contextmanager
def passing(folder: Path) -> Iterator[None]:
    """A block in which nothing is kept of the files in a folder: they will not be opened again."""
    _passing.add(folder.resolve())
    try:
        yield
    finally:
        _passing.discard(folder.resolve())


class Kept:
    """The compiled models of one network.

    Args:
        source: the file it comes from: who may read that, may read what was made of it.
        identity: whatever they depend on; OpenVINO looks again whether one fits.

    Attributes:
        notes: what failed, for people.
    """

    def __init__(self, source: Path, *identity: object):
        self.notes: list[str] = []
        self._source = source
        self._key = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
        self._whole: dict[str, Path] = {}  # by OpenVINO's name
        self._folder: Path | None = None
        if source.resolve().parent in _passing:
            return
        try:
            self._folder = cache_directory() / "openvino"
        except CannotWrite as error:
            self._note(error)

    def check(self) -> None:
        """Read what is kept of it, and drop what is not whole."""
        if self._folder is None:
            return
        try:
            found = sorted(self._folder.glob("*.blob"), key=lambda path: path.stat().st_mtime)
        except OSError:
            return
        for path in found:
            match = _NAME.fullmatch(path.name)
            if match is None:  # without a digest: nothing vouches for it
                _remove(path)
            elif match["key"] == self._key:
                self._take(path, match["name"], match["digest"])

    @contextmanager
    def lent(self) -> Iterator[Path | None]:
        """A folder for OpenVINO with what `check` found whole; what it adds is kept. None if there is nowhere to keep it."""
        own = self._make()
        try:
            yield own
            if own is not None:
                self._keep(own)
        finally:
            if own is not None:
                shutil.rmtree(own, ignore_errors=True)

    def _take(self, path: Path, name: str, digest: str) -> None:
        try:
            whole = _digest(path, name) == digest
        except OSError:  # another user's, perhaps
            return
        if whole:
            self._whole[name] = path
        else:
            _remove(path)
            self.notes.append("a damaged compiled model was dropped from the cache")

    def _make(self) -> Path | None:
        """The folder lent, with links in it; beside the cache where that can be written, for others may only read it."""
        if self._folder is None:
            return None
        try:
            _sweep(files.make_folder(self._folder))
            own = Path(tempfile.mkdtemp(prefix=_OWN, dir=self._folder))
        except (CannotWrite, OSError) as error:
            if not self._whole:
                self._note(error)
                return None
            own = None
        try:
            own = own or Path(tempfile.mkdtemp(prefix="segfast-"))
            for name, path in self._whole.items():
                _link(path.resolve(), own / f"{name}.blob")
        except OSError as error:
            self._note(error)
        return own

    def _keep(self, own: Path) -> None:
        """Move what OpenVINO wrote to the cache; nothing where it took what was there."""
        assert self._folder is not None
        if own.parent != self._folder:
            return
        try:
            written = list(own.glob("*.blob"))
            if not written:  # OpenVINO removes what it cannot write whole
                raise OSError(errno.ENOSPC, "OpenVINO could not write them: is the disk full?")
            for path in written:
                before = self._whole.get(path.stem)
                if before is not None and path.samefile(before):
                    continue
                path.chmod(0o600 | self._source.stat().st_mode & 0o044)  # OpenVINO's are for the user and group alone
                os.replace(path, self._folder / f"{self._key}.{path.stem}.{_digest(path, path.stem)}.blob")
                if before is not None:
                    _remove(before)
        except OSError as error:
            self._note(error)

    def _note(self, error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        self.notes.append(f"compiled models are not kept, so that each start takes longer ({reason})")


def _digest(path: Path, name: str) -> str:
    """Length and CRC-32 of a file, its name included: against accidents, for whoever may write here may do anything.

    410 MB, those of seg-b-mask-16, take 0.12 s of a CPU that other work overlaps with; a SHA-256 takes 0.28 s.
    """
    length, code = 0, zlib.crc32(name.encode())
    part = memoryview(bytearray(1 << 20))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(part):
            length, code = length + count, zlib.crc32(part[:count], code)
    return f"{length:x}-{code:08x}"


def _link(target: Path, link: Path) -> None:
    try:
        os.symlink(target, link)
    except (OSError, NotImplementedError):  # Windows lets few users
        os.link(target, link)


def _sweep(folder: Path) -> None:
    """Remove what interrupted starts have left."""
    for left in folder.glob(f"{_OWN}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE:
                shutil.rmtree(left, ignore_errors=True)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
