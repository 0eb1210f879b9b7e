"""The scaling of a GGUF's rotary embeddings as transformers' configuration has it.

transformers' reader of GGUF files takes the base frequency and leaves the scaling out, so that a Llama 3.1 made of
one would be another model. llama.cpp keeps Llama 3's scaling as a tensor of factors, other kinds as metadata.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pairgrade.errors import ModelError
from pairgrade.export.decoder import Rope
from pairgrade.gguf_header import GgufHeader, TensorInfo, read_header

_FACTORS = "rope_freqs.weight"
_OTHER_FACTORS = ("rope_factors_long.weight", "rope_factors_short.weight")
_F32 = 0  # ggml's type number
_CONTEXTS = tuple(2**power for power in range(6, 18))  # that Llama 3's kind may count from; Llama's own is 8,192
_WAY_OUT = "cannot be given to transformers here; start from the model's own folder in safetensors"


def rope_scaling(gguf: Path) -> dict[str, Any]:
    """Return the entries that a file's scaling adds to transformers' ``rope_parameters``; none where it has none.

    ModelError for a kind of scaling that is not known here.
    """
    header = read_header(gguf)
    family = header.metadata.get("general.architecture")
    kind = str(header.metadata.get(f"{family}.rope.scaling.type", "none"))
    tensors = {tensor.name: tensor for tensor in header.tensors}
    unknown = next((name for name in _OTHER_FACTORS if name in tensors), None) or (
        None if kind in ("none", "linear") else f"rope.scaling.type '{kind}'"
    )
    if unknown:
        raise ModelError(f"{gguf}: its rotary scaling ({unknown}) {_WAY_OUT}")
    if _FACTORS in tensors:
        theta = header.metadata.get(f"{family}.rope.freq_base", 10000.0)
        return _llama3(gguf, _values(gguf, header, tensors[_FACTORS]), float(str(theta)))
    factor = header.metadata.get(f"{family}.rope.scaling.factor")
    if kind == "linear" and factor is not None:  # without one llama.cpp scales nothing
        return {"rope_type": "linear", "factor": float(str(factor))}
    return {}


def _llama3(gguf: Path, factors: npt.NDArray[np.float32], theta: float) -> dict[str, Any]:
    """Return the settings that give these factors; the tensor does not tell them, but few are in use."""
    if np.all(factors == 1):
        return {}
    factor = round(float(factors.max()), 4)
    for context in _CONTEXTS:
        rope = Rope(theta, "llama3", factor, original_context=context)
        if np.allclose(rope.factors(2 * len(factors)), factors, rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": rope.low_factor,
                "high_freq_factor": rope.high_factor,
                "original_max_position_embeddings": context,
            }
    raise ModelError(f"{gguf}: its rotary scaling ({_FACTORS} of no settings that are known) {_WAY_OUT}")


def _values(gguf: Path, header: GgufHeader, tensor: TensorInfo) -> npt.NDArray[np.float32]:
    if tensor.kind != _F32:
        raise ModelError(f"{gguf}: {tensor.name} is of ggml's type {tensor.kind}; it must be float32")
    alignment = int(str(header.metadata.get("general.alignment", 32)))
    start = -(-header.end // alignment) * alignment + tensor.offset
    count = int(np.prod(tensor.shape))
    return np.fromfile(gguf, np.float32, count, offset=start)
