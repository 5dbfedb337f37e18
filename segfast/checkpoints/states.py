"""Which tensors of a checkpoint are the model's.

Training scripts wrap a model, and its wrappers' names stand before and within those of the tensors: `module.` of parallel
training, `_orig_mod.` of a compiled model, `model.` of a framework. They put the tensors below a word such as `model` or
`state_dict`, and beside them, sometimes, running averages of the same weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from segfast.errors import BadModel

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, "Tensor"]  # by name; of pickles nothing but the names has been checked
Tree = Mapping[Any, Any]  # of pickles the keys may be anything, too

# Names that wrappers of PyTorch put anywhere into a tensor's name.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# Words below or behind which a model is kept; of several, the first.
_PLAIN = (
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "segmenter",
    "segmentor",
    "weights",
    "params",
)
# Parts of a trainer that are no part of the model: what computes its losses and scores, and what counts.
_BESIDE = re.compile(r"(criterion|loss\w*|\w*metrics?|n_averaged|steps|num_updates)(\.|$)")
_DEEPEST = 4  # words such as `model` one below the other

# The first tensors of a Segmenter, of the original code and of MMSegmentation, and of a ViT.
SEGMENTER = r"encoder\.patch_embed\.|backbone\.patch_embed\.projection\b"
VIT = r"patch_embed\.proj\."


class Found(NamedTuple):
    """The tensors of a model, under its own names.

    Attributes:
        state: what lies where the model's tensors lie, without wrappers and without what is no part of it.
        where: the words before the tensors' names, such as `model`; empty for none.
        unused: the same of other copies of the model, such as running averages.
    """

    state: State
    where: str
    unused: tuple[str, ...]


class _Place(NamedTuple):
    """Where a copy of the model lies: entries of a dictionary whose names begin with a prefix.

    Attributes:
        keys: that lead from the checkpoint to the dictionary.
        words: those keys and the prefix, without wrappers.
    """

    entries: Tree
    keys: tuple[str, ...]
    prefix: str

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(word for part in (*self.keys, self.prefix) for word in plain(part).split(".") if word)

    @property
    def name(self) -> str:
        return ".".join(self.words)

    def code(self) -> str:
        """The expression that gives this copy alone."""
        inner = f"checkpoint{''.join(f'[{key!r}]' for key in self.keys)}"
        if not self.prefix:
            return inner
        return f"{{k[{len(self.prefix)}:]: v for k, v in {inner}.items() if k.startswith({self.prefix!r})}}"


def find(content: Tree, first: str, source: str, allowed: tuple[str, ...] = ()) -> Found | None:
    """The tensors of the model in a checkpoint; None if there is none.

    Where running averages (EMA) lie beside the trained weights, the trained weights are taken, which training scripts
    evaluate and go on with; MMSegmentation 1.x exchanges the two when it saves, so that there they are the averages.

    Args:
        content: the checkpoint.
        first: a pattern of the names by which the model is recognised.
        source: the file it comes from, for messages.
        allowed: further words that the model may be kept under, as a part of another of which the rest is left out.

    Raises:
        BadModel: it lies under a word that is not known, or it is not clear which of several is meant.
    """
    pattern = re.compile(rf"((?:[^.]+\.)*?)(?:{first})")
    places = list(_places(content, pattern))
    if not places:
        return None
    known = {*_PLAIN, *allowed}
    trained = [place for place in places if all(word in known for word in place.words)]
    averages = [place for place in places if any(map(_averaged, place.words))]
    chosen = _preferred(trained, source) if trained else averages[0] if len(averages) == 1 else None
    if chosen is None:
        raise _unclear(places, source)
    return Found(
        _own(chosen, source, strangers=not allowed),
        chosen.name,
        tuple(place.name for place in places if place is not chosen),
    )


def plain(name: object) -> str:
    """A tensor's name without the names of PyTorch's wrappers in it."""
    return ".".join(part for part in str(name).split(".") if part not in _WRAPPERS)


def _places(content: Tree, pattern: re.Pattern[str]) -> Iterator[_Place]:
    """Every place in a checkpoint that the model may lie at; a dictionary that is in it twice counts once."""
    waiting: list[tuple[Tree, tuple[str, ...]]] = [(content, ())]
    seen = {id(content)}
    for entries, keys in waiting:
        matches = (pattern.match(plain(name)) for name, value in entries.items() if not isinstance(value, Mapping))
        for prefix in dict.fromkeys(match[1] for match in matches if match):
            yield _Place(entries, keys, prefix)
        for name, value in entries.items() if len(keys) < _DEEPEST else ():
            if isinstance(value, Mapping) and isinstance(name, str) and id(value) not in seen:
                seen.add(id(value))
                waiting.append((value, (*keys, name)))


def _averaged(word: str) -> bool:
    """Whether a word stands for running averages of weights: `ema`, `model_ema`, `ema_state_dict`, `swa_model`."""
    return any(part in ("ema", "swa", "averaged") for part in word.lower().split("_"))


def _preferred(places: list[_Place], source: str) -> _Place:
    """The place whose words come first in the table; two in one dictionary are as good as each other."""
    order = [*_PLAIN, *(word for place in places for word in place.words)]
    best = min(places, key=lambda place: [order.index(word) for word in place.words])
    rivals = [place for place in places if place.entries is best.entries]
    if len(rivals) > 1:
        raise _unclear(rivals, source)
    return best


def _own(place: _Place, source: str, strangers: bool) -> State:
    """The entries of a place under the model's own names; strangers keep theirs, so that they are not overlooked."""
    own: State = {}
    for name, value in place.entries.items():
        short = plain(name)
        if short.startswith(place.prefix):
            short = short.removeprefix(place.prefix)
        elif not strangers:
            continue
        if _BESIDE.match(short) or any(map(_averaged, short.split("."))):
            continue
        if short in own:
            raise BadModel(f"{source} holds {short} twice, once as {name}; save one model's state_dict alone")
        own[short] = value
    return own


def _unclear(places: list[_Place], source: str) -> BadModel:
    names = ", ".join(place.name or "no prefix" for place in places)
    return BadModel(
        f"{source} holds models under {names}, and it is not clear which is meant; save that alone: "
        f"torch.save({{'model': {places[0].code()}}}, 'one.pth')"
    )
