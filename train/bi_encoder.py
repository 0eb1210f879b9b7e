"""The cosine of query and document by a bi-encoder as it ships: what a ranking is compared with, and learnt from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pairgrade.errors import MissingExtraError
from pairgrade.export.causal_model import quiet_transformers
from pairgrade.ranking_set import RankingGroup
from pairgrade.train.encoder import resolve_encoder


def cosines(encoder: str, groups: Iterable[RankingGroup], threads: int | None) -> dict[tuple[str, str], float]:
    """Return the cosine of each pair of query and document, -1 to 1, by its two ids."""
    groups = list(groups)
    model = _bi_encoder(encoder, threads)
    texts = dict.fromkeys(text for group in groups for text in (group.query, *(row.text for row in group.rows)))
    vectors = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True)
    places = {text: place for place, text in enumerate(texts)}
    return {
        (row.query_id, row.doc_id): float(vectors[places[group.query]] @ vectors[places[row.text]])
        for group in groups
        for row in group.rows
    }


def _bi_encoder(encoder: str, threads: int | None) -> Any:
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise MissingExtraError("the cosine of an encoder", "sentence-transformers", "rerank") from None
    if threads:
        torch.set_num_threads(threads)
    with quiet_transformers():
        return SentenceTransformer(str(resolve_encoder(encoder)), device="cpu", local_files_only=True)
