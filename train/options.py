"""What decides a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pairgrade.errors import InputError
from pairgrade.train.seeds import MOST_SEED

SELECT_BY = ("loss", "kappa", "tau")
DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Settings of ``pairgrade train``; the defaults are those of arXiv 2504.09816 where it names one."""

    train_pairs: int = 1000  # balanced over the grades; 0: all that are not for validation, as they come
    validation_pairs: int = 250  # balanced too, of other queries
    epochs: float = 3.0
    batch: int = 16  # pairs of one optimizer step
    micro_batch_tokens: int = 1024  # padded tokens that run at a time: bounds the memory, and moves dropout alone
    learning_rate: float = 2e-4  # the peak
    warmup: float = 0.1  # share of the steps over which the rate rises; then it falls to zero as a cosine
    weight_decay: float = 0.0
    rank: int = 16  # of the LoRA matrices
    alpha: int = 32  # LoRA's scale is alpha / rank
    layers: int = 0  # only the last so many are adapted, what those below compute is computed once; 0: all
    dropout: float = 0.0
    ordinal_weight: float = 0.0  # times the squared earth mover's distance, added to the cross-entropy
    soft_weight: float = 1.0  # share of the soft targets in a pair's target where it has both
    context: int = 1024  # longest prompt in tokens; documents are cut to fit
    chat: str = "auto"
    evaluate_every: int = 0  # steps; 0: twice an epoch
    patience: int = 4  # evaluations without a better one before it stops; 0: never
    select_by: str = "loss"
    share_prefix: bool = True  # compute the instruction once a step; off only to compare
    gradient_checkpointing: bool = False  # recompute activations: less memory, a third more time; no shared prefix
    qlora: bool = False  # 4-bit base weights by bitsandbytes; CUDA only
    dtype: str = "auto"  # of the base's weights; auto: bfloat16 where the machine multiplies it faster than float32
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        at_least_1 = ("validation_pairs", "batch", "micro_batch_tokens", "rank", "alpha")
        for name in at_least_1:
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("train_pairs", "evaluate_every", "layers", "patience", "ordinal_weight", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; it must be a number of 0 or more")
        if not 0 <= self.seed <= MOST_SEED:
            raise InputError(f"the seed is {self.seed}; it must be from 0 to {MOST_SEED:,}")
        if not 0 < self.epochs <= 1000:
            raise InputError(f"{self.epochs} epochs; more than 0 and at most 1,000 are possible")
        if not 0 < self.learning_rate < 1:
            raise InputError(f"a learning rate of {self.learning_rate}; it must lie between 0 and 1")
        for name in ("warmup", "dropout", "soft_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if self.layers and self.gradient_checkpointing:
            raise InputError("of layers that are not adapted no activations are kept: leave gradient checkpointing out")
        if self.context < 64:
            raise InputError(f"the context is {self.context} tokens; it must be at least 64")
        if self.select_by not in SELECT_BY:
            raise InputError(f"select_by is '{self.select_by}'; it can be {', '.join(SELECT_BY)}")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype is '{self.dtype}'; it can be {', '.join(DTYPES)}")
        if self.qlora and self.dtype == "float32":
            raise InputError("--qlora keeps the base in 4 bits, not in float32: leave --dtype float32 or --qlora out")

    @property
    def shares_prefix(self) -> bool:
        """Whether a step computes the instruction once; activations that are thrown away cannot be shared."""
        return self.share_prefix and not self.gradient_checkpointing
