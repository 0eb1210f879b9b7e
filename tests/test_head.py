"""Hidden states behind a kept prefix and logits by a model's head: those of transformers, or the model is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pairgrade import InputError, ModelError

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

import tiny_models  # noqa: E402
from pairgrade.export.torch_backend import TorchBackend, TorchOptions, load_folder  # noqa: E402
from pairgrade.train.base_model import add_lora, load_model  # noqa: E402
from pairgrade.train.label_model import LabelModel  # noqa: E402
from pairgrade.train.options import TrainOptions  # noqa: E402

IDS, LABELS = np.arange(5, 25, dtype=np.int32), np.arange(30, 34, dtype=np.int32)


def folder_of(name: str, folder: Path, **settings: Any) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir()
    size, bos, eos = tiny_models.write_tokenizer("llama", folder)
    usual = {
        "vocab_size": size, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": bos,
        "eos_token_id": eos, "pad_token_id": eos,
    }  # fmt: skip
    config = AutoConfig.for_model(name, **(usual | settings))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


def test_a_heads_bias_is_part_of_the_logits(tmp_path: Path) -> None:
    folder = folder_of("phi", tmp_path / "phi")  # its head has a bias
    model = load_folder(folder, threads=1)
    with torch.inference_mode():
        ids = torch.from_numpy(IDS[None].astype(np.int64))
        true = model(input_ids=ids).logits[0, -1, LABELS.astype(np.int64)].numpy()
        trained = LabelModel(model, LABELS).logits([IDS])[0].numpy()
    compared = TorchBackend(folder, TorchOptions(threads=1)).score([IDS[:10]], [IDS[10:]], LABELS).logits[0]
    np.testing.assert_allclose(trained, true, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(compared, true, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "settings"), [("granite", {"logits_scaling": 8.0}), ("cohere", {"logit_scale": 0.1})])
def test_a_model_that_scales_its_logits_is_refused(name: str, settings: dict[str, float], tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path / name, **settings)
    with pytest.raises(ModelError, match="makes its logits in another way than by its head alone"):
        TorchBackend(folder, TorchOptions(threads=1))
    with pytest.raises(ModelError, match="makes its logits in another way than by its head alone"):
        load_model(folder, TrainOptions(threads=1))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mamba", {"state_size": 8}),
        ("recurrent_gemma", {"num_hidden_layers": 3, "lru_width": 64, "attention_window_size": 64}),
        ("lfm2", {"layer_types": ["conv", "full_attention"], "full_attn_idxs": None}),
    ],
)
def test_a_model_that_keeps_more_than_keys_and_values_is_refused(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    folder = folder_of(name, tmp_path / name, **settings)
    for load in (
        lambda: TorchBackend(folder, TorchOptions(threads=1)),
        lambda: load_model(folder, TrainOptions(threads=1)),
    ):
        with pytest.raises(ModelError, match=rf"behind kept keys and values.* a model of type '{name}'"):
            load()


def test_layers_that_are_not_named_as_usual_are_told(tmp_path: Path) -> None:
    model = load_model(
        folder_of("gpt2", tmp_path / "gpt2", n_embd=64, n_layer=2, n_head=4), TrainOptions(threads=1, context=512)
    )
    with pytest.raises(InputError, match="--layers: a model of type 'gpt2' does not name its layers"):
        add_lora(model, TrainOptions(layers=1))


def test_a_context_beyond_the_positions_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    learned = folder_of("gpt2", tmp_path / "gpt2", n_embd=64, n_layer=2, n_head=4, n_positions=512)
    with pytest.raises(InputError, match="has 512 positions and --context is 513"):
        load_model(learned, TrainOptions(threads=1, context=513))
    load_model(learned, TrainOptions(threads=1, context=512))
    assert not caplog.messages
    load_model(folder_of("llama", tmp_path / "llama"), TrainOptions(threads=1, context=513))
    assert "was made for 512 tokens, and --context is 513" in caplog.text
