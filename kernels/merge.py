"""The end of the pipeline: windows of patch logits in, labels of an image out.

Runs the NumPy twins, band by band.
"""

from .reference import Windows, merge_scores, merge_windows, upsample_argmax

__all__ = ["Windows", "merge_scores", "merge_windows", "upsample_argmax"]
