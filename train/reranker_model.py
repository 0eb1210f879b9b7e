"""A sentence-transformers CrossEncoder that reads pairs as the engine does, and its losses."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pairgrade.errors import ModelError
from pairgrade.export.causal_model import quiet_transformers
from pairgrade.extras import unusable
from pairgrade.pair_encoder import PairEncoder
from pairgrade.train.examples import micro_batches
from pairgrade.train.reranker_data import Slate
from pairgrade.train.reranker_options import RerankerOptions

_MOST_BYTES = 2**31 - 2**24  # of a protobuf message, what is not weights left out


class RerankerModel:
    """A CrossEncoder with one label whose scores are logits, and the encoder of its pairs."""

    def __init__(self, model: Any, micro_batch_tokens: int) -> None:
        self.model = model
        tokenizer = model.tokenizer
        self.encoder_json: str = tokenizer.backend_tokenizer.to_str()  # what tokenizer.json will hold
        self.encoder = PairEncoder(self.encoder_json, model.max_seq_length, tokenizer.pad_token_id)
        self.inputs = [name for name in tokenizer.model_input_names if name in ("input_ids", "token_type_ids")]
        self.inputs.append("attention_mask")
        self.micro_batch_tokens = micro_batch_tokens
        # A loss calls these two only. They encode as the engine does, and run rows of like lengths together
        model.preprocess = lambda pairs, prompt=None, task=None: {"rows": self.encoder.rows(pairs)}
        model.forward = lambda features: {"scores": self.logits(features["rows"])}

    def logits(self, rows: Sequence[Any]) -> Any:
        """Run encoded pairs; return the logits, shape (rows,), in their order."""
        import torch

        batches = micro_batches([len(ids) for ids, _ in rows], self.micro_batch_tokens)
        found = []
        for places in batches:
            arrays = self.encoder.padded([rows[place] for place in places])
            features = {name: torch.from_numpy(arrays[name]).to(self.model.device) for name in self.inputs}
            found.append(self.model[0](features)["scores"].view(-1))
        order = torch.tensor([place for places in batches for place in places])
        return torch.cat(found)[torch.argsort(order).to(self.model.device)]

    def score(self, query: str, documents: Sequence[str]) -> npt.NDArray[np.float32]:
        """Score documents as a trained model does, without gradients or dropout."""
        import torch

        self.model.eval()
        with torch.inference_mode():
            scores: npt.NDArray[np.float32] = (
                self.logits(self.encoder.rows([(query, d) for d in documents])).cpu().numpy()
            )
        return scores


def load_reranker(folder: Path, options: RerankerOptions) -> RerankerModel:
    """Load an encoder in full precision and put a one-label head on it, seeded; no code of the folder is run.

    ModelError where it is none that transformers knows, reads less than ``max_length`` tokens or cannot be exported.
    """
    _check_libraries()
    import torch
    from sentence_transformers import CrossEncoder

    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)  # the head's first weights
    with quiet_transformers(), _without_warnings("sentence_transformers"):
        try:
            model = CrossEncoder(
                str(folder),
                num_labels=1,
                max_length=options.max_length,
                activation_fn=torch.nn.Identity(),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelError(f"{folder}: transformers cannot load it as an encoder ({error})") from None
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    if size > _MOST_BYTES:
        raise ModelError(
            f"{folder} has {size / 2**30:.1f} GiB of weights in full precision; the ONNX file that a re-ranker becomes "
            "holds 2 at most: take a smaller encoder"
        )
    positions = _positions(model)
    if positions is not None and positions < options.max_length:
        raise ModelError(f"{folder} has {positions} positions; --max-length {options.max_length} is too long for it")
    if model.tokenizer.pad_token_id is None:
        raise ModelError(f"{folder}: its tokenizer names no padding token")
    # what the saved folder needs to encode as we do: cut documents only, special tokens' text is text
    model[0].processing_kwargs = {"text": {"truncation": "only_second", "split_special_tokens": True}}
    return RerankerModel(model, options.micro_batch_tokens)


def _positions(model: Any) -> int | None:
    """Return how many tokens an encoder's positions are for; None where it does not tell."""
    positions: int | None = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if positions is not None and name.endswith("position_embeddings") and padding is not None:
            return int(positions - padding - 1)  # RoBERTa counts from behind the padding's
    return positions


class SlateLoss:
    """One of sentence-transformers' losses over slates."""

    def __init__(self, model: Any, name: str) -> None:
        from sentence_transformers.cross_encoder import losses

        everything = {"mini_batch_size": -1}
        makers = {
            "bce": lambda: losses.BinaryCrossEntropyLoss(model),
            "lambda": lambda: losses.LambdaLoss(model, **everything),
            "ranknet": lambda: losses.RankNetLoss(model, **everything),
            "listnet": lambda: losses.ListNetLoss(model, **everything),
            "marginmse": lambda: losses.MarginMSELoss(model),
        }
        self._name, self._loss, self._device = name, makers[name](), model.device

    def __call__(self, slates: Sequence[Slate]) -> Any:
        """Return the loss of some slates, a scalar with gradient."""
        import torch

        if self._name == "bce":
            queries = [slate.query for slate in slates for _ in slate.documents]
            documents = [document for slate in slates for document in slate.documents]
            targets = [target for slate in slates for target in slate.targets]
            return self._loss([queries, documents], torch.tensor(targets, device=self._device))
        if self._name == "marginmse":
            columns, labels = _pairs_of(slates)
            return self._loss(columns, torch.tensor(labels, device=self._device))
        labels = [torch.tensor(slate.targets, device=self._device) for slate in slates]
        return self._loss([[s.query for s in slates], [list(s.documents) for s in slates]], labels)


def _pairs_of(slates: Sequence[Slate]) -> tuple[list[list[str]], list[float]]:
    """Pair the documents of each slate, which lie in random order, and give the targets' differences."""
    columns: list[list[str]] = [[], [], []]
    margins = []
    for slate in slates:
        for one in range(0, len(slate.documents) - 1, 2):
            texts = slate.query, slate.documents[one], slate.documents[one + 1]
            for column, text in zip(columns, texts, strict=True):
                column.append(text)
            margins.append(slate.targets[one] - slate.targets[one + 1])
    return columns, margins


@contextlib.contextmanager
def _without_warnings(name: str) -> Iterator[None]:
    """Keep a library from warning of what is meant: a cross-encoder made of another kind of encoder."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check_libraries() -> None:
    for package in ("torch", "sentence_transformers"):
        try:
            __import__(package)
        except ImportError as error:
            raise unusable(error, "training a re-ranker", package, extra="rerank") from None
