"""A tiny random BERT with a WordPiece tokenizer, and a ranking set that it can learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.ranking_set import RankingRow, write_ranking_set

WORDS = ("river", "stone", "cloud", "engine", "paper", "salt", "window", "music", "forest", "copper", "lamp", "bread")
_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make_encoder(folder: Path, seed: int = 0, family: str = "Bert", **settings: Any) -> Path:
    """Write a random 2-layer encoder (hidden size 32) as a transformers folder; return it.

    ``family``: as transformers' classes begin; ``settings``: of its configuration.
    """
    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder.mkdir(parents=True)
    # written down, not trained: a trainer breaks ties by the order of a hash table, and the ids decide what is learnt
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [*letters, *(f"##{letter}" for letter in letters), *"?0123456789", *(f"##{digit}" for digit in range(10))]
    words = [*WORDS, "what", "is", "the", "of"]
    vocabulary = {piece: number for number, piece in enumerate([*_SPECIALS, *pieces, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(_SPECIALS)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.BertProcessing(ends[1], ends[0])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), _SPECIALS, strict=True))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"} | names))
    config = getattr(transformers, f"{family}Config")(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64, pad_token_id=0, **settings,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = getattr(transformers, f"{family}Model")(config)
    with torch.no_grad():
        for parameter in model.parameters():  # away from the initial zeros and ones, so that nothing hides
            parameter.add_(torch.randn_like(parameter) * (0.25 if parameter.ndim > 1 else 0.1))
    model.save_pretrained(folder)
    return folder


def ranking_rows(queries: int = 10, documents: int = 8) -> list[RankingRow]:
    """Documents that speak of bread as often as their label says, whatever the query, among other words."""
    random = np.random.default_rng(1)
    rows = []
    for q in range(queries):
        for d in range(documents):
            words = ["bread"] * (d % 3) + random.choice(WORDS[:-1], 2 + (3 * d + q) % 9).tolist()
            random.shuffle(words)
            query = f"what is {WORDS[q % len(WORDS)]} {q}?"
            rows.append(RankingRow(f"q{q}", f"d{d}", query, " ".join(words), label=float(d % 3)))
    return rows


def write_set(path: Path, queries: int = 10, documents: int = 8) -> Path:
    """Write these rows as a ranking set."""
    write_ranking_set(path, ranking_rows(queries, documents))
    return path


def make_reranker(root: Path) -> Path:
    """Train a re-ranker of that encoder on such a set, three epochs of inputs of up to 32 tokens; return its folder."""
    from pairgrade.train.reranker_options import RerankerOptions
    from pairgrade.train.reranker_run import RerankerJob, train_reranker

    options = RerankerOptions(epochs=3, slate=8, max_length=32, learning_rate=3e-3, threads=1)
    job = RerankerJob(write_set(root / "set.jsonl", 24), root / "out", str(make_encoder(root / "bert")))
    return train_reranker(job, options).out
