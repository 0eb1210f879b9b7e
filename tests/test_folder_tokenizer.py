"""The tokenizer of a transformers folder keeps foreign text apart from control tokens, as the GGUF's does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny_models
from helpers import folder_tokenizer
from pairgrade import InputError, ModelError, backends
from pairgrade.folder_tokenizer import FolderTokenizer


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_scaffold_knows_the_control_tokens(family: str, tiny_folder: Callable[[str], Path]) -> None:
    tokenizer = FolderTokenizer(tiny_folder(family))
    for token, text in tokenizer.special_texts.items():
        assert tokenizer.scaffold(text).tolist() == [token]
        assert tokenizer.special(text) == token
        assert token not in tokenizer.plain(text)
    assert tokenizer.special("no such token") is None
    assert tokenizer.bos == tokenizer.special("<bos>" if family == "gemma3" else "<|begin_of_text|>")


def test_no_bos_where_the_folder_adds_none(tiny_folder: Callable[[str], Path]) -> None:
    assert FolderTokenizer(tiny_folder("qwen2")).bos is None


def test_what_is_wrong_with_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        FolderTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{nope")
    with pytest.raises(ModelError, match="not JSON"):
        FolderTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(ModelError, match="not a tokenizer"):
        FolderTokenizer(tmp_path)
    with pytest.raises(InputError, match=r"lone surrogate \(U\+D800\)"):
        folder_tokenizer("qwen3").plain("a\ud800")


def test_a_token_behind_the_models_vocabulary_is_text(tmp_path: Path) -> None:
    folder = tiny_models.make_folder("gemma3", tmp_path / "folder", whole=True)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    tokenizer = FolderTokenizer(folder)
    assert "<image_soft_token>" in (folder / "tokenizer.json").read_text(encoding="utf-8")
    assert tokenizer.special("<image_soft_token>") is None
    assert tokenizer.size == size
    shutil.copyfile(folder / "tokenizer.json", tmp_path / "tokenizer.json")  # without the config
    assert FolderTokenizer(tmp_path).special("<image_soft_token>") == size
    alone = FolderTokenizer(tmp_path, size)
    for text in ("a <image_soft_token> b", "<image_soft_token>", "is  it   so\n\n?"):
        assert alone.scaffold(text).tolist() == tokenizer.scaffold(text).tolist()
        assert max(tokenizer.scaffold(text)) < size


def test_the_parent_of_a_worker_tokenizes_as_the_worker_does(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from onnx_helpers import export
    from pairgrade.onnx_backend import OnnxBackend

    folder = export(tiny_models.make_folder("gemma3", tmp_path / "folder", whole=True), tmp_path / "onnx", "fp32")
    with backends._tokenizer(str(folder)) as parents:
        worker = OnnxBackend(folder).tokenizer
        assert parents.size == worker.size
        assert parents.special("<image_soft_token>") is worker.special("<image_soft_token>") is None


def test_runs_of_spaces_stay(tmp_path: Path) -> None:
    tiny_models.write_tokenizer("gemma3", tmp_path, whole=True)
    tokenizer = FolderTokenizer(tmp_path)
    for text in ("what  is", "what          is", " \n\n  it"):
        assert "".join(tokenizer.piece(i) for i in tokenizer.plain(text)).replace("▁", " ") == text


def test_ids_may_have_gaps(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE({"a": 0, "b": 1, "c": 7}, [])).save(str(tmp_path / "tokenizer.json"))
    tokenizer = FolderTokenizer(tmp_path)
    assert tokenizer.size == 8
    assert tokenizer.plain("abc").tolist() == [0, 1, 7]
