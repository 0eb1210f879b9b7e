"""The cosine of query and document by a bi-encoder as it ships: what a ranking is compared with, and learnt from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pairgrade.export.causal_model import quiet_transformers
from pairgrade.extras import unusable
from pairgrade.ranking_set import RankingGroup
from pairgrade.train.encoder import resolve_encoder


def cosines(encoder: str, groups: Iterable[RankingGroup], threads: int | None) -> dict[tuple[str, str], float]:
    """Return the cosine of each pair of query and document, -1 to 1, by its two ids."""
    groups = list(groups)
    model = _bi_encoder(encoder, threads)
    queries = _vectors(model.encode_query, (group.query for group in groups))
    documents = _vectors(model.encode_document, (row.text for group in groups for row in group.rows))
    return {
        (row.query_id, row.doc_id): float(queries[group.query] @ documents[row.text])
        for group in groups
        for row in group.rows
    }


def _vectors(encode: Callable[..., Any], texts: Iterable[str]) -> dict[str, Any]:
    """Return the vector of each text, of length 1; ``encode`` writes the encoder's own prompts before it, if any."""
    each = list(dict.fromkeys(texts))
    vectors = encode(each, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True)
    return dict(zip(each, vectors, strict=True))


def _bi_encoder(encoder: str, threads: int | None) -> Any:
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise unusable(error, "the cosine of an encoder", "torch", "sentence_transformers", extra="rerank") from None
    if threads:
        torch.set_num_threads(threads)
    with quiet_transformers():
        return SentenceTransformer(str(resolve_encoder(encoder)), device="cpu", local_files_only=True)
