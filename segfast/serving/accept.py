"""Which kind of answer a client wants, by its `Accept` header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from collections.abc import Iterable


def choose(accept: str, kinds: Iterable[str]) -> str | None:
    """The media type that an `Accept` header likes best, the first of equals; None if it takes none."""
    liked = dict(_range(part) for part in accept.lower().split(","))
    best, quality = None, 0.0
    for kind in kinds:
        ranges = (kind, f"{kind.partition('/')[0]}/*", "*/*")  # the most specific first, which decides
        found = next((liked[name] for name in ranges if name in liked), 0.0)
        if found > quality:
            best, quality = kind, found
    return best


def _range(part: str) -> tuple[str, float]:
    """A media range and its quality."""
    name, *parameters = (word.strip() for word in part.split(";"))
    text = next((word[2:] for word in parameters if word.startswith("q=")), "1")
    try:
        return name, float(text)
    except ValueError:
        return name, 0.0
