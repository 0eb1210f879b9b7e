"""The facts of a config against transformers' own arithmetic."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_models
from pairgrade import ModelError
from pairgrade.folder_tokenizer import FolderTokenizer

torch = pytest.importorskip("torch")
pytest.importorskip("optimum")

from pairgrade.export.causal_model import load_causal  # noqa: E402
from pairgrade.export.decoder import Rope, read_decoder  # noqa: E402
from pairgrade.export.torch_backend import load_folder  # noqa: E402


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_facts_are_those_of_the_model(family: str, tiny_folder: Callable[[str], Path]) -> None:
    decoder, model = read_decoder(tiny_folder(family)), load_folder(tiny_folder(family), threads=1)
    layer = model.get_decoder().layers[0]
    attention = layer.self_attn
    assert decoder.family == family
    assert model.get_input_embeddings().weight.shape == (decoder.vocabulary, decoder.hidden)
    assert attention.q_proj.weight.shape == (decoder.heads * decoder.head_dim, decoder.hidden)
    assert attention.k_proj.weight.shape == (decoder.kv_heads * decoder.head_dim, decoder.hidden)
    assert layer.mlp.up_proj.weight.shape == (decoder.intermediate, decoder.hidden)
    assert len(model.get_decoder().layers) == decoder.layers == len(decoder.sliding)
    assert (attention.q_proj.bias is not None) == decoder.qkv_bias
    assert hasattr(attention, "q_norm") == decoder.qk_norm
    assert attention.scaling == pytest.approx(decoder.attention_scale)
    tied = model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert tied == decoder.tied
    assert hasattr(layer, "pre_feedforward_layernorm") == decoder.gemma
    assert decoder.embedding_scale == (math.sqrt(64) if decoder.gemma else 1.0)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_frequencies_are_those_of_the_model(family: str, tiny_folder: Callable[[str], Path]) -> None:
    decoder, model = read_decoder(tiny_folder(family)), load_folder(tiny_folder(family), threads=1)
    rotary = model.get_decoder().rotary_emb
    for layer in range(decoder.layers):
        kind = "sliding_attention_" if decoder.sliding[layer] else "full_attention_"
        theirs = getattr(rotary, f"{kind if family == 'gemma3' else ''}inv_freq").numpy()
        ours = decoder.layer_rope(layer).frequencies(decoder.head_dim)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_llama3_scaling_keeps_short_waves_and_stretches_long_ones() -> None:
    rope = Rope(500000.0, "llama3", 8.0, 1.0, 4.0, 8192)
    factors = rope.factors(128)
    waves = 2 * math.pi * 500000.0 ** (np.arange(64) / 64)
    assert (factors[waves < 8192 / 4] == 1).all()
    np.testing.assert_allclose(factors[waves > 8192], 8)
    assert (np.diff(factors) >= 0).all()
    assert Rope(1e4, "linear", 4.0).factors(8).tolist() == [4, 4, 4, 4]


def test_sliding_layers_have_their_own_rope_in_gemma3(tiny_folder: Callable[[str], Path]) -> None:
    decoder = read_decoder(tiny_folder("gemma3"))
    assert (decoder.window, decoder.sliding) == (16, (True, False))
    assert [decoder.layer_rope(i).theta for i in range(2)] == [10_000.0, 1_000_000.0]
    assert read_decoder(tiny_folder("qwen3")).window is None


def with_config(folder: Path, source: Path, **settings: Any) -> Path:
    config = json.loads((source / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architectures": None}, r"\(none named\) is not one"),
        (
            {"architectures": ["PhiForCausalLM"]},
            r"PhiForCausalLM is not one that pairgrade exports\. What",
        ),
        ({"hidden_act": "relu"}, "activation 'relu'; known are silu"),
        ({"attention_bias": True}, "a llama model with biases"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "scaling 'dynamic'"),
    ],
)
def test_unknown_models_are_refused(
    settings: dict[str, Any], message: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read_decoder(with_config(tmp_path, tiny_folder("llama"), **settings))
    assert str(caught.value).count("llama.cpp's own convert_hf_to_gguf.py") == 1


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"num_hidden_layers": "2"}),
        ("llama", {"num_hidden_layers": 0}),
        ("llama", {"num_attention_heads": 0}),
        ("llama", {"rms_norm_eps": None}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": "x"}}),
        ("gemma3", {"layer_types": ["full_attention"]}),
        ("gemma3", {"layer_types": ["sideways", "full_attention"]}),
    ],
)
def test_configs_that_cannot_be_are_told_in_words(
    family: str, settings: dict[str, Any], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = with_config(tmp_path, tiny_folder(family), **settings)
    with pytest.raises(ModelError, match=r"config\.json: "):
        read_decoder(folder)


@pytest.mark.parametrize("names", [{"a": "b"}, 7, [7], "LlamaForCausalLM2"])
def test_architectures_that_are_no_list_of_names(
    names: object, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"is not one that pairgrade exports|cannot read it"):
        read_decoder(with_config(tmp_path, tiny_folder("llama"), architectures=names))


def test_a_config_that_transformers_refuses_is_told_where_the_model_is_run(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "model"))
    with pytest.raises(ModelError, match="transformers cannot load it as a causal model"):
        load_causal(with_config(folder, folder, num_hidden_layers="2"))


def test_what_transformers_passes_over_is_passed_over(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention"]
    plain = read_decoder(tiny_folder("llama"))
    assert read_decoder(with_config(tmp_path, tiny_folder("llama"), sliding_window=8, layer_types=kinds)) == plain
    gemma3 = read_decoder(tiny_folder("gemma3"))
    assert read_decoder(with_config(tmp_path, tiny_folder("gemma3"), attn_logit_softcapping=20.0)) == gemma3
    assert read_decoder(tiny_folder("gemma2")).attention_cap is not None
    config = json.loads((tiny_folder("gemma3") / "config.json").read_text())
    flat = config["rope_parameters"] | {"rope_type": "default", "rope_theta": 77.0}
    assert read_decoder(with_config(tmp_path, tiny_folder("gemma3"), rope_parameters=flat)) == gemma3


def test_folders_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        read_decoder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        read_decoder(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="not a JSON object"):
        read_decoder(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_file_that_cannot_be_read_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(ModelError, match=rf"{name} cannot be read: Is a directory"):
        read_decoder(tmp_path) if name == "config.json" else FolderTokenizer(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"model\.gguf is a file; an export is made of a transformers folder"):
        read_decoder(tmp_path / "model.gguf")
