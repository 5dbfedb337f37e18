"""The one place where explanations touch the model: the queries and keys of its attentions, and its class masks.

Every kind of encoder hands them to `Attention.attend` last of all, positions rotated and heads apart, so that what is
read here is what the model computes with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segfast.config import Config
from segfast.errors import BadOption, NotSupported
from segfast.explain.view import View
from segfast.model import Attention, AttentionFunction, Segmenter
from segfast.network.decoders import MaskDecoder
from segfast.runtimes.patch_logits import PatchLogits
from segfast.runtimes.pytorch import private
from segfast.token_merge import Merge

PARTS = ("encoder", "decoder")
Watcher = Callable[[int, Tensor, Tensor], None]  # layer, queries and keys [N, heads, d], in fp32


class Tokens(NamedTuple):
    """What the tokens of an attention stand for, in their order.

    Attributes:
        before: tokens before the patches (class token, distillation token, registers).
        patches: h·w of them.
        after: tokens behind them: the K classes of a mask decoder.
    """

    before: int
    patches: int
    after: int

    @property
    def of_patches(self) -> slice:
        """Where the patches are."""
        return slice(self.before, self.before + self.patches)


def tokens_of(config: Config, part: str, view: View) -> Tokens:
    """The tokens of the encoder's or the decoder's attentions on a view."""
    h, w = view.grid
    return Tokens(config.prefix_tokens, h * w, 0) if part == "encoder" else Tokens(0, h * w, config.num_classes)


def has_class_token(config: Config) -> bool:
    """Whether the encoder's first token is a class token."""
    return config.prefix_tokens > 0 and config.class_token


def watch(model: Segmenter, view: View, part: str, layers: Iterable[int], watcher: Watcher) -> NDArray[np.float32]:
    """Run a model on a view and tell `watcher` the queries and keys of some layers; its patch logits [K, h, w].

    The model itself is left as it is, and may be used by others meanwhile.
    """
    own = private(model, str(next(model.parameters()).device), torch.float32)
    blocks = (own.encoder if part == "encoder" else own.decoder).get_submodule("blocks")
    for layer in layers:
        attention = blocks.get_submodule(f"{layer - 1}.attn")
        assert isinstance(attention, Attention)
        attention.attend = partial(_tell, attention.attend, partial(watcher, layer))
    return _run(own, view)


def cosines_of(model: Segmenter, view: View) -> NDArray[np.float32]:
    """Class masks (paper, equation 4) of a mask decoder, before the LayerNorm that makes them logits: [K, h, w]."""
    own = private(model, str(next(model.parameters()).device), torch.float32)
    assert isinstance(own.decoder, MaskDecoder)
    own.decoder = _Masks(own.decoder)
    return _run(own, view)


class _Masks(nn.Module):
    """A mask decoder that ends with its class masks."""

    def __init__(self, decoder: MaskDecoder):
        super().__init__()
        self._decoder = decoder

    def forward(self, patches: Tensor) -> Tensor:
        return self._decoder.masks(patches)


def _run(own: Segmenter, view: View) -> NDArray[np.float32]:
    """What a private model gives for a view, [K, h, w]."""
    with torch.inference_mode():
        inputs = torch.from_numpy(view.inputs)[None].to(next(own.parameters()).device)
        given: Tensor = PatchLogits(own, free=True)(inputs)[0]
        return given.float().cpu().numpy()


def _tell(
    attend: AttentionFunction, watcher: Callable[[Tensor, Tensor], None], q: Tensor, k: Tensor, v: Tensor
) -> Tensor:
    watcher(q[0].float(), k[0].float())
    return attend(q, k, v)


def weights(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q·kᵀ / √d) (paper, equation 3): [heads, n, N] of n queries and N keys [n or N, heads, d]."""
    return torch.einsum("nhd,mhd->hnm", q * q.shape[-1] ** -0.5, k).softmax(-1)


def check_checkpoint(model: object) -> None:
    """See that a model is a Segmenter, whose inside can be read.

    Raises:
        NotSupported: it is an Engine or a file.
    """
    if not isinstance(model, Segmenter):
        raise NotSupported(
            f"this looks inside the network, and {type(model).__name__} shows none of it; pass the checkpoint: "
            "segfast.load_model(path), or segfast.explain CHECKPOINT on the command line"
        )


def check_mask_decoder(config: Config, what: str) -> None:
    """See that a model has a mask decoder, and so class embeddings.

    Raises:
        NotSupported: its decoder is linear.
    """
    if config.decoder != "mask":
        raise NotSupported(f"{config.name} has a linear decoder, which has no {what}; take a mask model")


def depth_of(config: Config, part: str) -> int:
    """How many layers the encoder or the mask decoder has.

    Raises:
        BadOption: there is no such part.
        NotSupported: the decoder is linear.
    """
    if part not in PARTS:
        raise BadOption(f"part must be 'encoder' or 'decoder'; got {part!r}")
    if part == "decoder" and config.decoder != "mask":
        raise NotSupported(f"{config.name} has a linear decoder, which has no attention; ask for its encoder")
    return config.depth if part == "encoder" else config.decoder_depth


def check_whole(config: Config, part: str, layers: Iterable[int]) -> None:
    """See that the tokens of some layers stand for one patch each.

    Raises:
        NotSupported: the encoder has merged some before.
    """
    if config.merge is not None and part == "encoder" and max(layers) > config.merge.block:
        raise NotSupported(why_not_whole(config.merge))


def why_not_whole(merge: Merge) -> str:
    """Why layers behind a merge show no patches, in words."""
    return (
        f"behind block {merge.block} the encoder has merged tokens ({merge}), which show no single patches; ask for layers "
        f"up to {merge.block}, or for the same weights without it: load_model(path).merge_tokens(None)"
    )


def check_numbers(name: str, numbers: Iterable[int] | None, count: int, default: Iterable[int]) -> tuple[int, ...]:
    """Layers or heads, counted from 1; the default where none are named.

    Raises:
        BadOption: there is no such, or the list is empty or none.
    """
    if isinstance(numbers, (int, str)):
        raise BadOption(f"{name} is a list of numbers, such as [1, 3]; got {numbers!r}")
    chosen = tuple(default if numbers is None else numbers)
    wrong = [n for n in chosen if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n <= count]
    if wrong or not chosen:
        raise BadOption(f"{name} count from 1 to {count} here; got {wrong[0] if wrong else 'none'}")
    return tuple(int(n) for n in chosen)
