"""Fonts: one that has the letters of a text, whatever its script."""

from __future__ import annotations

import os
import sys
import unicodedata
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# How the file names of fonts that cover many scripts begin: these are tried first.
_WIDE = (
    "notosans", "dejavusans", "arial", "segoeui", "tahoma", "freesans", "pingfang", "hiragino", "msyh", "msgothic",
    "malgun", "wqy", "unifont",
)  # fmt: skip
# Fonts of these styles are tried last.
_STYLES = ("bold", "italic", "oblique", "mono", "serif", "condensed", "light", "black", "thin")
_CODES = 48  # characters at most that a name's code points take, six a letter
_MOST = 500  # fonts at most that are tried for a text; a machine may have thousands
# The last code point is no letter: what a font draws for it, it draws for every letter it lacks.
_LACKING = "\U0010ffff"


def legend_name(name: str, label: int, size: int) -> tuple[str, Font]:
    """A class's name as one line of text, and a font that has its letters.

    If there is none, the text is `class N` and the letters' code points, so that different names look different.
    """
    text = one_line(name)
    font = font_for(text, size) if text else None
    if font is not None:
        return text, font
    codes = text.encode("ascii", "backslashreplace").decode()
    codes = codes if len(codes) <= _CODES else f"{codes[:_CODES]}..."
    return f"class {label}" + (f" ({codes})" if codes else ""), ImageFont.load_default(size)


def drawable(text: str, size: int) -> tuple[str, Font]:
    """A text as one line, and a font that has its letters; if there is none, Pillow's own, with question marks."""
    text = one_line(text)
    font = font_for(text, size)
    if font is not None:
        return text, font
    font = ImageFont.load_default(size)
    return "".join(letter if _draws(font, letter) else "?" for letter in text), font


def font_for(text: str, size: int) -> Font | None:
    """A font of `size` pixels that has every letter of a text: Pillow's own, else one of the system's, else None."""
    own = ImageFont.load_default(size)
    if all(_draws(own, letter) for letter in text):
        return own
    path = _system_font(frozenset(text))
    return None if path is None else ImageFont.truetype(path, size)


def one_line(text: str) -> str:
    """A text on one line: line breaks and tabs become spaces, control characters are removed."""
    spaced = "".join(" " if letter.isspace() else letter for letter in text)
    return "".join(letter for letter in spaced if unicodedata.category(letter) not in ("Cc", "Cs", "Cn", "Co")).strip()


@lru_cache(maxsize=1024)
def _system_font(letters: frozenset[str]) -> str | None:
    """The first font of the system that has all these letters."""
    for path in _system_fonts():
        try:
            font = ImageFont.truetype(path, 16)
        except OSError:  # bitmaps of other sizes, damaged files
            continue
        if all(_draws(font, letter) for letter in letters):
            return path
    return None


@lru_cache(maxsize=1)
def _system_fonts() -> tuple[str, ...]:
    """Paths of the system's fonts; regular styles first, and among them those that cover many scripts."""
    found = {
        os.path.join(place, name)
        for folder in _folders()
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith((".ttf", ".otf", ".ttc"))
    }
    return tuple(sorted(found, key=_order)[:_MOST])


def _folders() -> list[Path]:
    """Where the system and the user keep fonts."""
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", str(home))
        return [Path(os.environ.get("WINDIR", r"C:\Windows"), "Fonts"), Path(local, "Microsoft", "Windows", "Fonts")]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    return [
        *(Path(folder, "fonts") for folder in shared.split(":")),
        home / ".local" / "share" / "fonts",
        home / ".fonts",
    ]


def _order(path: str) -> tuple[int, int, str]:
    name = os.path.basename(path).lower().replace("-", "").replace(" ", "").replace("_", "")
    wide = next((rank for rank, part in enumerate(_WIDE) if name.startswith(part)), len(_WIDE))
    return sum(style in name for style in _STYLES), wide, path


def _draws(font: Font, letter: str) -> bool:
    """Whether a font has a letter: it draws it differently from one that no font has."""
    if letter == " " or unicodedata.category(letter) == "Cf":  # joiners and direction marks draw nothing
        return True
    try:
        drawn, lacking = font.getmask(letter), font.getmask(_LACKING)
    except (OSError, ValueError, UnicodeError):  # a bitmap font has Latin-1 alone
        return False
    return drawn.size != lacking.size or bytes(drawn) != bytes(lacking)
