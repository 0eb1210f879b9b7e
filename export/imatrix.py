"""An importance matrix from the labelling prompts: the mean square of each input channel of each linear layer.

llama.cpp weighs the rounding error of a weight by it (its own tool gathers the same sums over running text). Here
they come from torch, on the prompts that the model will label, so what is kept exact is what labelling uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pairgrade.backend import Counters
from pairgrade.errors import InputError
from pairgrade.export.gguf_tensors import LINEAR
from pairgrade.export.measure import Task, prompts_of
from pairgrade.export.torch_backend import TorchBackend
from pairgrade.progress import Progress
from pairgrade.tokenizer import Ids


def importance_matrix(
    backend: TorchBackend, task: Task, progress: Progress | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """Run the whole prompt of each pair and return the mean squares by the tensor's name in a GGUF file."""
    progress = progress or Progress()
    prompts = [p.ids for p in prompts_of(backend, task)[1].values()]
    if not prompts:
        raise InputError("none of the pairs to calibrate on fits the context of the model")
    progress.start(len(prompts), 0)
    return mean_squares(backend.model, prompts, progress)


def mean_squares(
    model: Any, prompts: Sequence[Ids], progress: Progress | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the mean squares of what goes into each linear layer, over all tokens of the prompts."""
    import torch

    sums: dict[str, Any] = {}
    hooks = []
    for name, module in _linear_layers(model):
        sums[name] = torch.zeros(module.in_features, dtype=torch.float64)
        hooks.append(module.register_forward_pre_hook(_adder(sums[name])))
    decoder = model.get_decoder()
    try:
        with torch.inference_mode():
            for prompt in prompts:
                decoder(input_ids=torch.as_tensor(prompt[None].astype(np.int64)), use_cache=False)
                if progress:
                    progress.advance(1, Counters())
    finally:
        for hook in hooks:
            hook.remove()
    tokens = sum(map(len, prompts))
    return {name: (total / tokens).to(torch.float32).numpy() for name, total in sums.items()}


def _linear_layers(model: Any) -> list[tuple[str, Any]]:
    """Return the linear layers of all blocks, by their tensors' names in a GGUF file."""
    return [
        (f"blk.{index}.{name}.weight", block.get_submodule(source))
        for index, block in enumerate(model.get_decoder().layers)
        for source, name in LINEAR.items()
    ]


def _adder(total: Any) -> Any:
    def add(_: Any, inputs: tuple[Any, ...]) -> None:
        values = inputs[0].reshape(-1, inputs[0].shape[-1])
        total.add_(values.double().square_().sum(0))

    return add
