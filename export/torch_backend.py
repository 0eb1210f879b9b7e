"""A transformers folder behind the backend seam, in float32: the reference that its exports are measured against.

Slow and plain on purpose: one document at a time, each a pass of its own over the kept keys and values of the prefix.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.backend import Counters, Scores, require_fit, segments_in_common
from pairgrade.environment import package_version
from pairgrade.errors import InputError
from pairgrade.export.causal_model import load_causal
from pairgrade.export.head import Head, require_known_head
from pairgrade.export.shared_prefix import require_shared_prefix
from pairgrade.folder_tokenizer import FolderTokenizer, has_chat_template
from pairgrade.hardware import usable_cores
from pairgrade.tokenizer import Ids

_DEFAULT_CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class TorchOptions:
    """Settings of the torch backend."""

    context: int | None = None  # longest prompt in tokens; None: 2,048 or what the model was trained with, if less
    threads: int | None = None  # None: the physical cores that this process may use

    def __post_init__(self) -> None:
        if self.context is not None and self.context < 64:
            raise InputError(f"the context is {self.context} tokens; it must be at least 64")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"{self.threads} threads; at least 1 is needed")


@dataclass(frozen=True, slots=True)
class _Held:
    """Keys and values of a prefix, up to the end of one of its segments."""

    segment: bytes
    length: int  # tokens, from the prompt's start
    layers: list[tuple[Any, Any]]


class TorchBackend:
    """A causal model of transformers, without any code of its folder."""

    exact = True

    def __init__(self, folder: Path, options: TorchOptions | None = None) -> None:
        options = options or TorchOptions()
        self.folder = folder
        self.counters = Counters()
        self.model = load_folder(folder, options.threads)  # which compares the sha256 of all files first
        self.tokenizer = FolderTokenizer(folder)
        self.is_chat_model = has_chat_template(folder)
        self.threads = options.threads or usable_cores()
        require_shared_prefix(self.model, folder)
        require_known_head(self.model, folder)
        config = self.model.config.get_text_config()
        self.context = options.context or min(_DEFAULT_CONTEXT, int(config.max_position_embeddings))
        self._decoder, self._head = self.model.get_decoder(), Head(self.model)
        self._held: list[_Held] = []

    def identity(self) -> dict[str, str]:
        """Name the libraries and the context."""
        versions = {name: package_version(name) for name in ("torch", "transformers")}
        return {"kind": "torch", "context": str(self.context), **versions}

    def score(self, prefix: Sequence[Ids], suffixes: Sequence[Ids], labels: Ids) -> Scores:
        """Run each suffix by itself after the prefix; log totals are over the whole vocabulary."""
        import torch

        length = sum(map(len, prefix))
        require_fit(self.context, length, suffixes)
        logits = np.empty((len(suffixes), len(labels)), np.float32)
        totals = np.empty(len(suffixes), np.float64)
        start = time.perf_counter()
        with torch.inference_mode():
            layers = self._hold(prefix)
            for row, suffix in enumerate(suffixes):
                hidden, _ = self._run(suffix, layers)
                values = self._head.logits(hidden)
                logits[row] = values[labels.astype(np.int64)].numpy()
                totals[row] = float(torch.logsumexp(values.double(), 0))
        self.counters.reused += length * max(0, len(suffixes) - 1)
        self.counters.seconds += time.perf_counter() - start
        return Scores(logits, totals)

    def close(self) -> None:
        """Let go of the weights."""
        self._held.clear()
        del self.model, self._decoder, self._head

    def _hold(self, prefix: Sequence[Ids]) -> list[tuple[Any, Any]]:
        """Compute the segments of the prefix that are not kept, each as a pass of its own."""
        kept = segments_in_common((part.tobytes() for part in prefix), (held.segment for held in self._held))
        del self._held[kept:]
        self.counters.reused += self._held[-1].length if self._held else 0
        for segment in prefix[kept:]:
            length = len(segment) + (self._held[-1].length if self._held else 0)
            layers = self._held[-1].layers if self._held else []
            if len(segment):
                _, layers = self._run(segment, layers)
            self._held.append(_Held(segment.tobytes(), length, layers))
        return self._held[-1].layers if self._held else []

    def _run(self, ids: Ids, layers: list[tuple[Any, Any]]) -> tuple[Any, list[tuple[Any, Any]]]:
        """Return the hidden state at the last id, and all keys and values up to there."""
        import torch
        from transformers import DynamicCache

        cache = DynamicCache()
        for index, (keys, values) in enumerate(layers):
            cache.update(keys, values, index)
        output = self._decoder(input_ids=torch.as_tensor(ids[None].astype(np.int64)), past_key_values=cache)
        self.counters.computed += len(ids)
        return output.last_hidden_state[0, -1], [(layer.keys, layer.values) for layer in cache.layers]


def load_folder(folder: Path, threads: int | None = None) -> Any:
    """Load a causal model in float32 for inference; ModelError where it cannot be."""
    model = load_causal(folder)
    import torch

    torch.set_num_threads(threads or usable_cores())
    return model.eval()
