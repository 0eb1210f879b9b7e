"""Logits by a model's head: those of transformers, or the model is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pairgrade import ModelError

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

import tiny_models  # noqa: E402
from pairgrade.export.torch_backend import TorchBackend, TorchOptions, load_folder  # noqa: E402
from pairgrade.train.base_model import load_model  # noqa: E402
from pairgrade.train.label_model import LabelModel  # noqa: E402
from pairgrade.train.options import TrainOptions  # noqa: E402

IDS, LABELS = np.arange(5, 25, dtype=np.int32), np.arange(30, 34, dtype=np.int32)


def folder_of(name: str, folder: Path, **settings: Any) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir()
    size, bos, eos = tiny_models.write_tokenizer("llama", folder)
    config = AutoConfig.for_model(
        name, vocab_size=size, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=bos, eos_token_id=eos, pad_token_id=eos,
        **settings,
    )  # fmt: skip
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
