"""Which backend runs a model, told by its reference."""

from __future__ import annotations

from pathlib import Path

from pairgrade.backend import Backend
from pairgrade.errors import ModelError
from pairgrade.fake import FakeBackend
from pairgrade.llama import LlamaBackend, LlamaOptions
from pairgrade.models import resolve


def open_backend(reference: str | Path, llama: LlamaOptions | None = None) -> tuple[Backend, Path | None]:
    """Load a model; return its backend and its file, which is None for the fake that needs none."""
    text = str(reference)
    if text.startswith("fake:"):
        context = llama.context if llama else None
        return FakeBackend(context or 1024, _delay(text)), None
    path = resolve(reference)
    return LlamaBackend(path, llama), path


def _delay(reference: str) -> float:
    """Return the seconds of ``fake:SECONDS``, which the fake sleeps for each document."""
    seconds = reference[len("fake:") :]
    try:
        return float(seconds or 0)
    except ValueError:
        raise ModelError(f"'{reference}': behind fake: stands the seconds a document takes, or nothing") from None
