"""Whether a plan computes what its `.onnx` file does, in the precision that was asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from segfast.artifacts.golden import Comparison
from segfast.artifacts.inspection import Inspection, inspect
from segfast.artifacts.plan import Plan


@dataclass(frozen=True)
class Verdict:
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


def judge(plan: Plan, information: str, answer: NDArray[Any]) -> Verdict:
    """Judge a plan that has run.

    Args:
        information: the inspector's JSON.
        answer: to the probe's photo, logits [1, K, h, w] or labels [1, H, W].

    Raises:
        BadModel: the information or the answer is of another kind.
    """
    inspection, comparison = inspect(information, plan.nodes), plan.probe.compare(answer)
    failure = None
    if inspection.wide:
        names = ", ".join(inspection.wide[:3])
        failure = f"fp16 was asked, but {len(inspection.wide)} layers compute in fp32 ({names})"
    elif plan.nodes.half and not inspection.told and plan.options.engine == "tensorrt":
        failure = "the inspector does not tell the types of the layers, so fp16 cannot be confirmed"
    elif not comparison.passed:
        failure = f"its answer for a photo is not that of {plan.onnx}: {comparison}"
    return Verdict(inspection, comparison, inspection.attention(plan.artifact.config), failure)
