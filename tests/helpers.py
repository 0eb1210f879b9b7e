"""Small inputs and comparisons that several tests share."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rich_click as click
from click.testing import CliRunner, Result

import tiny_models
from pairgrade import Pair
from pairgrade.folder_tokenizer import FolderTokenizer
from pairgrade.lines import Field, json_rows
from pairgrade.llama_model import LlamaModel
from pairgrade.records import Rejection
from pairgrade.tokenizer import Ids

JSON_FIELDS = [Field(("id", "_id"), option="--id"), Field(("text",)), Field(("title",), required=False)]


def make_pairs(queries: int, documents: int) -> list[Pair]:
    """Pairs of distinct, varied texts, grouped by query."""
    words = ("river", "stone", "cloud", "engine", "paper", "salt", "window", "music", "forest", "copper", "lamp")
    pairs = []
    for q in range(queries):
        for d in range(documents):
            text = " ".join(words[(q * 7 + d * 5 + i * (d + 2)) % len(words)] for i in range(5 + (d * 11 + q) % 40))
            query = f"what is {words[q % len(words)]} number {q}"
            pairs.append(Pair(f"q{q}", f"d{q}-{d}", query, f"{text}. Entry {q}/{d}.", grade=(q + d) % 4))
    return pairs


def write_jsonl(path: Path, pairs: list[Pair]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for p in pairs:
            row = {"query_id": p.query_id, "doc_id": p.doc_id, "query": p.query, "document": p.document}
            file.write(json.dumps(row | {"grade": p.grade}, ensure_ascii=False) + "\n")
    return path


def run_command(command: click.Command, *arguments: object) -> Result:
    """Run a command of the CLI; what it raises besides exits is raised here."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], env={"COLUMNS": "160"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def commands_of(page: str) -> list[str]:
    """Return the pairgrade commands in a page's shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("pairgrade ")]


def run_line(line: str, folder: Path) -> str:
    """Run a command line as a person does, in a folder; it must succeed. Return what it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    done = subprocess.run(line, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def json_of(folder: Path, *lines: str) -> list[object]:
    """Return what becomes of lines of JSON: rows with their numbers, or the reasons of rejections."""
    path = folder / "a.jsonl"
    path.write_text("\n".join(lines), "utf-8", "surrogatepass")
    return [item.reason if isinstance(item, Rejection) else item for item in json_rows(str(path), JSON_FIELDS, 10**6)]


@cache
def folder_tokenizer(family: str) -> FolderTokenizer:
    """Return the tokenizer of a tiny model, for tests that cannot take a fixture."""
    with tempfile.TemporaryDirectory() as folder:
        tiny_models.write_tokenizer(family, Path(folder))
        return FolderTokenizer(Path(folder))


def assert_equal_ids(folder: Path, path: Path, count: int = 1000) -> None:
    """Write a folder as GGUF and compare the ids that both give for odd strings."""
    from pairgrade.export.gguf_writer import write_gguf
    from pairgrade.export.hostile_strings import hostile_strings

    write_gguf(folder, path)
    model = LlamaModel(path)
    try:
        ours, theirs = FolderTokenizer(folder), model.tokenizer
        assert ours.bos == theirs.bos
        for text in hostile_strings(count, list(ours.special_texts.values())):
            assert ours.plain(text).tolist() == theirs.plain(text).tolist(), repr(text)
            assert ours.scaffold(text).tolist() == theirs.scaffold(text).tolist(), repr(text)
    finally:
        model.close()


def logit_distance(folder: Path, path: Path, lengths: tuple[int, ...] = (5, 200)) -> float:
    """Return the largest relative distance of a GGUF's logits from its folder's, over the whole vocabulary."""
    import torch

    from pairgrade.export.torch_backend import load_folder

    model = load_folder(folder, threads=1)
    dice = np.random.default_rng(0)
    found = []
    for length in lengths:
        ids = dice.integers(0, model.config.vocab_size, length).astype(np.int32)
        with torch.inference_mode():
            wanted = model(torch.as_tensor(ids[None].astype(np.int64))).logits[0, -1].numpy()
        found.append(float(np.linalg.norm(_llama_logits(path, ids) - wanted) / np.linalg.norm(wanted)))
    return max(found)


def _llama_logits(path: Path, ids: Ids) -> npt.NDArray[np.float32]:
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
