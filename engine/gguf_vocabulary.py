"""Whether a GGUF's vocabulary is one that llama.cpp can build: token texts, their kinds, the ids of control tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pairgrade.gguf_header import FLOAT32, INT32, STRING, TOKENS, ArrayValue, UnsoundError, Value

_PREFIX = "tokenizer.ggml."
_PER_TOKEN = {"scores": FLOAT32, "token_type": INT32}  # arrays that llama.cpp reads as these, element for element
_NONE = (-1, 2**32 - 1)  # ids that some converters write for none


def check_vocabulary(metadata: Mapping[str, Value | ArrayValue]) -> int:
    """Return the number of tokens; UnsoundError where llama.cpp would refuse the vocabulary or abort on it."""
    model = metadata.get(f"{_PREFIX}model")
    if not isinstance(model, str) or model in ("", "none", "no_vocab"):
        raise UnsoundError(f"names no tokenizer ({_PREFIX}model is {model!r})")
    tokens = metadata.get(TOKENS)
    if tokens is None:
        raise UnsoundError(f"has no vocabulary ({TOKENS})")
    if not isinstance(tokens, ArrayValue) or tokens.kind != STRING or tokens.count == 0:
        raise UnsoundError(f"has a vocabulary that is no list of texts ({TOKENS})")
    for name, kind in _PER_TOKEN.items():
        other = metadata.get(_PREFIX + name)
        if other is None:
            continue
        if not isinstance(other, ArrayValue) or other.kind != kind:
            raise UnsoundError(f"has {_PREFIX}{name} of another type than the format's")
        if other.count != tokens.count:
            raise UnsoundError(f"has {tokens.count:,} tokens and {other.count:,} {_PREFIX}{name}")
    known = _check_texts(tokens.texts)
    if model == "llama":  # SentencePiece: any byte that no token covers must be one
        missing = [byte for byte in range(256) if b"<0x%02X>" % byte not in known and bytes([byte]) not in known]
        if missing:
            raise UnsoundError(f"has a SentencePiece vocabulary without a token for the byte 0x{missing[0]:02X}")
    for key, value in metadata.items():
        if key.startswith(_PREFIX) and key.endswith("_token_id"):
            is_id = type(value) is int and (value in _NONE or 0 <= value < tokens.count)
            if not is_id:
                raise UnsoundError(f"has {key} = {value}, outside its vocabulary of {tokens.count:,} tokens")
    return tokens.count


def _check_texts(texts: Sequence[bytes]) -> set[bytes]:
    """Refuse two tokens of the same text, on which llama.cpp aborts; it cuts a text at its first NUL."""
    known: set[bytes] = set()
    for index, text in enumerate(texts):
        read = text.split(b"\0", 1)[0] or b"[EMPTY_%d]" % index  # what llama.cpp calls a token without text
        if read in known:
            raise UnsoundError(f"has the token {read.decode('utf-8', 'replace')!r} twice in its vocabulary")
        known.add(read)
    return known
