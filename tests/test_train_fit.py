"""`segfast.train.fit` on any map-style dataset."""

import json

import numpy as np
import pytest
import torch

from segfast.errors import BadData
from segfast.train import Running, fit
from segfast.train.mapped import MapDataset
from segfast.train.record import read_log

TINY = {"encoder": "none", "width": 64, "depth": 1, "crop": 32, "batch": 2, "iterations": 4, "evaluate_every": 1}
QUIET = Running(device="cpu", workers=0, tensorboard=False)


class Halves(torch.utils.data.Dataset):
    """Bright right halves, as tensors [3, H, W]."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        labels = torch.zeros(32, 32, dtype=torch.int64)
        labels[:, 16 + index :] = 1
        return (labels * 200).to(torch.uint8).expand(3, -1, -1), labels


def test_any_dataset_trains_and_goes_on(tmp_path):
    progress = fit("folder", dataset=Halves(), out=tmp_path / "run", classes=["dark", "bright"], running=QUIET, **TINY)
    assert progress.finished
    rows = [row for row in read_log(tmp_path / "run" / "log.jsonl") if row["kind"] == "evaluation"]
    assert len(rows) == 4
    assert {"miou", "loss", "dice", "f1", "precision", "recall"} <= rows[0].keys()
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())["data"]
    expected = {"train": 5, "val": 1, "train_files": None, "val_files": None, "classes": ["dark", "bright"]}
    assert settings == expected  # sizes alone tell one dataset from another
    more = fit(
        "folder", Halves(), tmp_path / "run", classes=["dark", "bright"], running=QUIET, **(TINY | {"iterations": 6})
    )
    assert (more.iteration, more.seen) == (6, 12)


def test_patience_ends_a_run(tmp_path):
    progress = fit(
        "folder", Halves(), tmp_path / "run", classes=["dark", "bright"], running=QUIET, lr=0.0, patience=2,
        **(TINY | {"iterations": 50}),
    )  # fmt: skip
    assert progress.finished
    assert (progress.iteration, progress.best_iteration) == (3, 1)  # nothing is learnt, nothing is better


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ((np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), int)), "float32"),
        ((np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), int)), r"labels int64 \[4, 5\]"),
        ((np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 7)), "labels 7"),
        (np.zeros((4, 4, 3), np.uint8), "where a pair"),
    ],
)
def test_samples_of_another_form_are_named(sample, words):
    with pytest.raises(BadData, match=words):
        MapDataset("dataset", "train", ("a", "b"), ((0, 0, 0), (1, 1, 1)), [sample], (0,)).check()
