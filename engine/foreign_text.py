"""Text of a foreign file as messages show it."""

from __future__ import annotations

_MOST = 300  # characters; the rest says nothing that helps


def shown(text: str) -> str:
    """Return a text cut to what a message has room for, with escapes for what a terminal would obey."""
    cut = text if len(text) <= _MOST else f"{text[:_MOST]}..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in cut)


def in_markdown(text: str) -> str:
    """Return text as Markdown shows it: as it is."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)
