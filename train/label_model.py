"""A causal model of transformers that is trained on nothing but its label logits.

All prompts of a run open with the same instruction. A step computes the instruction's keys and values once, lets
the examples of all its micro-batches attend to them, gathers the gradients that arrive there and sends them back
through the instruction once. The gradient is that of whole prompts, at about half of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pairgrade.tokenizer import Ids


class LabelModel:
    """Wraps a (peft) model; ``labels`` are the label tokens, ascending by grade."""

    def __init__(self, model: Any, labels: Ids) -> None:
        import torch

        self.model = model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._decoder = base.get_decoder()
        self._head = base.get_output_embeddings()
        self._cap = getattr(base.config, "final_logit_softcapping", None)
        self._labels = torch.as_tensor(labels.astype(np.int64), device=self.device)

    @property
    def device(self) -> Any:
        """Where the weights lie."""
        return next(self.model.parameters()).device

    def prefix(self, ids: Ids) -> SharedPrefix:
        """Compute the keys and values of what every prompt begins with."""
        import torch
        from transformers import DynamicCache

        cache = DynamicCache()
        self._decoder(input_ids=torch.as_tensor(ids[None].astype(np.int64), device=self.device), past_key_values=cache)
        return SharedPrefix([(layer.keys, layer.values) for layer in cache.layers])

    def logits(self, prompts: Sequence[Ids], prefix: SharedPrefix | None = None) -> Any:
        """Return the label logits, shape (n, k), at the last token of each prompt, or of what follows the prefix."""
        import torch

        longest = max(map(len, prompts))
        ids = np.zeros((len(prompts), longest), np.int64)  # padded at the end: what is there no real token can see
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
        cache = prefix.cache(len(prompts)) if prefix else None
        output = self._decoder(
            input_ids=torch.as_tensor(ids, device=self.device), past_key_values=cache, use_cache=cache is not None
        )
        last = torch.as_tensor([len(prompt) - 1 for prompt in prompts], device=self.device)
        hidden = output.last_hidden_state[torch.arange(len(prompts), device=self.device), last]
        rows = self._head.weight[self._labels]
        logits = torch.nn.functional.linear(hidden, rows.to(hidden.dtype)).float()
        return torch.tanh(logits / self._cap) * self._cap if self._cap else logits


class SharedPrefix:
    """Keys and values that many prompts attend to, and the gradient that they gather."""

    def __init__(self, layers: list[tuple[Any, Any]]) -> None:
        self._made = [tensor for layer in layers for tensor in layer]
        self._leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in self._made]

    def cache(self, batch: int) -> Any:
        """Return a fresh cache that holds the prefix for each of ``batch`` prompts."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in range(len(self._leaves) // 2):
            keys, values = self._leaves[2 * layer : 2 * layer + 2]
            cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), layer)
        return cache

    def backward(self) -> None:
        """Send the gathered gradients back through the computation of the prefix, once."""
        import torch

        pairs = [(made, leaf.grad) for made, leaf in zip(self._made, self._leaves, strict=True)]
        pairs = [(made, gradient) for made, gradient in pairs if gradient is not None]
        if pairs:
            torch.autograd.backward([made for made, _ in pairs], [gradient for _, gradient in pairs])
