"""Class names of any script: a font that has the letters, else the class's number and code points."""

import numpy as np
import pytest
from PIL import ImageFont

from segfast.pictures import fonts
from segfast.segmentation import Segmentation

SCRIPTS = {
    "Latin": ("Straße", "Mädchen"),
    "Cyrillic": ("Дом", "Жук"),
    "Greek": ("δρό", "κήπος"),
    "Chinese": ("道路", "建筑"),
    "Japanese": ("みち", "いぬ"),
    "Korean": ("도로", "건물"),
    "Arabic": ("بيت", "شجر"),
    "Hebrew": ("בית", "עץץ"),
    "Hindi": ("घर", "पेड़"),
    "Thai": ("บ้าน", "ต้นไม้"),
    "emoji": ("🐈", "🐕"),
}


@pytest.fixture(params=["the system's fonts", "no fonts"])
def system_fonts(request, monkeypatch):
    fonts._system_font.cache_clear()
    if request.param == "no fonts":
        monkeypatch.setattr(fonts, "_system_fonts", lambda: ())
    yield request.param
    fonts._system_font.cache_clear()


def overlay(name, photo):
    return np.asarray(Segmentation(np.zeros((60, 90), np.uint8), (name,), ((128, 0, 0),), photo).overlay())


@pytest.mark.parametrize("script", SCRIPTS)
def test_names_that_differ_look_different(system_fonts, photo, script):
    one, other = (overlay(name, photo) for name in SCRIPTS[script])
    assert one.shape != other.shape or not np.array_equal(one, other)


def test_without_a_font_a_name_is_its_number_and_code_points(monkeypatch):
    monkeypatch.setattr(fonts, "_system_fonts", lambda: ())
    fonts._system_font.cache_clear()
    assert fonts.legend_name("wall", 3, 15)[0] == "wall"
    assert fonts.legend_name("道路", 3, 15)[0] == r"class 3 (\u9053\u8def)"
    assert fonts.legend_name("道" * 30, 3, 15)[0] == "class 3 (" + r"\u9053" * 8 + "...)"
    assert fonts.drawable("cat 道 1", 15)[0] == "cat ? 1"


def test_a_font_of_the_system_that_has_the_letters_is_taken(monkeypatch, tmp_path):
    """Pillow's own font, as files: one stands for a font that lacks everything, one for a font that has it."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(ImageFont.load_default(16).font_bytes)
    (tmp_path / "broken").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_system_fonts", lambda: tuple(str(tmp_path / name) for name in ("broken", "a", "b")))
    true = fonts._draws
    monkeypatch.setattr(fonts, "_draws", lambda font, letter: str(font.path).endswith("b") or true(font, letter))
    fonts._system_font.cache_clear()
    assert fonts.font_for("道路", 30).path == str(tmp_path / "b")
    assert fonts.font_for("wall", 30).path not in (str(tmp_path / "a"), str(tmp_path / "b"))


@pytest.mark.parametrize(
    ("given", "drawn"),
    [
        ("two\nlines\tand\rmore", "two lines and more"),
        ("bell\a and \x1b[31mred", "bell and [31mred"),
        ("\udcff", ""),
        ("  ", ""),
    ],
)
def test_what_cannot_be_drawn_goes(given, drawn):
    assert fonts.one_line(given) == drawn


def test_an_empty_name_is_its_number():
    assert fonts.legend_name("\n", 7, 15)[0] == "class 7"


def test_fonts_of_plain_style_and_many_scripts_come_first():
    paths = [
        "/x/Zapf.ttf",
        "/x/NotoSans-Bold.ttf",
        "/x/DejaVuSans.ttf",
        "/x/NotoSansCJK-Regular.ttc",
        "/x/DejaVuSerif.ttf",
    ]
    assert sorted(paths, key=fonts._order) == [paths[3], paths[2], paths[0], paths[1], paths[4]]


def test_homes_that_are_not_there_have_no_fonts(monkeypatch):
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("XDG_DATA_DIRS", "/nonexistent")
    fonts._system_fonts.cache_clear()
    assert fonts._system_fonts() == () or fonts.sys.platform != "linux"
    fonts._system_fonts.cache_clear()
