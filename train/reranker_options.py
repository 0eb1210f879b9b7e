"""What decides the training of a re-ranker."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pairgrade.errors import InputError
from pairgrade.train.seeds import MOST_SEED

LOSSES = {
    "bce": "binary cross-entropy on the label's share of the highest one",
    "lambda": "LambdaLoss with NDCG-Loss2++ weights",
    "ranknet": "RankNet",
    "listnet": "ListNet",
    "marginmse": "mean squared error of the differences of two documents' scores",
}
TARGETS = ("label", "expected")
PRETRAINING_QUERIES = 2000  # that ``pairgrade pretrain-reranker`` makes


@dataclass(frozen=True, slots=True)
class RerankerOptions:
    """Settings of ``pairgrade train-reranker``."""

    loss: str = "lambda"
    target: str = "label"  # expected: the annotator's expected grade, where a row has one
    epochs: float = 2.0
    batch: int = 1  # slates of one optimizer step
    slate: int = 16  # documents of one query that a loss compares
    learning_rate: float = 2e-4  # the peak
    warmup: float = 0.1  # share of the steps over which the rate rises; then it falls to zero as a cosine
    weight_decay: float = 0.01
    max_length: int = 192  # tokens of query and document together; documents are cut to fit
    micro_batch_tokens: int = 1024  # padded tokens that run at a time: less is less padding; a GPU wants more
    dev_share: float = 0.2  # of the queries, where no set of dev queries is given
    evaluate_every: int = 0  # steps; 0: four times an epoch
    patience: int = 4  # evaluations without a better one before it stops; 0: never
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("loss", tuple(LOSSES)), ("target", TARGETS)):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is '{getattr(self, name)}'; it can be {', '.join(allowed)}")
        for name in ("batch", "micro_batch_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("evaluate_every", "patience", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; it must be a number of 0 or more")
        if self.slate < 2:
            raise InputError(f"a slate of {self.slate}; it takes at least 2 documents to compare")
        if not 0 <= self.seed <= MOST_SEED:
            raise InputError(f"the seed is {self.seed}; it must be from 0 to {MOST_SEED:,}")
        if not 0 < self.epochs <= 1000:
            raise InputError(f"{self.epochs} epochs; more than 0 and at most 1,000 are possible")
        for name in ("learning_rate", "dev_share"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if not 0 <= self.warmup <= 1:
            raise InputError(f"warmup is {self.warmup}; it must lie between 0 and 1")
        if self.max_length < 16:
            raise InputError(f"max_length is {self.max_length}; it must be at least 16")
