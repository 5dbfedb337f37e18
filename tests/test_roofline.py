"""What a GPU could do at best, as the docs say it."""

import re

import pytest
from helpers import REPOSITORY

from benchmarks.roofline import EXPECTED, GPUS, parts, tables
from segfast.variants import variant


def unmeasured(table):
    """The rows, their last column empty, for a device may have filled it."""
    return re.sub(r"\|[^|\n]*\|$", "| |", table, flags=re.MULTILINE)


def test_the_docs_hold_the_tables():
    text = (REPOSITORY / "docs" / "gpu-status.md").read_text(encoding="utf-8")
    held = text.partition("<!-- python -m benchmarks.roofline -->\n")[2].rstrip("\n")
    times, shares = tables().split("\n\n")
    assert unmeasured(held.split("\n\n")[0]) == unmeasured(times)
    assert held.split("\n\n")[1] == shares


@pytest.mark.parametrize(("name", "linear", "attention"), [("seg-b-8", 696, 619), ("seg-b-16", 174, 38.7)])
def test_operations(name, linear, attention):
    found = {part.name: part for part in parts(variant(name))}
    assert found["qkv, proj, MLP"].flops / 1e9 == pytest.approx(linear, rel=2e-3)
    assert found["attention"].flops / 1e9 == pytest.approx(attention, rel=2e-3)


def test_what_binds():
    """On an H100 products and exponentials of heads of 64 take nearly the same time; labels are bytes alone."""
    h100, part = GPUS["H100 SXM"], {part.name: part for part in parts(variant("seg-b-8"))}
    attention = part["attention"]
    assert attention.exponentials / h100.exponentials == pytest.approx(attention.flops / h100.flops, rel=0.05)
    assert part["labels"].seconds(h100) == part["labels"].bytes / h100.bandwidth
    assert all(len(row) == len(GPUS) + 1 for row in EXPECTED.values())


@pytest.mark.parametrize("name", ["seg-s-dinov2-14", "seg-ti-deit-16", "seg-s-mask-16"])
def test_what_is_not_counted_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} is no linear Segmenter on a plain ViT"):
        parts(variant(name))
