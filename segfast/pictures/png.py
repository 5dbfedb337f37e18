"""PNG files whose pixels are whole, though what lies beside them is not."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Ancillary chunks that say something of the pixels.
_USEFUL = (b"tRNS", b"eXIf")
_SMALL = 1 << 16


def without_extras(content: bytes) -> Iterator[bytes]:
    """The file without large or damaged ancillary chunks, then with next to none: Pillow refuses files over them.

    The frames of an animation are ancillary; its first, or what stands for it, is not.
    """
    chunks = list(_chunks(content))
    for useful in (lambda kind: True, _USEFUL.__contains__):
        kept = [body for kind, body, sound in chunks if kind[:1].isupper() or (sound and useful(kind))]
        if len(kept) < len(chunks):
            yield SIGNATURE + b"".join(kept)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(name, all of it, whether it is small and its checksum right) of every chunk; upper-case names are critical."""
    at = len(SIGNATURE)
    while at + 8 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        body = content[at : at + 12 + length]
        yield kind, body, len(body) <= _SMALL and zlib.crc32(body[4:-4]) == int.from_bytes(body[-4:], "big")
        at += 12 + length
