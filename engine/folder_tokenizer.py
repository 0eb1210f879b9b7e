"""The tokenizer of a transformers folder, run by the ``tokenizers`` library from its tokenizer.json.

It keeps the promises of ``pairgrade.tokenizer.Tokenizer`` and gives the ids that the GGUF of the same model gives;
no template or code of the folder is run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.errors import InputError, ModelError
from pairgrade.extras import unusable
from pairgrade.tokenizer import Ids, encode_apart

_TEMPLATES = ("chat_template.jinja", "chat_template.json")


class FolderTokenizer:
    """A vocabulary read from ``folder/tokenizer.json``. Foreign text never gets the id of an added token.

    Added tokens beyond the model's ``vocabulary``, which is otherwise read from config.json, are as good as absent.
    """

    def __init__(self, folder: Path, vocabulary: int | None = None) -> None:
        path = folder / "tokenizer.json"
        table = read_json(path)
        tokenizer = _load(path)
        known = added_tokens(table, vocabulary or _vocabulary(folder))
        if len(known) < len(table.get("added_tokens") or []):
            tokenizer = _load(path, json.dumps(table | {"added_tokens": known}))
        self._tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if (table.get("normalizer") or {}).get("type") == "NFC":  # llama.cpp takes texts as they come
            tokenizer.normalizer = None
        tokenizer.encode_special_tokens = True
        added = {int(t["id"]): str(t["content"]) for t in known}
        # runs of white space are text, not control; a token of one character cannot be broken up
        self._texts = {i: text for i, text in added.items() if len(text) > 1 and not _is_space(text)}
        self._ids = {text: i for i, text in self._texts.items()}
        self.size: int = max([*tokenizer.get_vocab(with_added_tokens=True).values(), *added]) + 1  # ids may have gaps
        self._forbidden = np.zeros(self.size, np.bool_)
        self._forbidden[list(self._texts)] = True
        self._sentinel, self._sentinel_ids = "", 0
        if _spaces_first(table):  # each piece is tokenized behind a line break, whose tokens are dropped again
            self._sentinel_ids = len(self._encode("\n"))
            self._sentinel = "\n"
        self.bos = self._opening(folder)

    @property
    def special_texts(self) -> dict[int, str]:
        """The control and user-defined tokens, by id."""
        return dict(self._texts)

    def scaffold(self, text: str) -> Ids:
        """Tokenize our own text: control tokens written in it are recognized."""
        self._tokenizer.encode_special_tokens = False
        try:
            return self._encode(text)
        finally:
            self._tokenizer.encode_special_tokens = True

    def plain(self, text: str) -> Ids:
        """Tokenize foreign text, special tokens off and user-defined ones broken up."""
        return encode_apart(self._encode, text, self._forbidden, self._texts)

    def special(self, text: str) -> int | None:
        """Return the id of the control or user-defined token written ``text``."""
        return self._ids.get(text)

    def piece(self, token: int) -> str:
        """Return the text of a token; bytes that are no UTF-8 by themselves show as replacement characters."""
        return str(self._tokenizer.decode([token], skip_special_tokens=False))

    def _encode(self, text: str) -> Ids:
        if not text:
            return np.empty(0, np.int32)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the text holds a lone surrogate (U+{ord(text[error.start]):04X})") from None
        ids = self._tokenizer.encode(self._sentinel + text, add_special_tokens=False).ids
        return np.array(ids[self._sentinel_ids :], np.int32)

    def _opening(self, folder: Path) -> int | None:
        """Return the token that the folder's own post-processing puts before every text, if it does so."""
        ids = self._tokenizer.encode("", add_special_tokens=True).ids
        if ids and ids[0] in self._texts:
            return int(ids[0])
        config = folder / "tokenizer_config.json"
        settings = read_json(config) if config.is_file() else {}
        if settings.get("add_bos_token") is not True:
            return None
        token = settings.get("bos_token")
        return self._ids.get(token["content"] if isinstance(token, dict) else str(token))


def has_chat_template(folder: Path) -> bool:
    """Whether a transformers folder carries a chat template. It is never rendered."""
    config = folder / "tokenizer_config.json"
    if any((folder / name).is_file() for name in _TEMPLATES):
        return True
    return config.is_file() and bool(read_json(config).get("chat_template"))


def _is_space(text: str) -> bool:
    """Whether a token is white space, which SentencePiece writes in its own way (the runs of Gemma's tokenizer)."""
    return text.replace("\u2581", " ").isspace()


def added_tokens(table: dict[str, Any], vocabulary: int | None) -> list[dict[str, Any]]:
    """Return the added tokens of a tokenizer.json that the model has rows for.

    One tokenizer serves Gemma 3 of all sizes, and ends with a token of pictures that the models without eyes lack.
    """
    added: list[dict[str, Any]] = table.get("added_tokens") or []
    if vocabulary is None:
        return added
    own = (table.get("model") or {}).get("vocab") or {}
    return [token for token in added if int(token["id"]) < vocabulary or str(token["content"]) in own]


def _vocabulary(folder: Path) -> int | None:
    """Return how many tokens the folder's config.json gives the model; None where it does not tell."""
    path = folder / "config.json"
    table = read_json(path) if path.is_file() else {}
    inner = table.get("text_config")
    size = (inner if isinstance(inner, dict) else table).get("vocab_size")
    return size if isinstance(size, int) and size > 0 else None


def _load(path: Path, text: str | None = None) -> Any:
    """Load a tokenizer.json, or ``text`` in its place."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise unusable(error, "a model in a transformers folder", "tokenizers", extra="onnx") from None
    try:
        return Tokenizer.from_file(str(path)) if text is None else Tokenizer.from_str(text)
    except Exception as error:  # the library raises plain Exception
        raise ModelError(f"{path}: not a tokenizer that the tokenizers library reads ({error})") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a tokenizer's file; ModelError where it is none."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path.parent} has no {path.name}; a model folder needs config.json, tokenizer.json and weights in "
            "safetensors (transformers' save_pretrained of model and fast tokenizer writes them)"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not JSON ({error})") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    if not isinstance(table, dict):
        raise ModelError(f"{path}: holds {type(table).__name__}, not an object")
    return table


def _spaces_first(table: dict[str, Any]) -> bool:
    """Whether every text gets a space before it (SentencePiece models such as Llama 2)."""
    return any(map(_adds_space, _steps(table.get("normalizer")) + _steps(table.get("pre_tokenizer"))))


def _adds_space(step: dict[str, Any]) -> bool:
    kind = step.get("type")
    if kind == "Metaspace":
        return bool(step.get("prepend_scheme", "always") != "never")
    return kind == "Prepend" or (kind == "ByteLevel" and bool(step.get("add_prefix_space")))


def _steps(node: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return a normalizer or pre-tokenizer as the list of its steps."""
    if not node:
        return []
    inner = node.get("normalizers") or node.get("pretokenizers") or []
    return [step for part in inner for step in _steps(part)] if node.get("type") == "Sequence" else [node]
