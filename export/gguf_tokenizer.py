"""A folder's tokenizer.json as the tokenizer metadata of a GGUF file.

llama.cpp knows pre-tokenizers by name and SentencePiece vocabularies by their scores, and takes nothing else of a
tokenizer's description: a tokenizer.json whose steps are not exactly those of a known name is refused.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairgrade.errors import ModelError
from pairgrade.export.decoder import not_exported
from pairgrade.folder_tokenizer import FolderTokenizer, added_tokens, read_json

_SPACE = "\u2581"  # SentencePiece's
_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_Step = tuple[str, ...]
# The steps of a byte-level pre-tokenizer: llama.cpp's name, and whether it looks a word up before it merges
_BYTE_LEVEL: dict[tuple[_Step, ...], tuple[str, bool]] = {
    (("split", _GPT4.replace("DIGITS", "{1,3}")), ("bytes",)): ("llama-bpe", True),
    (("split", _GPT4.replace("DIGITS", "")), ("bytes",)): ("qwen2", False),
    (("digits",), ("words",), ("bytes",)): ("smollm", False),
    (("words",), ("bytes",)): ("gpt-2", False),
}
_NO_SCORE = -1e9  # of tokens that no merge makes


class TokenType(enum.IntEnum):
    """What llama.cpp takes a token for."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a GGUF file says of its tokenizer; lists are by token id."""

    model: str  # "gpt2" for byte-level BPE, "llama" for SentencePiece
    pre: str
    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    merges: tuple[str, ...] = ()  # byte-level
    scores: tuple[float, ...] = ()  # SentencePiece
    bos: int | None = None  # opens every text
    unknown: int | None = None
    chat_template: str | None = None


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """Read the tokenizer of a folder whose model has ``size`` tokens; ModelError where llama.cpp has not its like."""
    path = folder / "tokenizer.json"
    bos = FolderTokenizer(folder).bos  # also refuses what is no tokenizer
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    model = table["model"]
    odd = [name for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if model.get(name)]
    if model.get("type") != "BPE" or odd:
        kind = " with ".join([f"a {model.get('type')} tokenizer", *odd])
        raise not_exported(f"{path}: {kind}; byte-level BPE and Gemma's are what can be exported")
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ", 1)) for m in model["merges"]]
    pieces = bool(model.get("byte_fallback"))
    tokens, types = _tokens(path, table, size, pieces)
    template = read_chat_template(folder)
    if pieces:
        _require_pieces(path, table)
        unknown = model["vocab"].get(model.get("unk_token"))
        if unknown is not None and types[unknown] == TokenType.CONTROL:
            types[unknown] = TokenType.UNKNOWN
        scores = _scores(path, tokens, merges)
        return Vocabulary("llama", "default", tuple(tokens), tuple(types), (), scores, bos, unknown, template)
    pre = _byte_level_name(path, table)
    return Vocabulary(
        "gpt2", pre, tuple(tokens), tuple(types), tuple(" ".join(m) for m in merges), (), bos, None, template
    )


def read_chat_template(folder: Path) -> str | None:
    """Return the folder's chat template as text, for the file's metadata; it is never rendered here."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = folder / name
        found = read_json(path).get("chat_template") if path.is_file() else None
        if isinstance(found, list):  # several, by name
            tables = [entry for entry in found if isinstance(entry, dict)]
            found = next((entry.get("template") for entry in tables if entry.get("name") == "default"), None)
        if isinstance(found, str):
            return found
    return None


def _tokens(path: Path, table: dict[str, Any], size: int, pieces: bool) -> tuple[list[str], list[TokenType]]:
    """Return the text and the type of each id; ids without a token are filled up as unused."""
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = [TokenType.UNUSED] * size
    added = {str(t["content"]): (int(t["id"]), bool(t["special"])) for t in added_tokens(table, size)}
    ids = {**table["model"]["vocab"], **{text: i for text, (i, _) in added.items()}}
    highest = max(ids.values())
    if highest >= size:
        raise ModelError(f"{path}: token {highest} is beyond the model's vocabulary of {size}")
    for text, i in ids.items():
        tokens[i], types[i] = text, TokenType.NORMAL
        if text in added:
            types[i] = TokenType.CONTROL if added[text][1] else TokenType.USER_DEFINED
            if pieces and not added[text][1]:  # llama.cpp looks for these in the text as it came
                tokens[i] = text.replace(_SPACE, " ")
        elif pieces and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            types[i] = TokenType.BYTE
    return tokens, types


def _byte_level_name(path: Path, table: dict[str, Any]) -> str:
    if (table.get("normalizer") or {"type": "NFC"})["type"] != "NFC":
        raise not_exported(f"{path}: llama.cpp knows no normalizer {table['normalizer']['type']} for byte-level BPE")
    steps = tuple(step for part in _parts(table.get("pre_tokenizer")) for step in _steps(part))
    found = _BYTE_LEVEL.get(steps)
    if found is None:
        raise not_exported(
            f"{path}: its pre-tokenizer is none of those known by name "
            f"({', '.join(name for name, _ in _BYTE_LEVEL.values())}), so llama.cpp would split words another way. "
            f"It is {json.dumps(table.get('pre_tokenizer'))[:300]}"
        )
    name, whole_words = found
    if bool(table["model"].get("ignore_merges")) != whole_words:
        raise not_exported(
            f"{path}: ignore_merges is {str(not whole_words).lower()}, and llama.cpp's pre-tokenizer {name} works as "
            f"if it were {str(whole_words).lower()}"
        )
    return name


def _parts(node: dict[str, Any] | None) -> list[dict[str, Any]]:
    if node is None:
        return []
    return list(node["pretokenizers"]) if node["type"] == "Sequence" else [node]


def _steps(part: dict[str, Any]) -> list[_Step]:
    """Describe a pre-tokenizer's step by what of it decides the ids."""
    kind = part["type"]
    if kind == "Split" and part["behavior"] == "Isolated" and not part.get("invert"):
        pattern = part["pattern"].get("Regex")
        return [("split", pattern)] if pattern else [("unknown", kind)]
    if kind == "Digits" and part["individual_digits"]:
        return [("digits",)]
    if kind == "ByteLevel" and not part["add_prefix_space"]:
        return [("words",), ("bytes",)] if part.get("use_regex", True) else [("bytes",)]
    return [("unknown", kind)]


def _require_pieces(path: Path, table: dict[str, Any]) -> None:
    """Refuse a byte-fallback BPE that does more to a text than write its spaces as SentencePiece does."""
    normalizer, steps = table.get("normalizer") or {}, _parts(table.get("pre_tokenizer"))
    plain = normalizer.get("type") == "Replace" and normalizer.get("content") == _SPACE
    plain = plain and normalizer["pattern"] == {"String": " "}
    # a split at spaces does nothing once they are replaced
    if not plain or any(s["type"] != "Split" or s["pattern"] != {"String": " "} for s in steps):
        raise not_exported(
            f"{path}: a SentencePiece tokenizer with other steps than Gemma's, which only replaces each space: "
            f"{json.dumps(normalizer)[:200]}, {json.dumps(table.get('pre_tokenizer'))[:200]}"
        )


def _scores(path: Path, tokens: list[str], merges: list[tuple[str, ...]]) -> tuple[float, ...]:
    """Return scores by which llama.cpp merges in the order of the merges: of two merges the earlier scores higher."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(merge), rank)
    if len(merges) >= 2**24:
        raise ModelError(f"{path}: {len(merges):,} merges; the scores of a GGUF file tell {2**24:,} apart")
    return tuple(float(-ranks[text]) if text in ranks else _NO_SCORE for text in tokens)
