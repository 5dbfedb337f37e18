"""Small TIFFs of any layout, also such as Pillow does not write."""

import struct
import zlib

import numpy as np


def write_tiff(path, array, photometric=1, extra=(), order="<", bits=None, planar=False, deflate=False, **tags):
    """One strip, or one of every band, [H, W] or [H, W, bands]; further tags as `t281=(4095,)`, floats as doubles."""
    bands = 1 if array.ndim == 2 else array.shape[2]
    kind = {"u": 1, "i": 2, "f": 3, "c": 6}[array.dtype.kind]
    data = (np.moveaxis(array, -1, 0) if planar else array).astype(array.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if deflate else data
    step = len(data) // bands if planar else len(data)
    entries = {
        256: (array.shape[1],),
        257: (array.shape[0],),
        258: (bits or array.dtype.itemsize * 8,) * bands,
        259: (8 if deflate else 1,),
        262: (photometric,),
        273: tuple(range(8, 8 + len(data), step)),
        277: (bands,),
        278: (array.shape[0],),
        279: (step,) * (len(data) // step),
        284: (1 + planar,),
        339: (kind,) * bands,
        **({338: tuple(extra)} if extra else {}),
        **{int(name[1:]): values for name, values in tags.items()},
    }
    path.write_bytes(_file(data, sorted(entries.items()), order))
    return path


def _file(data, entries, order):
    data += b"\0" * (-len(data) % 2)
    directory = 8 + len(data)
    after, at = b"", directory + 2 + 12 * len(entries) + 4
    body = struct.pack(order + "H", len(entries))
    for number, values in entries:
        kind, letter = (12, "d") if isinstance(values[0], float) else (4, "I") if max(values) > 65535 else (3, "H")
        packed = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(packed) > 4:
            body += struct.pack(order + "HHII", number, kind, len(values), at + len(after))
            after += packed + b"\0" * (len(packed) % 2)
        else:
            body += struct.pack(order + "HHI", number, kind, len(values)) + packed.ljust(4, b"\0")
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(order + "HI", 42, directory) + data + body + bytes(4) + after
