"""Published weights by name, downloaded once: `seg-b-mask-16@ade20k`."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from types import MappingProxyType

from segfast import files
from segfast.errors import BadModel, CannotWrite, DownloadFailed, UnknownModel
from segfast.machine.cache import cache_directory
from segfast.progress import bar
from segfast.variants import near

_MMSEG = "https://download.openmmlab.com/mmsegmentation/v0.5/segmenter/"
_CHUNK = 1 << 20
_TIMEOUT = 30  # seconds without a byte


@dataclass(frozen=True)
class Weights:
    """A published file.

    Attributes:
        digest: the start of its SHA-256, as its name records it.
        miou: on ADE20K's validation set, single-scale and multi-scale, as published with it.
    """

    url: str
    digest: str
    miou: tuple[float, float]


def _mmseg(run: str, stamp: str, digest: str, miou: tuple[float, float]) -> Weights:
    return Weights(f"{_MMSEG}{run}/{run}_{stamp}-{digest}.pth", digest, miou)


# Trained by MMSegmentation on ADE20K; the original authors' links are dead.
PUBLISHED = MappingProxyType({
    "seg-ti-mask-16@ade20k": _mmseg(
        "segmenter_vit-t_mask_8x1_512x512_160k_ade20k", "20220105_151706", "ffcf7509", (39.99, 40.83)),
    "seg-s-16@ade20k": _mmseg(
        "segmenter_vit-s_linear_8x1_512x512_160k_ade20k", "20220105_151713", "39658c46", (45.75, 46.82)),
    "seg-s-mask-16@ade20k": _mmseg(
        "segmenter_vit-s_mask_8x1_512x512_160k_ade20k", "20220105_151706", "511bb103", (46.19, 47.85)),
    "seg-b-mask-16@ade20k": _mmseg(
        "segmenter_vit-b_mask_8x1_512x512_160k_ade20k", "20220105_151706", "bc533b08", (49.60, 51.07)),
    "seg-l-mask-16@ade20k": _mmseg(
        "segmenter_vit-l_mask_8x1_512x512_160k_ade20k", "20220105_162750", "7ef345be", (52.16, 53.65)),
})  # fmt: skip


def cached(name: str) -> Path | None:
    """The file of published weights, if it was downloaded and can be seen."""
    try:
        path = _destination(PUBLISHED[name])
        return path if path.is_file() else None
    except (CannotWrite, OSError):
        return None


def is_name(text: str) -> bool:
    """Whether a text is meant as a published name, not as a path."""
    return "@" in text and not Path(text).suffix and len(Path(text).parts) == 1 and not Path(text).exists()


def check_digest(path: Path, found: str, wanted: str) -> None:
    """See that a file in the cache is the published one.

    Raises:
        BadModel: it is another.
    """
    if not found.startswith(wanted):
        raise BadModel(f"{path} has the SHA-256 {found[:16]}…, not {wanted}…; delete it, and it is downloaded again")


def fetch(name: str) -> Path:
    """The file of published weights, downloaded if it is not in the cache.

    Raises:
        UnknownModel: no such name; those that exist are listed.
        DownloadFailed: it could not be fetched whole; what came is kept, and a later call resumes.
        CannotWrite: the cache directory is full or read-only, or there is none.
    """
    if name not in PUBLISHED:
        raise UnknownModel(f"no published weights are named {name!r}; {near(name, list(PUBLISHED))}")
    row = PUBLISHED[name]
    path = cached(name)
    return path if path is not None else download(row.url, _destination(row), row.digest)


def download(url: str, path: Path, digest: str) -> Path:
    """Fetch `url` to `path` through a `.part` file that a later call resumes, and check its SHA-256.

    Args:
        digest: the start of the hexadecimal SHA-256.

    Raises:
        DownloadFailed, CannotWrite: as `fetch`.
    """
    from filelock import FileLock

    files.make_folder(path.parent)
    part = path.with_name(path.name + ".part")
    try:
        with FileLock(str(path) + ".lock"):
            if path.is_file():
                return path  # another process fetched it meanwhile
            _transfer(url, part)
            found = files.sha256(part)
            if not found.startswith(digest):
                part.unlink()
                raise DownloadFailed(
                    f"{url} has the SHA-256 {found[:16]}…, not {digest}…; it was removed: "
                    "try again, and if it repeats, distrust the source"
                )
            os.replace(part, path)
            return path
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadFailed(
            f"could not fetch {url} ({reason}); check the connection and repeat, it resumes where it stopped; "
            f"or put the file at {path} by hand"
        ) from error
    except OSError as error:
        raise files.cannot_write(path, error) from error


def _transfer(url: str, part: Path) -> None:
    """Append to `part` what is missing of `url`, with a progress bar."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "segfast"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (a URL of our own table)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        return  # nothing is missing; the digest decides
    with response:
        if have and response.status != 206:  # the server starts over
            part.unlink()
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        shown = bar(total=total, initial=have, unit="B", unit_scale=True, desc=part.name.removesuffix(".part")[-40:])
        with shown, files.partial(part) as file:
            while chunk := _receive(response):
                file.write(chunk)
                shown.update(len(chunk))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"the connection closed after {part.stat().st_size} of {total} bytes")


def _receive(response: HTTPResponse) -> bytes:
    """The next bytes; whatever goes wrong here is the connection's fault, not the disk's."""
    try:
        return response.read(_CHUNK)
    except OSError as error:
        raise ConnectionError(str(error)) from error


def _destination(row: Weights) -> Path:
    return cache_directory() / row.url.rsplit("/", 1)[-1]
