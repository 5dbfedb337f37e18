"""Class lists of every form: what is read, what is ignored, what is refused."""

import pytest

from segfast.datasets.class_list import read_class_list
from segfast.errors import BadData


@pytest.mark.parametrize(
    ("name", "text", "names", "values", "colours"),
    [
        ("classes.txt", "# mine\r\na\r\nb #ff0000\r\n", "a b", (0, 1), None),
        ("classes.txt", "\ufeffname,r,g,b\na,1,2,3\nb,4,5,6\n", "a b", (0, 1), ((1, 2, 3), (4, 5, 6))),
        ("classes.txt", "0: a\n1: b\n", "a b", (0, 1), None),
        ("classes.txt", "0\ta\n2\tb\n", "a b", (0, 2), None),
        ("classes.txt", "1 b\n0 a\n", "a b", (0, 1), None),
        ("classes.txt", "a,0\nb,1", "a b", (0, 1), None),
        ("classes.txt", "0 a 1 2 3\n1 b 4 5 6", "a b", (0, 1), ((1, 2, 3), (4, 5, 6))),
        ("classes.txt", "a;1;2;3\nb;4;5;6", "a b", (0, 1), ((1, 2, 3), (4, 5, 6))),
        ("classes.txt", "a (1, 2, 3)\nb [4,5,6]", "a b", (0, 1), ((1, 2, 3), (4, 5, 6))),
        ("label_colors.txt", "1 2 3\ta\n4 5 6\t\tb", "a b", (0, 1), ((1, 2, 3), (4, 5, 6))),
        ("_classes.csv", "Pixel Value, Class\n0, a\n1, b\n", "a b", (0, 1), None),
        (
            "labelmap.txt",
            "# label:color_rgb:parts:actions\na:1,2,3::\nb:4,5,6::\n",
            "a b",
            (0, 1),
            ((1, 2, 3), (4, 5, 6)),
        ),
        ("data.yaml", "train: images/train\nnames: [a, b]\n", "a b", (0, 1), None),
        ("data.yaml", "names:\n  0: a\n  1: b\n", "a b", (0, 1), None),
        ("classes.json", '{"categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}]}', "a b", (3, 7), None),
        ("classes.txt", "0: a\n1: b\n255: void\n", "a b", (0, 1), None),
        ("classes.txt", "class 0\nclass 1", "class_0 class_1", (0, 1), None),
    ],
)
def test_class_lists_of_other_tools(tmp_path, name, text, names, values, colours):
    (tmp_path / name).write_text(text, newline="")
    found = read_class_list(tmp_path / name)
    assert " ".join(word.replace(" ", "_") for word in found.names) == names
    assert found.values == values
    assert found.colours == (colours or ())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "Void\na\nb"),
        ("classes.txt", "0: Void\n1: a\n2: b"),
        ("classes.csv", "name,id\nVoid,0\na,1\nb,2"),
        ("data.yaml", "names: [Void, a, b]"),
        ("classes.json", '["Void", "a", "b"]'),
    ],
)
def test_what_is_named_no_class_is_ignored_and_said_in_every_form(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    found = read_class_list(tmp_path / name)
    assert (found.names, found.values, found.ignored) == (("a", "b"), (1, 2), (0,))
    assert "   -  Void: ignored (value 0)" in found.lines()


def test_a_list_of_labelme_counts_from_behind_its_first_line(tmp_path):
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ncar\n")
    found = read_class_list(tmp_path / "labels.txt")
    assert (found.names, found.values) == (("_background_", "car"), (0, 1))


def test_a_background_that_is_named_as_ignored_is_told(tmp_path):
    (tmp_path / "classes.txt").write_text("unlabeled\ncrack\n")
    with pytest.raises(BadData, match=r"leaves one class, 'crack', as 'unlabeled'.*background"):
        read_class_list(tmp_path / "classes.txt")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a #ff00\nb", "line 1.*looks like a class with a colour"),
        ("a 1 2\nb", "looks like a class with a colour"),
        ("name\na\nb", "looks like a header"),
        ("id,colour\n1,2", "looks like a header"),
        ("a 1 2 3\nb 1 2 3", "stands for two classes"),
        ("name,r,g,b\na,1,x,3", "does not fit the columns"),
    ],
)
def test_what_looks_like_a_failed_colour_or_header_is_refused(tmp_path, text, words):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(BadData, match=words):
        read_class_list(tmp_path / "classes.txt")
