"""A GGUF made trainable: dequantized by transformers, its tokenizer set right, and checked against llama.cpp's."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.advisories import refuse_known_bad
from pairgrade.atomic import write_text
from pairgrade.errors import ModelError
from pairgrade.export.causal_model import quiet_transformers
from pairgrade.export.hostile_strings import hostile_strings
from pairgrade.export.output import new_folder
from pairgrade.export.quantize import QUANTS, quant_of
from pairgrade.extras import unusable
from pairgrade.file_hashes import file_sha256
from pairgrade.folder_tokenizer import FolderTokenizer
from pairgrade.gguf_check import check_gguf
from pairgrade.llama import LlamaBackend, LlamaOptions
from pairgrade.llama_model import LlamaModel
from pairgrade.train.gguf_rope import rope_scaling

_MARK = "dequantized.json"
_TOKENS = 512  # of a text that is run by both
_MOST_DISTANCE = 0.1  # of the logits' length; llama.cpp rounds activations to 8 bits, which takes a hundredth or two
_READERS = ("torch", "transformers", "llama-cpp-python")
# What llama.cpp's names of pre-tokenizers mean, where transformers' reading of a GGUF does something else
_DIGITS_APART = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}
_PRE_TOKENIZERS = {"smollm": _DIGITS_APART}


def dequantize(gguf: Path, folder: Path) -> Path:
    """Write a GGUF as a transformers folder in float32, and return it; what lies there of the same file is kept.

    ModelError where transformers cannot read the file, or where the folder's tokenizer would give other ids than
    llama.cpp's of the file, or its weights other logits.
    """
    digest = file_sha256(gguf)
    if folder.exists():
        known = _mark_of(folder)
        if known.get("sha256") == digest:
            if not known.get("compared"):  # made before logits were
                _check_logits(gguf, folder)
                _write_mark(folder, known | {"compared": True})
            return folder
        raise ModelError(f"{folder} exists and was not made from {gguf}; move it away")
    with new_folder(folder) as work:
        _convert(gguf, work)
        write_tokenizer(gguf, work)
        _check_logits(gguf, work)
        quant = quant_of(gguf)
        _write_mark(work, {"from": gguf.name, "sha256": digest, "quant": quant and quant.name, "compared": True})
    return folder


def quant_before(folder: Path) -> str | None:
    """Return what a dequantized folder was quantized as; None where it was not, or that is not known."""
    quant = _mark_of(folder).get("quant")
    return quant if isinstance(quant, str) and quant in QUANTS else None


def base_source(folder: Path, given: str | None = None) -> dict[str, str | None]:
    """Return what a manifest tells of a base: what the user gave, and what its folder was made of.

    A GGUF that was dequantized has name and sha256, a hub repository the revision that was had. What was given is None
    where it is not known, and a path absolute, so that "." has a name.
    """
    mark = _mark_of(folder)
    gguf, digest = (value if isinstance(value, str) else None for value in (mark.get("from"), mark.get("sha256")))
    revision = folder.name if given and given.startswith("hf:") and gguf is None else None
    if given and not given.startswith(("hf:", "pkg:")):
        given = os.path.abspath(given)
    return {"given": given, "gguf": gguf, "sha256": digest, "revision": revision}


def _mark_of(folder: Path) -> dict[str, Any]:
    """Return what a folder says that it was dequantized from; nothing where it does not say, or is damaged."""
    try:
        table = json.loads((folder / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


def write_tokenizer(gguf: Path, folder: Path) -> None:
    """Write the tokenizer of a GGUF into a folder; ModelError where it would give other ids than llama.cpp's."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise unusable(error, "the tokenizer of a GGUF", "transformers", extra="train") from None
    refuse_known_bad(*_READERS)
    with quiet_transformers(), _alone(gguf) as (source, settings):
        try:
            AutoTokenizer.from_pretrained(source, **settings).save_pretrained(str(folder))
        except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
            raise _unreadable(gguf, error) from None
    model = LlamaModel(gguf, vocab_only=True)
    try:
        _mend_tokenizer(folder / "tokenizer.json", model)
        _check_ids(folder, model)
    finally:
        model.close()


@contextmanager
def _alone(gguf: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what transformers reads a GGUF by, in a folder of its own: it obeys files that lie beside one."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / gguf.name).symlink_to(gguf.resolve())
        yield folder, {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}


def _check_logits(gguf: Path, folder: Path) -> None:
    """Raise ModelError where a folder is another model than its file: not every setting is in both."""
    from pairgrade.export.pairs import chosen_pairs
    from pairgrade.export.torch_backend import TorchBackend, TorchOptions

    text = "\n".join(pair.document for pair in chosen_pairs(None))
    tokens = min(_TOKENS, check_gguf(gguf).context)
    found = []
    for open_backend in (  # one after the other, for both take memory
        partial(LlamaBackend, gguf, LlamaOptions(tokens)),
        partial(TorchBackend, folder, TorchOptions(tokens)),
    ):
        with closing(open_backend()) as backend:
            ids = backend.tokenizer.plain(text)[:tokens]
            labels = np.arange(0, int(ids.max()), 7, dtype=np.int32)  # rows that a vocabulary surely has
            found.append(backend.score([ids[:16]], [ids[16:]], labels).logits[0])
    expected, made = (logits - logits.mean() for logits in found)
    distance = float(np.linalg.norm(made - expected) / np.linalg.norm(expected))
    if not distance <= _MOST_DISTANCE:
        raise ModelError(
            f"{gguf}: its logits in llama.cpp and those of what transformers makes of it differ by {distance:.0%}: a "
            "setting of the model is lost on the way; start from the model's own folder in safetensors"
        )


def _write_mark(folder: Path, mark: dict[str, Any]) -> None:
    write_text(folder / _MARK, json.dumps(mark, indent=2) + "\n")


def _unreadable(gguf: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{gguf}: transformers cannot turn it into a trainable model ({error}); start from the model's own folder in "
        "safetensors"
    )


def _convert(gguf: Path, folder: Path) -> None:
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise unusable(error, "training from a GGUF", "torch", "transformers", extra="train") from None
    refuse_known_bad(*_READERS)
    with quiet_transformers(), _alone(gguf) as (source, settings):
        try:
            model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **settings)
        except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
            raise _unreadable(gguf, error) from None
        if hasattr(model.config, "quantization_config"):  # else save_pretrained takes the weights for quantized
            del model.config.quantization_config
        _scale_rope(model.config, rope_scaling(gguf))
        model.hf_quantizer = None
        model.is_quantized = False
        model.save_pretrained(str(folder))


def _scale_rope(config: Any, scaling: dict[str, Any]) -> None:
    """Put a scaling into a configuration; of two kinds of layers it belongs to those that see everything."""
    if scaling:
        table = config.rope_parameters
        table.get("full_attention", table).update(scaling)


def _mend_tokenizer(path: Path, model: LlamaModel) -> None:
    """Give a tokenizer.json the pre-tokenizer and the BOS that its GGUF asks for."""
    table = json.loads(path.read_text(encoding="utf-8"))
    pre = _PRE_TOKENIZERS.get(model.metadata("tokenizer.ggml.pre") or "")
    if pre:
        table["pre_tokenizer"] = pre
    bos = model.tokenizer.bos
    if bos is not None:
        text = model.tokenizer.special_texts[bos]
        table["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {text: {"id": text, "ids": [bos], "tokens": [text]}},
        }
    write_text(path, json.dumps(table, ensure_ascii=False))


def _check_ids(folder: Path, model: LlamaModel) -> None:
    ours, theirs = FolderTokenizer(folder), model.tokenizer
    if ours.bos != theirs.bos:
        raise ModelError(f"{model.path}: opens prompts with token {theirs.bos}, its folder with {ours.bos}")
    for text in hostile_strings(1000, special=list(theirs.special_texts.values())):
        expected, found = theirs.plain(text).tolist(), ours.plain(text).tolist()
        if expected != found:
            raise ModelError(
                f"{model.path}: the tokenizer made from it differs from llama.cpp's: {text!r} becomes {found[:20]} and "
                f"not {expected[:20]}; start from the model's own folder in safetensors"
            )
