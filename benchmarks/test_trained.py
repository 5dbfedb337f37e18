"""Does what the Engine runs by default keep the labels of a trained model?

    pytest benchmarks/test_trained.py --benchmark-only -s

The margins of random weights are so small that any rounding flips labels, so that `benchmarks.labels` measures what the flips
cost. The example model is trained: there labels can be held to be the same, but for pixels on an outline.
"""

from pathlib import Path

import pytest

import segfast
from benchmarks.rounds import in_turns
from segfast.evaluation.agreement import equal_labels

EXAMPLES = Path(__file__).parent.parent / "examples"
PHOTOS = ("cat.jpg", "coffee.jpg")
# Share of the labels that are the same. An outline is a few pixels in a thousand.
LEAST = 0.995


@pytest.mark.quick
@pytest.mark.parametrize("name", PHOTOS)
def test_labels_of_a_trained_model(benchmark, name):
    """The Engine as it opens the file here, beside ONNX Runtime on the CPU in the precision of the file."""
    default = segfast.Engine(EXAMPLES / "pets.onnx")
    plain = segfast.Engine(EXAMPLES / "pets.onnx", runtime="onnxruntime", device="cpu")
    times = in_turns(
        benchmark,
        {engine.runtime: lambda engine=engine: engine.segment(EXAMPLES / name) for engine in (default, plain)},
        most=3,
    )
    equal = equal_labels(default.segment(EXAMPLES / name).labels, plain.segment(EXAMPLES / name).scores)
    benchmark.extra_info.update(equal=equal)
    print(f"\n{name}: {equal:.2%} of the labels equal")
    for runtime, taken in times.items():
        print(f"  {runtime:40} {taken['seconds'] * 1e3:.0f} ms")
    assert equal >= LEAST
