"""Evaluation: the protocol, the report, the sheet and the command."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trees
from helpers import REPOSITORY, tiny_config, tiny_model
from PIL import Image

import segfast
from segfast import evaluate as command
from segfast import files
from segfast.datasets import IGNORE, Reading, open_dataset
from segfast.datasets.shapes import ShapesDataset
from segfast.datasets.unlabelled import open_pictures
from segfast.errors import BadData, BadModel, BadOption, NotSupported
from segfast.evaluation.disagreement import Disagreements
from segfast.evaluation.evaluate import RESIZED, check_classes, evaluate, evaluate_labels, fit_of
from segfast.evaluation.folder import LabelFolder
from segfast.evaluation.metrics import confusion, confusion_by_size, scores
from segfast.evaluation.opening import open_split
from segfast.evaluation.report import table
from segfast.evaluation.sheet import IGNORED, WRONG, compared_panels, draw, draw_compared, panels_of
from segfast.protocol import Protocol, fitted, views


class Oracle:
    """An engine that gives the truth with some pixels moved to the next class, and notes what it was asked."""

    def __init__(self, dataset, wrong=lambda index: 0, window=64):
        self.dataset, self.wrong = dataset, wrong
        protocol = Protocol((0.5,) * 3, (0.5,) * 3, (window, window), (window, window))
        self.config = SimpleNamespace(classes=dataset.classes, protocol=protocol)
        self.asked = None

    def __repr__(self):
        return "Oracle(window 64×64)"

    def segment_many(self, images, **options):
        self.asked = options
        for index, image in enumerate(images):
            labels = self.dataset.labels(index)
            assert image.shape == (*labels.shape, 3)
            labels[labels == IGNORE] = 0
            labels.ravel()[: self.wrong(index)] += 1
            yield SimpleNamespace(labels=labels % len(self.dataset.classes))


# protocol -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "fit", "scale", "expected"),
    [
        ((512, 683), (2048, 512), 1.0, (512, 683)),
        ((256, 256), (2048, 512), 1.0, (512, 512)),
        ((1024, 2048), (2048, 1024), 1.0, (1024, 2048)),
        ((100, 1000), (2048, 512), 1.0, (205, 2048)),  # the long side decides
        ((375, 500), (4160, 520), 0.75, (390, 520)),
        ((333, 500), (4160, 520), 1.25, (650, 976)),
        ((333, 500), (101, 33), 0.5, (16, 24)),  # bounds 50 and 16, truncated
        ((1, 5000), (20, 10), 1.0, (1, 20)),
    ],
)
def test_images_fit_as_the_original_resizes_them(size, fit, scale, expected):
    assert fitted(size, fit, scale) == expected
    assert fitted(size[::-1], fit, scale) == expected[::-1]


def test_every_scale_is_taken_of_the_datasets_size():
    sizes = [size for size, mirrored in views((333, 500), True, (4160, 520)) if not mirrored]
    assert sizes == [fitted((333, 500), (4160, 520), scale) for scale in (0.5, 0.75, 1, 1.25, 1.5, 1.75)]
    assert [mirrored for _, mirrored in views((333, 500), True, (4160, 520))] == [False, True] * 6
    assert views((333, 500), False, (4160, 520)) == [((520, 781), False)]


def test_each_dataset_has_its_rule():
    assert fit_of("ade20k", 512) == (2048, 512)
    assert fit_of("ade20k", 640) == (2560, 640)  # Seg-L-Mask/16
    assert fit_of("pascal_context", 480) == (4160, 520)
    assert fit_of("cityscapes", 768) == (2048, 1024)
    assert fit_of("folder", 512) is fit_of("shapes", 64) is None


@pytest.mark.parametrize(("window", "stride"), [(512, 480), (64, 32), (48, 24), (1, 1)])
def test_windows_overlap_by_32_pixels(window, stride):
    dataset = open_dataset("shapes").take([0])
    oracle = Oracle(dataset, window=window)
    report = evaluate(oracle, dataset)
    assert oracle.asked == {"multiscale": False, "stride": stride, "fit": None}
    assert (report.stride, report.fit) == (stride, None)
    evaluate(oracle, dataset, stride=1, fit=(90, 60), multiscale=True)
    assert oracle.asked == {"multiscale": True, "stride": 1, "fit": (90, 60)}


@torch.inference_mode()
def test_the_engine_resizes_bytes_and_compares_at_the_images_size(photo):
    """60×90 is resized to 64×96, covered by two windows, and the mean of their logits goes back to 60×90."""
    model = tiny_model()
    answer = segfast.Engine(model, device="cpu").segment(photo, fit=(128, 64))
    pixels = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
    pixels = F.interpolate(pixels, (64, 96), mode="bilinear").round() / 127.5 - 1
    total, count = torch.zeros(1, 7, 64, 96), torch.zeros(96)
    for left in (0, 32):
        total[..., left : left + 64] += model(pixels[..., left : left + 64])
        count[left : left + 64] += 1
    wanted = F.interpolate(total / count, (60, 90), mode="bilinear").softmax(1)[0].numpy()
    np.testing.assert_allclose(answer.scores, wanted, atol=1e-4)
    first, second = np.sort(wanted, axis=0)[[-1, -2]]
    assert not np.any((answer.labels != wanted.argmax(0)) & (first - second > 1e-4))
    assert answer.labels.shape == photo.shape[:2]


@pytest.mark.parametrize("fit", [(64,), (64, 128), (0, 0), (64.5, 64), "x"])
def test_impossible_sizes_are_refused(photo, fit):
    with pytest.raises(BadOption, match="long side and the short"):
        segfast.Engine(tiny_model(), device="cpu").segment(photo, fit=fit)


def test_a_labels_artifact_takes_what_needs_no_resize(tiny_labels_onnx):
    engine = segfast.Engine(tiny_labels_onnx, device="cpu")
    image = np.zeros((64, 64, 3), np.uint8)
    assert engine.segment(image, fit=(128, 64)).labels.shape == (64, 64)
    with pytest.raises(NotSupported, match="64×64 resized to 96×96"):
        engine.segment(image, fit=(128, 96))


# the report -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", trees.BUILDERS)
def test_a_dataset_in_its_owners_layout_is_evaluated(tmp_path, name):
    dataset = open_dataset(name, trees.BUILDERS[name](tmp_path)).take([0])
    names, K = dataset.classes, len(dataset.classes)
    protocol = Protocol((0.5,) * 3, (0.5,) * 3, (256, 256), (192, 192))
    model = tiny_model(classes=names, palette=dataset.palette, num_classes=K, protocol=protocol)
    engine = segfast.Engine(model, device="cpu")
    report = evaluate(engine, dataset)
    fit = (ratio := RESIZED.get(name)) and (ratio[0] * ratio[1], ratio[1])
    assert report.fit == fit
    labels = engine.segment(dataset.image(0), stride=224, fit=fit).labels
    np.testing.assert_array_equal(report.confusion, confusion(dataset.labels(0), labels, K))
    assert (report.dataset, report.split, report.classes, len(report.samples)) == (name, "val", names, 1)
    if fit:
        plain = evaluate(engine, dataset, fit=None)
        assert plain.fit is None
        assert not np.array_equal(plain.confusion, report.confusion)


def test_a_report_adds_up(tmp_path):
    pytest.importorskip("scipy", reason="SciPy is not installed")
    dataset = open_dataset("shapes").take(range(6))
    wrong = [0, 9000, 300, 6000, 16384, 50]
    oracle = Oracle(dataset, wrong.__getitem__)
    report = evaluate(oracle, dataset, by_size=True, keep=2)
    parts, sizes = [], []
    for index, answer in enumerate(oracle.segment_many(dataset.image(i) for i in range(6))):
        parts.append(confusion(dataset.labels(index), answer.labels, 5))
        sizes.append(confusion_by_size(dataset.labels(index), answer.labels, 5))
    np.testing.assert_array_equal(report.confusion, sum(parts))
    np.testing.assert_array_equal(report.sizes, sum(sizes))
    assert [sample.miou for sample in report.samples] == [scores(part).miou for part in parts]
    assert report.samples[0].miou == 1
    order = sorted(range(6), key=lambda index: report.samples[index].miou)
    assert list(report.kept) == [*order[:2], *order[-2:]]
    halves = [
        evaluate(Oracle(share, lambda i, s=s: wrong[s + 2 * i]), share)
        for s in (0, 1)
        for share in [dataset.take(range(s, 6, 2))]
    ]
    np.testing.assert_array_equal(sum(half.confusion for half in halves), report.confusion)


def test_json_holds_fractions():
    pytest.importorskip("scipy", reason="SciPy is not installed")
    dataset = open_dataset("shapes").take(range(2))
    report = evaluate(Oracle(dataset, lambda index: 4000), dataset, by_size=True)
    found = json.loads(report.to_json(note="more"))
    assert found["note"] == "more"
    assert found["miou"] == report.miou == scores(report.confusion).miou
    assert 0 < found["miou"] < found["pixel_accuracy"] < 1
    assert list(found["per_class"]) == list(dataset.classes)
    assert set(found["by_size"]) == {"small", "medium", "large"}
    assert found["protocol"] == {"multiscale": False, "stride": 32, "fit": None}
    assert (found["dataset"], found["split"], found["images"]) == ("shapes", "val", 2)
    assert found["pixels"] == np.sum(found["confusion"])
    assert list(found["per_image"]) == ["val-0000", "val-0001"]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are Unicode there")
def test_pictures_may_have_any_name(tmp_path):
    """Such as one in Latin-1, out of an old archive."""
    name = os.fsdecode(b"caf\xe9")
    trees.picture(tmp_path / "data" / "images" / "val" / f"{name}.png")
    trees.mask(tmp_path / "data" / "masks" / "val" / f"{name}.png", np.zeros(trees.SIZE))
    (tmp_path / "data" / "classes.txt").write_text("straße\nsky\n", encoding="utf-8")
    dataset = open_dataset("folder", tmp_path / "data")
    report = evaluate(Oracle(dataset), dataset, keep=1)
    files.write_text(report.to_json(), tmp_path / "scores.json")
    files.write_png(draw(report, dataset), tmp_path / "sheet.png")
    text = (tmp_path / "scores.json").read_text(encoding="utf-8")
    assert json.loads(text)["per_image"] == {name: 1.0}
    assert "straße" in text


def test_a_table_says_what_a_second_engine_loses():
    dataset = open_dataset("shapes").take(range(2))
    good, bad = (evaluate(Oracle(dataset, lambda index, n=n: n), dataset) for n in (0, 4000))
    lines = table([good, bad])
    (row,) = (line for line in lines if line.startswith("mIoU"))
    first, second, lost = map(float, row.split()[1:])
    assert (first, second) == (100, round(100 * bad.miou, 2))
    assert lost == pytest.approx(100 - 100 * bad.miou, abs=0.01)
    assert "lost" in lines[0]
    assert len(table([good])[1].split()) == 3  # class, IoU, share


# classes --------------------------------------------------------------------------------------------------------------


def test_classes_must_be_the_datasets():
    dataset = open_dataset("shapes").take([0])

    def engine(*classes):
        return SimpleNamespace(config=tiny_config(num_classes=len(classes), classes=classes))

    mine = dataset.classes
    for fine in (
        mine,
        tuple(f"class {index}" for index in range(5)),
        ("Background", "DISC", "square ", "tri-angle", "cross"),
    ):
        check_classes(engine(*fine), dataset)
    with pytest.raises(BadModel, match="7 classes, but shapes 5"):
        check_classes(engine(*"abcdefg"), dataset)
    with pytest.raises(BadModel, match=r"2 of the model's classes.*'square' for 'disc'"):
        check_classes(engine(mine[0], mine[2], mine[1], *mine[3:]), dataset)
    with pytest.raises(BadModel, match="--ignore-names"):
        check_classes(engine(*"abcde"), dataset)
    check_classes(engine(*"abcde"), dataset, names=False)
    with pytest.raises(BadModel):
        evaluate(engine(*"abcde"), dataset)


def test_truth_of_no_class_names_its_picture(tmp_path):
    dataset = open_dataset("folder", trees.folder(tmp_path, high=4))
    with pytest.raises(BadData, match=r"d.png has the values 3, which stand for none of the 3 classes"):
        evaluate(segfast.Engine(tiny_model(num_classes=3, classes=dataset.classes), device="cpu"), dataset)


# the sheet ------------------------------------------------------------------------------------------------------------


def test_panels_show_truth_prediction_and_error():
    truth = np.array([[0, 1], [IGNORE, 1]], np.uint8)
    predicted = np.array([[0, 0], [1, 1]], np.uint8)
    image = np.full((2, 2, 3), 100, np.uint8)
    palette = ((10, 20, 30), (40, 50, 60))
    shown = [panel.tolist() for panel in panels_of(image, truth, predicted, palette)]
    a, b, grey = [10, 20, 30], [40, 50, 60], [150] * 3
    assert shown == [
        image.tolist(),
        [[a, b], [list(IGNORED), b]],
        [[a, a], [b, b]],
        [[grey, list(WRONG)], [list(IGNORED), grey]],
    ]


def test_a_sheet_shows_the_worst_and_the_best():
    dataset = open_dataset("shapes").take(range(5))
    report = evaluate(Oracle(dataset, lambda index: 3000 * index), dataset, keep=1)
    assert list(report.kept) == [4, 0]
    sheet = np.asarray(draw(report, dataset))
    assert np.all(sheet == WRONG, axis=-1).sum() > 10000  # the worst picture's error
    for colour in dataset.palette[:2]:
        assert np.all(sheet == colour, axis=-1).any()
    both = draw(evaluate(Oracle(dataset, lambda index: 3000 * index), dataset, keep=3), dataset)
    assert both.height > 2 * sheet.shape[0]
    with pytest.raises(BadOption, match="keep=3"):
        draw(evaluate(Oracle(dataset), dataset), dataset)


def test_a_sheet_takes_any_shape_of_picture(tmp_path):
    for name, size in (("wide", (2, 900)), ("tall", (900, 2)), ("dot", (1, 1))):
        trees.picture(tmp_path / "images" / "val" / f"{name * 30}.png", size=size)
        trees.mask(tmp_path / "masks" / "val" / f"{name * 30}.png", np.zeros(size))
    (tmp_path / "classes.txt").write_text("\n".join(f"a class with a long name {n}" for n in range(40)))
    dataset = open_dataset("folder", tmp_path)
    sheet = draw(evaluate(Oracle(dataset), dataset, keep=3), dataset)
    assert sheet.width < 2000
    assert sheet.height < 3000


# labels of another system ---------------------------------------------------------------------------------------------


def label_folder(home, dataset, wrong=lambda index: 0, ending=".png"):
    """The truth with some pixels moved to the next class, as files."""
    for index in range(len(dataset)):
        labels = dataset.labels(index)
        labels[labels == IGNORE] = 0
        labels.ravel()[: wrong(index)] += 1
        path = home / f"{dataset.key(index)}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels % len(dataset.classes)).save(path)
    return home


@pytest.mark.parametrize("ending", [".png", "-labels.png"])
def test_labels_of_another_system_are_measured_as_an_engines(tmp_path, ending):
    dataset = open_dataset("shapes").take(range(3))
    folder = LabelFolder(label_folder(tmp_path, dataset, lambda index: 700 * index, ending), dataset)
    theirs = evaluate_labels(folder, dataset)
    ours = evaluate(Oracle(dataset, lambda index: 700 * index), dataset)
    np.testing.assert_array_equal(theirs.confusion, ours.confusion)
    assert theirs.samples == ours.samples


def test_a_folder_with_missing_or_foreign_labels_is_refused(tmp_path):
    dataset = open_dataset("shapes").take(range(3))
    with pytest.raises(BadOption, match="no folder"):
        LabelFolder(tmp_path / "none", dataset)
    label_folder(tmp_path, dataset)
    file = tmp_path / f"{dataset.key(1)}.png"
    Image.fromarray(np.zeros((5, 4), np.uint8)).save(file)
    with pytest.raises(BadData, match="5×4 pixels, its picture 128×128"):
        evaluate_labels(LabelFolder(tmp_path, dataset), dataset)
    Image.fromarray(np.full((128, 128), 5, np.uint8)).save(file)
    with pytest.raises(BadData, match="value 5; classes of shapes go from 0 to 4"):
        evaluate_labels(LabelFolder(tmp_path, dataset), dataset)
    file.unlink()
    with pytest.raises(BadData, match="lacks the labels of 1 of 3 pictures") as caught:
        LabelFolder(tmp_path, dataset)
    assert caught.value.offenders == (file.name,)


class OneName(ShapesDataset):
    """Pictures of one name, each in a folder of its own."""

    def key(self, index):
        return f"{index}/same"


def test_a_file_of_labels_is_of_one_picture(tmp_path):
    dataset = OneName.of("val").take(range(2))
    Image.new("L", (128, 128)).save(tmp_path / "same.png")
    with pytest.raises(BadData, match=r"several pictures of one name \(same\.png"):
        LabelFolder(tmp_path, dataset)
    for index in range(2):
        (tmp_path / str(index)).mkdir()
        truth = dataset.labels(index)
        Image.fromarray(np.where(truth == IGNORE, 0, truth)).save(tmp_path / str(index) / "same.png")
    assert evaluate_labels(LabelFolder(tmp_path, dataset), dataset).miou == 1


def test_pictures_are_ordered_by_disagreement(tmp_path):
    dataset = open_dataset("shapes").take(range(4))
    apart = Disagreements(dataset, 3)
    wrong = {0: 0, 1: 6000, 2: 500, 3: 9000}
    first = evaluate(Oracle(dataset), dataset, each=apart.note)
    second = evaluate_labels(
        LabelFolder(label_folder(tmp_path, dataset, wrong.get), dataset), dataset, each=apart.compare
    )
    assert [pair.picture for pair in apart.pairs] == [3, 1, 2]
    counted = dataset.labels(3) != IGNORE
    pair = apart.pairs[0]
    assert pair.share == pytest.approx((pair.first != pair.second)[counted].mean())
    panels = compared_panels(dataset.image(3), dataset.labels(3), pair, dataset.palette)
    differ = np.all(panels[4] == WRONG, axis=-1)
    np.testing.assert_array_equal(differ, (pair.first != pair.second) & counted)
    np.testing.assert_array_equal(panels[3], np.array(dataset.palette, np.uint8)[pair.second])
    sheet = np.asarray(draw_compared(first, second, apart.pairs, dataset))
    assert np.all(sheet == WRONG, axis=-1).sum() > 10000
    with pytest.raises(BadOption, match="no picture"):
        draw_compared(first, second, [], dataset)


# the command ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of the shapes with random weights, as a checkpoint and exported."""
    from segfast.export import export_onnx

    home = tmp_path_factory.mktemp("models")
    shapes = open_dataset("shapes")
    model = tiny_model(num_classes=5, classes=shapes.classes, palette=shapes.palette)
    model.save(home / "m.safetensors")
    export_onnx(model, home / "m.onnx", precision="fp32")
    return home


def run(*arguments, cwd, check=True):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    line = [sys.executable, "-m", "segfast.evaluate", *map(str, arguments)]
    ended = subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True)
    assert not check or ended.returncode == 0, ended.stderr
    return ended


def test_the_command_writes_the_table_json_and_sheet(tmp_path, models):
    pytest.importorskip("scipy", reason="SciPy is not installed")
    ended = run(
        models / "m.safetensors",
        "--data",
        "shapes",
        "--limit",
        4,
        "--compare",
        models / "m.onnx",
        "--by-size",
        "--json",
        "deep/scores.json",
        "--sheet",
        "sheet.png",
        "--device",
        "cpu",
        cwd=tmp_path,
    )
    assert "shapes val, 4 pictures: single scale, every picture of its own size, stride 32" in ended.stdout
    assert "mIoU, small objects" in ended.stdout
    assert "evaluate: 100%" in ended.stderr
    found = json.loads((tmp_path / "deep" / "scores.json").read_text())
    dataset = open_dataset("shapes").take(range(4))
    assert found["miou"] == evaluate(segfast.Engine(models / "m.safetensors", device="cpu"), dataset).miou
    assert found["compared"]["images"] == 4
    assert abs(found["points_lost"]["miou"]) < 0.1  # the same model in fp32
    assert found["points_lost"]["miou"] == pytest.approx(100 * (found["miou"] - found["compared"]["miou"]))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1000
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["scores.json", "sheet.png"]


def test_the_command_takes_a_folder_and_every_option(tmp_path, models, monkeypatch, capsys):
    trees.folder(tmp_path, "\n".join(open_dataset("shapes").classes), high=5)
    line = [
        "evaluate",
        models / "m.safetensors",
        "--data",
        tmp_path,
        "--split",
        "train",
        "--multiscale",
        "--stride",
        48,
        "--fit",
        "90x64",
        "--device",
        "cpu",
        "--threads",
        1,
        "--dataset",
        "folder",
        "--json",
        tmp_path / "r.json",
    ]
    monkeypatch.setattr(sys, "argv", list(map(str, line)))
    assert command.main() == 0
    assert (
        "folder train, 3 pictures: 12 views, every picture resized to fit 90×64, stride 48" in capsys.readouterr().out
    )
    assert json.loads((tmp_path / "r.json").read_text())["protocol"] == {
        "multiscale": True,
        "stride": 48,
        "fit": [90, 64],
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "none"], "there is no folder none"),
        (["--data", "."], "name one: bad, other"),
        (["--data", "bad"], "e.png has the values 5"),
        (["--data", "other"], "5 classes, but folder 3"),
        (["--data", "shapes", "--split", "test"], "no split 'test'"),
        (["--data", "shapes", "--stride", "65"], "stride must be a whole number from 1 to the window"),
        (["--data", "shapes", "--json", "scores.txt"], "name it *.json"),
        (["--data", "shapes", "--sheet", "sheet.jpg"], "name it *.png"),
        (["--data", "bad", "--dataset", "ade20k"], "is no folder of ade20k"),
        (["--data", "shapes", "--limit", "1", "--compare", "none.onnx"], "there is no file none.onnx"),
        (["--data", "shapes", "--fit", "big"], "write 2048x512"),
    ],
)
def test_what_a_user_gets_wrong_is_said_and_nothing_is_written(tmp_path, models, arguments, words):
    trees.folder(tmp_path / "bad", "\n".join(open_dataset("shapes").classes), high=6)
    trees.folder(tmp_path / "other")
    before = sorted(tmp_path.rglob("*"))
    extra = [] if "--json" in arguments else ["--json", "scores.json"]
    ended = run(models / "m.safetensors", *arguments, *extra, "--device", "cpu", cwd=tmp_path, check=False)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(sys.platform == "win32", reason="signals are different there")
def test_ctrl_c_ends_it_cleanly(tmp_path, models):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    line = [
        sys.executable,
        "-m",
        "segfast.evaluate",
        models / "m.safetensors",
        "--data",
        "shapes",
        "--multiscale",
        "--stride",
        "16",
        "--device",
        "cpu",
        "--json",
        "scores.json",
    ]
    process = subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seen = b""
    while b"evaluate:" not in seen:
        byte = process.stderr.read(1)
        assert byte, seen.decode()
        seen += byte
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130, rest.decode()
    assert b"interrupted" in rest
    assert b"Traceback" not in rest
    assert not list(tmp_path.iterdir())


# predictions ----------------------------------------------------------------------------------------------------------


def test_a_split_without_masks_is_predicted(tmp_path, monkeypatch, capsys):
    trees.picture(tmp_path / "mine/images/test/a.png", size=(64, 64))
    (tmp_path / "mine/classes.txt").write_text("a\nb\n")
    tiny_model(num_classes=2, classes=("a", "b"), palette=((1, 2, 3), (4, 5, 6))).save(tmp_path / "m.safetensors")
    words = [
        "x",
        str(tmp_path / "m.safetensors"),
        "--data",
        str(tmp_path / "mine"),
        "--split",
        "test",
        "--device",
        "cpu",
    ]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises((BadData, BadOption)):
        command.main()
    monkeypatch.setattr(sys, "argv", [*words, "--predictions", str(tmp_path / "out")])
    assert command.main() == 0
    assert "no masks to measure by" in capsys.readouterr().out
    assert np.asarray(Image.open(tmp_path / "out/a.png")).shape == (64, 64)


@pytest.mark.parametrize(
    ("split", "masks"), [("val", "masks/val/b.png"), ("valid", None), ("train", "elsewhere/a.png")]
)
def test_masks_of_train_and_val_are_missed_by_predictions_too(tmp_path, split, masks):
    trees.picture(tmp_path / f"images/{split}/a.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    if masks:
        trees.mask(tmp_path / masks, np.zeros(trees.SIZE))
    with pytest.raises((BadData, BadOption), match=r"no mask|only a test set is predicted without"):
        open_split("folder", str(tmp_path), split, Reading(), predicting=True).check()
    (tmp_path / "images" / split).rename(tmp_path / "images" / "test")
    assert len(open_split("folder", str(tmp_path), "test", Reading(), predicting=True)) == 1


@pytest.mark.parametrize(
    ("name", "picture", "key"),
    [
        ("cityscapes", "leftImg8bit/test/berlin/b_leftImg8bit.png", "berlin/b_leftImg8bit"),
        ("ade20k", "ADEChallengeData2016/images/testing/c.jpg", "c"),
        ("ade20k", "release_test/testing/c.jpg", "c"),
    ],
)
def test_test_sets_of_the_papers_datasets_are_found(tmp_path, name, picture, key):
    trees.picture(tmp_path / picture)
    found = open_pictures(name, tmp_path, "test", Reading())
    assert [found.key(index) for index in range(len(found))] == [key]
    found.check()
    assert open_pictures(name, tmp_path, "other", Reading()) is None
