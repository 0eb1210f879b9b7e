"""Everything that reads a file from somewhere, as functions of bytes: for hypothesis in the tests, atheris on demand.

A target writes the bytes under the name that its reader wants and reads them to the end. It ends, or raises one of
pairgrade's own errors; whatever else comes out of it is a defect.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st
from pyarrow import parquet

import tiny_models
from bench_results import make_cell, make_result
from helpers import make_pairs
from pairgrade.annotator import Annotator
from pairgrade.bench.compare import compare
from pairgrade.bench.matrix_file import load_matrix
from pairgrade.bench.report_markdown import markdown
from pairgrade.bench.results import load_result
from pairgrade.calibration import Calibration
from pairgrade.canaries import Canaries, forget_unchecked
from pairgrade.document_facts import read_document_facts
from pairgrade.example_rows import read_examples
from pairgrade.fake import FakeBackend
from pairgrade.file_hashes import remembered_sha256, verify_files
from pairgrade.folder_check import check_folder
from pairgrade.folder_tokenizer import FolderTokenizer
from pairgrade.gguf_check import check_gguf
from pairgrade.heartbeat import read_beat
from pairgrade.id_files import read_ids
from pairgrade.journal import Entry, Journal, read_entries
from pairgrade.judgments import open_writer, read_judgments
from pairgrade.manifest import Manifest, differences, identity_digest
from pairgrade.onnx_check import check_onnx
from pairgrade.onnx_manifest import OnnxManifest
from pairgrade.onnx_manifest import read_manifest as read_onnx_manifest
from pairgrade.qrels import read_qrels
from pairgrade.ranking_set import read_groups
from pairgrade.readers import Source, read_pairs
from pairgrade.records import Judgment, Pair
from pairgrade.reranker_manifest import read_reranker_manifest
from pairgrade.rubric import Rubric
from pairgrade.run_files import read_ranking
from pairgrade.safetensors_check import check_safetensors
from pairgrade.train.adapter import read_manifest as read_adapter_manifest
from pairgrade.train.checkpoint import Checkpoints, State
from tiny_gguf import SOUND

PAIRS = [Pair(p.query_id, p.doc_id, p.query, f'{p.document} "x", é', "a title", p.grade) for p in make_pairs(2, 3)]
NAMES = ("query_id", "doc_id", "query", "document", "title", "grade")


# numbers that a length, a count or an offset may be made of, and their neighbours; bytes that mean something in texts
NUMBERS = [0, 1, 2, 31, 32, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**61, 2**63 - 1, 2**63, 2**64 - 1]
TEXTS = [
    *(letter.encode() for letter in '\n\r\t,"\\{}[]\0\u2028\ufeff'),
    *(b"\xff", b"\xed\xa0\x80", b"null", b"NaN", b"-1", b"1e999"),
    *(b"9" * 30, b"[" * 3000, b'{"a":' * 3000, b"x" * 3000),
]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["byte", "bit", "cut", "insert", "text", "remove", "repeat", "number32", "number64"]),
        st.floats(0, 1, exclude_max=True),  # where, as a share of the file
        st.one_of(st.integers(0, 2**64 - 1), st.sampled_from(NUMBERS)),
    ),
    min_size=1,
    max_size=6,
)


def edited(raw: bytes, edits: list[tuple[str, float, int]], header: int | None = None) -> bytes:
    """Damage a file, only in its first ``header`` bytes if they are given."""
    data = bytearray(raw)
    for how, share, value in edits:
        place = int(share * min(len(data) if header is None else header, len(data)))
        if how == "byte":
            data[place : place + 1] = bytes([value & 255])
        elif how == "bit" and place < len(data):
            data[place] ^= 1 << value % 8
        elif how == "cut":
            del data[place:]
        elif how == "insert":
            data[place:place] = value.to_bytes(8, "little")[: 1 + value % 8]
        elif how == "text":
            data[place:place] = TEXTS[value % len(TEXTS)]
        elif how == "remove":
            del data[place : place + 1 + value % 64]
        elif how == "repeat":
            data[place:place] = data[place : place + 1 + value % 64]
        elif how.startswith("number"):
            width = 4 if how == "number32" else 8
            data[place : place + width] = (value % 256**width).to_bytes(width, "little")
    return bytes(data)


@dataclass(frozen=True)
class Target:
    """One reader: the file's name, what reads it (given the file's path), and sound files to damage."""

    name: str
    read: Callable[[Path], object]
    sound: tuple[bytes, ...]

    def run(self, data: bytes, folder: Path) -> None:
        """Write the bytes and read them; raises what the reader raises."""
        path = folder / self.name
        path.write_bytes(data)
        self.read(path)


def _drain(items: Iterable[object]) -> None:
    for _ in items:
        pass


def _pairs(path: Path) -> None:
    _drain(read_pairs(Source(str(path), max_row_bytes=2000)))


def _judged(path: Path) -> None:
    """Read a qrels or run file with sound texts beside it."""
    _drain(read_pairs(Source(str(path), *_texts(path.parent), max_row_bytes=2000), path.parent))


def _queries(path: Path) -> None:
    """Read a file of queries with sound documents and judgments beside it."""
    judged = path.parent / "sound.qrels"
    judged.write_bytes(QRELS)
    _drain(read_pairs(Source(str(judged), str(path), _texts(path.parent)[1], max_row_bytes=2000), path.parent))


def _documents(path: Path) -> None:
    judged = path.parent / "sound.qrels"
    judged.write_bytes(QRELS)
    _drain(read_pairs(Source(str(judged), _texts(path.parent)[0], str(path), max_row_bytes=2000), path.parent))


def _texts(folder: Path) -> tuple[str, str]:
    queries, documents = folder / "sound-queries.jsonl", folder / "sound-docs.tsv"
    queries.write_bytes(QUERIES)
    documents.write_bytes(DOCUMENTS)
    return str(queries), str(documents)


def _journal(path: Path) -> None:
    """Open as a run does, append, and read all back: what is there then is whole."""
    with closing(Journal(path, "run")) as journal:
        journal.append([ENTRIES[0]])
    assert [entry for _, entry in read_entries(path)][-1] == ENTRIES[0]


def _manifest(path: Path) -> None:
    manifest = Manifest.load(path)
    if manifest is not None:
        identity_digest(manifest.identity)
        differences(manifest.identity, {"input": "x"})
        manifest.environment.get("qrels")
        manifest.result.get("tally")


def _adapter(path: Path) -> None:
    manifest = read_adapter_manifest(path.parent)
    manifest["identity"].get("base")
    os.path.isdir(manifest["base"])


def _model_manifest(path: Path) -> None:
    """Read a manifest beside the file that the sound one names."""
    (path.parent / "a").write_bytes(b"x")
    verify_files(path.parent)


def _onnx_manifest(path: Path) -> None:
    for name in ONNX_MANIFEST["files"]:
        (path.parent / name).write_bytes(b"x")
    read_onnx_manifest(path.parent)


def _document_facts(path: Path) -> None:
    (path.parent / "weights.bin").write_bytes(bytes(4096))
    files = ONNX_MANIFEST["files"] | {path.name: SHA256_OF_X}
    table = {name: value for name, value in ONNX_MANIFEST.items() if name not in ("format", "version")}
    read_document_facts(path.parent, OnnxManifest(**table | {"quant": "int8", "files": files}))


def _canaries(path: Path) -> None:
    """Go on with what an earlier run's canaries got."""
    pairs = path.with_name("canaries.jsonl")
    pairs.write_bytes(_json_lines(ROWS))
    canaries = Canaries(pairs, path)
    with closing(Journal(path.with_name("journal"), "run")) as journal:
        forget_unchecked(path, journal)
    canaries.recall()
    canaries.check(Annotator(FakeBackend(), Rubric.load("trec")))


def _sound_canaries(folder: Path) -> bytes:
    pairs, memory = folder / "canaries.jsonl", folder / "canaries.json"
    pairs.write_bytes(_json_lines(ROWS))
    canaries = Canaries(pairs, memory)
    canaries.check(Annotator(FakeBackend(), Rubric.load("trec")))
    canaries.remember(10)
    return memory.read_bytes()


def _hashes(path: Path) -> None:
    """Read the memory of digests."""
    large = path.with_name("large.bin")
    large.write_bytes(bytes(2**20))
    os.utime(large, (1, 1))  # long ago, so that it is remembered
    cache = os.environ.get("PAIRGRADE_CACHE")
    os.environ["PAIRGRADE_CACHE"] = str(path.parent)
    try:
        remembered_sha256(large)
    finally:
        del os.environ["PAIRGRADE_CACHE"]
        if cache is not None:
            os.environ["PAIRGRADE_CACHE"] = cache


def _checkpoint(path: Path) -> None:
    """Go on from a training's state, whose tensors are sound."""
    import torch

    model = torch.nn.Linear(2, 2)
    parameters, optimizer = dict(model.named_parameters()), torch.optim.AdamW(model.parameters())
    checkpoints = Checkpoints(path.parent)
    damaged = path.read_bytes()
    checkpoints.save(State(0), parameters, optimizer)
    path.write_bytes(damaged)
    state = checkpoints.load(parameters, optimizer)
    if state is not None:
        assert state.step + len(state.losses) + sum(state.losses) is not None
        assert all(look.summary for look in [*state.evaluations, *([state.best] if state.best else [])])


def _lines(rows: Iterable[Iterable[object]], separator: str) -> bytes:
    return "".join(separator.join(map(str, row)) + "\n" for row in rows).encode()


def _json_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _parquet(columns: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _quoted(rows: Iterable[Iterable[object]]) -> bytes:
    return _lines((['"' + str(cell).replace('"', '""') + '"' for cell in row] for row in rows), ",")


ROWS = [{name: getattr(pair, name) for name in NAMES} for pair in PAIRS]
TABLE = [NAMES, *(row.values() for row in ROWS)]
QRELS = _lines(((p.query_id, 0, p.doc_id, p.grade) for p in PAIRS), " ")
RUN = _lines(((p.query_id, "Q0", p.doc_id, i, 1.5 - i, "tag") for i, p in enumerate(PAIRS)), "\t")
QUERIES = _json_lines({"_id": p.query_id, "text": p.query} for p in PAIRS[::3])
DOCUMENTS = _lines(((p.doc_id, p.title, p.document) for p in PAIRS), "\t")
JUDGMENT = Judgment("q\u00e9", "d", 1, (0.25, 0.75), 0.75, 0.5, True, 9, 5, 2)
ENTRIES = [Entry(1, JUDGMENT), Entry(2, None, "why"), Entry(3, JUDGMENT)]
CALIBRATIONS = (
    b'{"calibration": 1, "grades": [0, 1], "method": "cuts", "points": [0.5], "fitted": null}',
    b'{"calibration": 1, "grades": [0, 1], "method": "scaling", "temperature": 1.5, "biases": [0.0, 0.1]}',
)
RUBRIC = b"""name = "n"
instruction = "i"
cue = "Rating: "
[[grades]]
grade = 0
label = "0"
meaning = "no"
[[grades]]
grade = 1
label = "1"
meaning = "yes"
[[examples]]
query = "q"
document = "d"
grade = 1
"""
MATRIX = b'models = ["fake:"]\nthreads = [1, 2]\nusd_per_hour = 0.1\n[data]\npairs = "pairs.jsonl"\nseed = 3\n'
MANIFEST = json.dumps({"manifest": 1, "identity": {"input": "a" * 64}, "environment": {}, "result": {"tally": {}}})
SHA256_OF_X = hashlib.sha256(b"x").hexdigest()
ONNX_MANIFEST: dict[str, Any] = {
    "format": "pairgrade-onnx", "version": 1, "quant": "fp32", "opset": 21, "family": "llama", "vocabulary": 9,
    "hidden": 8, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 8, "context": 99, "final_cap": None, "tied": True,
    "recipe": {}, "min_onnxruntime": "1.31",
    "files": dict.fromkeys(
        ["documents.onnx", "prefix.onnx", "weights.bin", "embedding.npy", "tokenizer.json"], SHA256_OF_X
    ),
}  # fmt: skip
_PRODUCT = {"weight": 0, "scale": 1024, "bias": None, "step": 0.5, "zero": 9}
DOCUMENT_FACTS = {
    "format": "pairgrade-documents", "version": 1, "intermediate": 16, "norm_eps": 1e-5, "activation": "silu",
    "embedding_scale": 1.0, "attention_cap": None, "turn": 16, "ropes": [[1.0, 0.1, 0.01, 0.001]], "final_norm": 2048,
    "layers": [{
        "window": None, "rope": 0, "norms": {"attention": 2048, "mlp": 2080},
        "products": dict.fromkeys(("qkv", "out", "gate", "up", "down"), _PRODUCT),
    }],
}  # fmt: skip
LOOK = {"step": 0, "loss": 0.5, "kappa": None, "tau": 0.1, "accuracy": 1.0, "confusion": [[1, 0], [0, 1]]}
STATE = {
    "step": 0, "losses": [0.5, 0.25], "evaluations": [LOOK], "best": LOOK, "stopped_early": False,
    "tensors": "step-0.safetensors",
}  # fmt: skip
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
RERANKER_MANIFEST = {
    "format": "pairgrade-reranker", "version": 1, "max_length": 9, "pad_id": 0, "identity": {}, "metrics": {},
    "files": {"model.onnx": "0" * 64},
}  # fmt: skip


def _sound_judgments(suffix: str, folder: Path) -> bytes:
    path = folder / f"sound.{suffix}"
    with open_writer(path, (0, 1)) as writer:
        for entry in ENTRIES:
            if entry.judgment is not None:
                writer.write(entry.judgment)
    return path.read_bytes()


def _sound_journal(folder: Path) -> bytes:
    path = folder / "sound-journal"
    path.unlink(missing_ok=True)
    with closing(Journal(path, "run")) as journal:
        journal.append(ENTRIES)
    return path.read_bytes()


def _tokenizer(folder: Path) -> bytes:
    tiny_models.write_tokenizer("qwen3", folder)
    return (folder / "tokenizer.json").read_bytes()


def tensors() -> bytes:
    table = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    }
    header = json.dumps(table).encode()
    return len(header).to_bytes(8, "little") + header + bytes(32)


def _graph() -> bytes:
    """Return an ONNX file of an external tensor, written by hand: the onnx package need not be there."""
    entry = _field(13, _field(1, b"location") + _field(2, b"weights.bin")) + _field(
        13, _field(1, b"offset") + b"\x12\x010"
    )
    tensor = b"\x08\x04\x10\x01" + _field(8, b"w") + entry + b"\x70\x01"
    return b"\x08\x0a" + _field(7, _field(5, tensor) + _field(2, b"g")) + _field(8, b"\x10\x15")


def _field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def _onnx(path: Path) -> None:
    (path.parent / "weights.bin").write_bytes(bytes(16))
    check_onnx(path)


def _folder(path: Path) -> None:
    """Check a folder of a model of which one JSON file is given."""
    (path.parent / "model.safetensors").write_bytes(tensors())
    check_folder(path.parent)


def _bench(path: Path) -> None:
    result = load_result(path)
    compare(result, result)
    markdown(result)


def targets(scratch: Path) -> dict[str, Target]:
    """Return every target by its name; ``scratch`` is a folder for the making of sound files."""
    table = {name: [row[name] for row in ROWS] for name in NAMES}
    ranking = [
        {"query_id": "q", "doc_id": "d", "query": "a", "document": "b", "label": 1.0, "rank": 1, "score": 0.5,
         "judged": True, "judged_grade": 1, "expected_grade": 0.7, "probabilities": [0.3, 0.7]},
    ]  # fmt: skip
    examples = [{"query": "a", "positive": ["b", "c"], "negative": "d"}, {"query": "a", "pos": ["b"], "neg": []}]
    found = {
        "gguf": Target("model.gguf", check_gguf, (SOUND.bytes(),)),
        "safetensors": Target("model.safetensors", check_safetensors, (tensors(),)),
        "onnx": Target("model.onnx", _onnx, (_graph(),)),
        "jsonl": Target("pairs.jsonl", _pairs, (_json_lines(ROWS),)),
        "csv": Target("pairs.csv", _pairs, (_quoted(TABLE), _lines(TABLE, ","))),
        "tsv": Target("pairs.tsv", _pairs, (_lines(TABLE, "\t"),)),
        "parquet": Target("pairs.parquet", _pairs, (_parquet(table),)),
        "qrels": Target("judged.qrels", _judged, (QRELS,)),
        "run": Target("judged.run", _judged, (RUN,)),
        "queries-jsonl": Target("queries.jsonl", _queries, (QUERIES,)),
        "queries-parquet": Target("queries.parquet", _queries, (_parquet({"id": ["q0"], "text": ["what"]}),)),
        "docs-tsv": Target("docs.tsv", _documents, (DOCUMENTS,)),
        "docs-jsonl": Target(
            "docs.jsonl", _documents, (_json_lines({"docno": p.doc_id, "text": p.document} for p in PAIRS),)
        ),
        "qrels-alone": Target("human.qrels", lambda path: _drain(read_qrels(path)), (QRELS,)),
        "run-alone": Target("a.run", read_ranking, (RUN,)),
        "ids": Target(
            "clicks.txt", lambda path: read_ids(str(path)), (b"q0 d0 d1\nq0 d2 d3\n", b"q0 d0\n", QRELS, RUN)
        ),
        "journal": Target("journal", _journal, (_sound_journal(scratch),)),
        "rubric": Target("own.toml", Rubric.load, (RUBRIC,)),
        "matrix": Target("matrix.toml", load_matrix, (MATRIX,)),
        "ranking": Target("set.jsonl", read_groups, (_json_lines(ranking),)),
        "ranking-parquet": Target(
            "set.parquet", read_groups, (_parquet({name: [row[name] for row in ranking] for name in ranking[0]}),)
        ),
        "examples": Target("rows.jsonl", lambda path: _drain(read_examples(str(path))), (_json_lines(examples),)),
        "examples-tsv": Target("rows.tsv", lambda path: _drain(read_examples(str(path))), (b"a\tb\tc\nd\te\tf\n",)),
        "calibration": Target("calibration.json", Calibration.load, CALIBRATIONS),
        "manifest": Target("out.jsonl.manifest.json", _manifest, (MANIFEST.encode(),)),
        "model-manifest": Target(
            "manifest.json", _model_manifest, (json.dumps({"files": {"a": SHA256_OF_X}}).encode(),)
        ),
        "onnx-manifest": Target("manifest.json", _onnx_manifest, (json.dumps(ONNX_MANIFEST).encode(),)),
        "document-facts": Target("documents.json", _document_facts, (json.dumps(DOCUMENT_FACTS).encode(),)),
        "reranker-manifest": Target(
            "manifest.json", lambda path: read_reranker_manifest(path.parent), (json.dumps(RERANKER_MANIFEST).encode(),)
        ),
        "adapter-manifest": Target(
            "manifest.json", _adapter, (b'{"kind": "adapter", "base": "x", "rubric": "trec", "identity": {}}',)
        ),
        "config": Target("config.json", _folder, (b'{"architectures": ["LlamaForCausalLM"], "auto_map": {}}',)),
        "parts": Target("model.safetensors.index.json", _folder, (b'{"weight_map": {"a": "model.safetensors"}}',)),
        "tokenizer": Target("tokenizer.json", lambda path: FolderTokenizer(path.parent), (_tokenizer(scratch),)),
        "modules": Target("modules.json", _folder, (json.dumps(MODULES).encode(),)),
        "canaries": Target("canaries.json", _canaries, (_sound_canaries(scratch),)),
        "hashes": Target("hashes.json", _hashes, (json.dumps({"large.bin": [2**20, 10**9, 5, 7, "0" * 64]}).encode(),)),
        "bench": Target(
            "results.json", _bench, (json.dumps(make_result([make_cell("a", [1, 2, 3])]).to_dict()).encode(),)
        ),
        "heartbeat": Target("heartbeat.json", read_beat, (b'{"pid": 1, "started": 1.0}',)),
    }
    if importlib.util.find_spec("torch"):
        found["checkpoint"] = Target("state.json", _checkpoint, (json.dumps(STATE).encode(),))
    for suffix in ("jsonl", "csv", "tsv", "parquet"):
        found[f"judgments-{suffix}"] = Target(
            f"judged.{suffix}", lambda path: _drain(read_judgments(path)), (_sound_judgments(suffix, scratch),)
        )
    return found
