"""The parts of the proof, in the order of the first hour on a GPU, with their shares of its time."""

from __future__ import annotations

from benchmarks.gpu.watching import Section

# Rows that start processes of their own have limits of their own, too.
LONG = 3600.0

SECTIONS = (
    Section("machine", "benchmarks.gpu.machine", share=2, least=60),
    Section("sanitizer", "benchmarks.gpu.sanitizer", share=10, hang=LONG, untimed=True),
    Section("tests", "benchmarks.gpu.suite", share=20, hang=LONG, untimed=True),
    Section("sweep", "benchmarks.gpu.sweep", share=10),
    Section("attention", "benchmarks.gpu.attention", share=12),
    Section("ends", "benchmarks.gpu.ends", share=6),
    Section("models", "benchmarks.gpu.models", share=20),
    Section("compiled", "benchmarks.gpu.compiled", share=8, hang=600),
    Section("profile", "benchmarks.gpu.profiles", share=2),
    Section("serving", "benchmarks.gpu.serving", share=4),
    Section("tensorrt", "benchmarks.gpu.plans", share=6, hang=900),
)


def deadline(now: float, end: float, of: int, sections: tuple[Section, ...] = SECTIONS) -> float:
    """When section number `of` has to be done, of `time.monotonic`: what the ones before it left is shared out anew."""
    shares, left = [one.share for one in sections[of:]], max(0.0, end - now)
    return now + min(left, max(sections[of].least, left * shares[0] / sum(shares)))
