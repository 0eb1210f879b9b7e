"""A GGUF model loaded by llama.cpp, and its tokenizer."""

from __future__ import annotations

import ctypes
import logging
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.errors import InputError, ModelError
from pairgrade.llama_build import compiling
from pairgrade.tokenizer import Ids, encode_apart

_log = logging.getLogger(__name__)
_kept: list[Any] = []  # the log callback must outlive every model


def library() -> Any:
    """Import llama_cpp with its log sent to ours; the module is untyped."""
    import llama_cpp

    if not _kept:
        callback = llama_cpp.llama_log_callback(_forward_log)
        llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        _kept.append(callback)
    return llama_cpp


def _forward_log(level: int, text: bytes, _: object) -> None:
    line = text.decode("utf-8", "replace").rstrip()
    if line.strip(". "):
        _log.log(logging.WARNING if level == 4 else logging.DEBUG, "llama.cpp: %s", line)


def freed_with(owner: object, free: Callable[[Any], object], handle: Any, *kept: object) -> weakref.finalize[..., Any]:
    """Have the library free a handle when nobody holds its owner any more, or before by calling what this returns.

    ``kept`` is alive until then. In a process that was forked off nothing is freed: the library's threads are missing.
    """
    final = weakref.finalize(owner, _free, os.getpid(), free, handle, *kept)
    final.atexit = False
    return final


def _free(process: int, free: Callable[[Any], object], handle: Any, *_: object) -> None:
    if os.getpid() == process:
        free(handle)


def require_gpu(lib: Any, gpu_layers: int) -> None:
    """Raise ModelError where layers are to be on a GPU and llama.cpp sees none."""
    if gpu_layers and not lib.llama_supports_gpu_offload():
        raise ModelError(
            f"gpu_layers is {gpu_layers}{' (all)' if gpu_layers < 0 else ''}, and llama.cpp sees no GPU: this "
            "llama-cpp-python was built without, or the driver is not there. Leave --gpu-layers out, or build it for "
            f"yours, for NVIDIA's: {compiling('-DGGML_CUDA=ON')}"
        )


class LlamaModel:
    """The weights and the vocabulary of one GGUF file, or the vocabulary alone.

    ``close`` frees them; so does Python, once neither this nor the tokenizer is held any more.
    """

    def __init__(self, path: Path, gpu_layers: int = 0, vocab_only: bool = False) -> None:
        self.library = lib = library()
        require_gpu(lib, gpu_layers)
        params = lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.vocab_only = vocab_only
        params.check_tensors = True
        self.handle = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self.handle:
            raise ModelError(f"{path}: llama.cpp cannot load it; run with -v to see its own log")
        self.path = path
        try:
            self._refuse_unfit()
            self.tokenizer = LlamaTokenizer(lib, lib.llama_model_get_vocab(self.handle), self._spaces_first())
        except BaseException:
            lib.llama_model_free(self.handle)
            raise
        # its tables lie in the model, and no cycle of references may keep gigabytes until a collector comes
        self._release = freed_with(self.tokenizer, lib.llama_model_free, self.handle)

    @property
    def trained_context(self) -> int:
        """The context length that the model was trained with, in tokens."""
        return int(self.library.llama_model_n_ctx_train(self.handle))

    @property
    def is_chat_model(self) -> bool:
        """Whether the file carries a chat template. It is never rendered."""
        return self.metadata("tokenizer.chat_template") is not None

    def metadata(self, key: str) -> str | None:
        """Return a metadata value as text (its first 255 bytes), or None where the key is absent."""
        buffer = ctypes.create_string_buffer(256)
        length = self.library.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if length >= 0 else None

    def close(self) -> None:
        """Free the weights."""
        self._release()
        self.handle = None

    def _refuse_unfit(self) -> None:
        lib = self.library
        if lib.llama_model_has_encoder(self.handle) or not lib.llama_model_has_decoder(self.handle):
            raise ModelError(f"{self.path}: not a decoder-only language model; label with a causal model")
        if lib.llama_model_is_recurrent(self.handle) or lib.llama_model_is_hybrid(self.handle):
            raise ModelError(
                f"{self.path}: architecture '{self.metadata('general.architecture')}' keeps a recurrent state, "
                "which cannot be rewound to the shared prefix; use a model with attention only"
            )

    def _spaces_first(self) -> bool:
        """Whether the tokenizer puts a space before every text (SentencePiece models such as Llama 2)."""
        spm = self.library.LLAMA_VOCAB_TYPE_SPM
        vocab = self.library.llama_model_get_vocab(self.handle)
        return self.library.llama_vocab_type(vocab) == spm and (
            self.metadata("tokenizer.ggml.add_space_prefix") != "false"
        )


class LlamaTokenizer:
    """A GGUF vocabulary. Foreign text never gets the id of a control or user-defined token."""

    def __init__(self, lib: Any, vocab: Any, spaces_first: bool) -> None:
        self._lib, self._vocab = lib, vocab
        self._buffer = np.empty(1024, np.int32)
        size = lib.llama_vocab_n_tokens(vocab)
        special = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_USER_DEFINED
        self._texts: dict[int, str] = {}  # of the tokens that foreign text must not become
        for token in range(size):
            if lib.llama_vocab_get_attr(vocab, token) & special:
                text = lib.llama_vocab_get_text(vocab, token).decode("utf-8", "replace").replace("\u2581", " ")
                if len(text) > 1 and not text.isspace():  # runs of white space are text, not control
                    self._texts[token] = text
        self._ids = {text: token for token, text in self._texts.items()}
        self._forbidden = np.zeros(size, np.bool_)
        self._forbidden[list(self._texts)] = True
        # Such a vocabulary puts a space before every text it tokenizes; only before a prompt's first would that be
        # right. Each piece is tokenized behind a line break, whose tokens are dropped again.
        self._sentinel, self._sentinel_ids = "", 0
        if spaces_first:
            self._sentinel_ids = len(self._encode("\n"))
            self._sentinel = "\n"
        wanted = lib.llama_vocab_get_add_bos(vocab)
        self.bos: int | None = int(lib.llama_vocab_bos(vocab)) if wanted else None

    @property
    def size(self) -> int:
        """Tokens in the vocabulary."""
        return len(self._forbidden)

    @property
    def special_texts(self) -> dict[int, str]:
        """The control and user-defined tokens, by id."""
        return dict(self._texts)

    def scaffold(self, text: str) -> Ids:
        """Tokenize our own text: control tokens written in it are recognized."""
        return self._encode(text, parse_special=True)

    def plain(self, text: str) -> Ids:
        """Tokenize foreign text, special tokens off and user-defined ones broken up."""
        return encode_apart(self._encode, text, self._forbidden, self._texts)

    def special(self, text: str) -> int | None:
        """Return the id of the control or user-defined token written ``text``."""
        return self._ids.get(text)

    def piece(self, token: int) -> str:
        """Return the text of a token; bytes that are no UTF-8 by themselves show as replacement characters."""
        buffer = ctypes.create_string_buffer(512)
        length = self._lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, True)
        return buffer.raw[:length].decode("utf-8", "replace")

    def _encode(self, text: str, parse_special: bool = False) -> Ids:
        if not text:
            return np.empty(0, np.int32)
        try:
            data = (self._sentinel + text).encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the text holds a lone surrogate (U+{ord(error.object[error.start]):04X})") from None
        if len(self._buffer) < len(data) + 1:
            self._buffer = np.empty(len(data) + 1, np.int32)
        out = self._buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        count = self._lib.llama_tokenize(self._vocab, data, len(data), out, len(self._buffer), False, parse_special)
        if count < 0:
            raise ModelError(f"llama.cpp made {-count} tokens of {len(data)} bytes of text")
        ids: Ids = self._buffer[self._sentinel_ids : count].copy()
        return ids
