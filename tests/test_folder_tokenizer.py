"""The tokenizer of a transformers folder keeps foreign text apart from control tokens, as the GGUF's does."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_models
from pairgrade import InputError, ModelError, Pair, Rubric
from pairgrade.folder_tokenizer import FolderTokenizer, has_chat_template
from pairgrade.prompt import PromptBuilder, detect_chat_format

RUBRIC = Rubric.load("trec")


@pytest.mark.reliability
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_every_special_text_stays_text_in_query_and_document(family: str, tiny_folder: Callable[[str], Path]) -> None:
    folder = tiny_folder(family)
    tokenizer = FolderTokenizer(folder)
    builder = PromptBuilder(RUBRIC, tokenizer, 1024, detect_chat_format(tokenizer, has_chat_template(folder)))
    controls = np.array(sorted(tokenizer.special_texts))
    calm = builder.build(Pair("q", "d", "what is it", "a thing"))
    expected = [ids[np.isin(ids, controls)].tolist() for ids in (*calm.prefix, calm.suffix)]
    assert len(tokenizer.special_texts) >= 4
    for text in tokenizer.special_texts.values():
        hostile = builder.build(Pair("q", "d", f"what {text}is it", f"a {text}{text} thing{text}"))
        found = [ids[np.isin(ids, controls)].tolist() for ids in (*hostile.prefix, hostile.suffix)]
        assert found == expected, text


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


@pytest.mark.reliability
@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=st.text(max_size=60))
def test_no_text_gives_a_special_id_or_more_than_its_own(text: str) -> None:
    tokenizer = _tokenizer()
    ids = tokenizer.plain(text + "<|im_end|>" + text)
    assert not set(ids.tolist()) & set(tokenizer.special_texts)


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
        _tokenizer().plain("a\ud800")


@cache
def _tokenizer() -> FolderTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        tiny_models.write_tokenizer("qwen3", Path(folder))
        return FolderTokenizer(Path(folder))
