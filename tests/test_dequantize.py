"""A GGUF made trainable is the model that it was: the logits of the folder that it was written from, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pairgrade import ModelError

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

from pairgrade.export.decoder import Rope  # noqa: E402
from pairgrade.export.gguf_writer import write_gguf  # noqa: E402
from pairgrade.export.quantize import QUANTS, quantize  # noqa: E402
from pairgrade.export.torch_backend import load_folder  # noqa: E402
from pairgrade.train import gguf_rope  # noqa: E402
from pairgrade.train.dequantize import base_source, dequantize  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


def with_scaling(folder: Path, out: Path, **scaling: object) -> Path:
    """Copy a tiny model, with other rotary settings."""
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    config = json.loads((out / "config.json").read_text())
    config["rope_parameters"] = {"rope_theta": 10000.0} | scaling
    (out / "config.json").write_text(json.dumps(config))
    return out


def logits(folder: Path) -> Any:
    """Run 200 tokens, more than any of the models is scaled from."""
    model = load_folder(folder, 1)
    ids = torch.arange(5, 205)[None] % model.config.vocab_size
    with torch.inference_mode():
        return model(input_ids=ids).logits[0].numpy()


SCALINGS: dict[str, dict[str, object]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64},
}  # fmt: skip


@pytest.mark.parametrize("kind", SCALINGS)
def test_the_rotary_scaling_of_the_file_is_kept(kind: str, tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    source = with_scaling(tiny_folder("llama"), tmp_path / "source", **SCALINGS[kind])
    write_gguf(source, tmp_path / "model.gguf")
    expected, found = logits(source), logits(dequantize(tmp_path / "model.gguf", tmp_path / "folder"))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    if kind != "default":
        plain = logits(with_scaling(tiny_folder("llama"), tmp_path / "plain", **SCALINGS["default"]))
        assert np.abs(expected - plain).max() > 1  # the scaling matters


def test_a_linear_scaling_without_a_factor_scales_nothing(
    tmp_path: Path, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(with_scaling(tiny_folder("llama"), tmp_path / "source", **SCALINGS["linear"]), tmp_path / "model.gguf")
    header = gguf_rope.read_header(tmp_path / "model.gguf")
    without = {key: value for key, value in header.metadata.items() if not key.endswith("rope.scaling.factor")}
    assert len(without) == len(header.metadata) - 1
    assert gguf_rope.rope_scaling(tmp_path / "model.gguf")["rope_type"] == "linear"
    monkeypatch.setattr(gguf_rope, "read_header", lambda path: replace(header, metadata=without))
    assert gguf_rope.rope_scaling(tmp_path / "model.gguf") == {}


def test_the_scaling_of_llama_itself_is_known() -> None:
    for factor, width in ((8.0, 128), (32.0, 64)):  # Llama 3.1, Llama 3.2
        rope = Rope(500000.0, "llama3", factor)
        found = gguf_rope._llama3(Path("any.gguf"), rope.factors(width), rope.theta)
        assert (found["factor"], found["original_max_position_embeddings"]) == (factor, 8192)


def test_a_scaling_that_is_not_known_is_refused(
    tmp_path: Path, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    factors = np.linspace(1, 8, 16).astype(np.float32)
    monkeypatch.setattr(Rope, "factors", lambda *_: factors)
    write_gguf(tiny_folder("llama"), tmp_path / "model.gguf")
    monkeypatch.undo()
    with pytest.raises(ModelError, match=r"rotary scaling \(rope_freqs.weight of no settings that are known\)"):
        dequantize(tmp_path / "model.gguf", tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_a_file_that_transformers_makes_another_model_of_is_refused(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    write_gguf(tiny_folder("gemma3"), tmp_path / "model.gguf")  # whose pattern of layers is not the usual one
    with pytest.raises(ModelError, match=r"its logits in llama\.cpp and those of what transformers makes .* differ by"):
        dequantize(tmp_path / "model.gguf", tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize("quant", ["q8_0", "q4_k_m"])
def test_a_quantized_file_is_near_enough(quant: str, tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    write_gguf(tiny_folder("qwen2"), tmp_path / "f32.gguf")
    quantize(tmp_path / "f32.gguf", tmp_path / "model.gguf", QUANTS[quant])
    assert (dequantize(tmp_path / "model.gguf", tmp_path / "folder") / "model.safetensors").is_file()


def test_what_is_told_of_a_base_that_is_no_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nothing = {"given": None, "gguf": None, "sha256": None, "revision": None}
    assert base_source(Path()) == nothing
    assert base_source(Path(), ".") == nothing | {"given": str(tmp_path)}
    hub = {"given": "hf:org/tiny@v1", "revision": "7ae5"}
    assert base_source(tmp_path / "snapshots" / "7ae5", "hf:org/tiny@v1") == nothing | hub


def test_a_folder_that_was_made_without_the_scaling_is_not_taken_again(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    write_gguf(tiny_folder("llama"), tmp_path / "model.gguf")
    folder = dequantize(tmp_path / "model.gguf", tmp_path / "folder")
    assert dequantize(tmp_path / "model.gguf", folder) == folder
    whole = (folder / "dequantized.json").read_text()
    mark = json.loads(whole)
    assert mark.pop("compared")
    (folder / "dequantized.json").write_text(json.dumps(mark))
    sound = (folder / "config.json").read_text()
    without = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    (folder / "config.json").write_text(json.dumps(json.loads(sound) | without))
    for _ in range(2):
        with pytest.raises(ModelError, match="a setting of the model is lost on the way"):
            dequantize(tmp_path / "model.gguf", folder)
    (folder / "config.json").write_text(sound)
    assert dequantize(tmp_path / "model.gguf", folder) == folder
    assert (folder / "dequantized.json").read_text() == whole  # so that it is compared once
    for damaged in ("{", "[1]", "[" * 5000):
        (folder / "dequantized.json").write_text(damaged)
        with pytest.raises(ModelError, match="exists and was not made from"):
            dequantize(tmp_path / "model.gguf", folder)
