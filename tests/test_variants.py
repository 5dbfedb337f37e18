import pytest

import segfast
from segfast.config import family_config
from segfast.variants import VARIANTS, variant


def test_the_family_is_complete():
    assert len(VARIANTS) == 42 + 24
    assert {"seg-b-mask-16", "seg-s-32", "seg-b-deit-mask-16", "seg-b-8", "seg-l-mask-16", "seg-ti-16"} <= set(VARIANTS)


@pytest.mark.parametrize(
    ("name", "width", "depth", "heads"),
    [("seg-ti-16", 192, 12, 3), ("seg-s-16", 384, 12, 6), ("seg-b-16", 768, 12, 12), ("seg-b-deit-16", 768, 12, 12),
     ("seg-l-16", 1024, 24, 16)],
)  # fmt: skip
def test_sizes_are_those_of_table_1(name, width, depth, heads):
    row = variant(name)
    assert (row.width, row.depth, row.heads) == (width, depth, heads)
    assert row.width == 64 * row.heads  # section 4.2: head size 64


# Millions of parameters of the original models, with the ImageNet heads their files carry.
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("seg-ti-mask-16", 6.9),
        ("seg-s-mask-16", 26.4),
        ("seg-b-mask-16", 103.3),
        ("seg-b-8", 89.2),
        ("seg-l-mask-16", 334.3),
        ("seg-b-deit-16", 88.1),
        ("seg-b-deit-mask-16", 104.0),
    ],
)
def test_parameter_counts_are_the_original_ones(name, millions):
    import torch

    from segfast.model import Segmenter

    with torch.device("meta"):  # Seg-L-Mask was trained at 640 (section 4.2)
        model = Segmenter(family_config(variant(name), image_size=640 if name == "seg-l-mask-16" else 512))
    head = (model.config.width + 1) * 1000 * model.config.prefix_tokens
    assert round((sum(p.numel() for p in model.parameters()) + head) / 1e6, 1) == millions


def test_list_models_filters_by_pattern():
    assert segfast.list_models("seg-b-mask-*") == ["seg-b-mask-8", "seg-b-mask-16", "seg-b-mask-32"]
    assert len(segfast.list_models()) == len(VARIANTS)
    assert segfast.list_models("vit*") == []


def test_deit_members_are_normalised_like_imagenet():
    assert variant("seg-b-deit-16").mean == (0.485, 0.456, 0.406)
    assert variant("seg-b-16").mean == (0.5, 0.5, 0.5)
