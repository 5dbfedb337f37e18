"""Which pictures a run takes; what it leaves out is counted, by why."""

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from segfast.errors import BadOption
from segfast.pictures.selection import find_pictures, output_names


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(arguments, out="elsewhere"):
    selection = find_pictures([str(argument) for argument in arguments], Path(out))
    return [name.as_posix() for _, name in selection.pictures], dict(selection.left_out)


def test_outputs_never_meet(tmp_path):
    for name in ("x/p.png", "y/p.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    selection = find_pictures(
        [str(tmp_path / "x"), str(tmp_path / "y"), str(tmp_path / "x" / "p.png")], tmp_path / "out"
    )
    names = output_names(selection.pictures)
    assert len(names) == len(set(names)) == 3


def test_names_that_differ_only_in_case_do_not_meet():
    named = [
        (Path(name), Path(name))
        for name in ("IMG.jpg", "img.png", "p.png", "p.png", "p.png-2", "caf\u00e9.png", "cafe\u0301.png")
    ]
    names = [str(name).casefold() for name in output_names(named)]
    assert len({unicodedata.normalize("NFC", name) for name in names}) == 7


def test_a_second_run_leaves_its_own_output_alone(tmp_path, photo):
    for name in ("a.png", "out/a-overlay.png", "out/deep/b-labels.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(tmp_path / name)
    selection = find_pictures([str(tmp_path)], tmp_path / "out")
    assert [name for _, name in selection.pictures] == [Path("a.png")]
    assert selection.left_out == {"below out, where this run writes": 2}


def test_what_a_folder_holds_besides_pictures_is_counted(tmp_path):
    touch(
        tmp_path,
        "a.png",
        "B.JPG",
        "c.jfif",
        "d.avif",
        "deep/e.tif",
        "deep/none",
        "f.txt",
        "g.txt",
        "h.HEIC",
        "i.nef",
        "j.mov",
    )
    touch(tmp_path, "._a.png", ".DS_Store", "__MACOSX/._a.png", ".git/x.png")
    os.symlink("a.png", tmp_path / "link.png")
    os.symlink("gone.png", tmp_path / "broken.png")
    os.symlink("deep", tmp_path / "same")
    os.mkfifo(tmp_path / "pipe.png")
    pictures, left_out = found([tmp_path])
    assert pictures == ["B.JPG", "a.png", "c.jfif", "d.avif", "deep/e.tif", "link.png"]
    (heic,) = (why for why in left_out if why.startswith(".heic"))
    assert "heif-convert" in heic
    assert {why.split(" (")[0]: count for why, count in left_out.items()} == {
        ".txt": 2,
        "without an ending": 1,
        ".heic": 1,
        ".nef": 1,
        ".mov": 1,
        "hidden": 2,
        "hidden folder": 2,
        "link to nothing": 1,
        "link to a folder": 1,
        "no regular file": 1,
    }
    assert (
        find_pictures([str(tmp_path)], Path("elsewhere"))
        .report()
        .startswith("left out 13: 2 .txt, 2 hidden (.*), 2 hidden folder")
    )


def test_links_that_go_in_circles_end(tmp_path):
    touch(tmp_path, "a.png")
    os.symlink(tmp_path, tmp_path / "self")
    os.symlink("loop.png", tmp_path / "loop.png")
    assert found([tmp_path]) == (["a.png"], {"link to a folder (name that folder)": 1, "link to nothing": 1})


def test_a_linked_folder_that_is_named_is_walked(tmp_path):
    touch(tmp_path, "real/a.png")
    os.symlink("real", tmp_path / "link")
    assert found([tmp_path / "link"])[0] == ["a.png"]


@pytest.mark.parametrize("out", [".", "..", "./out", "/elsewhere"])
def test_what_an_earlier_run_wrote_is_left_out_wherever_it_lies(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a.png", "a-labels.png", "a-overlay.png", "old/b-labels.png", "old/b-overlay.png", "my-labels.png")
    assert found([tmp_path], out) == (["a.png", "my-labels.png"], {"written by an earlier run": 4})


def test_patterns_that_no_shell_expanded(tmp_path):
    touch(tmp_path, "p/a.jpg", "p/b.png", "p/c.txt", "p/deep/d.jpg", "p/deep/er/e.jpg", "p/[1].jpg", "out/o.jpg")
    assert found([tmp_path / "p" / "*.jpg"]) == (["[1].jpg", "a.jpg"], {})
    assert found([tmp_path / "p" / "**" / "*.jpg"])[0] == ["[1].jpg", "a.jpg", "deep/d.jpg", "deep/er/e.jpg"]
    assert found([tmp_path / "p" / "*"]) == (["[1].jpg", "a.jpg", "b.png", "deep/d.jpg", "deep/er/e.jpg"], {".txt": 1})
    assert found([tmp_path / "p" / "[1].jpg"])[0] == ["[1].jpg"]  # a name that is there is no pattern
    assert found([tmp_path / "*" / "?.jpg"], tmp_path / "out") == (["p/a.jpg"], {"below out, where this run writes": 1})


def test_nothing_to_do_says_what_was_there(tmp_path):
    touch(tmp_path, "in/a.heic", "in/._b.jpg")
    with pytest.raises(BadOption, match=r"no pictures in the folder .*; left out 2: 1 \.heic \(convert .*, 1 hidden"):
        found([tmp_path / "in"])
    with pytest.raises(BadOption, match=r"no pictures that match .*x\*\.png"):
        found([tmp_path / "x*.png"])


def test_files_that_are_named_are_taken_as_they_are(tmp_path):
    touch(tmp_path, ".hidden.png", "b-labels.png", "b-overlay.png", "c.dat")
    names = [".hidden.png", "b-labels.png", "c.dat", "missing.png"]
    assert found([tmp_path / name for name in names]) == (names, {})
