"""The importance matrix against a plain computation, and what it buys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_models
from helpers import make_pairs
from pairgrade import InputError, Pair, Rubric

torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")

from pairgrade.export.gguf_writer import write_gguf  # noqa: E402
from pairgrade.export.imatrix import importance_matrix, mean_squares  # noqa: E402
from pairgrade.export.measure import Task  # noqa: E402
from pairgrade.export.quantize import QUANTS, quantize  # noqa: E402
from pairgrade.export.torch_backend import TorchBackend, TorchOptions, load_folder  # noqa: E402

RUBRIC = Rubric.load("trec")


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_every_linear_tensor_has_its_channels(family: str, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    backend = TorchBackend(tiny_folder(family), TorchOptions(threads=1))
    found = importance_matrix(backend, Task(make_pairs(1, 2), RUBRIC))
    write_gguf(tiny_folder(family), tmp_path / "model.gguf")
    shapes = {t.name: int(t.shape[0]) for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors if len(t.shape) == 2}
    del shapes["token_embd.weight"]
    shapes.pop("output.weight", None)
    assert {name: len(values) for name, values in found.items()} == shapes
    assert all((values >= 0).all() and values.any() for values in found.values())


def test_values_are_mean_squares_over_all_tokens(tiny_folder: Callable[[str], Path]) -> None:
    model: Any = load_folder(tiny_folder("llama"), threads=1)
    prompts = [np.arange(3, 10, dtype=np.int32), np.arange(50, 90, dtype=np.int32)]
    found = mean_squares(model, prompts)
    layer = model.get_decoder().layers[0]
    states = []
    with torch.inference_mode():
        for prompt in prompts:
            embedded = model.get_input_embeddings()(torch.as_tensor(prompt[None].astype(np.int64)))
            states.append(layer.input_layernorm(embedded)[0].double().numpy())
    wanted = (np.concatenate(states) ** 2).mean(0)
    for name in ("attn_q", "attn_k", "attn_v"):
        np.testing.assert_allclose(found[f"blk.0.{name}.weight"], wanted, rtol=1e-6)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_it_lowers_the_error_of_what_a_layer_puts_out(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    model: Any = load_folder(tiny_folder("qwen2"), threads=1)
    prompts = [np.random.default_rng(i).integers(0, 400, 60).astype(np.int32) for i in range(4)]
    inputs: list[Any] = []
    layer = model.get_decoder().layers[0].mlp.down_proj
    hook = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0][0]))
    importance = mean_squares(model, prompts)
    hook.remove()
    write_gguf(tiny_folder("qwen2"), tmp_path / "model.gguf")
    errors = []
    for matrix in (None, importance):
        quantize(tmp_path / "model.gguf", tmp_path / "q.gguf", QUANTS["q4_0"], matrix, threads=1)
        (tensor,) = (t for t in gguf.GGUFReader(tmp_path / "q.gguf").tensors if t.name == "blk.0.ffn_down.weight")
        rounded = gguf.dequantize(tensor.data, tensor.tensor_type)
        difference = layer.weight.detach().numpy() - rounded
        errors.append(float(np.square(torch.cat(inputs).numpy() @ difference.T).sum()))
    assert errors[1] < 0.9 * errors[0]


def test_pairs_that_do_not_fit_are_told(tiny_folder: Callable[[str], Path]) -> None:
    backend = TorchBackend(tiny_folder("llama"), TorchOptions(threads=1))
    with pytest.raises(InputError, match="none of the pairs to calibrate on fits"):
        importance_matrix(backend, Task([Pair("q", "d", "long " * 2000, "text")], RUBRIC))
