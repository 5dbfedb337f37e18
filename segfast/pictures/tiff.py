"""What a TIFF's tags say of its samples, and where Pillow has to be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any, NamedTuple, Self

from PIL import ImagePalette, TiffImagePlugin
from PIL.Image import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

PREFIXES = tuple(TiffImagePlugin.PREFIXES)

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _BANDS, _PLANAR = 256, 257, 258, 259, 262, 277, 284
_COLOURS, _EXTRA, _FORMAT, _MAX, _S_MIN, _S_MAX = 320, 338, 339, 281, 340, 341
_SUBFILE_TYPE, _SUB_IFDS = 254, 330

_KINDS = {1: "u", 2: "i", 3: "f"}
_KIND_NAMES = {"u": "uint", "i": "int", "f": "float", "?": "undefined"}
_PHOTOMETRICS = {
    0: "white is zero",
    1: "black is zero",
    2: "RGB",
    3: "palette",
    4: "mask",
    5: "CMYK",
    6: "YCbCr",
    8: "CIELAB",
    32803: "raw data of a colour filter",
    32844: "LogL",
    32845: "LogLuv",
    34892: "linear raw data",
}


class Layout(NamedTuple):
    """A picture of a TIFF as its tags describe it.

    Attributes:
        size: (width, height).
        kind: of the samples: `u`, `i`, `f`, or `?` for what is none of these or differs between bands.
        extra: how many of the bands are beside the colours, by the file's own account.
        planar: every band is stored by itself.
        low, high: the range that the file declares; none if it does not.
    """

    size: tuple[int, int]
    bands: int
    bits: int
    kind: str
    photometric: int
    extra: int
    planar: bool
    compression: int
    low: float | None
    high: float | None

    @classmethod
    def of(cls, tags: Mapping[int, Any]) -> Self:
        """The layout that an image file directory describes; what is missing is the standard's default."""
        bits, formats = _several(tags.get(_BITS, 1)), _several(tags.get(_FORMAT, 1))
        low, high = _declared(tags)
        return cls(
            (int(tags[_WIDTH]), int(tags[_HEIGHT])),
            int(tags.get(_BANDS, len(bits))),
            int(max(bits)),
            _KINDS.get(formats[0], "?") if len(set(formats)) == 1 else "?",
            int(tags.get(_PHOTOMETRIC, 0)),
            len(_several(tags.get(_EXTRA, ()))),
            tags.get(_PLANAR, 1) == 2,
            int(tags.get(_COMPRESSION, 1)),
            low,
            high,
        )

    def __str__(self) -> str:
        width, height = self.size
        bands = "1 band" if self.bands == 1 else f"{self.bands} bands"
        colours = _PHOTOMETRICS.get(self.photometric, f"photometric interpretation {self.photometric}")
        order = ", band by band" if self.planar and self.bands > 1 else ""
        packed = "" if self.compression == 1 else f", compression {self.compression}"
        return f"{width}×{height}, {bands} of {_KIND_NAMES[self.kind]}{self.bits} ({colours}{order}{packed})"

    @property
    def remedy(self) -> str:
        """How a picture of this layout becomes an array that is read."""
        if self.photometric in (32803, 34892):
            return "develop it with a raw converter (rawpy, for example), and pass the result"
        read = "tifffile.imread(path)"
        if self.bands == 1:
            read = f"np.stack([{read}] * 3, -1)"
        elif self.planar:
            read += "[[0, 1, 2]].transpose(1, 2, 0)"
        else:
            read += "[..., [0, 1, 2]]"
        chosen = ", with the bands that are red, green and blue" if self.bands > 3 else ""
        return f"read it with another library, for example {read}{chosen}, and pass it scaled to 0 … 255 as uint8 [H, W, 3]"


def read_layout(file: IO[bytes]) -> Layout:
    """The layout of a TIFF's first picture, whether or not Pillow knows it; nearly any exception if it is damaged."""
    file.seek(0)
    header = file.read(8)
    tags = ImageFileDirectory_v2(header + file.read(8) if header[2:3] == b"+" else header)
    file.seek(tags.next)
    tags.load(file)
    return Layout.of(tags)


def is_preview(image: TiffImageFile) -> bool:
    """Whether the first picture is but a small copy of one that lies deeper, as in raw files of cameras."""
    return bool(image.tag_v2.get(_SUBFILE_TYPE, 0) & 1) and _SUB_IFDS in image.tag_v2


def is_misread(layout: Layout) -> bool:
    """Whether Pillow takes the first of many bands for a grey picture."""
    return layout.photometric in (0, 1) and layout.bands > 2


# Samples that libtiff gives in the machine's byte order, and Pillow (13.0) takes in the file's.
_NATIVE = {
    "I;16S": "I;16NS",
    "I;16BS": "I;16NS",
    "I;32S": "I;32NS",
    "I;32BS": "I;32NS",
    "F;32F": "F;32NF",
    "F;32BF": "F;32NF",
}


def repair(image: Image) -> None:
    """Tell Pillow (13.0) how samples lie, where it decodes others than the file has.

    Compressed samples of a file of the other byte order, 16-bit colours stored band by band, and palettes
    of bytes, which libtiff's tools know too.
    """
    if not isinstance(image, TiffImageFile) or not image.tile:
        return
    colours = image.tag_v2.get(_COLOURS, ()) if image.mode in ("P", "PA") else ()
    if colours and max(colours) <= 255:
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))
    order = "B" if image.tag_v2.prefix == b"MM" else "L"
    wide = Layout.of(image.tag_v2).bits == 16
    for index, tile in enumerate(image.tile):
        raw, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if tile.codec_name == "libtiff":
            raw = _NATIVE.get(str(raw), raw)
        elif wide and raw in ("R", "G", "B", "A"):
            raw = f"{raw};16{order}"
        image.tile[index] = tile._replace(args=(raw, *rest))


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _declared(tags: Mapping[int, Any]) -> tuple[float | None, float | None]:
    """The range of the samples: of SMinSampleValue and SMaxSampleValue, else from MaxSampleValue.

    The latter is the largest value *used* (TIFF 6.0, p. 36): it tells no more than how many bits are.
    """
    try:
        if _S_MAX in tags:
            return float(min(_several(tags.get(_S_MIN, 0)))), float(max(_several(tags[_S_MAX])))
        if _MAX in tags:
            return 0.0, float((1 << int(max(_several(tags[_MAX]))).bit_length()) - 1)
    except (TypeError, ValueError, OverflowError):  # words where numbers should be
        pass
    return None, None
