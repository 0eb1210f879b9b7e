"""transformers as a peer: generate text, then parse it, as grading prompts are usually run."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pairgrade.bench.cell_records import CellJob
from pairgrade.bench.peers_prompts import NEW_TOKENS, PromptedPeer, folder_prompts
from pairgrade.environment import package_version
from pairgrade.records import Pair


def padding_id(config: Any) -> int:
    """Return the token that fills short prompts up: the model's own, or its first end of text."""
    for found in (config.pad_token_id, config.eos_token_id):
        if found is not None:
            return int(found[0] if isinstance(found, list) else found)
    return 0


class Transformers(PromptedPeer):
    """transformers' ``generate``, greedy, one prompt at a time."""

    batch: ClassVar[int] = 1  # prompts at a time

    def __init__(self, job: CellJob) -> None:
        import torch

        from pairgrade.export.causal_model import load_causal
        from pairgrade.train.base_model import resolve_folder

        torch.set_num_threads(job.threads)
        self._torch = torch
        with tempfile.TemporaryDirectory() as scratch:
            folder = resolve_folder(job.model, Path(scratch) / "model")
            super().__init__(folder_prompts(job, folder))
            self._model: Any = load_causal(folder)
        self._model.eval()
        self._pad = padding_id(self._model.config)

    def answers(self, pairs: Sequence[Pair]) -> list[str]:
        """Generate some tokens after each prompt, those of a batch padded on the left."""
        torch = self._torch
        prompts = list(self.prompts.ids(pairs))
        found: list[str] = []
        for start in range(0, len(prompts), self.batch):
            batch = prompts[start : start + self.batch]
            width = max(map(len, batch))
            ids = torch.tensor([[self._pad] * (width - len(p)) + p for p in batch])
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
            with torch.inference_mode():
                answers = self._model.generate(
                    input_ids=ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False,
                    temperature=None, top_p=None, top_k=None, pad_token_id=self._pad,
                )  # fmt: skip
            found += map(self.prompts.text, answers[:, width:].tolist())
        return found

    def identity(self) -> dict[str, str]:
        """Name the library, its batch and the precision."""
        return self.prompts.identity() | {
            "kind": f"transformers generate, batches of {self.batch}",
            "transformers": package_version("transformers"),
            "torch": package_version("torch"),
            "dtype": str(self._model.dtype),
        }


class TransformersBatched(Transformers):
    """The same in batches."""

    batch = 8
