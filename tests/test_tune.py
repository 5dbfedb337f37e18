"""The search for the fastest file and settings, on fakes where nothing has to be computed."""

import sys

import numpy as np
import pytest
from helpers import tiny_config
from PIL import Image
from trees import folder, picture

from segfast import tune
from segfast.artifacts import tuned
from segfast.errors import BadData, BadModel, BadOption, CannotWrite, ExportFailed, NotSupported
from segfast.token_merge import Merge
from segfast.tuning import frontier, pictures, quality
from segfast.tuning.candidates import BASE, Candidate, Setting, candidates, settings, work
from segfast.tuning.search import Row, Search
from segfast.tuning.speed import Speed, measure

CONFIG = tiny_config(depth=12)
DEFAULT = [Setting("openvino"), Setting("openvino", 1), Setting("onnxruntime"), Setting("onnxruntime", 1)]


def speed(rate, peak=10**9):
    return Speed(rate, 1000 / rate, peak, "fake")


class Fakes:
    """A model whose files lose and run as tables say."""

    def __init__(self, folder, lost, rates=None):
        self.folder, self.lost, self.rates = folder, lost, rates or {}
        self.made, self.measured = [], []

    def make(self, candidate):
        self.made.append(str(candidate))
        if isinstance(self.lost.get(str(candidate)), Exception):
            raise self.lost[str(candidate)]
        path = self.folder / f"{len(self.made)}.onnx"
        path.write_text(str(candidate))
        return path

    words = "points"

    def refer(self, path):
        assert path.read_text() == "fp32"

    def of(self, path):
        return self.lost[path.read_text()]

    def measure(self, path, setting):
        name = path.read_text()
        self.measured.append((name, setting))
        found = self.rates.get((name, setting.runtime), self.rates.get(name, 10.0))
        return found if isinstance(found, str) else speed(found / (1 if setting.threads is None else 2))


def search(fakes, *names, max_loss=0.5, rounds=1, named=False, tell=lambda line: None):
    found = Search(CONFIG, fakes.make, fakes, fakes.measure, max_loss, tell)
    found.run([Candidate.parse(name) for name in names], DEFAULT, rounds=rounds, named=named)
    return found


def notes(found):
    return {str(row.candidate): row.note for row in found.rows if row.speed is None}


def test_names_of_candidates():
    assert Candidate.parse("fp16+0.75@6") == Candidate("fp16", Merge(0.75, 6))
    assert str(Candidate.parse("int8+0.5@3")) == "int8+0.5@3"
    for wrong in ("fp8", "fp16+", "fp16+2@1", "0.5@3", "fp16 0.5@3"):
        with pytest.raises(BadOption):
            Candidate.parse(wrong)


@pytest.mark.parametrize(
    ("one", "other", "gentler"),
    [
        ("fp32", "fp16", True),
        ("fp16", "fp16+0.25@1", True),
        ("fp16+0.5@6", "fp16+0.5@3", True),
        ("fp16+0.5@6", "int8+0.75@6", True),
        ("fp16+0.5@3", "fp16+0.75@6", False),
        ("int8", "fp16+0.75@3", False),
        ("fp16+0.25@1", "fp16", False),
    ],
)
def test_which_of_two_loses_no_more(one, other, gentler):
    assert Candidate.parse(one).gentler(Candidate.parse(other)) == gentler


def test_what_is_tried_goes_from_bold_to_gentle():
    found = candidates(CONFIG, ("fp32", "fp16", "int8"))
    assert [str(one) for one in found[:3]] == ["fp32", "fp16", "int8"]
    merged = [one for one in found if one.precision == "fp16" and one.merge]
    assert len(merged) == 5
    assert [work(one, CONFIG) for one in merged] == sorted(work(one, CONFIG) for one in merged)
    assert not any(one.merge for one in candidates(tiny_config(image_size=(32, 32), depth=12), ("fp16",)))
    assert [str(one) for one in settings(4, ["openvino"])] == [
        "openvino, all cores",
        "openvino, threads=2",
        "openvino, threads=1",
    ]
    assert settings(1, ["openvino"]) == [Setting("openvino")]


def test_the_fastest_that_fits_wins_and_the_hopeless_are_passed_over(tmp_path):
    lost = {"fp16": 0.0, "fp16+0.75@3": 2.0, "fp16+0.75@6": 0.3, "int8": 0.1}
    fakes = Fakes(tmp_path, lost, {"fp32": 5.0, "fp16": 20.0, "fp16+0.75@3": 40.0, "fp16+0.75@6": 30.0, "int8": 19.0})
    names = ("fp32", "fp16", "int8", "fp16+0.75@3", "fp16+0.75@6", "fp16+0.5@6", "int8+0.75@3", "int8+0.75@6")
    found = search(fakes, *names)
    assert str(found.winner().candidate) == "fp16+0.75@6"
    assert notes(found) == {
        "fp16+0.5@6": "not tried: fp16+0.75@6 is faster, and loses 0.30",
        "int8+0.75@3": "not tried: fp16+0.75@3, which is gentler, loses 2.00",
        "int8+0.75@6": "not tried: int8 is no faster than fp16 here",
    }
    assert fakes.made == ["fp32", "fp16", "int8", "fp16+0.75@3", "fp16+0.75@6"]
    assert [one for name, one in fakes.measured if name == "fp16+0.75@6"] == [Setting("openvino")]
    assert search(Fakes(tmp_path, lost, fakes.rates), *names, max_loss=5).winner().rate == 40


def test_settings_are_compared_on_files_that_merge_nothing(tmp_path):
    lost = {"fp16": 0.0, "fp16+0.5@6": 0.0}
    rates = {("fp16", "openvino"): 4.0, ("fp16", "onnxruntime"): 10.0, "fp16+0.5@6": 12.0}
    fakes = Fakes(tmp_path, lost, rates)
    found = search(fakes, "fp16", "fp16+0.5@6")
    assert [one for name, one in fakes.measured if name == "fp16"] == [DEFAULT[0], DEFAULT[1], DEFAULT[2], DEFAULT[3]]
    assert found.winner().setting == Setting("onnxruntime")


def test_fewer_threads_must_be_clearly_faster(tmp_path):
    file = tmp_path / "a.onnx"
    found = search(Fakes(tmp_path, {}), "fp32")
    found.rows = [
        Row(BASE, setting, file, speed(rate), 0.0) for setting, rate in zip(DEFAULT, (10, 10.5, 3), strict=False)
    ]
    assert found.winner().setting.threads is None
    found.rows.append(Row(BASE, DEFAULT[1], file, speed(11.5), 0.0))
    assert found.winner().setting.threads == 1


def test_few_threads_of_a_slow_runtime_are_not_tried(tmp_path):
    fakes = Fakes(tmp_path, {"fp16": 0.0}, {("fp16", "onnxruntime"): 1.0})
    search(fakes, "fp16")
    assert ("fp16", Setting("onnxruntime", 1)) not in fakes.measured


def test_what_fails_is_said_and_others_go_on(tmp_path):
    lost = {"fp16": 0.0, "int8": ExportFailed("it lost too much\nmore"), "fp16+0.5@3": 0.0}
    fakes = Fakes(tmp_path, lost, {("fp16", "onnxruntime"): "ONNX Runtime cannot read it"})
    told = []
    found = search(fakes, "fp16", "int8", "fp16+0.5@3", tell=told.append)
    assert notes(found)["int8"] == "it lost too much"
    assert notes(found)["fp16"] == "ONNX Runtime cannot read it"
    assert any("ONNX Runtime cannot read it" in line for line in told)
    assert found.winner() is not None
    broken = Fakes(tmp_path, {"fp16": 1.0}, {"fp32": "no", "fp16": "no"})
    assert search(broken, "fp32", "fp16").winner() is None


def test_named_candidates_are_all_tried_and_rounds_take_the_best(tmp_path):
    fakes = Fakes(tmp_path, {"fp16": 3.0, "fp16+0.5@3": 0.2}, {"fp16": 9.0})
    found = search(fakes, "fp16", "fp16+0.5@3", named=True)
    assert notes(found) == {}
    fakes.rates["fp16+0.5@3"] = 50.0
    found.again(2)
    assert found.winner().rate == 50.0
    assert speed(4, 5).best(speed(5, 4)) == Speed(5, 200, 5, "fake")


def test_the_table_and_the_picture(tmp_path):
    file = tmp_path / "a.onnx"
    file.write_bytes(bytes(2_000_000))
    rows = [
        Row(BASE, Setting("openvino"), file, speed(5), 0.0),
        Row(Candidate("fp16"), Setting("openvino"), file, speed(20), 0.1),
        Row(Candidate("fp16"), Setting("openvino", 1), file, speed(12), 0.1),
        Row(Candidate("fp16", Merge(0.75, 3)), Setting("openvino"), file, speed(18), 2.0),
        Row(Candidate("int8"), Setting("openvino"), note="NNCF is missing"),
    ]
    lines = frontier.table(rows, rows[1])
    assert lines[1].split() == [
        "*",
        "fp16",
        "openvino,",
        "all",
        "cores",
        "20.00",
        "50.0",
        "0.10",
        "1.00",
        "GB",
        "2",
        "MB",
    ]
    assert lines[-1].endswith("NNCF is missing")
    assert [str(row.candidate) for row in frontier.frontier(frontier.fastest(rows))] == ["fp32", "fp16"]
    frontier.draw(rows, rows[1], 0.5, "points lost", tmp_path / "frontier.png")
    with Image.open(tmp_path / "frontier.png") as drawn:
        assert drawn.size == (720, 440)
        assert len(drawn.convert("RGB").getcolors(1 << 20)) > 50


def test_labels_are_compared_where_there_are_no_masks(tiny_onnx, photo):
    judge = quality.Agreement([photo, photo[:, ::-1]])
    judge.refer(tiny_onnx)
    assert judge.of(tiny_onnx) == 0.0
    judge._labels[0] = judge._labels[0] + 1
    assert 0 < judge.of(tiny_onnx) <= 100


def test_a_child_measures_or_says_why_not(tmp_path, tiny_onnx, photo):
    stored = pictures.Pictures(None, [], [photo], "").save(tmp_path / "pictures.npz")
    found = measure(tiny_onnx, Setting("openvino", 1), stored, 0.1)
    assert isinstance(found, Speed), found
    assert found.images_per_second > 0
    assert found.peak_bytes is None or found.peak_bytes > 10**7
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(tiny_onnx.read_bytes()[:1000])
    assert "no whole ONNX file" in measure(damaged, Setting("openvino"), stored, 0.1)


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["tune", *map(str, words)])
    return tune.main()


@pytest.fixture
def quick(monkeypatch):
    """Timing that takes no time."""
    rates = {"openvino": 5.0, "onnxruntime": 8.0}
    monkeypatch.setattr(tune, "measure", lambda path, setting, stored, seconds: speed(rates[setting.runtime]))


def test_a_file_gets_a_record(tmp_path, tiny_onnx, quick, monkeypatch, capsys):
    path = tmp_path / "own.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    command(monkeypatch, path)
    assert f'segfast.Engine("{path}"' in capsys.readouterr().out
    record = tmp_path / "own.onnx.tuned.json"
    assert record.is_file()
    assert '"runtime": "onnxruntime"' in record.read_text()


def test_a_model_becomes_a_file(tmp_path, tiny_onnx, tiny_checkpoint, quick, monkeypatch, capsys):
    """The export is left out: both candidates are the same file."""
    monkeypatch.setattr(tune, "_maker", lambda model, folder, options: lambda candidate: tiny_onnx)
    command(monkeypatch, tiny_checkpoint, "--candidates", "fp16", "--out", tmp_path, "--rounds", "1")
    out = capsys.readouterr().out
    written = tmp_path / "seg-custom-mask-16-64-fp32.onnx"
    assert written.read_bytes() == tiny_onnx.read_bytes()
    assert tuned.record_path(written).is_file()
    assert "0.00 lost" in out
    assert "no masks" in out
    assert {path.name for path in tmp_path.iterdir()} == {
        written.name,
        f"{written.name}.tuned.json",
        "seg-custom-mask-16-frontier.png",
    }


def test_nothing_that_fits_is_an_error(tmp_path, tiny_onnx, monkeypatch):
    monkeypatch.setattr(tune, "measure", lambda *_: "it does not run")
    with pytest.raises(NotSupported):
        command(monkeypatch, tiny_onnx)
    assert not tuned.record_path(tiny_onnx).exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-loss", "-1"], "--max-loss"),
        (["--max-loss", "nan"], "--max-loss"),
        (["--device", "cuda"], "tunes for CPUs"),
        (["--calibrate", "nowhere"], "--calibrate"),
        (["--data", "nowhere"], "--data"),
        (["--seconds", "0"], "--seconds"),
        (["--seconds", "nan"], "--seconds"),
        (["--candidates", "fp16+0.5@40"], "block"),
        (["--candidates", "fp8"], "PRECISION"),
    ],
)
def test_bad_options(tiny_checkpoint, monkeypatch, words, said):
    with pytest.raises(BadOption, match=said):
        command(monkeypatch, tiny_checkpoint, *words)


def test_a_file_is_no_checkpoint(tiny_onnx, monkeypatch):
    with pytest.raises(BadOption, match="exported already"):
        command(monkeypatch, tiny_onnx, "--candidates", "fp16")


def test_data_that_does_not_fit(tmp_path, tiny_checkpoint, monkeypatch):
    with pytest.raises(BadModel, match="7 classes"):
        command(monkeypatch, tiny_checkpoint, "--data", folder(tmp_path / "own"))
    lacking = folder(tmp_path / "lacking")
    for path in (lacking / "masks" / "val").iterdir():
        path.unlink()
    with pytest.raises(BadData):
        command(monkeypatch, tiny_checkpoint, "--data", lacking)


def test_pictures_alone_are_compared(tmp_path):
    from segfast.datasets.options import Reading

    for seed in range(30):
        picture(tmp_path / "alone" / f"{seed}.png", seed)
    found = pictures.open_pictures(str(tmp_path / "alone"), None, "val", Reading(), None)
    assert found.dataset is None
    assert len(found.images) == pictures.COMPARED
    assert len(found.timed) == pictures.TIMED
    few = pictures.open_pictures(str(folder(tmp_path / "own")), None, "train", Reading(), 2)
    assert len(few.dataset) == 2
    assert few.dataset.key(1) == "deep/b" or few.dataset.key(1) == "c"
    assert all(isinstance(image, np.ndarray) for image in few.timed)


def test_int8_without_nncf_is_left_out(monkeypatch, tiny_checkpoint, capsys):
    from argparse import Namespace

    monkeypatch.setattr(tune.importlib.util, "find_spec", lambda name: None)
    assert not tune._int8(Namespace(calibrate="somewhere", data=None))
    assert "NNCF is not installed" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_said_first(tmp_path):
    with pytest.raises(CannotWrite, match="gone"):
        tune._check_writable(tmp_path / "gone")
    tune._check_writable(tmp_path)
    assert not list(tmp_path.iterdir())
