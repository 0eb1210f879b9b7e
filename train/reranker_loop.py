"""The optimizer loop of ``pairgrade train-reranker``: deterministic, resumable at any step, the best state kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pairgrade.errors import ModelError
from pairgrade.stop import PoliteStop
from pairgrade.train.checkpoint import Checkpoints, State
from pairgrade.train.fitting import Fitting, TrainProgress
from pairgrade.train.ranking_metrics import RankingEvaluation, mean_ndcg
from pairgrade.train.reranker_data import DevQuery, Slate, Slates
from pairgrade.train.reranker_model import RerankerModel, SlateLoss
from pairgrade.train.reranker_options import RerankerOptions


@dataclass(frozen=True, slots=True)
class RerankerData:
    """What a run learns from and is judged by."""

    train: Slates
    dev: Sequence[DevQuery]


def fit_reranker(
    model: RerankerModel,
    data: RerankerData,
    options: RerankerOptions,
    checkpoints: Checkpoints,
    stop: PoliteStop,
    progress: TrainProgress,
) -> State:
    """Train, or go on from the last checkpoint, and leave the best weights in ``checkpoints``; see ``Fitting``."""
    return _Fit(model, data, options, checkpoints, progress).run(stop)


class _Fit(Fitting):
    """One run's parts."""

    memory_advice = "Lower --slate, --batch or --max-length; that is another run: give another --out, or --overwrite"

    def __init__(
        self,
        model: RerankerModel,
        data: RerankerData,
        options: RerankerOptions,
        checkpoints: Checkpoints,
        progress: TrainProgress,
    ) -> None:
        self._epoch_steps = math.ceil(data.train.count / options.batch)
        steps = self._epoch_steps
        every = options.evaluate_every or (steps // 4 if steps >= 8 else math.ceil(steps / 4))  # of 5 to 7 no more
        super().__init__(model.model, options, data.train.count, every, checkpoints, progress)
        self._model, self._data, self._options = model, data, options
        self._loss = SlateLoss(model.model, options.loss)
        self._epoch = -1
        self._slates: list[Slate] = []

    def _batch_loss(self, step: int) -> float:
        self._model.model.train()
        loss = self._loss(self._batch(step))
        loss.backward()
        return float(loss.detach())

    def _batch(self, step: int) -> list[Slate]:
        epoch, index = divmod(step, self._epoch_steps)
        if epoch != self._epoch:
            self._epoch, self._slates = epoch, self._data.train.epoch(epoch)
        return self._slates[index * self._options.batch : (index + 1) * self._options.batch]

    def _look(self, step: int) -> RankingEvaluation:
        scores = []
        for query in self._data.dev:
            scores.append(self._model.score(query.query, query.documents))
            self._progress.looking(len(scores), len(self._data.dev))
        if not all(np.isfinite(found).all() for found in scores):
            raise ModelError(f"after {step:,} steps the scores are not finite: the encoder's weights are not sound")
        return RankingEvaluation(step, mean_ndcg([query.labels for query in self._data.dev], scores))

    def _is_better(self, found: RankingEvaluation, best: RankingEvaluation) -> bool:
        return found.ndcg > best.ndcg
