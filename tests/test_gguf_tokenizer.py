"""The vocabulary of a GGUF file against the folder's tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from helpers import assert_equal_ids
from pairgrade import ModelError

pytest.importorskip("torch")
pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")

from pairgrade.export.gguf_tokenizer import TokenType, read_vocabulary  # noqa: E402

WORDS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
STEPS = {
    "smollm": [{"type": "Digits", "individual_digits": True}, WORDS],
    "gpt-2": [WORDS],
}


def edit(folder: Path, copy: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Link a folder's files elsewhere, with another tokenizer.json."""
    copy.mkdir()
    for path in folder.iterdir():
        if path.name != "tokenizer.json":
            (copy / path.name).symlink_to(path)
    table = json.loads((folder / "tokenizer.json").read_text())
    change(table)
    (copy / "tokenizer.json").write_text(json.dumps(table))
    return copy


@pytest.mark.parametrize("name", list(STEPS))
def test_other_pre_tokenizers(name: str, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    def change(table: dict[str, Any]) -> None:
        table["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": STEPS[name]}

    folder = edit(tiny_folder("qwen2"), tmp_path / "folder", change)
    assert read_vocabulary(folder, 424).pre == name
    assert_equal_ids(folder, tmp_path / "model.gguf", 300)


def test_token_types(tmp_path: Path) -> None:
    tiny_models.write_tokenizer("gemma3", tmp_path, whole=True)
    vocabulary = read_vocabulary(tmp_path, 480)
    by_text = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    wanted = {
        "<bos>": TokenType.CONTROL,
        "<unk>": TokenType.UNKNOWN,
        "<0x0A>": TokenType.BYTE,
        "<tool_call>": TokenType.USER_DEFINED,
        "e": TokenType.NORMAL,
        "  ": TokenType.USER_DEFINED,  # as Gemma's runs of white space, in llama.cpp's writing
        "[PAD479]": TokenType.UNUSED,
    }
    assert {text: by_text[text] for text in wanted} == wanted
    assert (vocabulary.model, vocabulary.pre, vocabulary.bos) == ("llama", "default", 2)


def test_chat_templates_travel_as_text(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = edit(tiny_folder("llama"), tmp_path / "folder", lambda table: None)
    assert "never rendered" in (read_vocabulary(folder, 426).chat_template or "")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert read_vocabulary(folder, 426).chat_template == "{{ messages }}"
    (folder / "chat_template.jinja").unlink()
    for name in ("tokenizer_config.json", "chat_template.json"):
        (folder / name).unlink(missing_ok=True)  # a link to the shared folder's
        (folder / name).write_text(json.dumps({"chat_template": [3, {"name": "default"}]}))
        assert read_vocabulary(folder, 426).chat_template is None
        for damage in ("{bad", '["x"]'):
            (folder / name).write_text(damage)
            with pytest.raises(ModelError, match=name):
                read_vocabulary(folder, 426)
        (folder / name).unlink()


def other_regex(table: dict[str, Any]) -> None:
    step = table["pre_tokenizer"]["pretokenizers"][0]
    step["pattern"]["Regex"] = step["pattern"]["Regex"].replace("{1,3}", "{1,2}")


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("llama", other_regex, "its pre-tokenizer is none of those known by name"),
        ("llama", lambda table: table["model"].update(ignore_merges=False), "ignore_merges is false"),
        ("qwen2", lambda table: table.update(normalizer={"type": "Lowercase"}), "no normalizer Lowercase"),
        ("gemma2", lambda table: table.update(normalizer=None), "other steps than Gemma's"),
        ("qwen3", lambda table: table["model"].update(dropout=0.1), "a BPE tokenizer with dropout"),
    ],
)
def test_unknown_tokenizers_are_refused(
    family: str,
    change: Callable[[dict[str, Any]], None],
    message: str,
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folder = edit(tiny_folder(family), tmp_path / "folder", change)
    with pytest.raises(ModelError, match=message) as caught:
        read_vocabulary(folder, 500)
    assert "What can be exported: LlamaForCausalLM, Qwen2ForCausalLM" in str(caught.value)
    assert "llama.cpp's own convert_hf_to_gguf.py" in str(caught.value)
