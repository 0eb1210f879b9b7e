"""The ONNX backend: exact whatever runs beside a document, and only from folders that are whole."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import make_pairs
from onnx_helpers import LABELS, export, opened, prompts
from pairgrade import Annotator, AnnotatorOptions, InputError, ModelError, PlanOptions
from pairgrade.export.measure import Task
from pairgrade.export.onnx_export import export_onnx
from pairgrade.export.onnx_folder import OnnxSettings
from pairgrade.export.torch_backend import TorchBackend, TorchOptions
from pairgrade.fake import FakeTokenizer
from pairgrade.onnx_backend import OnnxBackend, OnnxOptions
from pairgrade.onnx_layout import cut, pack
from pairgrade.rubric import Rubric
from pairgrade.worker import WorkerBackend
from tiny_models import FAMILIES, make_folder

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

_QUANTS = ("fp32", "int8", "int4")


@pytest.fixture(scope="module")
def folders(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    root = tmp_path_factory.mktemp("onnx")

    def folder(family: str, quant: str = "fp32") -> Path:
        out = root / f"{family}-{quant}"
        return out if out.is_dir() else export(tiny_folder(family), out, quant)

    return folder


@pytest.mark.parametrize("quant", _QUANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_neighbours_and_threads_move_nothing(family: str, quant: str, folders: Callable[..., Path]) -> None:
    folder = folders(family, quant)
    prefix, documents = prompts()
    backend = opened(folder, label_mass=True)
    reference = backend.score(prefix, documents, LABELS)
    assert reference.log_totals is not None
    assert backend.exact == (quant != "int4")
    bound = 0 if backend.exact else 1e-5
    random = np.random.default_rng(5)
    for _ in range(4):
        order = random.permutation(len(documents))[: random.integers(1, len(documents) + 1)]
        scores = backend.score(prefix, [documents[i] for i in order], LABELS)
        np.testing.assert_allclose(scores.logits, reference.logits[order], rtol=0, atol=bound)
        assert scores.log_totals is not None
        np.testing.assert_allclose(scores.log_totals, reference.log_totals[order], rtol=0, atol=bound)
    for options in ({"batch_tokens": 1}, {"batch_tokens": 100}, {"threads": 2}, {"reuse": False}):
        other = opened(folder, **options).score(prefix, documents, LABELS)
        np.testing.assert_allclose(other.logits, reference.logits, rtol=0, atol=bound)


_SHAPES = {  # heads over key-value heads of so many channels
    "smollm2": ("llama", {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64}),
    "qwen": ("qwen3", {"num_attention_heads": 12, "num_key_value_heads": 2, "head_dim": 128}),
    "gemma": ("gemma3", {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512}),
    "no groups": ("llama", {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 64}),
}


@pytest.mark.parametrize("quant", ["fp32", "int8"])
@pytest.mark.parametrize("shape", _SHAPES)
def test_many_threads_move_nothing(shape: str, quant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Calm(onnxruntime.SessionOptions):  # more threads than cores that spin while they wait take seconds
        def __init__(self) -> None:
            super().__init__()
            self.add_session_config_entry("session.intra_op.allow_spinning", "0")

    monkeypatch.setattr(onnxruntime, "SessionOptions", Calm)
    family, sizes = _SHAPES[shape]
    folder = export(make_folder(family, tmp_path / "source", **sizes), tmp_path / "onnx", quant)
    random = np.random.default_rng(1)
    prefix = [random.integers(0, 250, n).astype(np.int32) for n in (400, 12)]  # its sums are cut into blocks of 128
    documents = [random.integers(0, 250, n).astype(np.int32) for n in (3, 14, 9, 16, 16, 11, 60)]
    reference = opened(folder).score(prefix, documents, LABELS).logits
    for threads in (2, 4, 8, 16):
        backend = opened(folder, threads=threads)
        assert backend.exact
        np.testing.assert_array_equal(backend.score(prefix, documents, LABELS).logits, reference)
        for row, document in enumerate(documents):
            np.testing.assert_array_equal(backend.score(prefix, [document], LABELS).logits[0], reference[row])
        backend.close()
    backend = opened(folder, threads=17)
    if backend._native is None:
        assert not backend.exact
        assert backend.identity()["threads"] == "17"
    else:  # no sum of it depends on how many there are
        assert backend.exact
        assert "threads" not in backend.identity()
        np.testing.assert_array_equal(backend.score(prefix, documents, LABELS).logits, reference)


def test_threads_are_told_where_they_may_move_a_bit(
    folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products of a large float32 model's prefix are not packed, and threads then share their columns otherwise."""
    named = {}
    for packed in (3 << 28, 0):
        monkeypatch.setattr("pairgrade.onnx_runner._PACKED", packed)
        for quant in ("fp32", "int8"):
            backend = opened(folders("llama", quant), threads=2)
            named[packed > 0, quant] = backend.identity().get("threads")
            backend.close()
    assert named == {(True, "fp32"): None, (True, "int8"): None, (False, "fp32"): "2", (False, "int8"): None}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of another process")
def test_what_there_is_no_memory_for_is_told_and_the_rest_is_scored(tmp_path: Path) -> None:
    import resource

    folder = export(make_folder("qwen2", tmp_path / "source", max_position_embeddings=1 << 14), tmp_path / "onnx")
    random = np.random.default_rng(2)
    prefix, short = prompts()
    # attention of 4 heads: 3,000 tokens take half a GB, three such at a time more than there is, 9,000 take 4 GB
    long = [random.integers(0, 250, n).astype(np.int32) for n in (3000, 9000, 3000, 3000)]
    documents = [*short[:3], *long]
    sizes: dict[str, Any] = {"threads": 1, "context": 1 << 14, "label_mass": True}
    alone = opened(folder, batch_tokens=1, **sizes)
    expected = [alone.score(prefix, [document], LABELS) for document in (*short[:3], long[0], long[2], long[3])]
    worker = WorkerBackend(
        str(folder), lambda: nullcontext(FakeTokenizer()), onnx=OnnxOptions(batch_tokens=1 << 20, **sizes)
    )
    assert worker.pid is not None
    in_use = int(Path(f"/proc/{worker.pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(worker.pid, resource.RLIMIT_AS, (in_use + (1 << 30), resource.RLIM_INFINITY))
    pid = worker.pid
    scores = worker.score(prefix, documents, LABELS)
    assert list(scores.failed) == [4]
    why = r"there is not enough memory for a prompt of 9,050 tokens \(ONNX Runtime asked for [\d,]+ bytes\)"
    assert re.match(why, scores.failed[4])
    kept = [0, 1, 2, 3, 5, 6]
    np.testing.assert_array_equal(scores.logits[kept], np.concatenate([each.logits for each in expected]))
    assert scores.log_totals is not None
    assert np.isfinite(scores.log_totals[kept]).all()
    query = worker.score([prefix[0], long[1]], short[:3], LABELS)  # no document of it can be scored
    assert sorted(query.failed) == [0, 1, 2]
    with pytest.raises(ModelError, match="not enough memory for the instruction alone"):
        worker.score([long[1], prefix[1]], short[:3], LABELS)
    np.testing.assert_array_equal(worker.score(prefix, documents[:3], LABELS).logits, scores.logits[:3])
    assert worker.pid == pid  # and nobody died
    worker.close()


def test_a_calibration_pair_that_does_not_fit_is_passed_over(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    pairs = make_pairs(2, 3)
    long = [replace(pair, query="word " * 5000) for pair in pairs]
    write = partial(OnnxSettings, "int8", None, threads=1)
    export_onnx(tiny_folder("llama"), tmp_path / "out", write(Task([*pairs, long[0]], Rubric.load("trec"), "plain")))
    with pytest.raises(InputError, match="none of 6 calibration pairs fits"):
        export_onnx(tiny_folder("llama"), tmp_path / "none", write(Task(long, Rubric.load("trec"), "plain")))


def test_judgments_equal_those_of_transformers(
    folders: Callable[..., Path], tiny_folder: Callable[[str], Path]
) -> None:
    pairs, rubric = make_pairs(3, 5), Rubric.load("trec")
    reference = TorchBackend(tiny_folder("llama"), TorchOptions(threads=1))
    options = AnnotatorOptions(plan=PlanOptions(batch_tokens=100, by_length=True), window=7)
    with Annotator(reference, rubric) as a, Annotator(opened(folders("llama")), rubric, options) as b:
        for first, second in zip(a.label(pairs), b.label(pairs), strict=True):
            assert (first.query_id, first.doc_id, first.prompt_tokens) == (
                second.query_id, second.doc_id, second.prompt_tokens,
            )  # fmt: skip
            assert first.grade == second.grade
            np.testing.assert_allclose(first.probabilities, second.probabilities, atol=1e-5)
    with Annotator.open(folders("llama"), rubric) as annotator:
        assert annotator.identity()["backend.quant"] == "fp32"
        assert [j.doc_id for j in annotator.label(pairs[:2])] == [p.doc_id for p in pairs[:2]]


def test_the_prefix_is_computed_once(folders: Callable[..., Path]) -> None:
    backend = opened(folders("llama"))
    (first, second), documents = prompts()
    tokens = sum(map(len, documents))
    backend.score([first, second], documents, LABELS)
    assert backend.counters.computed == len(first) + len(second) + tokens
    backend.score([first, second[::-1].copy()], documents, LABELS)
    assert backend.counters.computed == len(first) + 2 * len(second) + 2 * tokens
    backend.score([first, second], documents[:1], LABELS)
    counted = backend.counters.computed + backend.counters.reused  # what is computed is not reused as well
    prompts_in_all = 2 * len(documents) + 1
    assert counted == prompts_in_all * (len(first) + len(second)) + 2 * tokens + len(documents[0])


@pytest.mark.parametrize("name", ["weights.bin", "documents.onnx", "embedding.npy", "tokenizer.json"])
def test_an_altered_file_is_refused(name: str, folders: Callable[..., Path], tmp_path: Path) -> None:
    copy = _copy(folders("llama"), tmp_path / "copy")
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(ModelError, match="sha256"):
        OnnxBackend(copy)
    (copy / name).unlink()
    with pytest.raises(ModelError, match="which is not there"):
        OnnxBackend(copy)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "format"),
        ("layers", 0, "above 0"),
        ("layers", "2", "above 0"),
        ("files", {}, "must name"),
        ("extra", 1, "not known: extra"),
        ("quant", "weird", "quant is 'weird'; it can be fp32, int8, int4"),
        ("min_onnxruntime", "x", "min_onnxruntime is 'x'; it must be like '1.31'"),
        ("min_onnxruntime", 1.31, "min_onnxruntime is 1.31"),
        ("tied", "no", "tied must be true or false"),
        ("final_cap", "x", "final_cap is 'x'; it must be a number above 0"),
        ("final_cap", -1.0, "final_cap is -1.0"),
        ("final_cap", float("inf"), "final_cap is inf"),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(
    key: str, value: object, message: str, folders: Callable[..., Path], tmp_path: Path
) -> None:
    copy = _copy(folders("llama"), tmp_path / "copy")
    _edit(copy, {key: value})
    with pytest.raises(ModelError, match=message):
        OnnxBackend(copy)


def test_a_folder_that_needs_a_newer_runtime_is_refused(folders: Callable[..., Path], tmp_path: Path) -> None:
    copy = _copy(folders("llama"), tmp_path / "copy")
    for older in ("1.5", "1.31"):
        _edit(copy, {"min_onnxruntime": older})
        OnnxBackend(copy).close()
    _edit(copy, {"min_onnxruntime": "99.1"})
    with pytest.raises(ModelError, match=r"onnxruntime [\d.]+ is too old; 99\.1 or later is needed"):
        OnnxBackend(copy)


def test_only_the_cpu_is_said_to_be_exact(folders: Callable[..., Path]) -> None:
    """Another provider's products were never compared: what runs beside a pair is then part of the identity."""
    backend = OnnxBackend(folders("llama"))
    assert backend.exact
    backend.options = replace(backend.options, provider="CUDAExecutionProvider")
    assert not backend.exact
    assert backend.identity()["batch_tokens"] == str(backend.options.batch_tokens)
    backend.close()


def test_data_outside_the_folder_is_refused(folders: Callable[..., Path], tmp_path: Path) -> None:
    import onnx

    from pairgrade.file_hashes import file_sha256

    copy = _copy(folders("llama"), tmp_path / "copy")
    (tmp_path / "weights.bin").write_bytes((copy / "weights.bin").read_bytes())
    files = json.loads((copy / "manifest.json").read_text())["files"]
    _edit(copy, {"files": files | {"../weights.bin": files["weights.bin"]}})
    with pytest.raises(ModelError, match="plain file"):
        OnnxBackend(copy)
    model = onnx.load(copy / "documents.onnx", load_external_data=False)
    for initializer in model.graph.initializer:
        for entry in initializer.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    (copy / "documents.onnx").write_bytes(model.SerializeToString())
    _edit(copy, {"files": files | {"documents.onnx": file_sha256(copy / "documents.onnx")}})
    with pytest.raises(ModelError, match="own folder"):
        OnnxBackend(copy)


def test_prompts_that_cannot_run_are_refused(folders: Callable[..., Path]) -> None:
    backend = opened(folders("llama"), context=64)
    prefix, documents = prompts()
    with pytest.raises(ModelError, match="does not fit the context of 64"):
        backend.score(prefix, documents, LABELS)
    with pytest.raises(ModelError, match="empty suffix"):
        backend.score(prefix, [np.empty(0, np.int32)], LABELS)
    assert backend.score(prefix, [], LABELS).logits.shape == (0, 4)
    for options in ({"context": 8}, {"threads": 0}, {"batch_tokens": 0}):
        with pytest.raises(InputError):
            OnnxOptions(**options)


def test_a_layout_finds_every_token_again() -> None:
    _, documents = prompts()
    layout = pack(documents)
    assert layout.rows.shape[1] % 16 == 0
    np.testing.assert_array_equal(layout.rows.reshape(-1)[layout.places], np.arange(sum(map(len, documents))))
    np.testing.assert_array_equal(layout.ids[layout.last], [document[-1] for document in documents])
    lengths = [len(document) for document in documents]
    batches = list(cut(lengths, 64))
    assert sorted(i for batch in batches for i in batch) == list(range(len(documents)))
    assert all(len(b) == 1 or pack([documents[i] for i in b]).rows.size <= 64 for b in batches)
    assert pack(documents[2:3], least=22).rows.shape == (1, 32)
    assert len(list(cut([3] * 170, 512))) == 6  # 32 documents of 16 places each


def _copy(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def _edit(folder: Path, changes: dict[str, object]) -> None:
    table = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(table | changes))
