"""What runs on an NVIDIA GPU, where there is one: close to the CPU, and never there unless it was asked for."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers import make_pairs, write_jsonl
from onnx_helpers import export
from pairgrade import LlamaOptions, ModelError, OnnxOptions, Pair, Rubric
from pairgrade.backend import Backend
from pairgrade.bench.meters import GpuEnergyMeter
from pairgrade.llama import LlamaBackend
from pairgrade.llama_model import library
from pairgrade.onnx_backend import PROVIDERS, OnnxBackend
from pairgrade.prompt import PromptBuilder

CONTEXT = 512


def judged(backend: Backend, pairs: list[Pair], together: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return label logits (pairs, 4) and log totals, so many pairs of a query a call."""
    builder = PromptBuilder(Rubric.load("trec"), backend.tokenizer, CONTEXT)
    prompts = [builder.build(pair) for pair in pairs]
    found = [
        backend.score(prompts[i].prefix, [p.suffix for p in prompts[i : i + together]], builder.label_ids)
        for i in range(0, len(prompts), together)
    ]
    totals = [f.log_totals for f in found if f.log_totals is not None]
    return np.concatenate([f.logits for f in found]), np.concatenate(totals) if totals else np.empty(0)


def probabilities(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@pytest.fixture
def llama_gpu() -> None:
    if not library().llama_supports_gpu_offload():
        pytest.skip("this llama-cpp-python sees no GPU")


@pytest.fixture
def onnx_gpu() -> None:
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    import onnxruntime

    if PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime runs on no GPU")


@pytest.mark.model
@pytest.mark.parametrize("settings", [{}, {"sequences": 5}, {"sequences": 5, "kv_unified": False}])
def test_llama_on_the_gpu_grades_as_on_the_cpu(llama_gpu: None, smollm2_path: Path, settings: dict[str, int]) -> None:
    pairs = make_pairs(6, 5)
    cpu = LlamaBackend(smollm2_path, LlamaOptions(CONTEXT))
    gpu = LlamaBackend(smollm2_path, LlamaOptions(CONTEXT, gpu_layers=-1, **settings))  # type: ignore[arg-type]
    expected, totals = judged(cpu, pairs)
    found, found_totals = judged(gpu, pairs, 5)
    distance = np.abs(probabilities(found) - probabilities(expected)).max()
    assert (found != expected).any()  # it is another arithmetic
    assert distance < 0.05
    assert np.abs(found_totals - totals).max() < 0.5
    for backend in (cpu, gpu):
        backend.close()


@pytest.mark.model
def test_one_document_at_a_time_is_exact_on_the_gpu_too(llama_gpu: None, smollm2_path: Path) -> None:
    pairs = make_pairs(3, 5)
    gpu = LlamaBackend(smollm2_path, LlamaOptions(CONTEXT, gpu_layers=-1))
    first, _ = judged(gpu, pairs)
    backwards, _ = judged(gpu, pairs[::-1])
    assert (first == backwards[::-1]).all()
    assert gpu.identity()["gpus"] != "unknown"
    gpu.close()


@pytest.mark.model
def test_no_layer_on_the_gpu_is_all_on_the_cpu(llama_gpu: None, smollm2_path: Path, tmp_path: Path) -> None:
    """As where there is none: large batches must not be multiplied there."""
    write_jsonl(tmp_path / "pairs.jsonl", make_pairs(3, 5))
    found = []
    for seen in ("0", ""):
        out = tmp_path / f"seen-{seen}.jsonl"
        command = [sys.executable, "-m", "pairgrade.cli", "label", str(tmp_path / "pairs.jsonl"), "--model",
                   str(smollm2_path), "--out", str(out), "--threads", "2", "--quiet"]  # fmt: skip
        subprocess.run(command, check=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": seen}, capture_output=True)
        found.append(out.read_bytes())
    assert found[0] == found[1]


def test_a_gpu_that_is_not_there_is_told(tmp_path: Path) -> None:
    if library().llama_supports_gpu_offload():
        pytest.skip("there is one")
    with pytest.raises(ModelError, match=r"gpu_layers is -1 \(all\), and llama\.cpp sees no GPU.*DGGML_CUDA=ON"):
        LlamaBackend(tmp_path / "any.gguf", LlamaOptions(CONTEXT, gpu_layers=-1))


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_onnx_on_the_gpu_gives_nearly_the_logits_of_the_cpu(
    onnx_gpu: None, family: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, pairs = export(tiny_folder(family), tmp_path / "fp32", "fp32"), make_pairs(4, 5)
    cpu = OnnxBackend(folder, OnnxOptions(context=CONTEXT))
    gpu = OnnxBackend(folder, OnnxOptions(context=CONTEXT, provider=PROVIDERS["cuda"]))
    expected, found = judged(cpu, pairs, 5)[0], judged(gpu, pairs, 5)[0]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    for backend in (cpu, gpu):
        backend.close()


def test_the_energy_of_a_gpu_rises() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    meter = GpuEnergyMeter()
    if not meter._gpus:
        pytest.skip("nvidia-ml-py is not installed, or this GPU has no counter")
    matrix = torch.randn(8192, 8192, device="cuda")
    for _ in range(50):
        matrix = matrix @ matrix / 8192
    torch.cuda.synchronize()
    joules = meter.joules()
    assert joules is not None
    assert 1 < joules < 10_000
