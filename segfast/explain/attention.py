"""What patches, the class token and class embeddings attend to (paper, Figures 1 and 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segfast.config import Config
from segfast.errors import BadOption, NotSupported
from segfast.explain.regions import large_and_small
from segfast.explain.view import Maps, Patch, View, look
from segfast.pictures.inputs import ImageLike

if TYPE_CHECKING:
    from torch import Tensor

    from segfast.explain.seam import Tokens
    from segfast.model import Segmenter

CLASS_TOKEN = "class token"  # noqa: S105 (no password)
Query = Patch | str  # a patch, the class token (of the encoder), or the name of a class (of the mask decoder)


@dataclass(frozen=True)
class AttentionMaps:
    """The weights with which some tokens attend to all.

    Attributes:
        view: the picture, as the network saw it.
        part: `encoder` or `decoder`.
        queries: whose weights: Q patches (row, column), `class token`, or names of classes.
        layers, heads: L layers and A heads, counted from 1.
        maps: the weights on patches, float32 [Q, L, A, h, w].
        others: those on the other tokens, [Q, L, A, n]: n tokens before the patches in the encoder, K classes in the
            decoder. The weights of a query, on patches and on others, sum to 1.
    """

    view: View
    part: str
    queries: tuple[Query, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    maps: Maps
    others: NDArray[np.float32]

    def enlarged(self, query: int = 0, layer: int = 0) -> Maps:
        """The maps of the heads of one query and layer, by their place, at the picture's own size: [A, H, W]."""
        return self.view.enlarge(self.maps[query, layer])


def attention_maps(
    model: Segmenter,
    image: ImageLike,
    queries: Sequence[Query] | None = None,
    *,
    part: str = "encoder",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    size: int | None = None,
) -> AttentionMaps:
    """Attention maps of one picture, row by row: no N × N matrix of weights is ever made.

    Args:
        image: whatever `Engine.segment` takes. It is seen whole, in one pass without windows.
        queries: patches (row, column), and `class token` in the encoder, or names of classes in the decoder. By
            default a patch in the largest region of the prediction and one in a small region of another class, and the
            class token or these two classes.
        layers, heads: counted from 1; by default four layers, as in Figure 6 (of a decoder, all), and all heads.
        size: of the picture's short side in pixels; by default that of the model's window.

    Raises:
        BadImage: the image cannot be read.
        BadOption: there is no such patch, class, layer, head, part or size.
        NotSupported: an Engine in place of a Segmenter; no class token, or no attention in a linear decoder; layers of the
            encoder behind one that has merged tokens.
        MissingRuntime: patches are to be chosen, and SciPy is not installed.
    """
    from segfast.explain import seam

    seam.check_checkpoint(model)
    config, depth = model.config, seam.depth_of(model.config, part)
    layers = seam.check_numbers("layers", layers, depth, default_layers(depth, part))
    seam.check_whole(config, part, layers)
    heads = seam.check_numbers("heads", heads, config.heads, range(1, config.heads + 1))
    view = look(image, config, size)
    if queries is None:
        queries = default_queries(config, part, seam.watch(model, view, part, (), lambda *_: None))
    tokens = seam.tokens_of(config, part, view)
    places = places_of(queries, config, part, view.grid, tokens)
    rows = _rows_of(model, view, part, layers, heads, places)
    maps = rows[..., tokens.of_patches].reshape(*rows.shape[:3], *view.grid)
    return AttentionMaps(view, part, tuple(queries), layers, heads, maps, np.delete(rows, tokens.of_patches, -1))


def _rows_of(
    model: Segmenter, view: View, part: str, layers: tuple[int, ...], heads: tuple[int, ...], places: list[int]
) -> NDArray[np.float32]:
    """The rows of some tokens in the attention matrices of some layers and heads, [Q, L, A, N]."""
    from segfast.explain import seam

    found: dict[int, NDArray[np.float32]] = {}
    seam.watch(model, view, part, layers, partial(_keep_rows, found, places, [head - 1 for head in heads]))
    return np.stack([found[layer] for layer in layers], 1)


def _keep_rows(
    found: dict[int, NDArray[np.float32]], places: list[int], heads: list[int], layer: int, q: Tensor, k: Tensor
) -> None:
    """Note the rows of a layer's attention matrices that belong to the queries: [Q, A, N]."""
    from segfast.explain.seam import weights

    rows = weights(q[places][:, heads], k[:, heads])  # [A, Q, N]
    found[layer] = rows.transpose(0, 1).cpu().numpy()


def default_layers(depth: int, part: str) -> tuple[int, ...]:
    """1, 4, 8 and 11 of 12 layers (Figure 6), and in proportion of others; of a decoder, all."""
    if part == "decoder" or depth <= 4:
        return tuple(range(1, depth + 1))
    return 1, round(depth / 3), round(2 * depth / 3), depth - 1


def default_queries(config: Config, part: str, logits: NDArray[np.float32]) -> list[Query]:
    """Patches of a large and a small region of the prediction, by its patch logits [K, h, w], and what they are of."""
    from segfast.explain.seam import has_class_token

    labels = logits.argmax(0)
    patches = large_and_small(labels)  # of different classes
    if part == "decoder":
        return [*patches, *(config.classes[labels[patch]] for patch in patches)]
    return [*patches, *([CLASS_TOKEN] if has_class_token(config) else [])]


def places_of(queries: Sequence[Query], config: Config, part: str, grid: tuple[int, int], tokens: Tokens) -> list[int]:
    """The places of queries among the tokens.

    Raises:
        BadOption: there is no query, or one names no such patch or class.
        NotSupported: the encoder has no class token.
    """
    if isinstance(queries, str):
        raise BadOption(f"queries is a list, such as [{queries!r}]; got {queries!r}")
    if not queries:
        raise BadOption("there is no query; name a patch (row, column), or leave queries out")
    return [place_of(query, config, part, grid, tokens) for query in queries]


def place_of(query: Query, config: Config, part: str, grid: tuple[int, int], tokens: Tokens) -> int:
    """The place of a query among the tokens.

    Raises:
        BadOption: there is no such patch or class.
        NotSupported: the encoder has no class token.
    """
    if isinstance(query, str):
        return _place_of_name(query, config, part, tokens)
    (h, w), pair = grid, tuple(query) if isinstance(query, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(at, (int, np.integer)) for at in pair):
        raise BadOption(f"a query is a patch (row, column), or a name; got {query!r}")
    row, column = pair
    if not (0 <= row < h and 0 <= column < w):
        raise BadOption(f"there is no patch ({row}, {column}); rows go from 0 to {h - 1}, columns from 0 to {w - 1}")
    return tokens.before + int(row) * w + int(column)


def _place_of_name(name: str, config: Config, part: str, tokens: Tokens) -> int:
    from segfast.explain.seam import has_class_token

    if part == "encoder":
        if name != CLASS_TOKEN:
            raise BadOption(
                f"the encoder knows no {name!r}; name a patch or {CLASS_TOKEN!r}, or ask for part='decoder'"
            )
        if not has_class_token(config):
            raise NotSupported(f"the encoder of {config.name} has no class token; name patches")
        return 0
    if name not in config.classes:
        raise BadOption(f"the decoder has no class {name!r}; its classes are {', '.join(config.classes)}")
    return tokens.before + tokens.patches + config.classes.index(name)
