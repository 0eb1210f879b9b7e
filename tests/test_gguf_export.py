"""GGUF files against the folders they were made from: logits in torch and in llama.cpp, ids, what is refused."""

from __future__ import annotations

import ctypes
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import tiny_models
from helpers import make_pairs
from pairgrade import InputError, ModelError, Rubric, StorageError
from pairgrade.file_hashes import file_sha256
from pairgrade.tokenizer import Ids

torch = pytest.importorskip("torch")
pytest.importorskip("gguf")

from pairgrade.export.gguf_export import GgufOptions, export_gguf  # noqa: E402
from pairgrade.export.gguf_tensors import interleaved  # noqa: E402
from pairgrade.export.gguf_writer import sliding_period, write_gguf  # noqa: E402
from pairgrade.export.measure import Task  # noqa: E402
from pairgrade.export.quantize import QUANTS  # noqa: E402
from pairgrade.export.torch_backend import load_folder  # noqa: E402
from pairgrade.export.verify import Floor  # noqa: E402
from pairgrade.llama_model import LlamaModel  # noqa: E402

TASK = Task(make_pairs(3, 4), Rubric.load("trec"))


def llama_logits(path: Path, ids: Ids) -> npt.NDArray[np.float32]:
    """Run a whole prompt in llama.cpp with keys and values in float32, unlike the engine, which keeps half of that."""
    model = LlamaModel(path)
    lib = model.library
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = lib.GGML_TYPE_F32
    params.flash_attn_type = 0
    context = lib.llama_init_from_model(model.handle, params)
    tokens = (ctypes.c_int32 * len(ids))(*ids.tolist())
    assert lib.llama_decode(context, lib.llama_batch_get_one(tokens, len(ids))) == 0
    logits = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (model.tokenizer.size,)).copy()
    lib.llama_free(context)
    model.close()
    return logits


def torch_logits(model: Any, ids: Ids) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        logits: npt.NDArray[np.float32] = model(torch.as_tensor(ids[None].astype(np.int64))).logits[0, -1].numpy()
    return logits


def distance(folder: Path, path: Path, lengths: tuple[int, ...] = (5, 200)) -> float:
    """Return the largest relative distance of the logits over the whole vocabulary."""
    model = load_folder(folder, threads=1)
    dice = np.random.default_rng(0)
    found = []
    for length in lengths:
        ids = dice.integers(0, model.config.vocab_size, length).astype(np.int32)
        wanted = torch_logits(model, ids)
        found.append(float(np.linalg.norm(llama_logits(path, ids) - wanted) / np.linalg.norm(wanted)))
    return max(found)


@pytest.mark.reliability
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_logits_are_those_of_the_folder(family: str, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    write_gguf(tiny_folder(family), tmp_path / "model.gguf")
    bound = 1e-3 if family.startswith("gemma") else 1e-4  # llama.cpp looks its GELU up in half precision
    assert distance(tiny_folder(family), tmp_path / "model.gguf") < bound


@pytest.mark.parametrize(("family", "layers"), [("gemma2", 3), ("gemma3", 3), ("qwen2", 1), ("llama", 3)])
def test_other_depths_and_heads(family: str, layers: int, tmp_path: Path) -> None:
    tied = None if family.startswith("gemma") else family == "qwen2"  # the other way than the shared ones
    folder = tiny_models.make_folder(family, tmp_path / family, layers=layers, seed=1, tied=tied)
    write_gguf(folder, tmp_path / "model.gguf")
    assert distance(folder, tmp_path / "model.gguf", (40,)) < 1e-3


def test_rows_of_heads_become_pairs() -> None:
    rows = np.arange(8, dtype=np.float32)  # two heads of two halves of two
    assert interleaved(rows, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    stacked = np.stack([rows, -rows], axis=1)
    np.testing.assert_array_equal(interleaved(stacked, 2)[:, 0], interleaved(rows, 2))


@pytest.mark.parametrize(
    ("kinds", "period"),
    [("sfsf", 2), ("sfs", 2), ("sss", 4), ("sssss", 6), ("ffff", 1), ("fsfs", None), ("ssff", None)],
)
def test_the_period_of_sliding_layers(kinds: str, period: int | None) -> None:
    assert sliding_period(tuple(kind == "s" for kind in kinds)) == period


def altered(folder: Path, copy: Path, **settings: Any) -> Path:
    """Copy a folder with other settings in its config."""
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | settings))
    return copy


LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}


@pytest.mark.parametrize(
    ("family", "rope"),
    [
        ("llama", LINEAR),
        ("qwen3", LINEAR),
        ("gemma3", {"full_attention": LINEAR, "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}}),
    ],
)
def test_other_rotary_embeddings(
    family: str, rope: dict[str, Any], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = altered(tiny_folder(family), tmp_path / "folder", rope_parameters=rope)
    write_gguf(folder, tmp_path / "model.gguf")
    assert distance(folder, tmp_path / "model.gguf") < 1e-3


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("llama", {"architectures": ["MambaForCausalLM"]}, "not one that pairgrade exports"),
        ("llama", {"hidden_act": "gelu_pytorch_tanh"}, "activation"),
        ("llama", {"intermediate_size": 32}, r"gate_proj\.weight has the shape"),
        ("llama", {"vocab_size": 300}, "beyond the model's vocabulary"),
        ("llama", {"num_hidden_layers": 1}, "tensors that a llama model does not have"),
        ("llama", {"num_hidden_layers": 3}, "no tensor model.layers.2"),
        ("gemma2", {"layer_types": ["full_attention", "sliding_attention"]}, "fixed period"),
        ("gemma2", {"attn_logit_softcapping": None}, "soft cap of the attention"),
        ("qwen3", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "scaling 'yarn'"),
    ],
)
def test_what_a_file_cannot_say_is_refused(
    family: str, settings: dict[str, Any], message: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = altered(tiny_folder(family), tmp_path / "folder", **settings)
    with pytest.raises(ModelError, match=message):
        write_gguf(folder, tmp_path / "model.gguf")


@pytest.mark.reliability
def test_weights_that_are_not_finite_are_refused(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = altered(tiny_folder("llama"), tmp_path / "folder")
    stored = load_file(folder / "model.safetensors")
    stored["model.norm.weight"][3] = np.nan
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.norm\.weight holds values that are not finite"):
        export_gguf(folder, tmp_path / "out", GgufOptions((QUANTS["q8_0"],), TASK))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.reliability
def test_an_export_keeps_what_keeps_its_floor(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    strict, lax = Floor(1.0, 1e-9), Floor(0.0, 10.0)
    options = GgufOptions((QUANTS["q4_0"], QUANTS["f32"], QUANTS["q8_0"]), TASK, floors=(strict, lax, lax), threads=1)
    report = export_gguf(tiny_folder("llama"), tmp_path / "out", options)
    assert [file.quant.name for file in report.refused] == ["q4_0"]
    names = {"model-f32.gguf", "model-q8_0.gguf", "README.md", "manifest.json"}
    assert {path.name for path in report.out.iterdir()} == names
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    manifest = json.loads((report.out / "manifest.json").read_text())
    assert manifest["files"] == {name: file_sha256(report.out / name) for name in names - {"manifest.json"}}
    assert manifest["rubric"] == {"name": "trec", "sha256": TASK.rubric.digest}
    assert [manifest["quants"][f"model-{name}.gguf"]["kept"] for name in ("q4_0", "f32", "q8_0")] == [False, True, True]
    f32, q8 = (manifest["quants"][f"model-{name}.gguf"]["fidelity"] for name in ("f32", "q8_0"))
    assert f32["mean_kl"] < q8["mean_kl"] < 0.1
    assert "(q4_0, refused)" in (report.out / "README.md").read_text()


@pytest.mark.reliability
def test_an_export_without_a_good_file_leaves_nothing(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    floors = (Floor(1.0, 1e-9),)
    options = GgufOptions((QUANTS["q4_0"],), TASK, floors=floors, threads=1)
    with pytest.raises(ModelError, match=r"q4_0: .*mean KL .* is above 1e-09"):
        export_gguf(tiny_folder("qwen2"), tmp_path / "out", options)
    assert not list(tmp_path.iterdir())
    allowed = GgufOptions((QUANTS["q4_0"],), TASK, floors=floors, allow_below_floor=True, threads=1)
    report = export_gguf(tiny_folder("qwen2"), tmp_path / "out", allowed)
    assert report.files[0].kept
    assert report.files[0].verification.problems
    with pytest.raises(InputError, match="exists already"):
        export_gguf(tiny_folder("qwen2"), tmp_path / "out", allowed)


def test_the_manifest_carries_on_where_the_model_came_from(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = altered(tiny_folder("llama"), tmp_path / "merged")
    origin = {"kind": "merged", "base": "/models/base", "adapter": "a" * 64, "identity": {"input": "d" * 64}}
    (folder / "manifest.json").write_text(json.dumps(origin))
    report = export_gguf(folder, tmp_path / "out", GgufOptions((QUANTS["f16"],), TASK, threads=1))
    manifest = json.loads((report.out / "manifest.json").read_text())
    assert (manifest["base"], manifest["adapter"], manifest["data"]) == ("/models/base", "a" * 64, "d" * 64)


def test_a_disk_that_refuses_is_told(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*model\.gguf: No such file"):
        write_gguf(tiny_folder("llama"), tmp_path / "absent" / "model.gguf")


def test_the_way_back_to_a_folder_draws_no_bars(
    tiny_folder: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from pairgrade.train.dequantize import dequantize

    write_gguf(tiny_folder("qwen2"), tmp_path / "model.gguf")
    capfd.readouterr()
    dequantize(tmp_path / "model.gguf", tmp_path / "folder")
    assert capfd.readouterr() == ("", "")


@pytest.mark.reliability
@pytest.mark.slow
@pytest.mark.model
def test_the_real_smollm2(smollm2_path: Path, tmp_path: Path) -> None:
    from pairgrade.export.verify import verify
    from pairgrade.train.dequantize import dequantize

    folder = dequantize(smollm2_path, tmp_path / "folder")
    write_gguf(folder, tmp_path / "model.gguf")
    assert distance(folder, tmp_path / "model.gguf", (150,)) < 1e-3
    found = verify(folder, tmp_path / "model.gguf", Task(make_pairs(1, 4), TASK.rubric), Floor(1.0, 1e-4))
    assert not found.problems
    assert found.fidelity.relative_logit_distance < 1e-3  # with keys and values in half precision
