"""Whether a plan computes what its `.onnx` file does, in the precision that was asked, by its first run.

Its answer is compared with the golden one, and its layers are asked: whether fp16 stayed fp16, which attentions were fused.

The inspector's JSON, of an engine built with detailed verbosity, names for each layer the ONNX
nodes that went into it (`Metadata`) and the type of its tensors (`Format/Datatype`). A compiler may
put several nodes into one layer, and one node into several.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from segfast.artifacts.golden import Comparison
from segfast.artifacts.plan import Nodes, Plan
from segfast.config import Config
from segfast.errors import BadModel

# The kernel of NVIDIA's compilers that computes softmax(q kᵀ) v without writing the scores.
FUSED = "_gemm_mha_v2"


@dataclass(frozen=True)
class Inspection:
    """What became of the nodes.

    Attributes:
        layers: of the engine.
        told: nodes of `Nodes.half` whose types the inspector tells.
        wide: layers that compute such nodes in fp32.
        fused: for each attention, whether its kernel is the fused one; None where the inspector is silent.
        kernels: fused attention kernels.
    """

    layers: int
    told: int
    wide: tuple[str, ...]
    fused: tuple[bool | None, ...]
    kernels: int

    def attention(self, config: Config) -> str:
        """One line on fused attention: how many, and which blocks are not."""
        names = [f"encoder {i}" if i < config.depth else f"decoder {i - config.depth}" for i in range(len(self.fused))]
        text = f"attention: {self.fused.count(True)} of {len(self.fused)} fused ({FUSED})"
        for state, words in ((False, "not fused"), (None, "not told")):
            if which := [name for name, fused in zip(names, self.fused, strict=True) if fused is state]:
                text += f"; {words}: block {', '.join(which)}"
        if None in self.fused and self.kernels:
            text += f"; {self.kernels} such kernels in all"
        return text


def inspect(text: str, nodes: Nodes) -> Inspection:
    """Read the inspector's JSON.

    Args:
        text: of `EngineInspector.get_engine_information`, with an execution context whose shapes are set.

    Raises:
        BadModel: it is no such JSON.
    """
    try:
        found = json.loads(text)["Layers"]
        layers = [layer if isinstance(layer, Mapping) else {"Name": str(layer)} for layer in found]
    except (KeyError, TypeError, ValueError) as error:
        raise BadModel(f"the engine's inspector gives no layers ({error!r}); build the engine again") from None
    half, told, wide = set(nodes.half), set(), []
    fused: dict[str, bool] = {}
    for layer in layers:
        members = _members(layer)
        kinds = set(_kinds(layer))
        if kinds and half & members:
            told |= half & members
            if "fp32" in kinds and not kinds & {"fp16", "bf16"}:
                wide.append(str(layer.get("Name", "?")))
        for name in members.intersection(nodes.attention):
            fused[name] = fused.get(name, False) or _is_fused(layer)
    states = tuple(fused.get(name) for name in nodes.attention)
    return Inspection(len(layers), len(told), tuple(wide), states, sum(map(_is_fused, layers)))


def _members(layer: Mapping[str, Any]) -> set[str]:
    """The ONNX nodes that went into a layer."""
    return set(re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(layer.get("Metadata", ""))))


def _is_fused(layer: Mapping[str, Any]) -> bool:
    return any(FUSED in str(layer.get(key, "")) for key in ("Name", "TacticName"))


def _kinds(layer: Mapping[str, Any]) -> Iterable[str]:
    """The floating-point types of a layer's tensors and weights."""
    tensors = [*_list(layer.get("Inputs")), *_list(layer.get("Outputs"))]
    texts = [str(tensor.get("Format/Datatype", tensor.get("Datatype", ""))) for tensor in tensors]
    weights = layer.get("Weights")
    if isinstance(weights, Mapping):
        texts.append(str(weights.get("Type", "")))
    return filter(None, map(_kind, texts))


def _kind(text: str) -> str | None:
    text = text.lower()
    for kind, words in (
        ("bf16", ("bf16", "bfloat")),
        ("fp16", ("half", "fp16", "float16")),
        ("fp32", ("float", "fp32")),
    ):
        if any(word in text for word in words):
            return kind
    return None


def _list(values: Any) -> list[Mapping[str, Any]]:
    return [value for value in values if isinstance(value, Mapping)] if isinstance(values, list) else []


@dataclass(frozen=True)
class Verification:
    """What a plan's first run showed.

    Attributes:
        attention: one line on fused attention.
        failure: why the plan must not be used; None if it may.
    """

    inspection: Inspection
    comparison: Comparison
    attention: str
    failure: str | None

    def __str__(self) -> str:
        return f"against its .onnx file: {self.comparison}\n{self.attention}"


def verify(plan: Plan, information: str, answer: NDArray[Any]) -> Verification:
    """Judge a plan that has run.

    Args:
        information: the inspector's JSON.
        answer: to the golden answer's photo, logits [1, K, h, w] or labels [1, H, W].

    Raises:
        BadModel: the information or the answer is of another kind.
    """
    inspection, comparison = inspect(information, plan.nodes), plan.golden.compare(answer)
    failure = None
    if inspection.wide:
        names = ", ".join(inspection.wide[:3])
        failure = f"fp16 was asked, but {len(inspection.wide)} layers compute in fp32 ({names})"
    elif plan.nodes.half and not inspection.told and plan.options.compiler == "tensorrt":
        failure = "the inspector does not tell the types of the layers, so fp16 cannot be confirmed"
    elif not (comparison.passed if plan.artifact.config.merge is None else comparison.alike):
        failure = f"its answer for a photo is not that of {plan.onnx}: {comparison}"
    return Verification(inspection, comparison, inspection.attention(plan.artifact.config), failure)
