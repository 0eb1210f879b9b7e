"""A causal model of transformers that is trained on nothing but its label logits.

All prompts of a run open with the same instruction. A step computes the instruction's keys and values once, lets
the examples of all its micro-batches attend to them, gathers the gradients that arrive there and sends them back
through the instruction once. The gradient is that of whole prompts, at about half of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from pairgrade.export.head import Head
from pairgrade.tokenizer import Ids
from pairgrade.train.trunk import Trunk, filled_cache, padded


class LabelModel:
    """Wraps a (peft) model; ``labels`` are the label tokens, ascending by grade.

    ``trained_layers``: how many of the last layers are trained, where the others are not; 0 for all.
    """

    def __init__(self, model: Any, labels: Ids, trained_layers: int = 0) -> None:
        import torch

        self.model = model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._decoder = base.get_decoder()
        self._head = Head(base)
        depth = base.config.num_hidden_layers - trained_layers if trained_layers else 0
        self._trunk = Trunk(self._decoder, depth) if depth else None
        self._labels = torch.as_tensor(labels.astype(np.int64), device=self.device)

    @property
    def device(self) -> Any:
        """Where the weights lie."""
        return next(self.model.parameters()).device

    def prefix(self, ids: Ids) -> SharedPrefix:
        """Compute the keys and values of what every prompt begins with."""
        cache = filled_cache([], 1)
        self._run([ids], cache, None)
        return SharedPrefix(ids, [(layer.keys, layer.values) for layer in cache.layers])

    def logits(self, prompts: Sequence[Ids], prefix: SharedPrefix | None = None) -> Any:
        """Return the label logits, shape (n, k), at the last token of each prompt, or of what follows the prefix."""
        import torch

        cache = prefix.cache(len(prompts)) if prefix else None
        output = self._run(prompts, cache, prefix.ids if prefix else None)
        last = torch.as_tensor([len(prompt) - 1 for prompt in prompts], device=self.device)
        hidden = output.last_hidden_state[torch.arange(len(prompts), device=self.device), last]
        return self._head.logits(hidden, self._labels)

    def _run(self, prompts: Sequence[Ids], cache: Any, prefix: Ids | None) -> Any:
        ids = padded(prompts, self.device)
        below = self._trunk.skipped(self._trunk.states(prompts, prefix)) if self._trunk else nullcontext()
        with below:
            return self._decoder(input_ids=ids, past_key_values=cache, use_cache=cache is not None)


class SharedPrefix:
    """Keys and values that many prompts attend to, and the gradient that they gather."""

    def __init__(self, ids: Ids, layers: Sequence[tuple[Any, Any]]) -> None:
        """Take what a cache holds of each layer; layers that were skipped hold None."""
        import torch

        self.ids = ids
        nothing = torch.zeros(1, 1, len(ids), 1)  # has the length, by which positions are counted
        self._made = [nothing if tensor is None else tensor for layer in layers for tensor in layer]
        self._leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in self._made]

    def cache(self, batch: int) -> Any:
        """Return a fresh cache that holds the prefix for each of ``batch`` prompts."""
        return filled_cache(list(zip(self._leaves[::2], self._leaves[1::2], strict=True)), batch)

    def backward(self) -> None:
        """Send the gathered gradients back through the computation of the prefix, once."""
        import torch

        pairs = [(made, leaf.grad) for made, leaf in zip(self._made, self._leaves, strict=True)]
        pairs = [(made, gradient) for made, gradient in pairs if gradient is not None]
        if pairs:
            torch.autograd.backward([made for made, _ in pairs], [gradient for _, gradient in pairs])
