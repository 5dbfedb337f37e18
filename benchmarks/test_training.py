"""Is a training step as fast as the plain eager model's, what does bf16 gain, and is data ever waited for?

    pytest benchmarks/test_training.py --benchmark-only -s

On this machine's CPU, the sides in turns within one run; prints tables and JSON lines. "Plain" is the model in eager
PyTorch with unfused attention, one cross-entropy over the whole batch's full-resolution logits, and the optimizer's
default implementation, as the original trains. Peak memory is that of a process of its own for each side.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from segfast.datasets import open_dataset
from segfast.inference.normalisation import channels
from segfast.train import Running, recipe, train
from segfast.train.build import build_model, set_attention
from segfast.train.data import Augmented, Collate, normalise, samples
from segfast.train.loss import plain_pixel_loss
from segfast.train.record import read_log
from segfast.train.schedule import learning_rate
from segfast.train.step import Stepper
from segfast.train.world import World

REPOSITORY = Path(__file__).parent.parent
ROUNDS, WARMUP = 7, 2
ALONE = World(0, 1, torch.device("cpu"))
# seg-ti-mask-16 on crops of 256, batch 8: what the README's training of one's own data takes on a laptop.
SETTING = {
    "encoder": "none",
    "width": None,
    "depth": None,
    "decoder_depth": 2,
    "crop": 256,
    "batch": 8,
    "drop_path": 0.1,
    "decoder_dropout": 0.1,
}


def setting(precision="fp32", **more):
    return recipe("shapes", "seg-ti-mask-16", **{**SETTING, **more}, precision=precision)


def batch_of(row, step=0):
    data = Augmented(open_dataset("shapes", split="train"), row)
    return Collate(row.crop)([data[sample] for sample in samples(step, 2000, row.batch, row.seed)])


def fast(row):
    model, _ = build_model(row, open_dataset("shapes"))
    set_attention(model, "auto", ALONE.device)
    stepper = Stepper(model, row, ALONE)
    batch = batch_of(row)
    return lambda step: stepper.step(batch, step).loss


def unfused(q, k, v, scale=None):
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    return (weights @ v).transpose(1, 2)


def plain(row):
    model, _ = build_model(row, open_dataset("shapes"))
    model.set_attention(unfused)
    optimizer = torch.optim.AdamW(model.parameters(), lr=row.lr, weight_decay=row.weight_decay)
    batch = batch_of(row)
    mean, std = channels(model.config.protocol)

    def step(number):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(row, number)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=row.precision == "bf16"):
            logits = model.patch_logits(normalise(batch, mean, std))
        loss = plain_pixel_loss(logits, batch.labels, model.enlarge) / (batch.labels != 255).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), row.clip)
        optimizer.step()
        return loss.item()

    return step


SIDES = {"plain": plain, "segfast": fast}


def in_turns(sides):
    """The best seconds of each side, timed in turns; and that their first losses agree."""
    times = {name: [] for name in sides}
    for step in range(WARMUP + ROUNDS):
        for name, run in sides.items():
            start = time.perf_counter()
            run(step)
            if step >= WARMUP:
                times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def report(title, seconds, **values):
    print(f"\n{title}")
    for name, value in seconds.items():
        print(f"  {name:20} {value * 1e3:8.1f} ms a step, {8 / value:6.1f} images/s")
    print(json.dumps({"benchmark": title, "torch": torch.__version__, "seconds": seconds, **values}))


def peak(side, precision):
    """Bytes at most in a process that takes three steps."""
    code = (
        f"import sys; sys.path[:0] = [{str(REPOSITORY)!r}, {str(REPOSITORY / 'benchmarks')!r}]\n"
        "import test_training as t; from segfast.machine import memory\n"
        f"run = t.SIDES[{side!r}](t.setting({precision!r}))\n"
        "[run(step) for step in range(3)]\n"
        "print(memory.peak())"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(ended.stdout)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_is_as_fast_as_the_plain_one(benchmark, precision):
    row = setting(precision, drop_path=0.0, decoder_dropout=0.0)
    first = {name: make(row)(0) for name, make in SIDES.items()}
    assert first["segfast"] == pytest.approx(first["plain"], rel=1e-2 if precision == "bf16" else 1e-4)
    seconds = benchmark.pedantic(
        lambda: in_turns({name: make(setting(precision)) for name, make in SIDES.items()}), rounds=1
    )
    memory = {name: peak(name, precision) for name in SIDES}
    ratio = seconds["plain"] / seconds["segfast"]
    report(f"training step, {precision}", seconds, ratio=round(ratio, 3), peak_memory_bytes=memory)
    print(f"  ratio {ratio:.2f}; peak memory {memory['plain'] / 1e9:.2f} → {memory['segfast'] / 1e9:.2f} GB")
    assert ratio >= 1


def test_bf16_is_faster(benchmark):
    seconds = benchmark.pedantic(lambda: in_turns({kind: fast(setting(kind)) for kind in ("fp32", "bf16")}), rounds=1)
    ratio = seconds["fp32"] / seconds["bf16"]
    report("bf16 on this CPU", seconds, ratio=round(ratio, 3))
    print(f"  ratio {ratio:.2f}")
    assert ratio >= 1.5


def test_data_is_not_waited_for(benchmark, tmp_path):
    """With one worker on shapes; the first report holds the worker's start."""
    row = recipe("shapes", iterations=100, evaluate_every=0, save_every=1000)
    running = Running(device="cpu", workers=1, tensorboard=False, log_every=20)
    benchmark.pedantic(lambda: train(row, None, tmp_path, running), rounds=1)
    waiting = [entry["waiting"] for entry in read_log(tmp_path / "log.jsonl") if entry["kind"] == "train"][1:]
    share = sum(waiting) / len(waiting)
    print(f"\n  {share:.2%} of the time waited for data")
    print(json.dumps({"benchmark": "waiting for data", "share": share}))
    assert share < 0.05
