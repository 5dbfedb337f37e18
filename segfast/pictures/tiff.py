"""TIFF: what its tags say of the samples, the layouts that are refused, and those that Pillow has to be told of."""

from __future__ import annotations

from typing import IO, NamedTuple, Self

from PIL import ImagePalette, TiffImagePlugin
from PIL.Image import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from segfast.errors import BadImage

PREFIXES = tuple(TiffImagePlugin.PREFIXES)
DEVELOP = "develop it with a raw converter (rawpy, for example), and pass the result"

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _BANDS, _PLANAR = 256, 257, 258, 259, 262, 277, 284
_COLOURS, _FORMAT, _MAX, _S_MIN, _S_MAX = 320, 339, 281, 340, 341
_SUBFILE_TYPE, _SUB_IFDS = 254, 330

_KINDS: dict[float, str] = {1: "u", 2: "i", 3: "f"}
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
    """A TIFF's picture as its tags describe it.

    Attributes:
        size: (width, height).
        kind: type of the samples: `u`nsigned, s`i`gned, `f`loat, or `?` if it is another or differs between bands.
        planar: every band is stored separately.
        low, high: the declared range of the samples; None if the file declares none.
    """

    size: tuple[int, int]
    bands: int
    bits: int
    kind: str
    photometric: int
    planar: bool
    compression: int
    low: float | None
    high: float | None

    @classmethod
    def of(cls, tags: ImageFileDirectory_v2) -> Self:
        """The layout that an image file directory describes, with the standard's defaults for missing tags."""
        bits, formats = _values(tags, _BITS, 1), _values(tags, _FORMAT, 1)
        low, high = _declared(tags)
        return cls(
            (int(tags[_WIDTH]), int(tags[_HEIGHT])),
            int(tags.get(_BANDS, len(bits))),
            int(max(bits)),
            _KINDS.get(formats[0], "?") if len(set(formats)) == 1 else "?",
            int(tags.get(_PHOTOMETRIC, 0)),
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
        """How to turn a picture of this layout into an array that is accepted."""
        if self.photometric in (32803, 34892):
            return DEVELOP
        read = "tifffile.imread(path)"
        if self.bands == 1:
            read = f"np.stack([{read}] * 3, -1)"
        elif self.planar:
            read += "[[0, 1, 2]].transpose(1, 2, 0)"
        else:
            read += "[..., [0, 1, 2]]"
        chosen = ", with the bands that are red, green and blue" if self.bands > 3 else ""
        return f"read it with another library, for example {read}{chosen}, and pass it scaled to 0 … 255 as uint8 [H, W, 3]"


def check_layout(image: TiffImageFile, name: str) -> None:
    """Refuse what Pillow opens but reads as something else.

    Raises:
        BadImage: the first picture is a preview, or of many bands of which Pillow takes the first for a grey picture.
    """
    if image.tag_v2.get(_SUBFILE_TYPE, 0) & 1 and _SUB_IFDS in image.tag_v2:
        raise BadImage(
            f"{name} is a raw file of a camera, or the like: its first picture ({image.width}×{image.height}) is a "
            f"preview; {DEVELOP}"
        )
    layout = Layout.of(image.tag_v2)
    if layout.photometric in (0, 1) and layout.bands > 2:
        raise unsupported(layout, name)


def unsupported(layout: Layout, name: str) -> BadImage:
    """The error for a TIFF that Pillow misreads, or cannot read at all."""
    return BadImage(f"{name} is a TIFF of a layout that is not read: {layout}; {layout.remedy}")


def unknown_layout(file: IO[bytes], name: str) -> BadImage:
    """The error for a TIFF that Pillow does not recognise."""
    try:
        file.seek(0)
        header = file.read(8)
        tags = ImageFileDirectory_v2(header + file.read(8) if header[2:3] == b"+" else header)
        file.seek(tags.next)
        tags.load(file)
        return unsupported(Layout.of(tags), name)
    except Exception as error:  # a damaged directory
        return BadImage(f"{name} is a TIFF whose tags cannot be read ({error!r}); copy or download it again")


# libtiff decodes these samples to the machine's byte order; Pillow (13.0) takes them to be in the file's.
_NATIVE = {
    "I;16S": "I;16NS", "I;32S": "I;32NS", "F;32F": "F;32NF",
    "I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF",
}  # fmt: skip


def repair(image: Image) -> None:
    """Correct how Pillow (13.0) will decode an image that is not loaded yet, where it would get it wrong.

    That is: compressed samples in the other byte order, 16-bit colours stored band by band, and palettes of
    bytes, which libtiff's tools accept too.
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


def _values(tags: ImageFileDirectory_v2, tag: int, *default: float) -> tuple[float, ...]:
    """A tag's values, be it one or many."""
    value = tags.get(tag, default)
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _declared(tags: ImageFileDirectory_v2) -> tuple[float | None, float | None]:
    """The declared range of the samples: SMinSampleValue to SMaxSampleValue, else 0 to what MaxSampleValue implies.

    MaxSampleValue is the largest value *used* (TIFF 6.0, p. 36), so it tells only the number of bits.
    """
    try:
        if _S_MAX in tags:
            return float(min(_values(tags, _S_MIN, 0))), float(max(_values(tags, _S_MAX)))
        if _MAX in tags:
            return 0.0, float((1 << int(max(_values(tags, _MAX))).bit_length()) - 1)
    except (TypeError, ValueError, OverflowError):  # text where numbers should be
        pass
    return None, None
