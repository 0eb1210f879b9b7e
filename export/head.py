"""What a causal model makes of its last hidden states: the product of its head, its bias and its soft cap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pairgrade.errors import ModelError

_CLOSE = 0.02  # of the largest logit; half precision moves logits by less, a scale of its own by far more


class Head:
    """The head of a causal model of transformers, for all tokens or for some."""

    def __init__(self, model: Any) -> None:
        head = model.get_output_embeddings()
        self._weight, self._bias = head.weight, getattr(head, "bias", None)
        self._cap: float | None = getattr(model.config.get_text_config(), "final_logit_softcapping", None)

    def logits(self, hidden: Any, tokens: Any = None) -> Any:
        """Return float32 logits (..., tokens) of hidden states (..., hidden); ``tokens``: ids, all without them."""
        import torch

        weight, bias = self._weight, self._bias
        if tokens is not None:
            weight, bias = weight[tokens], None if bias is None else bias[tokens]
        logits = torch.nn.functional.linear(hidden, weight.to(hidden.dtype), bias).float()
        return torch.tanh(logits / self._cap) * self._cap if self._cap else logits


def require_known_head(model: Any, folder: Path) -> None:
    """Raise ModelError where a model's own logits are not those of ``Head``: some families scale them."""
    import torch

    ids = torch.arange(1, 5, device=model.device)[None]
    with torch.inference_mode():
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
        own = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].float()
        found = Head(model).logits(hidden)
    if not float((found - own).abs().max()) <= _CLOSE * float(own.abs().max()):
        name = type(model).__name__
        raise ModelError(
            f"{folder}: {name} makes its logits in another way than by its head alone, such as a scale; pairgrade "
            "trains and compares models that do not (Llama, Qwen, Gemma, Mistral and others)"
        )
