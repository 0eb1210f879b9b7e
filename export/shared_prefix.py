"""Whether keys and values are all that a model keeps of what it has read, so that prompts can share their beginning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pairgrade.errors import ModelError

_TOKENS, _CUT = 24, 16  # of the prompt that is tried, and of its beginning that is kept
_CLOSE = {  # of the largest number; a model that forgets its prefix is off by more
    ("torch.float32", "cpu"): 1e-3,
    ("torch.float32", "cuda"): 1e-3,
    ("torch.bfloat16", "cpu"): 1e-2,  # attention was seen to be off by nothing, a small Mamba by 0.03
}
_CLOSE_ELSE = 0.1  # in half precision on a GPU, and with weights of 4 bits


def require_shared_prefix(model: Any, folder: Path) -> None:
    """Raise ModelError where a prompt behind kept keys and values gives other hidden states than the whole prompt.

    Recurrent and hybrid models keep a state besides, which is not in the cache or cannot be put back.
    """
    import torch

    try:
        with torch.inference_mode():
            whole, behind = _last_states(model)
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{folder}: {_described(model)} cannot be run so ({type(error).__name__}: {error})") from None
    close = _CLOSE.get((str(model.dtype), model.device.type), _CLOSE_ELSE)
    if not float((whole - behind).abs().max()) <= close * float(whole.abs().max()):
        raise ModelError(f"{folder}: {_described(model)} gives another result so")


def _described(model: Any) -> str:
    return (
        "prompts that begin alike are run behind kept keys and values, as those of a decoder with attention can be "
        f"(Llama, Qwen, Gemma, Mistral and others), and a model of type '{model.config.model_type}'"
    )


def _last_states(model: Any) -> tuple[Any, Any]:
    """Return the last hidden state of a prompt that is run whole, and of one that is run in two parts."""
    import torch
    from transformers import DynamicCache

    decoder = model.get_decoder()
    ids = torch.arange(1, 1 + _TOKENS, device=model.device)[None]
    whole = decoder(input_ids=ids, use_cache=False).last_hidden_state
    first, second = DynamicCache(), DynamicCache()
    decoder(input_ids=ids[:, :_CUT], past_key_values=first)
    for number, layer in enumerate(first.layers):
        second.update(layer.keys, layer.values, number)
    behind = decoder(input_ids=ids[:, _CUT:], past_key_values=second).last_hidden_state
    return whole[0, -1].float(), behind[0, -1].float()
