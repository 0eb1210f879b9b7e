"""A small trained re-ranker: ONNX Runtime and the tokenizers library, no torch.

    from pairgrade import Reranker

    with Reranker.open("reranker") as reranker:
        for hit in reranker.rank("boil an egg", documents, top_k=3, return_documents=True):
            print(hit["score"], hit["text"])

A score is the logit of the model's one-label head: higher is more relevant, and only differences mean anything. It does
not depend on the other documents of the call: in fp32 not beyond 1e-5, in int8 on the processor we tried not at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from pairgrade.denormals import flushed_denormals
from pairgrade.errors import InputError, ModelError, NonFiniteError
from pairgrade.hardware import usable_cores
from pairgrade.pair_encoder import INPUTS, PairEncoder
from pairgrade.reranker_manifest import MODELS, TOKENIZER, checked_file, read_reranker_manifest

QUANTS = ("auto", "fp32", "int8")
Scores = npt.NDArray[np.float32]
_PADDING = 0.0625  # share of a batch's tokens that may be padding
_TOKENS = 1024  # of a batch, padding included: what the caches of a core hold
_CHUNK = 4096  # pairs that are tokenized at a time


class Reranker:
    """Scores and ranks the documents of a query."""

    def __init__(self, session: Any, encoder: PairEncoder, quant: str) -> None:
        self.quant = quant  # fp32 or int8
        self._session, self._encoder = session, encoder
        self._inputs = [node.name for node in session.get_inputs()]
        if odd := set(self._inputs) - set(INPUTS):
            raise ModelError(f"the graph has inputs that are not known: {', '.join(sorted(odd))}")

    @classmethod
    def open(cls, folder: str | os.PathLike[str], quant: str = "auto", threads: int | None = None) -> Reranker:
        """Load a folder that ``pairgrade train-reranker`` wrote; ``auto`` takes int8 where the folder has it.

        ModelError for a folder that is damaged or lacks the precision, MissingExtraError without onnxruntime.
        """
        if quant not in QUANTS:
            raise InputError(f"quant is '{quant}'; it can be {', '.join(QUANTS)}")
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}; it must be at least 1")
        root = Path(folder)
        manifest = read_reranker_manifest(root)
        if quant == "auto":
            quant = "int8" if MODELS["int8"] in manifest.files else "fp32"
        model = checked_file(root, manifest, MODELS[quant])
        tokenizer = checked_file(root, manifest, TOKENIZER).read_text(encoding="utf-8")
        encoder = PairEncoder(tokenizer, manifest.max_length, manifest.pad_id)
        return cls(open_graph(model, quant, threads or usable_cores()), encoder, quant)

    def score(self, query: str, documents: Iterable[str], batch_size: int = 32) -> Scores:
        """Return the score of each document for the query, shape (documents,)."""
        return self.predict([(query, document) for document in _listed("documents", documents)], batch_size)

    def predict(self, pairs: Iterable[Sequence[str]], batch_size: int = 32) -> Scores:
        """Return the score of each pair of query and document; ``batch_size`` is the most that run at a time.

        InputError for what is no pair of texts, a query that leaves no room for a document, or a closed re-ranker;
        NonFiniteError where a score is not a number.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be at least 1")
        self._require_open()
        texts = [_pair(place, pair) for place, pair in enumerate(_listed("pairs", pairs))]
        scores = np.empty(len(texts), np.float32)
        for start in range(0, len(texts), _CHUNK):
            rows = self._encoder.rows(texts[start : start + _CHUNK])
            for places in length_batches([len(ids) for ids, _ in rows], batch_size):
                inputs = self._encoder.padded([rows[place] for place in places])
                scores[[start + place for place in places]] = self._run(inputs)
        if not np.isfinite(scores).all():
            raise NonFiniteError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite numbers")
        return scores

    def why_unfit(self, query: str) -> str | None:
        """Say why a query cannot be scored with any document; None where it can."""
        try:
            self._encoder.check_queries([query])
        except InputError as error:
            return str(error)
        return None

    def _require_open(self) -> Any:
        """Return the session; InputError after ``close``, which another thread may have called."""
        session = self._session
        if session is None:
            raise InputError("the re-ranker is closed; score inside the `with`")
        return session

    def _run(self, inputs: dict[str, Any]) -> Scores:
        session = self._require_open()
        try:
            with flushed_denormals():
                (found,) = session.run(None, {name: inputs[name] for name in self._inputs})
        except Exception as error:  # the library raises its own kinds, which have no common root but this
            raise ModelError(f"ONNX Runtime cannot run the re-ranker ({error})") from None
        scores: Scores = found
        return scores

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        return_documents: bool = False,
        batch_size: int = 32,
    ) -> list[dict[str, Any]]:
        """Return the documents best first, as CrossEncoder.rank does: corpus_id, score and, if asked for, text.

        Equal scores keep the order that the documents came in. InputError for a negative ``top_k``.
        """
        if top_k is not None and top_k < 0:
            raise InputError(f"top_k is {top_k}; it must be at least 0, or None for all documents")
        texts = _listed("documents", documents)
        scores = self.score(query, texts, batch_size)
        order = np.argsort(-scores, kind="stable")[:top_k].tolist()
        hits: list[dict[str, Any]] = [{"corpus_id": place, "score": float(scores[place])} for place in order]
        if return_documents:
            for hit in hits:
                hit["text"] = texts[hit["corpus_id"]]
        return hits

    def close(self) -> None:
        """Let the model go."""
        self._session = None

    def __enter__(self) -> Reranker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _listed(what: str, given: object) -> list[Any]:
    """Return what was given as a list; InputError for a string, whose letters, or a dict, whose keys it would be."""
    if isinstance(given, (str, bytes)):
        raise InputError(f"{what} is one text, {str(given)[:40]!r}; give a list of texts")
    if isinstance(given, (Mapping, set, frozenset)) or not isinstance(given, Iterable):
        raise InputError(f"{what} is {type(given).__name__}; give a list of texts")
    return list(given)


def _pair(place: int, given: object) -> tuple[str, str]:
    """Return a query and a document; InputError for anything else."""
    texts = _listed(f"pairs[{place}]", given)
    if len(texts) != 2:
        raise InputError(f"pairs[{place}] has {len(texts)} parts; a pair is a query and a document")
    query, document = texts
    for name, text in (("query", query), ("document", document)):
        if not isinstance(text, str):
            raise InputError(f"pairs[{place}]: its {name} is {type(text).__name__}; it must be a str")
    return query, document


def open_graph(path: Path, quant: str, threads: int) -> Any:
    """Return the session of a re-ranker's graph in a precision."""
    from pairgrade.onnx_session import open_session, product_kind

    try:
        product = product_kind() if quant == "int8" else "float"
    except OSError:  # no room for the graph that is tried
        product = "u8u8"
    return open_session(path, threads, "CPUExecutionProvider", product=product)


def length_batches(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Cut places into batches of at most so many rows, not too many tokens and little padding, the longest first."""
    batches: list[list[int]] = []
    filled = 0
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and len(batches[-1]) < rows:
            whole = lengths[batches[-1][0]] * (len(batches[-1]) + 1)
            if whole <= _TOKENS and whole - filled - lengths[place] <= _PADDING * whole:
                batches[-1].append(place)
                filled += lengths[place]
                continue
        batches.append([place])
        filled = lengths[place]
    return batches
