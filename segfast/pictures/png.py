"""PNG files with intact pixels but broken or oversized metadata."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_USEFUL = (b"tRNS", b"eXIf")  # ancillary chunks that matter to the pixels
_SMALL = 1 << 16  # bytes


def without_extras(content: bytes) -> Iterator[bytes]:
    """The file without large or damaged ancillary chunks, over which Pillow refuses it; then almost without any.

    An animation's further frames are ancillary, its first frame or still image is not.
    """
    chunks = list(_chunks(content))
    for useful in (lambda kind: True, _USEFUL.__contains__):
        kept = [body for kind, body, sound in chunks if kind[:1].isupper() or (sound and useful(kind))]
        if len(kept) < len(chunks):
            yield SIGNATURE + b"".join(kept)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(name, whole chunk, whether it is small and its checksum right) of every chunk; upper-case names are critical."""
    at = len(SIGNATURE)
    while at + 8 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        body = content[at : at + 12 + length]
        yield kind, body, len(body) <= _SMALL and zlib.crc32(body[4:-4]) == int.from_bytes(body[-4:], "big")
        at += 12 + length
