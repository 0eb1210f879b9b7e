"""Tiny random models of the five families as transformers folders, with real tokenizers of their kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3")

_TEXT = """Grade how well the passage answers the query. Rating: 0 1 2 3. The passage is about the query or it is not.
A careful relevance assessor reads the question, then the document, and says which of the grades fits it best.
What is the boiling point of water? Water boils at 100 degrees at sea level, and at less on a mountain.
How do I reset my router? Hold the small button on its back for ten seconds until the lights blink."""
_GPT4_SPLIT = (  # Llama 3's and, with single digits, Qwen 2's pre-tokenizer
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{DIGITS}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIALS = {
    "llama": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "qwen3": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "gemma2": ["<start_of_turn>", "<end_of_turn>"],
    "gemma3": ["<start_of_turn>", "<end_of_turn>"],
}


def make_folder(
    family: str,
    folder: Path,
    *,
    layers: int = 2,
    seed: int = 0,
    tied: bool | None = None,
    whole: bool = False,
    **shape: int,
) -> Path:
    """Write a random model of one family, its heads a little uneven as in the real ones; return its folder.

    Hidden size 64, 4 heads over 2 key-value heads of 32 channels unless ``shape`` says otherwise in the words of
    config.json, a vocabulary of a few hundred tokens. Gemma's
    sliding window is 16 positions, and the rope of Llama is scaled as in Llama 3.1. ``whole``: with all kinds of tokens
    that Gemma's tokenizer has.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    size, bos, eos = write_tokenizer(family, folder, whole=whole)
    settings = _settings(family, layers) | shape
    if tied is not None:
        settings["tie_word_embeddings"] = tied
    name = "gemma3_text" if family == "gemma3" else family
    config = AutoConfig.for_model(
        name, vocab_size=size, bos_token_id=bos, eos_token_id=eos, pad_token_id=eos, **settings
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():  # away from the initial zeros and ones, so that nothing hides
            spread = 0.1 if parameter.ndim == 1 else 2.5 / parameter.shape[-1] ** 0.5
            parameter.add_(torch.randn_like(parameter) * spread)
    model.save_pretrained(folder)
    return folder


def write_tokenizer(family: str, folder: Path, *, whole: bool = False) -> tuple[int, int | None, int]:
    """Write tokenizer.json and its config; return the vocabulary's size, the BOS and the EOS id."""
    gemma = family.startswith("gemma")
    tokenizer = _sentencepiece_like(runs=whole) if gemma else _byte_level(family)
    specials = _SPECIALS[family]
    tokenizer.add_special_tokens(specials)
    tokenizer.add_tokens(["<tool_call>"])  # a user-defined one
    bos = "<bos>" if gemma else "<|begin_of_text|>" if family == "llama" else None
    eos = "<eos>" if gemma else specials[1] if family == "llama" else "<|im_end|>"
    if bos:
        from tokenizers.processors import TemplateProcessing

        pieces = {"single": f"{bos} $A", "special_tokens": [(bos, tokenizer.token_to_id(bos))]}
        tokenizer.post_processor = TemplateProcessing(**pieces)
    size = tokenizer.get_vocab_size()
    if family == "gemma3" and whole:  # of the models that see; those that do not have no row for it
        tokenizer.add_special_tokens(["<image_soft_token>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    table = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "add_bos_token": bool(bos),
    }
    table["chat_template"] = "{{ raise_exception('never rendered') }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(table))
    return size, tokenizer.token_to_id(bos) if bos else None, tokenizer.token_to_id(eos)


def _settings(family: str, layers: int) -> dict[str, Any]:
    shared: dict[str, Any] = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": layers, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    }  # fmt: skip
    if family == "llama":
        scaling = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, "original_max_position_embeddings": 128}  # fmt: skip
        return shared | {"rope_parameters": scaling}
    if family == "qwen2":
        del shared["head_dim"]
        return shared | {"hidden_size": 128, "tie_word_embeddings": False}
    if family.startswith("gemma"):
        kinds = ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(layers)]
        return shared | {"sliding_window": 16, "layer_types": kinds, "query_pre_attn_scalar": 24}
    return shared


def _byte_level(family: str) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=family == "llama"))
    split = Regex(_GPT4_SPLIT.replace("{DIGITS}", "{1,3}" if family == "llama" else ""))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(split, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    if family != "llama":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([_TEXT], trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet))
    return tokenizer


def _sentencepiece_like(*, runs: bool) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    trained.train_from_iterator([_TEXT], trainers.BpeTrainer(vocab_size=150, initial_alphabet=list("0123456789▁\n")))
    model = json.loads(trained.to_str())["model"]
    head = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    spaces = [character * length for character in "\n▁" for length in range(2, 32)] if runs else []
    pieces = sorted(model["vocab"].keys() - set(spaces), key=model["vocab"].get)
    vocabulary = {piece: i for i, piece in enumerate([*head, *spaces, *pieces])}
    merges = [(run[:cut], run[cut:]) for run in spaces for cut in range(1, len(run))]
    merges += [tuple(merge) for merge in model["merges"] if "".join(merge) not in spaces]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer, tokenizer.pre_tokenizer = trained.normalizer, trained.pre_tokenizer
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(head[:4])
    tokenizer.add_tokens([AddedToken(run, normalized=False) for run in spaces])  # as Gemma has them
    return tokenizer
